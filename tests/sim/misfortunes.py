"""Rules of several steps each: the shortest ways into what chance alone seldom reaches, and what pmc does then."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.sim.fixing import Fixing
from tests.sim.links import MANAGER, Link
from tests.sim.losses import WORD
from tests.sim.sequences import NODES, ONE, TROUBLE, Trouble

MINUTES = st.sampled_from((1, 60))


class Misfortunes(Fixing):
    def pair(self, one: int) -> tuple[str, str, str]:
        """A VM that runs, where, and the node of its other, connected side; empty: there is none."""
        name = self.there(one, running=True)
        return name, *self.sides_of(name)

    def sides_of(self, name: str) -> tuple[str, str]:
        for node in self.world.running(name):
            return node, self.world.other(node, name)
        return "", ""

    def wait(self, minutes: int) -> None:
        self.world.now += timedelta(minutes=minutes)
        self.guests_write()

    def back(self, node: str) -> None:
        self.world.boot(node)
        self._ready(node, Trouble())

    @rule(
        one=ONE, how=st.sampled_from(("dies", "link, dies", "link, dies", "cut off", "hidden")), minutes=MINUTES,
        word=WORD, other=st.sampled_from(("", "", "reboots", "lags", "lags")), hours=st.sampled_from((0, 0, -2, 3)),
        trouble=TROUBLE,
    )  # fmt: skip
    def home_is_lost(
        self, one: int, how: str, minutes: int, other: str, hours: int, word: str, trouble: Trouble
    ) -> None:
        """The node where a VM runs loses power (or its link first), or all its links, or only its way to the manager.
        The other one rebooted meanwhile, or has come back and is not complete, or its clock was set."""
        name, node, second = self.pair(one)
        if not second:
            return
        if other == "lags":
            self.world.power_off(second)
            self.wait(1)
            self.back(second)
        ends = {"link, dies": {second}, "cut off": {*NODES, MANAGER} - {node}, "hidden": {MANAGER}}.get(how, set())
        for end in sorted(ends):
            self.world.sever(frozenset((node, end)))
        self.wait(minutes)
        if how.endswith("dies"):
            self.world.power_off(node)
        if other == "reboots":
            self.world.power_off(second)
            self.back(second)
        self.world.steps[second] = timedelta(hours=hours)
        self._failed_over(name, word, trouble)

    @rule(one=ONE, minutes=MINUTES, keep=st.sampled_from(("", "", *NODES)), trouble=TROUBLE)
    def go_apart(self, one: int, minutes: int, keep: str, trouble: Trouble) -> None:
        """The shortest way to a split brain: the link breaks, the guest goes on; then its node dies, a person starts
        the VM on the other one; then all come back, and that is fixed."""
        self._gone_apart(self.there(one, running=True), minutes, keep, trouble)

    def _gone_apart(self, name: str, minutes: int, keep: str, trouble: Trouble) -> None:
        node, second = self.sides_of(name)
        if not second:
            return
        link: Link = frozenset((node, second))
        self.world.sever(link)
        self.wait(minutes)
        self.world.power_off(node)
        self._failed_over(name, "flag", Trouble())
        self.guests_write()
        self.back(node)
        self.world.heal(link)
        if keep:
            self._repaired(name, keep, True, trouble)

    @rule(one=ONE, at=st.integers(0, 8), word=WORD)
    def migration_loses_a_node(self, one: int, at: int, word: str) -> None:
        name, _, second = self.pair(one)
        if second:
            self._moved(name, Trouble("power after", at))
            self._failed_over(name, word, Trouble())

    @rule(one=ONE, at=st.integers(0, 5))
    def migration_loses_its_link(self, one: int, at: int) -> None:
        """Nothing was written on the other side, so the two rejoin."""
        name, node, second = self.pair(one)
        if second and not self.world.alone(name) and name not in self.opened:
            link: Link = frozenset((node, second))
            self._moved(name, Trouble("cut", at, link))
            self.world.heal(link)
            assert name in self.opened or not self.world.alone(name), f"{name}: split, though one side was written only"

    @rule(one=ONE, first=st.booleans(), other=st.booleans())
    def restarted_apart(self, one: int, first: bool, other: bool) -> None:
        """The link is cut, the VM stopped; started on either side. Or a person has disconnected the sides."""
        name, node, second = self.pair(one)
        if not second:
            return
        if first:
            self.world.sever(frozenset((node, second)))
        else:
            self.world.nodes[second].resources[name].alone = True
            self.world.see_links()
        self.guests_write()
        self._stop(name, True, Trouble())
        self._start(name, second if other else node, Trouble())

    @rule(one=ONE, at=st.integers(4, 9), kind=st.sampled_from(("fails", "lost after", "cut")))
    def replacing_breaks_off(self, one: int, at: int, kind: str) -> None:
        """The copy to a third node does not come to its end: the old one is a second copy again, or still there."""
        name, node, second = self.pair(one)
        third = next((each for each in NODES if each not in (node, second)), "")
        if second and not self.world.silent(third):
            self._peered(name, third, True, Trouble(kind, at, frozenset((node, third))))
            self.world.heal(frozenset((node, third)))
            self.world.resync(name)

    @rule(one=ONE, word=WORD, first=st.booleans(), trouble=TROUBLE)
    def replaced_comes_back(self, one: int, word: str, first: bool, trouble: Trouble) -> None:
        """The secondary dies, a third node takes its place; then the primary dies, and the stale copy is there
        again."""
        name, node, second = self.pair(one)
        third = next((each for each in NODES if each not in (node, second)), "")
        if not second or self.world.silent(third):
            return
        self.world.power_off(second)
        self._peered(name, third, True, trouble)
        self.guests_write()
        if first:
            self.back(second)
        self.world.power_off(node)
        self.back(second)
        self._failed_over(name, word, Trouble())
        self._start(name, second, Trouble())
