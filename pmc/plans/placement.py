"""vm.add without --primary: the nodes for a new VM. State in, nodes and the reason out. Pure.

N+1 is kept also for the time when every guest has touched all of its memory: that is spare which is neither in use now
nor promised to a VM. (pm.verify judges by what is available now, which is more.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pmc.capacity.memory import Memory, running
from pmc.errors import Refused
from pmc.model import ClusterState, NodeState
from pmc.plain import then
from pmc.plans import room, vm_steps
from pmc.plans.add import check_cluster, check_node
from pmc.plans.request import Add
from pmc.settings import Settings
from pmc.units import show_size

SHOWN = 4  # of the nodes that do not fit, in the refusal


def choose(request: Add, size: int, state: ClusterState, settings: Settings) -> tuple[Add, str]:
    """The request with its nodes, and why these (empty: they were given)."""
    if request.primary:
        return request, ""
    check_cluster(request.name, state, settings)
    if request.secondary:
        check_node(request.name, state.nodes[request.secondary], size, request.memory, settings)
    search = _Search(request, size, state, settings, Memory(state, running(state)))
    unfit, usable = search.usable()
    primaries = [node for node in usable if node.name != request.secondary and search.may_run(node)]
    for node in sorted(primaries, key=search.as_primary):
        why = f"{request.name}: {node.name} is the least full node that fits ({search.full(node)} % of memory with it)"
        if request.single:
            return replace(request, primary=node.name), f"{why}; no second copy"
        others = [other for other in usable if search.may_hold(other, node)]
        if others:
            other = min(others, key=lambda other: search.as_secondary(other, node))
            why += f"; second copy on {other.name} ({search.worst(other, node)} % at most when a node is lost)"
            return replace(request, primary=node.name, secondary=other.name), why
    raise Refused(_why_not(request, search, usable, unfit))


@dataclass(frozen=True)
class _Search:
    request: Add
    size: int
    state: ClusterState
    settings: Settings
    memory: Memory

    def usable(self) -> tuple[list[str], list[NodeState]]:
        """Why each node that cannot take the VM cannot, and those that can, N+1 aside."""
        unfit, usable = [], []
        for node in self.state:
            try:
                check_node(self.request.name, node, self.size, self.request.memory, self.settings)
                usable.append(node)
            except Refused as error:
                unfit.append(str(error))
        return unfit, usable

    def may_run(self, node: NodeState) -> bool:
        """All that may fall on the node still fits beside the VM."""
        return self.request.memory + self.memory.worst(node.name) <= self.memory.spare(node.name)

    def may_hold(self, node: NodeState, primary: NodeState) -> bool:
        """When the primary is lost, the VM fits beside what else falls on this node then."""
        if node.name == primary.name or self.request.secondary not in ("", node.name):
            return False
        return self._falls(node, primary) <= self.memory.spare(node.name)

    def _falls(self, node: NodeState, primary: NodeState) -> int:
        return self.memory.falls[node.name][primary.name] + self.request.memory

    def as_primary(self, node: NodeState) -> tuple[bool, int, int, str]:
        return self._crowded(node), self.full(node), len(node.files), node.name

    def as_secondary(self, node: NodeState, primary: NodeState) -> tuple[bool, float, int, int, str]:
        """The copies of what runs on one node are spread over many, so that its loss is borne by many."""
        together = self._falls(node, primary) / node.memory
        return self._crowded(node), together, len(node.files), self.worst(node, primary), node.name

    def worst(self, node: NodeState, primary: NodeState) -> int:
        """Percent of the node's memory that is used after the one loss that is the worst for it."""
        return self._percent(node, max(self.memory.worst(node.name), self._falls(node, primary)))

    def full(self, node: NodeState) -> int:
        """Percent of the node's memory that is used with the VM on it."""
        return self._percent(node, self.request.memory)

    def _crowded(self, node: NodeState) -> bool:
        """The volume group would be as full as pm.verify complains about: only when no other node is left. (Where
        volumes are thin it may be the pool's as a whole, and a pool that is too full is refused: `add.check_node`.)"""
        if self.settings.volumes == "thin":
            return False
        used = node.group_size - node.group_free + vm_steps.volume_size(self.size)
        return used > node.group_size * self.settings.verify.full_percent / 100

    def _percent(self, node: NodeState, more: int) -> int:
        """Whole ones: what is less is no difference, and the number of VMs, then the name, decides."""
        return int(100 * self.memory.share(node.name, more))


def _why_not(request: Add, search: _Search, usable: Sequence[NodeState], unfit: Sequence[str]) -> str:
    memory, why = search.memory, [*unfit]
    for node in usable:
        if search.may_run(node):
            why.append(f"{node.name}: no other node could take its VMs, with this one, if it were lost")
        elif node.name != request.secondary:
            worst, spare = show_size(memory.worst(node.name)), show_size(max(0, memory.spare(node.name)))
            why.append(f"{node.name}: {worst} may fall on it when another is lost, and {spare} are spare")
    shown = "; ".join(why[:SHOWN]) + (f"; and {len(why) - SHOWN} more nodes" if len(why) > SHOWN else "")
    who, least = ("no node has", 1) if request.single else ("no two nodes have", 2)
    disk, size = show_size(search.size), vm_steps.volume_size(search.size)
    fitting = [node for node in search.state if not room.no_room(node, size, search.settings)]
    if len(fitting) < least:
        return f"{request.name}: {who} room for a disk of {disk}: {shown}. Make room there, or give a smaller --size"
    needed = show_size(request.memory)
    if len([node for node in fitting if node.memory_available >= request.memory]) < least:
        said = f"{request.name}: {who} {needed} of memory free: {shown}. Give a smaller --memory, or stop a VM"
        return then(f"{said}. Moving VMs may make room", "fab pm.balance")
    if len(usable) < least:
        return f"{request.name}: {who} all that it needs: {shown}"
    return then(
        f"{request.name}: {who} room for it ({needed} of memory, {disk} of disk) and for the loss of any one node: "
        f"{shown}. --primary and --secondary place it all the same. Moving VMs may make room",
        "fab pm.balance",
    )
