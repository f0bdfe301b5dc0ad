"""Rules about nodes that are dead and sides that went apart: vm.failover, vm.repair, vm.peer, pm.evacuate.

A person is in them, too: says that a node is off (and cuts its power: a word that is not true is not tried), chooses
the side of a split brain that stays, lets a stale copy go. Only then may acknowledged writes be given up, and of a
failover only those that the person was told of. A fence command takes the power away.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from pmc.command import Query
from pmc.errors import PmcError, Refused
from pmc.facts import dead_node
from pmc.plan import Plan
from pmc.plans import evacuate, failover
from pmc.plans.evacuate import Evacuation, Move
from pmc.tasks import failover as tasks
from pmc.tasks import fencing
from pmc.transport import fence_command
from tests.sim.life import Life
from tests.sim.sequences import NAMES, NODE, NODES, ONE, TROUBLE, Manager, Trouble, count
from tests.sim.world import Cloud
from tests.unit.samples import SETTINGS

FENCED = replace(
    SETTINGS, nodes={name: replace(node, fence="fence_it") for name, node in SETTINGS.nodes.items()}
)  # fmt: skip
# How a node is known to be dead: not at all, by its fence command, by a person who is asked, or who says --dead.
WORD = st.sampled_from(("", "fence", "fence", "typed", "flag"))


@dataclass(frozen=True)
class Asked:
    """In place of a Node, which only is asked."""

    name: str
    world: Cloud

    def ask_each(self, *queries: Query[Any]) -> list[Any]:
        return [query.parse(self.world._say(self.name, query.command)) for query in queries]


@dataclass(frozen=True)
class Asking:
    """In place of a Cluster."""

    world: Cloud
    settings: Any

    def begin(self, plan: Plan) -> None:
        """For the audit log."""

    def interruptible(self) -> AbstractContextManager[None]:
        return nullcontext()

    def go_on(self, *rest: str) -> None:
        """Nobody types Ctrl-C."""

    def on_all(self, work: Callable[[Asked], Any], names: Mapping[str, Any]) -> list[Any]:
        return [work(Asked(name, self.world)) for name in names]


class Losses(Life):
    # -- what happens to the world --

    @rule(minutes=st.sampled_from((1, 10, 60)))
    def time_passes(self, minutes: int) -> None:
        self.world.now += timedelta(minutes=minutes)
        self.guests_write()

    @rule(one=ONE, some=st.booleans())
    def resync(self, one: int, some: bool) -> None:
        self.world.resync(self.there(one), some)

    @rule(one=ONE, node=NODE)
    def disk_fails(self, one: int, node: str) -> None:
        """Of a secondary: DRBD detaches it (on-io-error)."""
        name, world = self.there(one), self.world
        if (other := world.other(node, name)) and world.nodes[node].resources[name].role == "Secondary":
            disks = {world.nodes[side].resources[name].disk for side in (node, other)}
            if disks == {"UpToDate"}:
                world.detach(node, name)
        self.guests_write()

    # -- vm.failover, pm.evacuate --

    @precondition(lambda self: any(self.world.silent(node) for node in NODES))
    @rule(one=ONE, word=WORD, trouble=TROUBLE)
    def failover(self, one: int, word: str, trouble: Trouble) -> None:
        self._failed_over(self.there(one, running=False), word, trouble)

    def _failed_over(self, name: str, word: str, trouble: Trouble) -> None:
        if self.task("vm.failover", lambda manager: self._fail_over(manager, name, word), trouble) == "done":
            assert len(self.world.running(name)) == 1, f"{name} does not run after vm.failover"
            self.opened.discard(name)

    def _fail_over(self, manager: Manager, name: str, word: str) -> None:
        state = self.state()
        node, survivor = failover.homes(name, state, SETTINGS)
        plan = failover.failover(name, state, SETTINGS)
        with self._person(node, word) as (said, dead):
            sight = fencing.observe(self._asking(word), state, node, {survivor: [name]})
            assert self.world.silent(node, survivor), f"{survivor} sees {node} alive"
            fencing.prove(self._asking(word), node, [name], sight, dead, state)
        kernel = self.world.nodes[survivor].resources[name]
        assert kernel.disk == "UpToDate", f"{name}: its disk on {survivor} is not whole"
        assert not kernel.alone, f"{name}: {survivor} was apart from {node} already"
        self._told(name, node, survivor, said, word)
        self._taken_over(manager, name, survivor, plan)

    def _asking(self, word: str) -> Any:
        return Asking(self.world, FENCED if word == "fence" else SETTINGS)

    @contextmanager
    def _person(self, node: str, word: str) -> Iterator[tuple[list[str], str]]:
        """What is said to them, and what --dead is given."""
        said: list[str] = []

        def confirm(question: str, answer: str, otherwise: str = "") -> None:
            if word != "typed":
                raise Refused("this is no terminal, so nobody can confirm it")
            self.world.power_off(node)

        if word == "flag":
            self.world.power_off(node)
        with (
            patch.object(fencing, "note", said.append),
            patch.object(fencing, "confirm", confirm),
            patch.object(fence_command, "run", lambda spec, seconds: self.world.power_off(spec.name)),
        ):
            yield said, node if word == "flag" else ""

    def _told(self, name: str, node: str, survivor: str, said: list[str], word: str) -> None:
        """What the survivor lacks was written after the moment that was told; or it was told that the disk may be old.
        And a person was asked, unless the link was lost just now and the fence command has proved the death."""
        world, text = self.world, "\n".join(said)
        elsewhere = self.only_old_copies_have(name, survivor, text)
        away = [at for at in self.strangers(name) if elsewhere and (at, name) in world.disks]
        assert all(re.search(rf"\b{at}\b.* cannot be asked either", text) for at in away), f"{name}: {away} is not told"
        since = re.search(rf"^{name}: lost {node} at (\S+);", text, re.M)
        assert word, f"{node} was taken for dead without a proof"
        if missing := world.lacking(survivor, name) - elsewhere:
            count("vm.failover: gives up writes")
            assert since or f"{name}: its other node has no record" in text, f"{name} lacks writes, nobody was told"
            step = world.steps.get(survivor, timedelta())
            lost = datetime.fromisoformat(since[1]) - step if since else world.now
            if (survivor, name) in world.stood:
                # It hung while the other one went on; its kernel says that it lost it when it woke (docs/failover.md).
                count("vm.failover: on a node that had hung")
                return
            if since:
                assert lost <= min(world.written[each] for each in missing), f"{name} lacks older writes than was told"
            fresh = since and (world.now - lost).total_seconds() <= dead_node.FRESH
            assert word in ("typed", "flag") or fresh, f"{name}: its disk may be old, nobody was asked"

    def _taken_over(self, manager: Manager, name: str, survivor: str, plan: Plan) -> None:
        world, before = self.world, self.world.acknowledged.get(name)
        if any((at, name) in world.disks for at in self.strangers(name)):
            self.forced.add(name)
        if before is not None:
            world.acknowledged[name] = before - world.lacking(survivor, name)
        try:
            manager.carry_out(plan)
        finally:
            if before is not None and name in world.acknowledged and survivor not in world.running(name):
                world.acknowledged[name] = before

    def strangers(self, name: str) -> list[str]:
        """Silent nodes that no node which answers knows of: a person is told that a newer copy may be there."""
        return [node for node in NODES if self.world.silent(node) and node not in self.state().homes(name)]

    @rule(node=NODE, word=WORD, live=st.booleans(), trouble=TROUBLE)
    def evacuate(self, node: str, word: str, live: bool, trouble: Trouble) -> None:
        """Live or with --failover; mostly what fits."""
        silent = self.world.silent(node) and not (live and not word)
        work = self._evacuate_dead if silent else self._evacuate
        names = [name for name in NAMES if node in self.world.running(name)]
        what = "pm.evacuate --failover" if silent else "pm.evacuate"
        if self.task(what, lambda manager: work(manager, node, word), trouble) == "died":
            self.opened |= {*names} if not silent else set()

    def _evacuate(self, manager: Manager, node: str, word: str) -> None:
        wanted = evacuate.move_all(node, self.state(), SETTINGS)
        self._each(wanted, lambda each: self._move(manager, each.name))
        for each in wanted.leaving:
            assert self.world.running(each.name) == [each.target]

    def _evacuate_dead(self, manager: Manager, node: str, word: str) -> None:
        state = self.state()
        first = [each.name for each in evacuate.start_all(node, (), state, SETTINGS).leaving]
        with self._person(node, word) as (said, dead):
            wanted, _ = tasks._dead(self._asking(word), state, node, dead, False, first, discard=False)
        for each in wanted.leaving:
            self._told(each.name, node, each.target, said, word)
        self._each(wanted, lambda each: self._taken_over(manager, each.name, each.target, each.plan))
        for each in wanted.leaving:
            assert self.world.running(each.name) == [each.target]
            self.opened.discard(each.name)

    def _each(self, wanted: Evacuation, work: Callable[[Move], None]) -> None:
        """It goes on past a VM that fails."""
        errors = []
        for each in wanted.leaving:
            try:
                work(each)
            except PmcError as error:
                errors.append(str(error))
        if errors:
            raise PmcError("\n".join(errors))
