"""A VM whose disk stands still or is not whole: what would hang, or go on with less than there is, is refused. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pmc.errors import Refused
from pmc.facts import backing, lvm_attr
from pmc.facts.lvm_attr import Unwell
from pmc.model import ClusterState, NodeState


def require_io(vm: str, state: ClusterState, nodes: Iterable[str]) -> None:
    """On these nodes its I/O is not suspended, and its volumes can be read and written."""
    for node in (state.nodes[name] for name in nodes if name in state.nodes):
        if why := suspended(vm, node):
            raise Refused(
                f"{vm}: its I/O is suspended on {node.name} ({why}), so whatever touches its disk waits for ever. "
                f"{remedy(vm, node.name, why)}"
            )
        readable(vm, node)


def require_stoppable(vm: str, state: ClusterState, nodes: Iterable[str]) -> None:
    """Nothing of it waits for ever, so that its guest can be ended and its disk let go."""
    for node in (state.nodes[name] for name in nodes if name in state.nodes):
        if suspended(vm, node) or ((its := volume(vm, node)) and its.hangs):
            require_io(vm, state, [node.name])


def readable(vm: str, node: NodeState) -> None:
    if (its := volume(vm, node)) and its.stands:
        raise Refused(f"{vm}: on {node.name} {its}", next=f"on {node.name}: {its.remedy}")


def suspended(vm: str, node: NodeState) -> str:
    """Why, in DRBD's words."""
    return node.resources[vm].suspended if vm in node.resources else ""


def volume(vm: str, node: NodeState) -> Unwell | None:
    """The worst of its volumes here."""
    found = [its for each in backing.all_of(node, vm) if (its := lvm_attr.of_vm(each, node.volumes))]
    return max(found, key=lambda its: (its.hangs, its.stands), default=None)


def remedy(vm: str, node: str, why: str) -> str:
    """The words of drbdsetup(8), events2. What DRBD itself suspended it lets go on when the reason is gone."""
    resume = f"on {node}: drbdadm resume-io {vm}"
    if "user" in why:
        return resume
    if "no-data" in why:
        good = f"bring a side with good data back (fab pm.ready_drbd, fab vm.repair {vm})"
        return f"{good}; or give the guest errors in its place: {resume}"
    if "quorum" in why:
        return "bring its other nodes back: fab pm.ready_drbd"
    cleanup = f"after an interrupted migration: fab vm.mv {vm} --cleanup"
    return f"{cleanup}; else see that its other node is really off, then {resume}"
