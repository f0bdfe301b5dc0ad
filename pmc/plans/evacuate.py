"""pm.evacuate, and vm.mv of several: what moves, and whether there is room for it. State in, plans out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from pmc.errors import NodeDown, Refused
from pmc.model import ClusterState
from pmc.plain import shown
from pmc.plan import Plan
from pmc.plans import failover, migrate, requirements
from pmc.settings import Settings
from pmc.units import show_size


@dataclass(frozen=True)
class Move:
    """A VM that leaves its node, and how."""

    name: str
    source: str
    target: str
    memory: int
    plan: Plan


@dataclass(frozen=True)
class Outcome:
    """How a move, or a start, went. `still`: how long the guest stood still, in words."""

    vm: str
    source: str
    target: str
    result: str
    still: str = ""

    @property
    def done(self) -> bool:
        return self.result in ("moved", "started")

    def cells(self) -> dict[str, object]:
        return {
            "vm": self.vm, "from": self.source, "to": self.target, "result": self.result, "stood still": self.still
        }  # fmt: skip


@dataclass(frozen=True)
class Evacuation:
    """`leaving`: the largest first. `staying`: what cannot leave, and why. `off`: is off, and so left alone."""

    leaving: tuple[Move, ...]
    staying: dict[str, str] = field(default_factory=dict)
    off: tuple[str, ...] = ()


def move_each(names: Sequence[str], to: str, state: ClusterState, settings: Settings) -> list[Move]:
    """Live, those named, in their order; one that cannot move refuses them all."""
    room = len(names) == 1  # of several together: below
    leaving = []
    for name in names:
        plan = migrate.move(name, to, state, settings, room)
        (source,) = state.active_on(name)
        leaving.append(_leaving(name, source, to, plan, state))
    _room(leaving, state)
    return leaving


def move_all(node: str, state: ClusterState, settings: Settings) -> Evacuation:
    """Live, from a node that answers."""
    if state.nodes[node].down:
        raise NodeDown(
            f"{node}: {state.nodes[node].down}. When it is dead, start its VMs elsewhere",
            next=f"fab pm.evacuate {node} --failover",
        )
    requirements.reachable(state, node)
    domains = state.nodes[node].domains
    active = [name for name, domain in domains.items() if domain.active]

    def leave(name: str) -> Move:
        return _leaving(name, node, "", migrate.move(name, "", state, settings, room=False), state)

    off = tuple(sorted(name for name in domains if not state.active_on(name)))
    chosen = _chosen(active, leave, off, state)
    foreign = {shown(name): "is not pmc's" for name, domain in state.nodes[node].foreign.items() if domain.active}
    return replace(chosen, staying=chosen.staying | foreign)


def start_all(
    node: str, off: Iterable[str], state: ClusterState, settings: Settings, locked: Collection[str] | None = None,
    hangs: str = "", discard: bool = False,
) -> Evacuation:  # fmt: skip
    """On their other nodes, from a node that is dead (or `hangs`, see plans/failover.py). `off` are known to have been
    off when it was last seen; those that are not `locked` stay."""
    if not state.nodes[node].down:
        raise Refused(
            f"{node}: answers ssh, so it is not dead. Its VMs can move while they run", next=f"fab pm.evacuate {node}"
        )
    gone = [name for name in state.vm_names() if node in state.homes(name) and not state.active_on(name)]
    left = tuple(sorted(set(off) & set(gone)))
    if not gone and (silent := [each for each in state if each.trouble and each.name != node]):
        why = "; ".join(f"{each.name}: {each.trouble}" for each in silent)
        raise NodeDown(f"{node}: no node that answers knows a VM of it, and not all could be asked: {why}")

    def leave(name: str) -> Move:
        if locked is not None and name not in locked:
            raise Refused(f"{name}: could not be started when this command began. Run it again")
        _, survivor = failover.homes(name, state, settings, hangs)
        plan = failover.failover(name, state, settings, room=False, hangs=hangs, discard=discard)
        return Move(name, node, survivor, state.nodes[survivor].domains[name].memory, plan)

    return _chosen([name for name in gone if name not in left], leave, left, state)


def _leaving(name: str, source: str, to: str, plan: Plan, state: ClusterState) -> Move:
    """`plan`: that of vm.mv, which has seen that there is another node."""
    target = to or next(home for home in state.homes(name) if home != source)
    return Move(name, source, target, state.nodes[source].domains[name].memory, plan)


def _chosen(
    names: Iterable[str], leave: Callable[[str], Move], off: tuple[str, ...], state: ClusterState
) -> Evacuation:
    leaving: list[Move] = []
    staying: dict[str, str] = {}
    for name in sorted(names):
        try:
            leaving.append(leave(name))
        except Refused as error:
            staying[name] = str(error).removeprefix(f"{name}: ")
    leaving.sort(key=lambda each: (-each.memory, each.name))
    _room(leaving, state)
    return Evacuation(tuple(leaving), staying, off)


def _room(leaving: Iterable[Move], state: ClusterState) -> None:
    """All together: one that fits alone may not fit beside the others."""
    free = {node.name: node.memory_available for node in state}
    without: list[str] = []
    for each in leaving:
        if each.memory <= free[each.target]:
            free[each.target] -= each.memory
        else:
            without.append(f"{each.name} ({show_size(each.memory)}) on {each.target}")
    if without:
        room = {name: show_size(state.nodes[name].memory_available) for name in sorted({e.target for e in leaving})}
        raise Refused(
            f"no memory for all of them together: {', '.join(without)}. Free now: "
            f"{', '.join(f'{name} {size}' for name, size in room.items())}. Nothing was touched. Stop or move some "
            f"VMs, or move those that matter one by one"
        )
