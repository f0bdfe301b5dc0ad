"""A VM whose memory libvirt keeps on some node: what must not be done to it, and throwing that memory away. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pmc.errors import Refused
from pmc.facts import managed_save
from pmc.model import ClusterState
from pmc.plan import Step

FLAG = "--discard-saved"


def start(vm: str, again: str, state: ClusterState) -> None:
    """Nothing starts beside it without a word. `again`: the command that was given."""
    if nodes := state.saved_on(vm):
        raise Refused(
            f"{vm}: its memory is saved on {' and '.join(nodes)} (virsh managedsave), and older than what may be "
            f"on its disk now, which it would destroy. This throws the memory away, and boots {vm} as after a crash",
            next=f"{again} {FLAG}",
        )


def beside(vm: str, state: ClusterState) -> None:
    """It runs, so what is saved is of its past; where it goes, its next start there would be with that."""
    if nodes := state.saved_on(vm):
        raise Refused(
            f"{vm}: old memory of it is saved on {' and '.join(nodes)}, which a start there would go on from. Throw "
            f"it away first",
            next=remedy(vm, nodes, state),
        )


def written(vm: str, what: str, state: ClusterState) -> None:
    """Before its disk becomes another: what is remembered will not fit to it. `what` is about to be done."""
    if nodes := state.saved_on(vm):
        raise Refused(
            f"{vm}: its memory is saved on {' and '.join(nodes)}, and does not fit the disk any more after {what}. "
            f"Throw it away first",
            next=remedy(vm, nodes, state),
        )


def remedy(vm: str, nodes: Iterable[str], state: ClusterState) -> str:
    """The command, for each node on which there is some. virsh knows only of domains that are defined there."""
    known = {True: f"virsh managedsave-remove {vm}", False: f"rm {managed_save.path(vm)}"}
    return "; ".join(f"on {node}: {known[vm in state.nodes[node].domains]}" for node in nodes)


def told(vm: str, state: ClusterState) -> str:
    """For the end of a line that says that it is off."""
    nodes = state.saved_on(vm)
    return (
        f"; its memory is saved on {' and '.join(nodes)}, and fab vm.start {vm} refuses because of it" if nodes else ""
    )


def discarded(vm: str, state: ClusterState) -> list[Step]:
    """There is no way back. One node after the other: when one fails, those behind it have theirs still."""
    throw = f"throw away the saved memory of {vm}"
    return [
        Step(node, throw, managed_save.discard(vm), check=managed_save.gone(vm), pivot=True)
        for node in state.saved_on(vm)
    ]
