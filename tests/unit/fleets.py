"""Simulated clusters, from two nodes to hundreds, and what must hold of moves in them, reckoned anew each time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pmc.capacity.memory import Guest
from pmc.model import ClusterState, Domain, NodeState, Resource, ResourceFile
from pmc.settings import NodeSettings, Settings
from pmc.units import GiB
from tests.unit.samples import node

OWN = GiB  # what a node uses for itself


def build(
    totals: Mapping[str, int], guests: Iterable[Guest], available: Mapping[str, int] | None = None
) -> ClusterState:
    """Nodes of so much memory, and VMs whose disks are equal on both sides. Where it is not told what is `available`,
    every guest has touched all of its memory."""
    domains: dict[str, dict[str, Domain]] = {name: {} for name in totals}
    resources: dict[str, dict[str, Resource]] = {name: {} for name in totals}
    files: dict[str, dict[str, ResourceFile]] = {name: {} for name in totals}
    free = {name: memory - OWN for name, memory in totals.items()}
    for minor, guest in enumerate(guests, 1):
        hosts = tuple(filter(None, (guest.on, guest.refuge)))
        file = ResourceFile(guest.name, minor, f"/dev/vg/{guest.name}", hosts, (7000 + minor,))
        free[guest.on] -= guest.memory
        for at in hosts:
            runs = at == guest.on
            domains[at][guest.name] = Domain(guest.name, "running" if runs else "shut off", guest.memory, 1)
            role, other = ("Primary", "Secondary") if runs else ("Secondary", "Primary")
            resources[at][guest.name] = Resource(
                guest.name, minor, role, "UpToDate", "Connected", "Established", other, "UpToDate", GiB
            )
            files[at][guest.name] = file
    free.update(available or {})
    return ClusterState({
        name: node(name, memory=memory, memory_available=free[name], group_size=2000 * GiB, group_free=1000 * GiB,
                   domains=domains[name], resources=resources[name], files=files[name])
        for name, memory in totals.items()
    })  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """Of a simulated cluster. `crowded`: every fifth node is likelier to run a VM by this factor; `mixed`: nodes of
    two sizes."""

    nodes: int
    vms: int
    seed: int = 1
    sizes: tuple[int, ...] = (1, 2, 4, 8)  # GiB
    crowded: int = 1
    mixed: bool = False


def simulated(kind: Kind) -> ClusterState:
    chance = random.Random(kind.seed)
    names = [f"pm-{number}" for number in range(1, kind.nodes + 1)]
    totals = {name: 128 * GiB * (chance.choice((1, 2)) if kind.mixed else 1) for name in names}
    likely = [name for number, name in enumerate(names) for _ in range(kind.crowded if number % 5 == 0 else 1)]
    left = {name: memory - OWN for name, memory in totals.items()}
    guests: list[Guest] = []
    while len(guests) < kind.vms:
        guest = Guest(
            f"vm-{len(guests) + 1}", chance.choice(kind.sizes) * GiB, chance.choice(likely), chance.choice(names)
        )
        if guest.on != guest.refuge and guest.memory <= left[guest.on]:
            left[guest.on] -= guest.memory
            guests.append(guest)
    return build(totals, guests)


def settings(state: ClusterState) -> Settings:
    places = enumerate(state.nodes)
    nodes = {name: NodeSettings(name, f"10.0.{number // 250}.{number % 250 + 1}") for number, name in places}
    return Settings(nodes, source="pmc.conf")


def moved(state: ClusterState, moves: Iterable[Guest]) -> ClusterState:
    """The state when the VMs have moved: the guests as they are, their memory along with them."""
    nodes: dict[str, NodeState] = {
        name: replace(each, domains=dict(each.domains), resources=dict(each.resources))
        for name, each in state.nodes.items()
    }
    for guest in moves:
        for at, runs in ((guest.on, False), (guest.refuge, True)):
            was, resource = nodes[at].domains[guest.name], nodes[at].resources[guest.name]
            assert was.active != runs, f"{guest.name} moves from where it does not run"
            change = -guest.memory if runs else guest.memory
            nodes[at] = replace(
                nodes[at],
                domains={**nodes[at].domains, guest.name: replace(was, state="running" if runs else "shut off")},
                resources={**nodes[at].resources,
                           guest.name: replace(resource, role=resource.peer_role, peer_role=resource.role)},
                memory_available=nodes[at].memory_available + change,
            )  # fmt: skip
    return ClusterState(nodes)


def shortages(state: ClusterState) -> Counter[tuple[str, str]]:
    """N+1 in a few plain lines: (lost, refuge): the bytes that are lacking there."""
    needed: Counter[tuple[str, str]] = Counter()
    for lost in state:
        for vm, domain in lost.domains.items():
            if domain.active:
                for refuge in lost.files[vm].hosts:
                    needed[lost.name, refuge] += domain.memory if refuge != lost.name else 0
    return Counter({pair: need - state.nodes[pair[1]].memory_available
                    for pair, need in needed.items() if need > state.nodes[pair[1]].memory_available})  # fmt: skip


def shares(state: ClusterState) -> dict[str, float]:
    return {each.name: 1 - each.memory_available / each.memory for each in state}
