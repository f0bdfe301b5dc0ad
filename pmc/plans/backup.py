"""vm.backup and vm.restore: state and the backups that lie on the nodes in, plan out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pmc import backup, drbd, lvm, virsh
from pmc.backup import Backup, Stored
from pmc.command import Command, bash, command
from pmc.errors import Refused
from pmc.model import ClusterState
from pmc.plan import Plan, Step, Watch, plan
from pmc.plans import make, refuse
from pmc.plans.add import check_new
from pmc.plans.clone import drop, snapshot, standby
from pmc.plans.make import Given
from pmc.settings import Settings
from pmc.units import show_size


def make_backup(
    name: str,
    want_base: bool,
    size: int,
    xml: str,
    stored: Sequence[Stored],
    now: datetime,
    state: ClusterState,
    settings: Settings,
) -> tuple[Backup, Plan]:
    """A base when asked for, or when there is none yet; else a delta against the newest base, on the node where that
    base lies. The disk (`size` bytes) is read from a snapshot of the standby's volume."""
    source = standby(name, state)
    base = None if want_base else backup.newest_base(stored, name)
    kind = "delta" if base else "base"
    keeper = base.node if base else source
    if base and base.backup and base.backup.size > size:
        raise Refused(
            f"{name}: its disk is smaller than its newest base {base.id}; make a new one: fab vm.backup {name} --base"
        )
    id = backup.new_id(name, kind, now)
    if any(s.id == id for s in stored):
        raise Refused(f"{name}: there is a backup of this very second; try again")
    device = drbd_device(name, state)
    made = Backup(
        id=id,
        vm=name,
        kind=kind,
        time=now.astimezone(UTC).isoformat(timespec="seconds"),
        size=size,
        device=device,
        nodes=tuple(state.homes(name)),
        source=source,
        xml=xml,
        base=base.id if base else "",
    )
    folder = settings.backup_dir
    target = f"{folder}/.{id}.part"
    path = lvm.path(settings.volume_group, f"{name}.backup")
    reader = backup.read_volume(path, size, "" if keeper == source else settings.nodes[source].replication)
    remove = command("rm", "-f", target, *(f"{target}.{end}" for end in ("image", "file", "json")))
    steps = [
        make.folder(keeper, folder, "700"),
        Step(keeper, f"remove unfinished backups of {name}", remove_unfinished(folder, name)),
        *([] if base else [enough_space(keeper, folder, size)]),
        *snapshot(name, "backup", source, state, settings),
        Step(keeper, f"begin {target}", command("install", "-m", "600", "/dev/null", target), undo=remove),
        Step(
            keeper,
            f"read the disk of {name} ({show_size(size)}) into {'a delta against ' + base.id if base else 'a base'}",
            backup.store(kind, reader, f"{folder}/{base.id}.img" if base else "", target),
            watch=Watch("bytes", id, size),
        ),
        *drop(name, "backup", source, settings),
        Step(
            keeper,
            f"finish {id}",
            backup.seal(folder, target, made),
            check=command("test", "-e", f"{folder}/{id}.json"),
            pivot=True,
        ),
    ]
    return made, plan(f"vm.backup {name}", steps)


def remove_unfinished(folder: str, name: str) -> Command:
    """What a backup that broke off left: no other writes here while the VM is locked."""
    return bash('rm -f -- "$1"/."$2".????????T??????Z.*.part*', folder, name)


def enough_space(node: str, folder: str, size: int) -> Step:
    """A base may need the whole size of the disk; better told before than when the directory is full."""
    script = (
        'free=$(df --output=avail -B1 "$1" | tail -n 1); [ "$free" -ge "$2" ] || '
        '{ echo "$1 has $free bytes free, a base may need $2" >&2; exit 1; }'
    )
    return Step(node, f"see that {folder} has {show_size(size)} free", bash(script, folder, str(size)))


def drbd_device(name: str, state: ClusterState) -> str:
    for node in state:
        if name in node.files:
            return drbd.device(node.files[name].minor)
    raise Refused(f"{name}: has no DRBD resource file on any node that answers")


@dataclass(frozen=True)
class Restore:
    """A checked `vm.restore`: `found` is the backup and the node it lies on."""

    found: Stored
    backup: Backup
    name: str
    primary: str
    secondary: str

    @property
    def nodes(self) -> tuple[str, ...]:
        return (self.primary, self.secondary) if self.secondary else (self.primary,)


def choose(id: str, new: str, primary: str, secondary: str, stored: Sequence[Stored], settings: Settings) -> Restore:
    """The backup by its id, its base beside it, and the nodes for the new VM (those of the old one unless named)."""
    refuse.check_name("--as", new)
    if not backup.ID.fullmatch(id):
        raise Refused(f"--backup {id[:90]!r}: no id of a backup; fab vm.backups NAME lists them")
    found = next((s for s in stored if s.id == id), None)
    if found is None:
        raise Refused(f"--backup {id}: on no node that answers; fab vm.backups lists what there is")
    if found.backup is None or found.broken:
        raise Refused(f"--backup {id}: cannot be used: {found.broken}")
    if found.backup.base:
        base = next((s for s in stored if s.id == found.backup.base and s.node == found.node), None)
        if base is None or base.broken or base.backup is None:
            raise Refused(f"--backup {id}: its base {found.backup.base} is missing on {found.node} or cannot be used")
    usual = [node for node in found.backup.nodes if node in settings.nodes]
    for flag, node in (("--primary", primary), ("--secondary", secondary)):
        if node:
            settings.node(flag, node)
    if primary and primary == secondary:
        raise Refused(f"--secondary {secondary}: is the primary as well; the second copy belongs on another node")
    first = primary or next((node for node in usual if node != secondary), found.node)
    second = secondary or next((node for node in usual if node != first), "")
    return Restore(found, found.backup, new, first, second)


def restore(wanted: Restore, state: ClusterState, settings: Settings, given: Given, uuid: str) -> Plan:
    """A new VM with the disk of the backup: own minor, port, MAC and UUID. Defined, not started: the old VM may
    run, and both would have the same address inside. The disk's SHA-256 is compared while it is written."""
    name, old = wanted.name, wanted.backup
    check_new(name, wanted.nodes, old.size, 0, state, settings)  # no memory: it is not started
    try:
        xml = virsh.renamed(old.xml, name=name, uuid=uuid, mac=given.mac, old_device=old.device, device=given.device)
    except (ValueError, SyntaxError) as error:
        raise Refused(f"--backup {old.id}: its domain cannot be used: {error}") from None
    far = "" if wanted.found.node == wanted.primary else settings.nodes[wanted.found.node].replication
    steps = [
        *make.disk(settings, wanted.nodes, name, old.size, given, state.nodes[wanted.primary].drbd),
        Step(
            wanted.primary,
            f"write the disk ({show_size(old.size)}) from {old.id} on {wanted.found.node} and compare its SHA-256",
            backup.give_back(old, settings.backup_dir, far, given.device),
            watch=Watch("bytes", name, old.size),
        ),
        *make.defined(wanted.nodes, name, xml),
        Step(wanted.primary, f"make {name} secondary until it is started", drbd.secondary(name)),
    ]
    return plan(f"vm.restore {name}", steps)
