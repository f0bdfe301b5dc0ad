"""Swarm testing, and another manager.

Each sequence has only some kinds of trouble, and is calm or wild: what seldom meets among all of them meets often where
there are few (hypothesis leaves out rules in the same way). `urgent` is a rule that does what a person would do next:
by chance alone a VM that could be started, failed over or cleaned is seldom the one that is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from pmc.errors import PmcError
from pmc.plans import close_migration, failover, pm, remove_steps, start
from tests.sim.losses import WORD
from tests.sim.misfortunes import Misfortunes
from tests.sim.sequences import KINDS, NAMES, NODES, NONE, ONE, OTHERS, STRIKES, Manager, Trouble, count
from tests.unit.samples import SETTINGS

Deed = Callable[[Trouble], object]
MENDS = (
    "start",
    "move",
    "restore",
    "evacuate dead",
    "ready",
    "close",
    "fail over",
    "evacuate",
    "evacuate dead",
    "repair",
    "repair apart",
    "clear",
)


class Swarm(Misfortunes):
    def __init__(self) -> None:
        super().__init__()
        self.kinds: tuple[str, ...] = KINDS
        self.calm = 0  # of so many troubles only one comes
        self.troubles = 0
        self.second = False  # another manager is at work, in the middle of what the first one does

    @initialize(kinds=st.sets(st.sampled_from(KINDS), min_size=1), calm=st.sampled_from((1, 1, 1, 3)))
    def swarm(self, kinds: set[str], calm: int) -> None:
        self.kinds, self.calm = tuple(sorted(kinds)), calm

    def drawn(self, trouble: Trouble) -> Trouble:
        """The one that this sequence has in its place."""
        if trouble.other and self.calm:  # hypothesis has drawn it; those that rules make up stay
            self.troubles += 1
            if self.troubles % self.calm:
                return NONE
            return replace(trouble, kind=self.kinds[KINDS.index(trouble.kind) % len(self.kinds)])
        return trouble

    # -- what a person would do next --

    @rule(which=st.integers(0, 59), word=WORD, keep=st.sampled_from(NODES), trouble=STRIKES)
    def urgent(self, which: int, word: str, keep: str, trouble: Trouble) -> None:
        if deeds := self._deeds(word, keep):
            deeds[which % len(deeds)](trouble)

    def _deeds(self, word: str, keep: str) -> list[Deed]:
        """All that has a plan now."""
        found: list[Deed] = []
        for node in NODES:
            if not self.world.silent(node) and pm.ready_all([node], self.state(), SETTINGS).plans:
                found.append(lambda trouble, node=node: self._ready(node, trouble))  # type: ignore[misc]
        for name in self.known():
            found += self._deeds_of(name, word, keep)
        return found

    def _deeds_of(self, name: str, word: str, keep: str) -> list[Deed]:
        state = self.state()
        tries: list[tuple[Callable[[], object], Deed]] = [
            (lambda: start.start(name, "", state, SETTINGS), lambda trouble: self._start(name, "", trouble)),
            (lambda: failover.failover(name, state, SETTINGS), lambda trouble: self._failed_over(name, word, trouble)),
            (lambda: close_migration.close(name, state).steps, lambda trouble: self._cleanup(name, trouble)),
            (lambda: remove_steps.cleanup(name, state, SETTINGS).steps, lambda trouble: self._cleared(name, trouble)),
            (lambda: self._mendable(name, keep), lambda trouble: self._repaired(name, keep, True, trouble)),
        ]
        return [deed for possible, deed in tries if _holds(possible)]

    def _mendable(self, name: str, keep: str) -> bool:
        found = self._conditions(name, keep if self.world.alone(name) else "", True, False)
        return bool(found) and not any(each.refusal for each in found) and any(each.steps for each in found)

    # -- faults in what fixes faults --

    @rule(one=ONE, what=st.sampled_from(MENDS), word=WORD, trouble=STRIKES)
    def recovery(self, one: int, what: str, word: str, trouble: Trouble) -> None:
        """The shortest way to each task that fixes, and a trouble in it."""
        self._recovery(one, what, word, trouble)

    def _recovery(self, one: int, what: str, word: str, trouble: Trouble) -> None:
        self.all_is_well_again()
        whole = [name for name in self.known() if self._whole(name)]
        if not whole:
            return
        name = whole[one % len(whole)]
        node = self.world.running(name)[0]
        second = self.world.other(node, name)
        third = next(each for each in NODES if each not in (node, second))
        count(f"recovery: {what}")
        if what == "start":
            self._stop(name, True, NONE)
            self._start(name, "", trouble)
        elif what == "ready":
            self.back_without_drbd(second)
            self._ready(second, trouble)
        elif what == "close":
            self._moved(name, Trouble("dies", 2 + trouble.at % 3))
            self._cleanup(name, trouble)
        elif what == "fail over":
            self.world.power_off(node)
            self._failed_over(name, "flag", trouble)
        elif what == "evacuate":
            self.evacuate(node, word, True, trouble)
        elif what == "evacuate dead":
            self.world.power_off(node)
            self.evacuate(node, "flag", False, trouble)
        elif what == "restore":
            self._backed_up(name, True, NONE)
            self._restored(-1, NAMES[one], trouble)
        elif what == "move":
            self._moved(name, trouble)
        elif what == "repair":
            self.world.nodes[second].resources[name].alone = True
            self.world.see_links()
            self._repaired(name, "", True, trouble)
        elif what == "repair apart":
            self._gone_apart(name, 1, second, trouble)
        else:
            self.world.power_off(second)
            self._peered(name, third, True, NONE)
            self.back(second)
            self._cleared(name, trouble)

    @rule(one=ONE, what=st.sampled_from(MENDS), word=WORD, trouble=STRIKES)
    def recovery_again(self, one: int, what: str, word: str, trouble: Trouble) -> None:
        """Twice as often as others."""
        self._recovery(one, what, word, trouble)

    def _whole(self, name: str) -> bool:
        """It runs, on two sides that are equal."""
        (node,) = self.world.running(name) or [""]
        sides = [self.world.disks.get((side, name)) for side in (node, self.world.other(node, name))]
        apart = self.world.alone(name) or name in self.opened or self.state().stale_copies(name)
        return not apart and all(side and side.state == "UpToDate" for side in sides)

    def back_without_drbd(self, node: str) -> None:
        self.world.power_off(node)
        self.guests_write()
        self.world.boot(node)

    def all_is_well_again(self) -> None:
        raise NotImplementedError

    # -- two managers --

    def overtake(self, manager: Manager, other: str) -> None:
        """The lock of one that went silent was let go; this one took it, and works through before the first wakes."""
        title = manager.plan.title if manager.plan else ""
        name = next((name for name in re.split(r"[^a-z0-9]+", title) if name in NAMES), NAMES[0])
        before, self.second = self.second, True
        try:
            self._other(other or OTHERS[0], name)
        finally:
            self.second = before

    def _other(self, what: str, name: str) -> None:
        deeds: dict[str, Deed] = {
            "vm.start": lambda trouble: self._start(name, "", trouble),
            "vm.stop": lambda trouble: self._stop(name, True, trouble),
            "vm.mv": lambda trouble: self._moved(name, trouble),
            "vm.mv --cleanup": lambda trouble: self._cleanup(name, trouble),
            "vm.repair": lambda trouble: self._repaired(name, "", True, trouble),
            "vm.rm": lambda trouble: self._removed(name, trouble),
            "vm.backup": lambda trouble: self._backed_up(name, False, trouble),
        }
        deeds[what](NONE)

    # In test_machine.py, as what makes VMs.

    def _removed(self, name: str, trouble: Trouble) -> None:
        raise NotImplementedError

    def _restored(self, number: int, new: str, trouble: Trouble) -> None:
        raise NotImplementedError

    def _backed_up(self, name: str, base: bool, trouble: Trouble) -> None:
        raise NotImplementedError


def _holds(possible: Callable[[], object]) -> bool:
    try:
        return bool(possible())
    except PmcError:
        return False
