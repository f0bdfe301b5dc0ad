"""What vm.repair finds, and what it decides by. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pmc.drbd_generations import Generation, Past
from pmc.model import ClusterState, NodeState, Resource
from pmc.plan import Plan, Step, plan
from pmc.settings import Settings


@dataclass(frozen=True)
class SideFacts:
    """What one side tells beyond the cluster's state. No generation: its metadata cannot be read now."""

    generation: Generation | None = None
    past: Past = field(default_factory=Past)
    xml: str = ""


@dataclass(frozen=True)
class RepairOptions:
    """What the person decided: `keep` is the side of a split brain that stays. `stalled`: it was watched, and
    neither the connection nor a resync went on."""

    now: datetime
    keep: str = ""
    snapshot: bool = True
    new_disk: bool = False
    stalled: bool = False


@dataclass(frozen=True)
class Condition:
    """`refusal`: why a person must decide, and how. Otherwise `steps` fix it (none: it fixes itself, wait), after
    `ask` was confirmed; `advice` is what to do when that fails."""

    code: str
    text: str
    steps: tuple[Step, ...] = ()
    refusal: str = ""
    ask: str = ""
    advice: str = ""

    def plan(self, vm: str) -> Plan:
        return plan(f"vm.repair {vm}: {self.code}", self.steps)


@dataclass(frozen=True)
class RepairContext:
    """One VM and its sides, the nodes that its resource file names, the one it was made on first."""

    name: str
    homes: tuple[str, ...]
    state: ClusterState
    about: Mapping[str, SideFacts]
    settings: Settings
    wishes: RepairOptions

    @property
    def active(self) -> str:
        """Where it runs; empty: nowhere. (Twice is refused before there is a case.)"""
        return next(iter(self.state.active_on(self.name)), "")

    def node(self, home: str) -> NodeState:
        return self.state.nodes[home]

    def resource(self, home: str) -> Resource | None:
        """None: it is not up there."""
        return self.node(home).up(self.name)

    @property
    def up(self) -> dict[str, Resource]:
        """The sides that are up."""
        return {home: its for home in self.homes if (its := self.resource(home))}

    def other(self, home: str) -> str:
        return next(each for each in self.homes if each != home)
