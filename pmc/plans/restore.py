"""vm.restore and vm.verify_backup: a backup that lies on a node in, plan out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pmc import backup, backup_pipeline, drbd
from pmc.actions import Fetch, Watch
from pmc.backup import Backup, Stored
from pmc.command import Command, bash, operation
from pmc.errors import Refused
from pmc.facts import domain_xml
from pmc.model import ClusterState
from pmc.plan import Plan, Step, plan
from pmc.plans import (
    node_files,
    other_disks,
    vm_steps,
)
from pmc.plans.add import check_new
from pmc.plans.backup import bring
from pmc.plans.vm_steps import Given
from pmc.settings import Settings
from pmc.units import MiB, show_size


@dataclass(frozen=True)
class Found:
    """A usable backup, the node it lies on, and its base beside it, if it is a delta."""

    node: str
    backup: Backup
    base: Backup | None

    def decoded(self, settings: Settings, at: str) -> str:
        """Shell text that prints its disk on the node `at`."""
        far = "" if at == self.node else settings.nodes[self.node].replication
        return backup_pipeline.decoded(self.backup, self.base, settings.backup_dir, far)


def find(id: str, stored: Sequence[Stored]) -> Found:
    """The backup by its id; where it lies on several nodes, one where it can be used, best one that is not in doubt."""
    if not backup.ID.fullmatch(id):
        raise Refused(f"--backup {id[:90]!r}: no id of a backup", next="fab vm.backups")
    there = [s for s in stored if s.id == id]
    if not there:
        raise Refused(f"--backup {id}: on no node that answers", next="fab vm.backups")
    usable, why = list[Found](), ""
    for each in there:
        if each.backup is None or each.broken:
            why = f"cannot be used: {each.broken}"
            continue
        base = backup.base_of(each, stored) if each.backup.base else None
        if each.backup.base and base is None:
            why = f"its base {each.backup.base} is missing on {each.node} or cannot be used"
            continue
        usable.append(Found(each.node, each.backup, base.backup if base else None))
    if not usable:
        raise Refused(f"--backup {id}: {why}")
    sound = {(each.id, each.node) for each in backup.sound(stored)}
    return min(usable, key=lambda its: not {(id, its.node), (its.backup.base or id, its.node)} <= sound)


def prove(found: Found, settings: Settings, stream: str = backup_pipeline.STREAM) -> Step:
    """Read back where it lies, to its checksum; it needs no space. `stream`: how what reads it is called there."""
    reader = found.decoded(settings, found.node)
    return Step(
        found.node,
        f"read {found.backup.id} back ({show_size(found.backup.size)}) and compare its checksum",
        backup_pipeline.prove(found.backup, reader, settings.backup_dir, stream),
        reads=True,
        watch=Watch("bytes", found.backup.id, found.backup.size),
    )


def verified(found: Found, settings: Settings) -> Plan:
    return plan(f"vm.verify_backup {found.backup.id}", [bring(found.node), prove(found, settings)])


def nodes_for(found: Found, primary: str, secondary: str, settings: Settings) -> tuple[str, ...]:
    """Of the new VM: those named, else those of the old one."""
    usual = [node for node in found.backup.nodes if node in settings.nodes]
    for flag, node in (("--primary", primary), ("--secondary", secondary)):
        if node:
            settings.node(flag, node)
    if primary and primary == secondary:
        raise Refused(f"--secondary {secondary}: is the primary as well; the second copy belongs on another node")
    first = primary or next((node for node in usual if node != secondary), found.node)
    second = secondary or next((node for node in usual if node != first), "")
    return (first, second) if second else (first,)


def as_new(
    found: Found, name: str, nodes: Sequence[str], state: ClusterState, settings: Settings, given: Given, uuid: str
) -> Plan:
    """A new VM with the disk of the backup: own minor, port, MAC and UUID. Defined, not started: the old VM may
    run, and both would have the same address inside. The disk's checksum is compared while it is written."""
    old = found.backup
    check_new(name, nodes, old.size, 0, state, settings)  # no memory: it is not started
    other_disks.manifest(old.id, old.vm, old.device, old.xml)
    try:
        xml = domain_xml.renamed(
            old.xml, name=name, uuid=uuid, mac=given.mac, old_device=old.device, device=given.device
        )
    except ValueError as error:
        raise Refused(f"--backup {old.id}: its domain cannot be used: {error}") from None
    steps = [
        *vm_steps.disk(settings, nodes, name, old.size, given, state.nodes[nodes[0]].drbd),
        bring(nodes[0]),
        Step(
            nodes[0],
            f"write the disk ({show_size(old.size)}) from {old.id} on {found.node} and compare its checksum",
            backup_pipeline.give_back(old, found.decoded(settings, nodes[0]), given.device),
            watch=Watch("bytes", name, old.size),
        ),
        *vm_steps.defined(nodes, name, xml),
        Step(nodes[0], f"make {name} secondary until it is started", drbd.secondary(name)),
    ]
    return plan(f"vm.restore {name}", steps)


def to_file(found: Found, path: str, settings: Settings) -> Plan:
    """The disk as a file on the manager: qcow2 when its name ends so, else raw with holes."""
    old, node = found.backup, found.node
    reader = found.decoded(settings, node)
    put = f"{backup_pipeline.STREAM} put --size {old.size} --expect {old.image_sha256}"
    title = f"vm.restore --backup {old.id} --to {path}"
    watch = Watch("bytes", path.rpartition("/")[2], old.size)
    if not path.endswith(".qcow2"):
        raw = bash(f"{reader} | {put} --pass-on", long=True)
        note = f"copy the disk ({show_size(old.size)}) of {old.id} to {path} and compare its checksum"
        return plan(title, [bring(node), Step(node, note, Fetch(raw, path, old.size), watch=watch)])
    folder = settings.backup_dir
    # What describes it takes ten bytes for each 64 KiB of it (QEMU, docs/interop/qcow2.txt), and some tables.
    most = old.size + old.size // 1000 + 16 * MiB
    part = f"{folder}/.{old.id}.part.qcow2"
    remove = node_files.remove(part, f"{part}.raw")
    steps = [
        bring(node),
        Step(node, f"begin {part}", node_files.begin(part), undo=remove),
        Step(node, f"make a qcow2 file of {old.id} there", convert(reader, put, part), watch=watch),
        Step(node, f"copy it to {path}", Fetch(node_files.read(part), path, 0, most), watch=watch),
        Step(node, f"remove {part}", remove),
    ]
    return plan(title, steps)


@operation
def convert(reader: str, put: str, path: str) -> Command:
    """What `reader` prints and `put` checks (both shell text), as a qcow2 file; `path`.raw until then."""
    script = (
        f'umask 077; {reader} | {put} --target "$1.raw"; qemu-img convert -q -f raw -O qcow2 "$1.raw" "$1"; rm "$1.raw"'
    )
    return backup_pipeline.idle(bash(script, path, long=True))
