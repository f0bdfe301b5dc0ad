"""The marks of a restore into a VM's own disk, on both of its nodes. Pure.

First both disks are marked, then the snapshot is made, then the disk is marked as being written, then it is written. At
the end that mark goes first, then the snapshot, for good; then the other marks. So where the snapshot is, both are
marked: the other node knows that its disk may be half written. And where a disk is marked as being written and there
is no snapshot, that was lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pmc import lvm
from pmc.model import ClusterState, Volume
from pmc.plan import Step
from pmc.plans import unfinished_restore


def tag(here: bool) -> str:
    return lvm.RESTORING if here else lvm.RESTORING_THERE


def unmarked(name: str, marks: Mapping[str, Sequence[tuple[Volume, str]]], state: ClusterState) -> list[Step]:
    """All marks that the volumes have, and `marks`, which they have by then; that of the node with the snapshot is the
    last."""
    order, steps = (lvm.RESTORE_WRITES, lvm.RESTORING_THERE, lvm.RESTORING), list[Step]()
    for tag in order:
        for home, will in marks.items():
            now = {each.name: each for each in unfinished_restore.marked(state.nodes[home], name, tag)}
            has = now | {volume.name: volume for volume, its in will if its == tag}
            steps += [marked(home, volume, False, tag) for volume in has.values()]
    return steps


def over(name: str, homes: Sequence[str], state: ClusterState) -> list[Step]:
    """Takes off what is left of a restore that was put back while a node was dead: a new one makes its own marks."""
    tags = (lvm.RESTORING_THERE, lvm.PUT_BACK) if unfinished_restore.over(state, name) else ()
    each = (
        (home, volume, tag)
        for tag in tags
        for home in homes
        for volume in unfinished_restore.marked(state.nodes[home], name, tag)
    )
    return [marked(home, volume, False, tag) for home, volume, tag in each]


def marked(node: str, volume: Volume, on: bool, tag: str) -> Step:
    """On both nodes: should the one with the snapshot die, vm.failover must know on the other what the disk is. Which
    is why a disk that could not be put back keeps its marks."""
    group, name = volume.group, volume.name
    what = {lvm.PUT_BACK: "put back alone", lvm.RESTORE_WRITES: "being written"}.get(tag, "being restored into")
    note = f"{'mark' if on else 'no longer mark'} {group}/{name} as {what}"
    return Step(node, note, lvm.mark(group, name, on, tag), undo=lvm.mark(group, name, not on, tag), guard=True)
