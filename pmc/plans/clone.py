"""The steps that fill a new disk with a copy of another VM's. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pmc import backup_pipeline, lock_files, lvm
from pmc.actions import Watch
from pmc.command import Command, bash, operation
from pmc.facts import backing
from pmc.model import ClusterState
from pmc.plan import Step
from pmc.plans import requirements, room, suspended_io, unfinished_restore, vm_steps
from pmc.plans.request import Add
from pmc.plans.vm_steps import Given
from pmc.settings import Settings
from pmc.units import MiB


def standby(name: str, state: ClusterState) -> str:
    """The node whose volume is read: the secondary, whose disk no guest waits for; else the only one. Both sides must
    be connected and equal, or it would be a copy of old data. Where blocks are known to differ: the one that is in
    use."""
    homes = requirements.defined_everywhere(state, name)
    unfinished_restore.none(state, name)
    if len(homes) == 1:
        return homes[0]
    primaries = state.active_on(name) or state.primaries(name)
    chosen = next((home for home in homes if home not in primaries), homes[-1])
    if state.differs(name):
        if len(primaries) != 1:
            requirements.in_sync(state, name, "it does not run, so neither side is known to be right")
        chosen = primaries[0]
    requirements.healthy(state.nodes[chosen], name)
    return chosen


# The snapshots NAME.kind that are there only while a command reads them.
KINDS = ("backup", "clone")


def snapshot(name: str, kind: str, node: str, state: ClusterState, settings: Settings, *tags: str) -> list[Step]:
    """A snapshot NAME.kind of its disk, with room for a fifth of it to change meanwhile: in the volume group or, of a
    thin one, in its pool. One that is there, of any kind, was left by a command that was interrupted: the VM is locked,
    so nobody else is reading it."""
    suspended_io.readable(name, state.nodes[node])
    group, volume = settings.volume_group, requirements.disk(state.nodes[node], name, settings)
    size = max((volume.used if volume.thin else volume.size) // 5 // MiB, 8) * MiB
    room.snapshot_room(state.nodes[node], volume, size)
    kept = f"{name}.{kind}"
    for other in state:
        requirements.foreign(other, kept, backing.snapshot(other, name, kind), settings)
    left = [(n.name, old.name) for each in KINDS for n in state if (old := backing.snapshot(n, name, each))]
    return [
        *(
            Step(other, f"remove the snapshot {group}/{old} of an interrupted command", lvm.discard(group, old))
            for other, old in left
        ),
        Step(
            node,
            f"take the snapshot {group}/{kept}",
            lvm.snapshot_of(volume, group, kept, size, *tags),
            undo=lvm.discard(group, kept),
            check=lvm.exists(group, kept),
        ),
    ]


def left_for(name: str, state: ClusterState, settings: Settings) -> list[Step]:
    """Removes what a `vm.add NAME --clone SOURCE` that was interrupted was reading. NAME is locked, so nobody reads it
    for NAME any more; SOURCE is not, so somebody may be making another clone of it by now."""
    group, mark = settings.volume_group, f"{lvm.FOR}{name}"
    return [
        Step(
            node.name,
            f"remove the snapshot {group}/{volume.name} that {name} was copied from",
            lvm.discard_marked(group, volume.name, mark, lock_files.file(volume.name.partition(".")[0])),
            pivot=True,
        )
        for node in state
        for volume in sorted(node.volumes.values(), key=lambda volume: volume.name)
        if mark in volume.tags and lvm.snapshot_for(volume)
    ]


def drop(name: str, kind: str, node: str, settings: Settings, but_keep: bool = False) -> list[Step]:
    """What was read is valid only if the snapshot did not overflow meanwhile."""
    group, kept = settings.volume_group, f"{name}.{kind}"
    see = Step(node, f"see that {group}/{kept} did not overflow", lvm.intact(group, kept))
    return [see] if but_keep else [see, Step(node, f"remove the snapshot {group}/{kept}", lvm.discard(group, kept))]


@operation
def write(reader: str, device: str) -> Command:
    """What `reader` prints (shell text), onto a disk that is all zeros. As add.write."""
    return bash(f'{reader} | dd of="$1" bs=1M iflag=fullblock conv=nocreat,sparse,fsync status=none', device, long=True)


def copy(request: Add, size: int, state: ClusterState, settings: Settings, given: Given) -> Sequence[Step]:
    source = standby(request.clone, state)
    path = lvm.path(settings.volume_group, f"{request.clone}.clone")
    far = "" if source == request.primary else settings.nodes[source].replication
    reader = backup_pipeline.read_volume(path, size, far)
    # Looked at again: the new disk was zeroed since, which takes hours. By now a standby that the link was lost to has
    # an older disk, one that is catching up has parts of two.
    beside = len(state.homes(request.clone)) > 1 and not state.differs(request.clone)
    return [
        *([vm_steps.see_equal(source, request.clone)] if beside else []),
        *snapshot(request.clone, "clone", source, state, settings, f"{lvm.FOR}{request.name}"),
        Step(
            request.primary,
            f"copy {request.clone} to {request.name}",
            write(reader, given.device),
            watch=Watch("bytes", request.name, size),
        ),
        *drop(request.clone, "clone", source, settings),
    ]
