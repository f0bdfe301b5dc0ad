"""vm.restore --in-place and --put-back: a VM's own disk becomes that of a backup, and back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pmc import backup_pipeline, drbd, lvm, virsh
from pmc.actions import Wait, Watch
from pmc.command import Command, bash, operation
from pmc.errors import Refused
from pmc.facts import backing
from pmc.model import ClusterState, NodeState
from pmc.plan import Plan, Step, plan
from pmc.plans import (
    other_disks,
    requirements,
    restore_marks,
    saved_memory,
    suspended_io,
    unfinished_restore,
    vm_steps,
)
from pmc.plans import room as room_check
from pmc.plans.backup import bring, drbd_device
from pmc.plans.restore import Found, prove
from pmc.settings import Settings
from pmc.units import MiB, show_size


def in_place(found: Found, size: int, xml: str, state: ClusterState, settings: Settings) -> Plan:
    """The VM's own disk (`size` bytes; `xml` is its domain) becomes that of the backup, which is proved before anything
    is written. What was on it stays in a snapshot until the end, and is put back when something fails."""
    old, name = found.backup, found.backup.vm
    homes = requirements.defined_everywhere(state, name)
    torn = unfinished_restore.interrupted(state, name)
    if not torn:
        unfinished_restore.none(state, name)
    if active := state.active_on(name):
        raise Refused(
            f"{name}: runs on {active[0]}; its disk is only written when it is off", next=f"fab vm.stop {name}"
        )
    if len(homes) > 1:
        requirements.healthy(state.nodes[homes[0]], name)
        _alike(homes, name, state)
    other_disks.whole(name, "a restore", xml, state)
    suspended_io.require_io(name, state, homes)
    saved_memory.written(name, "a restore", state)
    if old.size != size:
        raise Refused(
            f"{name}: its disk has {size} bytes, that of {old.id} {old.size}. Restore it as a new VM: --as NEW"
        )
    node, device, group = homes[0], drbd_device(name, state), settings.volume_group
    kept = unfinished_restore.before(name)
    its = {home: requirements.disk(state.nodes[home], name, settings) for home in homes}
    volume = its[node]
    for each in (state.nodes[home] for home in homes):
        requirements.foreign(each, kept, backing.snapshot(each, name, unfinished_restore.BEFORE), settings)
    room = volume.size * 65 // 64 // MiB * MiB + 16 * MiB  # all of it may change
    room_check.snapshot_room(state.nodes[node], volume, room)
    for home in homes[1:]:  # what is written there needs room in its pool as well, when snapshots share it
        if its[home].thin:
            room_check.snapshot_room(state.nodes[home], its[home], its[home].size)
    marks = [restore_marks.marked(home, its[home], True, restore_marks.tag(home == node)) for home in homes]
    writes = restore_marks.marked(node, volume, True, lvm.RESTORE_WRITES)
    steps = [
        *[bring(each) for each in dict.fromkeys((found.node, node))],
        prove(found, settings),
        # That took its time.
        *(Step(home, f"see that {name} is off", Wait(virsh.is_off(name), 5, "it runs")) for home in homes),
        *_nobodys(name, homes, state),
        *([vm_steps.see_equal(node, name)] if len(homes) > 1 else []),
        vm_steps.promote(node, name),
        *restore_marks.over(name, homes, state),
        *(replace(step, undo=None) if torn else step for step in marks),  # what is torn is so when it is put back
        Step(
            node,
            f"keep what is on the disk as the snapshot {group}/{kept}",
            lvm.snapshot_of(volume, group, kept, room),
            undo=put_back(group, name, volume.name, size, device, paired=len(homes) > 1, whole=not torn),
            check=lvm.exists(group, kept),
            instead=f"fab vm.restore {name} --put-back",
        ),
        replace(writes, undo=None),
        Step(
            node,
            f"write the disk ({show_size(size)}) from {old.id} where it differs",
            backup_pipeline.give_back(old, found.decoded(settings, node), device, compare=True),
            watch=Watch("bytes", name, size),
        ),
        # Of a side that was lost meanwhile the mark must stay.
        *([vm_steps.wait_up_to_date(settings, node, name)] if len(homes) > 1 else []),
        Step(node, f"make {name} secondary until it is started", drbd.secondary(name), undo=drbd.primary(name)),
        restore_marks.marked(node, volume, False, lvm.RESTORE_WRITES),
        Step(
            node,
            f"remove the snapshot {group}/{kept}",
            lvm.discard_for_good(group, kept, volume.name),
            check=lvm.is_gone(group, kept),
            pivot=True,
        ),
        *restore_marks.unmarked(name, {home: [(its[home], restore_marks.tag(home == node))] for home in homes}, state),
    ]
    return plan(f"vm.restore {name} --in-place", steps)


def _alike(homes: Sequence[str], name: str, state: ClusterState) -> None:
    """Not written is what is on the first side as in the backup already, whatever the other side has there."""
    if not (size := state.differs(name)):
        return
    way = f"fab vm.start {name} vm.repair {name} vm.stop {name}, then this again"
    if unfinished_restore.interrupted(state, name):
        way = f"on {homes[1]}: drbdadm invalidate {name}; then this again when DRBD has copied it"
    raise Refused(
        f"{name}: {show_size(size)} of its disk differ between {' and '.join(homes)}, as a verify found, and a restore "
        f"writes only what differs on {homes[0]}. First make both alike ({way}), or restore it as a new VM: --as NEW"
    )


def _nobodys(name: str, homes: Sequence[str], state: ClusterState) -> list[Step]:
    return [vm_steps.let_go(home, name) for home in state.primaries(name) if home in homes]


@operation
def put_back(group: str, name: str, disk: str, size: int, device: str, paired: bool, whole: bool = True) -> Command:
    """The disk as its snapshot has it, through DRBD, so that both sides get it; then the snapshot is not needed. `disk`
    is its volume. `paired`: it has another side, which must have all of it, or what was kept stays. Not `whole`: what
    was kept is half written itself."""
    kept = unfinished_restore.before(name)
    reader = backup_pipeline.read_volume(lvm.path(group, kept), size)
    write = f'{backup_pipeline.STREAM} put --size {size} --target "$2" --compare'
    equal = (
        'n=0; until "${@:4}"; do [ $((n += 1)) -lt 60 ] || { echo "DRBD is not Connected with both sides UpToDate, so '
        'the other side may lack some of it; what was kept stays" >&2; exit 1; }; sleep 1; done; '
    )
    script = (
        f"{lvm.TAGGED}; {reader} | {write}; {equal if paired else ''}"
        + (f'lvchange --deltag {lvm.RESTORE_WRITES} "$3"; ' if whole else "")
        + 'lvremove --yes "$1"'
    )
    healthy = drbd.sees(name, *drbd.HEALTHY).argv if paired else ()
    return bash(script, f"{group}/{kept}", device, f"{group}/{disk}", *healthy, long=True)


def undo_in_place(name: str, size: int, state: ClusterState, settings: Settings) -> Plan:
    """After an in-place restore that was interrupted: the disk as it was before. Without a snapshot it is that (the
    disk was not written yet, or is put back already), unless the disk that had the snapshot is another by now."""
    homes = requirements.defined_everywhere(state, name)
    there = [home for home in homes if backing.snapshot(state.nodes[home], name, unfinished_restore.BEFORE)]
    half = unfinished_restore.restoring(state, name)
    if not there and not half and (steps := restore_marks.over(name, homes, state)):
        for home in homes if len(homes) > 1 else []:
            requirements.healthy(state.nodes[home], name)
        return plan(f"vm.restore {name} --put-back", steps)
    if not there and not half:
        raise Refused(f"{name}: no restore of it was interrupted; there is nothing to put back")
    if active := state.active_on(name):
        raise Refused(f"{name}: runs on {active[0]}", next=f"fab vm.stop {name}")
    if unfinished_restore.interrupted(state, name):
        unfinished_restore.none(state, name)
    suspended_io.require_io(name, state, homes)
    saved_memory.written(name, "that", state)
    group, device, steps = settings.volume_group, drbd_device(name, state), list[Step]()
    for home in homes if len(homes) > 1 and not there else []:
        requirements.healthy(state.nodes[home], name)
    for node in there:
        unfinished_restore.left_over(state.nodes[node], name)
        of_the_disk(name, state.nodes[node], settings)
        if len(homes) > 1:
            requirements.healthy(state.nodes[node], name)
        disk = requirements.disk(state.nodes[node], name, settings).name
        put = put_back(group, name, disk, size, device, paired=len(homes) > 1)
        steps += [
            bring(node),
            *_nobodys(name, homes, state),
            vm_steps.promote(node, name),
            Step(node, f"put the disk of {name} back ({show_size(size)})", put),
            Step(node, f"make {name} secondary", drbd.secondary(name)),
        ]
    return plan(
        f"vm.restore {name} --put-back", steps, restore_marks.unmarked(name, {home: [] for home in half}, state)
    )


def of_the_disk(name: str, node: NodeState, settings: Settings) -> None:
    """What is put back was on the disk that the VM has now. (A thin snapshot whose origin is gone names none.)"""
    kept, disk = backing.snapshot(node, name, unfinished_restore.BEFORE), requirements.disk(node, name, settings)
    if kept and kept.origin not in ("", disk.name):
        raise Refused(
            f"{name}: {kept.group}/{kept.name} on {node.name} is a snapshot of {kept.group}/{kept.origin}, and its "
            f"disk is {disk.group}/{disk.name}, so it is not put back. Look which is right. Only when the disk is, "
            f"there: lvchange --deltag {lvm.RESTORING} {kept.group}/{kept.origin}, lvremove {kept.group}/{kept.name}",
            next=f"on {node.name}: lvs -o +lv_time,tags {kept.group}",
        )
