"""A restore into a VM's own disk that did not end: how it shows, and what is refused then. Pure; raises Refused."""

from __future__ import annotations

from pmc import lvm
from pmc.errors import Refused
from pmc.facts import backing
from pmc.model import ClusterState, NodeState, Volume
from pmc.plain import then

# What pmc calls the snapshot that an in-place restore keeps.
BEFORE = "before"


def before(vm: str) -> str:
    """The snapshot that an in-place restore keeps of what was on the disk, until it is complete."""
    return f"{vm}.{BEFORE}"


def interrupted(state: ClusterState, vm: str) -> bool:
    """A restore into its disk was interrupted, and what was on it is lost: with the disk of the node that kept it, or
    somebody removed the snapshot. That node is the first to be marked and the last to be so; where only the other one
    is, it has another disk by now."""
    homes = _its(state, vm)
    if not all_tell(state, vm):
        return False  # it may have it
    if over(state, vm) or any(backing.snapshot(node, vm, BEFORE) for node in homes):
        return False
    if any(written(node, vm) for node in homes):
        return True
    there = any(marked(node, vm, lvm.RESTORING_THERE) for node in homes)
    return there and not any(marked(node, vm, lvm.RESTORING) for node in homes)


def written(node: NodeState, vm: str) -> bool:
    """A restore writes its disk here, or was interrupted when it did."""
    return bool(marked(node, vm, lvm.RESTORE_WRITES))


def over(state: ClusterState, vm: str) -> bool:
    """What a restore that was interrupted kept was put back when the other node was dead. What that one's disk is
    marked with tells nothing any more."""
    return any(marked(node, vm, lvm.PUT_BACK) for node in _its(state, vm))


def all_tell(state: ClusterState, vm: str) -> bool:
    its = _its(state, vm)
    return len(its) == len(state.homes(vm)) and not any(node.trouble for node in its)


def _its(state: ClusterState, vm: str) -> list[NodeState]:
    """The nodes that it lives on: what a stale copy elsewhere was restored into is none of its disks any more."""
    return [state.nodes[home] for home in state.homes(vm) if home in state.nodes]


def marked(node: NodeState, vm: str, *tags: str) -> list[Volume]:
    """The VM's disk here, if it has one of these marks; and a volume of its name, which pmc took for its disk once."""
    named = node.volumes.get(vm)
    if named and any(user != vm for user in backing.users(node, named.group, named.name)):
        named = None  # by now another VM's disk
    found = {each.name: each for each in (backing.of(node, vm), named) if each}
    return [each for each in found.values() if set(tags) & set(each.tags)]


def none(state: ClusterState, vm: str) -> None:
    """No restore into its disk was interrupted half way: then it is neither the old nor the new one."""
    if interrupted(state, vm):
        raise Refused(
            f"{vm}: a restore into its disk was interrupted, and its snapshot of what was there is lost with a disk. "
            f"Restore it again",
            next=f"fab vm.restore {vm} --backup ID --in-place",
        )
    for node in _its(state, vm):
        left_over(node, vm)
    kept = [node.name for node in _its(state, vm) if backing.snapshot(node, vm, BEFORE)]
    if not kept and (left := restoring(state, vm)) and all_tell(state, vm):
        raise Refused(
            f"{vm}: a restore into its disk wrote nothing, or came to its end, and left its marks on "
            f"{' and '.join(left)}. Take them off",
            next=f"fab vm.restore {vm} --put-back",
        )
    if kept or restoring(state, vm):
        where = f"is kept on {kept[0]}" if kept else "was kept on its other node"
        raise Refused(
            f"{vm}: a restore into its disk was interrupted, and what was on it {where}. Put that back",
            next=f"fab vm.restore {vm} --put-back",
        )


def left_over(node: NodeState, vm: str) -> None:
    """What a restore kept, and the disk beside it is not marked: the restore was complete, or it is of another VM of
    that name. The VM may have run since, so it is never put back."""
    if (kept := backing.snapshot(node, vm, BEFORE)) and not marked(node, vm, lvm.RESTORING):
        raise Refused(
            f"{vm}: {kept.group}/{kept.name} on {node.name} is left of a restore that was complete, or of another VM "
            f"of that name. {no_more_needed(kept, node.name)}"
        )


def no_more_needed(kept: Volume, node: str) -> str:
    """The remedy for what is left of a restore."""
    return then("Remove it only when nothing in it is needed", f"on {node}: lvremove {kept.group}/{kept.name}")


def restoring(state: ClusterState, vm: str) -> list[str]:
    """The nodes whose disk of it is marked: a restore into it did not come to its end."""
    tags = (lvm.RESTORING,) if over(state, vm) else (lvm.RESTORING, lvm.RESTORING_THERE)
    return [node.name for node in _its(state, vm) if marked(node, vm, *tags)]
