"""How full the nodes' memory is, and what falls on which node when another is lost (N+1). Pure.

Two measures, each for what it is good for. `free` is what the node has available now: what pm.verify judges N+1 by,
and what a move is refused for. `used` is also what its running VMs may come to use: a guest that has just started has
hardly touched its memory, and counted by what it touched, the node that was filled last would always look the emptiest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import sqrt

from pmc.model import ClusterState, NodeState


@dataclass(frozen=True)
class Guest:
    """A VM that runs: on which node, and where it would start if that one were lost (empty: nowhere)."""

    name: str
    memory: int
    on: str
    refuge: str = ""

    @property
    def moved(self) -> Guest:
        return replace(self, on=self.refuge, refuge=self.on)


@dataclass(frozen=True, order=True)
class Score:
    """The lower the better, and no evenness outweighs N+1: `lacking` is what the nodes lack, together, to take what may
    fall on them; `spread` the standard deviation of the share of memory used, from that of the whole cluster."""

    lacking: int
    spread: float


def running(state: ClusterState) -> Iterator[Guest]:
    """Of the nodes that tell. A VM that runs nowhere while one of its nodes is silent may have run there, and may be
    started on the other one any time: it counts as one that is about to fall."""
    there = {node.name for node in state if _tells(node)}
    silent = {node.name for node in state if node.down}
    for node in state:
        for vm, domain in node.domains.items() if node.name in there else ():
            if domain.active:
                refuges = (home for home in state.homes(vm) if home != node.name and home in there)
                yield Guest(vm, domain.memory, node.name, next(refuges, ""))
            elif silent and node.name in (homes := state.homes(vm)) and not state.active_on(vm):
                for lost in [home for home in homes if home in silent][:1]:
                    yield Guest(vm, domain.memory, lost, node.name)


def _tells(node: NodeState) -> bool:
    return not node.down and node.memory > 0 and "libvirt" not in node.failures


def falling(guests: Iterable[Guest]) -> dict[str, dict[str, dict[str, int]]]:
    """N+1: for each node, by the node that is lost, the memory of each VM that then has to start here."""
    found: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for guest in guests:
        if guest.refuge:
            found[guest.refuge][guest.on][guest.name] = guest.memory
    return found


class Memory:
    """The nodes that tell, in bytes. Changes as VMs are moved in it, to look ahead."""

    def __init__(self, state: ClusterState, guests: Iterable[Guest]) -> None:
        guests = list(guests)
        promised: Counter[str] = Counter()
        for guest in guests:
            promised[guest.on] += guest.memory
        for node in state:
            promised[node.name] += sum(domain.memory for domain in node.foreign.values() if domain.active)
        nodes = [node for node in state if _tells(node)]
        self.total = {node.name: node.memory for node in nodes}
        self.free = {node.name: node.memory_available for node in nodes}
        self.used = {node.name: max(node.memory - node.memory_available, promised[node.name]) for node in nodes}
        self.falls: dict[str, Counter[str]] = {node.name: Counter() for node in nodes}
        for refuge, losses in falling(guests).items():
            self.falls[refuge] = Counter({lost: sum(vms.values()) for lost, vms in losses.items()})
        self.level = sum(self.used.values()) / max(1, sum(self.total.values()))  # of the whole: no move changes it

    def share(self, node: str, more: int = 0) -> float:
        return (self.used[node] + more) / self.total[node]

    def spare(self, node: str) -> int:
        """Neither in use nor promised to a VM."""
        return self.total[node] - self.used[node]

    def worst(self, node: str, besides: str = "") -> int:
        """The most that falls on the node at once, from any one other (but `besides`)."""
        return max((size for lost, size in self.falls[node].items() if lost != besides), default=0)

    def lacking(self, node: str, more: int = 0, besides: str = "") -> int:
        """What the node lacks, or would with `more` free, summed over the nodes that may be lost (but `besides`)."""
        free = self.free[node] + more
        return sum(size - free for lost, size in self.falls[node].items() if size > free and lost != besides)

    def move(self, guest: Guest) -> None:
        source, target, size = guest.on, guest.refuge, guest.memory
        for table, change in ((self.used, -size), (self.free, size)):
            table[source] += change
            table[target] -= change
        self.falls[target][source] -= size
        self.falls[source][target] += size

    def score(self) -> Score:
        unevenness = sum((self.share(node) - self.level) ** 2 for node in self.total)
        return Score(sum(map(self.lacking, self.total)), sqrt(unevenness / max(1, len(self.total))))
