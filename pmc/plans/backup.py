"""vm.backup: state and the backups that lie on the nodes in, plan out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pmc import backup, backup_pipeline, drbd, guest_agent
from pmc.actions import Watch
from pmc.backup import Backup, Stored
from pmc.command import Command, bash, operation
from pmc.errors import Refused
from pmc.model import ClusterState
from pmc.plan import Plan, Step, plan
from pmc.plans import (
    base_snapshot,
    node_files,
    other_disks,
    requirements,
    suspended_io,
    unfinished_restore,
    vm_steps,
)
from pmc.plans.backup_request import BackupRequest, base_for, keeper_for
from pmc.plans.base_snapshot import Place
from pmc.plans.clone import drop, snapshot
from pmc.settings import Settings
from pmc.units import show_size


@dataclass(frozen=True)
class Source:
    """The node whose volume is read, and what it is to the VM: standby or primary. `runs`: the node where the guest
    runs, if it does; `agent`: its guest agent answers there."""

    node: str
    role: str
    runs: str = ""
    agent: bool = False


def choose_source(name: str, state: ClusterState) -> Source:
    """The standby, whose disk no guest waits for, when both sides are connected and equal. Otherwise the side where the
    VM runs, or the only one there is: also when blocks are known to differ, since the guest reads that side's. Refused
    when neither is known to be the newest."""
    homes = requirements.found(state, name)
    requirements.consistent_placement(state, name)
    unfinished_restore.none(state, name)
    active = state.active_on(name)
    requirements.runs_once(name, state)
    runs = active[0] if active else ""
    primary = runs or next(iter(state.primaries(name)), "")
    here = [home for home in homes if home in state.nodes and not state.nodes[home].trouble]
    sides = {home: state.nodes[home].resources[name] for home in here if name in state.nodes[home].resources}
    equal = len(homes) == len(sides) == 2 and all(side.healthy for side in sides.values())
    if equal and not runs:
        requirements.in_sync(state, name, "it does not run, so neither side is known to be right")
    if equal and not state.differs(name):
        chosen = next((home for home in homes if home != primary), homes[-1])
        return Source(chosen, "standby", runs)
    side = sides.get(runs or homes[0]) if runs or len(homes) == 1 else None
    if side is not None and side.good:
        return Source(runs or homes[0], "primary", runs)
    requirements.reachable(state, *(home for home in homes if home in state.nodes))
    told = ", ".join(f"{side.connection} {side.disk} on {home}" for home, side in sides.items()) or "not up"
    raise Refused(
        f"{name}: DRBD is {told}, so it is not known which side is the newest. It must be Connected, "
        f"UpToDate/UpToDate, or the VM must run",
        next=f"fab vm.repair {name}",
    )


def make_backup(
    wish: BackupRequest, source: Source, size: int, xml: str, stored: Sequence[Stored], now: datetime,
    state: ClusterState, settings: Settings,
) -> tuple[Backup, Plan]:  # fmt: skip
    """A base when asked for, or when there is none yet; else a delta against the newest base, on the node where that
    base lies. The disk (`size` bytes) is read from a snapshot."""
    name, folder = wish.name, settings.backup_dir
    found, keeper = base_for(wish, source.node, stored), keeper_for(wish, source.node, stored)
    base = found.backup if found else None
    kind = "delta" if base else "base"
    requirements.reachable(state, keeper)
    requirements.disk(state.nodes[source.node], name, settings)
    other_disks.whole(name, "a backup", xml, state)
    if source.agent and (why := suspended_io.suspended(name, state.nodes[source.runs])):
        raise Refused(
            f"{name}: its I/O is suspended on {source.runs} ({why}), so its file systems cannot be frozen. "
            f"Back it up as it is (--no-freeze), or {suspended_io.remedy(name, source.runs, why)}"
        )
    if base and base.size > size:
        raise Refused(
            f"{name}: its disk is smaller than its newest base {base.id}. Make a new base",
            next=f"fab vm.backup {name} --base",
        )
    id = backup.new_id(name, kind, now)
    if any(s.id == id for s in stored):
        raise Refused(f"{name}: there is a backup of this very second. Try again", next=f"fab vm.backup {name}")
    made = Backup(
        id=id, vm=name, kind=kind, time=now.astimezone(UTC).isoformat(timespec="seconds"), size=size,
        device=drbd_device(name, state), nodes=tuple(state.homes(name)), source=source.node, role=source.role,
        consistency=consistency(source, state.saved_on(name)), xml=xml, base=base.id if base else "",
        compression="zstd" if wish.compress and not base else "none",
    )  # fmt: skip
    target = f"{folder}/.{id}.part"
    place = Place(name, source.node, keeper, state, settings)
    base_snapshot.refuse_foreign(place)
    taken = [*equal(name, source, state), *snapshot(name, "backup", source.node, state, settings)]
    keeps = base is None and place.local and not base_snapshot.why_not_kept(place)
    remove = node_files.remove(target, *(f"{target}.{end}" for end in ("ranges", "index", "sums", "json")))
    read = read_delta(wish, base, size, target, place) if base else read_base(wish, size, target, place)
    steps = [
        vm_steps.folder(keeper, folder, "700"),
        Step(keeper, f"remove unfinished backups of {name}", remove_unfinished(folder, name)),
        bring(keeper),
        *([] if base else [enough_space(keeper, folder, base_snapshot.most(place, size))]),
        *frozen(name, id, source, taken),
        Step(keeper, f"begin {target}", node_files.begin(target), undo=remove),
        *read[:-1],
        replace(read[-1], watch=Watch("bytes", id, size)),
        *drop(name, "backup", source.node, settings, but_keep=keeps),
        Step(
            keeper,
            f"finish {id}",
            backup_pipeline.seal(folder, target, made),
            check=node_files.exists(f"{folder}/{id}.json"),
            pivot=True,
        ),
        *([base_snapshot.keep(place, id)] if keeps else []),
        *(base_snapshot.drop_gone(place, {s.id for s in stored}) if base else base_snapshot.drop_older(place, keeps)),
    ]
    return made, plan(f"vm.backup {name}", steps)


def equal(name: str, source: Source, state: ClusterState) -> list[Step]:
    """A standby that the link was lost to, or that is catching up, has an older disk, or parts of two."""
    standby = source.role == "standby" and len(state.homes(name)) > 1
    return [vm_steps.see_equal(source.node, name)] if standby else []


def kept_on(plan: Plan) -> str:
    """The node that its backup lies on in the end: where the folder is made first."""
    return plan.steps[0].node


def read_base(wish: BackupRequest, size: int, target: str, place: Place) -> list[Step]:
    """The last one is the long one."""
    disk = f"the disk of {wish.name} ({show_size(size)}) into a base"
    if not place.local:
        note = f"read {disk}" + (f"; all of it, since {why}" if (why := base_snapshot.unlisted(place)) else "")
        return [Step(place.keeper, note, backup_pipeline.store_base(disk_at(place, size), target, wish.how))]
    why = base_snapshot.why_not_kept(place)
    store = backup_pipeline.store_thin_base(base_snapshot.path(place, "backup"), size, target, wish.how)
    note = f"read what is on {disk}" + (f"; its snapshot will not be kept: {why}" if why else "")
    return [base_snapshot.list_mapped(place, size, f"{target}.ranges"), Step(place.keeper, note, store)]


def read_delta(wish: BackupRequest, base: Backup, size: int, target: str, place: Place) -> list[Step]:
    """The last one is the long one."""
    folder, into = place.settings.backup_dir, f"into a delta against {base.id}"
    if why := base_snapshot.why_all(place, base, size):
        store = backup_pipeline.store_delta(disk_at(place, size), base, folder, target, wish.how)
        note = f"read the disk of {wish.name} ({show_size(size)}) {into}; all of it, since {why}"
        return [Step(place.keeper, note, store)]
    now, old = base_snapshot.path(place, "backup"), base_snapshot.path(place, "base")
    store = backup_pipeline.store_thin_delta(now, old, size, base, folder, target, wish.how)
    return [
        *base_snapshot.list_changed(place, base, size, f"{target}.ranges"),
        Step(place.keeper, f"read what has changed on the disk of {wish.name} {into}", store),
    ]


def disk_at(place: Place, size: int) -> backup_pipeline.Disk:
    far = "" if place.keeper == place.source else place.settings.nodes[place.source].replication
    return backup_pipeline.Disk(base_snapshot.path(place, "backup"), size, far)


def consistency(source: Source, saved: Sequence[str] = ()) -> str:
    """A guest whose memory is saved (on these nodes) has not come to its end: what is on its disk is as after a power
    cut."""
    if not source.runs:
        return "crash" if saved else "off"
    return "frozen" if source.agent else "crash"


def frozen(name: str, id: str, source: Source, steps: Sequence[Step]) -> list[Step]:
    """The steps that take the snapshot, between freeze and thaw when the guest has an agent."""
    if not source.agent:
        return list(steps)
    runs = source.runs
    return [
        Step(runs, f"freeze the file systems in {name}", guest_agent.freeze(name, id), undo=guest_agent.thaw(name),
             check=node_files.exists(guest_agent.path(name))),
        *steps,
        Step(runs, f"thaw the file systems in {name}", guest_agent.thaw_in_time(name, id)),
    ]  # fmt: skip


def bring(node: str) -> Step:
    return Step(node, "make sure of the program that reads disks", backup_pipeline.bring(), reads=True)


@operation
def remove_unfinished(folder: str, name: str) -> Command:
    """What a backup that was interrupted left: no other writes here while the VM is locked."""
    return bash('rm -f -- "$1"/."$2".????????T??????Z.*.part*', folder, name)


def enough_space(node: str, folder: str, size: int) -> Step:
    """A base may need the whole size of the disk; better told before than when the directory is full."""
    return Step(node, f"see that {folder} has {show_size(size)} free", node_files.has_space(folder, size))


def drbd_device(name: str, state: ClusterState) -> str:
    """As the nodes that it lives on agree, by their files and by what DRBD has: under another number there may be
    another VM's disk, and a stale copy elsewhere may have any."""
    said: dict[int, str] = {}
    for node in (state.nodes[home] for home in state.homes(name) if home in state.nodes):
        for what, each in (("the file", node.files.get(name)), ("DRBD", node.resources.get(name))):
            if each and each.minor >= 0:
                said.setdefault(each.minor, f"{each.minor} in {what} on {node.name}")
    if len(said) == 1:
        return drbd.device(*said)
    if said:
        raise Refused(
            f"{name}: its minor is {' and '.join(said.values())}, so it is not known which device is its disk",
            next=f"fab pm.verify --vm {name}",
        )
    raise Refused(
        f"{name}: has no DRBD resource file on any node that answers. Bring the nodes back that are away (fab pm.ls), "
        f"or see what there is of it",
        next=f"fab pm.verify --vm {name}",
    )
