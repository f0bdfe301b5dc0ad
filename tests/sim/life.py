"""Rules about the life of a VM that is there: start, stop, move; and nodes that have booted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hypothesis import strategies as st
from hypothesis.stateful import rule

from pmc.errors import PmcError
from pmc.plans import close_migration, interrupted_migration, migrate, pm, requirements
from pmc.plans import start as start_plan
from pmc.plans import stop as stop_plan
from tests.sim.sequences import NODE, NODES, ONE, TROUBLE, Base, Manager, Trouble
from tests.unit.samples import SETTINGS


class Life(Base):
    @rule(one=ONE, on=st.sampled_from(("", "", *NODES)), trouble=TROUBLE)
    def start(self, one: int, on: str, trouble: Trouble) -> None:
        self._start(self.there(one, running=False), on, trouble)

    def _start(self, name: str, on: str, trouble: Trouble) -> None:
        def work(manager: Manager) -> None:
            state = self.state()
            plan = start_plan.start(name, on, state, SETTINGS)
            at = plan.steps[-1].node
            with self.giving_up(
                name, self.only_old_copies_have(name, at, requirements.stale_copy_note(name, at, state))
            ):
                manager.carry_out(plan)

        if self.task("vm.start", work, trouble) == "done":
            self.opened.discard(name)

    def only_old_copies_have(self, name: str, at: str, said: str) -> frozenset[int]:
        """The writes that `at` lacks since a person started a stale copy, told that there may be a newer one: when its
        own nodes are back, these count again, and know nothing of them. Another person must be told of that copy; or
        that its node cannot be asked, where that is said at all (a vm.failover)."""
        world, homes = self.world, self.state().homes(name)
        copies = [node for node, vm in world.disks if vm == name and node not in homes]
        if name not in self.forced or at not in homes:
            return frozenset()
        own = frozenset[int]().union(*(world.disks[home, name].writes for home in homes if (home, name) in world.disks))
        found = frozenset[int]().union(*(world.disks[copy, name].writes for copy in copies))
        missing = (world.lacking(at, name) & found) - own
        for copy in copies if missing else []:
            told = f"{name}: there is a stale copy on" in said and copy in said
            assert told or world.silent(copy), f"{name} lacks what its stale copy on {copy} wrote, nobody was told"
        return missing

    @contextmanager
    def giving_up(self, name: str, missing: frozenset[int]) -> Iterator[None]:
        """They do not count while it lasts; nor later, when the VM has come to run without them."""
        acknowledged = self.world.acknowledged
        if missing:
            acknowledged[name] -= missing
        try:
            yield
        finally:
            if missing and name in acknowledged and not self.world.running(name):
                acknowledged[name] |= missing

    @rule(one=ONE, force=st.booleans(), trouble=TROUBLE)
    def stop(self, one: int, force: bool, trouble: Trouble) -> None:
        self._stop(self.there(one, running=True), force, trouble)

    def _stop(self, name: str, force: bool, trouble: Trouble) -> None:
        self.task(
            "vm.stop", lambda manager: manager.carry_out(stop_plan.stop(name, force, self.state(), SETTINGS)), trouble
        )

    @rule(one=ONE, trouble=TROUBLE)
    def move(self, one: int, trouble: Trouble) -> None:
        self._moved(self.there(one, running=True), trouble)

    def _moved(self, name: str, trouble: Trouble) -> None:
        if self.task("vm.mv", lambda manager: self._move(manager, name), trouble) == "died":
            self.opened.add(name)

    @rule(one=ONE, trouble=TROUBLE)
    def cleanup(self, one: int, trouble: Trouble) -> None:
        self._cleanup(self.there(one), trouble)

    def _cleanup(self, name: str, trouble: Trouble) -> None:
        def work(manager: Manager) -> None:
            manager.carry_out(close_migration.close(name, self.state()))
            manager.carry_out(close_migration.resume_after_close(name, self.state()))

        if self.task("vm.mv --cleanup", work, trouble) == "done" and self.sees(name):
            if not close_migration.unreachable_note(name, self.state()):
                self.opened.discard(name)
            assert not close_migration.close(name, self.state()).steps, "there is nothing to clean twice"

    def _close(self, manager: Manager, name: str) -> None:
        try:
            state = self.state()
            manager.carry_out(close_migration.close(name, state))
            if close_migration.unreachable_note(name, state):
                self.opened.add(name)
            manager.carry_out(close_migration.resume_after_close(name, self.state()))
            manager.carry_out(interrupted_migration.rejoin(name, self.state()))
        except PmcError as error:
            self.opened.add(name)
            raise PmcError(f"{name} was NOT closed: {error}") from None

    def _move(self, manager: Manager, name: str) -> None:
        """As vm.mv: it closes on every way out, and sides that lost each other meanwhile rejoin."""
        plan = migrate.move(name, "", self.state(), SETTINGS)
        try:
            manager.carry_out(plan)
        except PmcError as error:
            with suppress(PmcError):
                self._close(manager, name)
            raise error from None
        self._close(manager, name)

    @rule(node=NODE, trouble=TROUBLE)
    def ready(self, node: str, trouble: Trouble) -> None:
        self._ready(node, trouble)

    def _ready(self, node: str, trouble: Trouble) -> None:
        for plan in pm.ready_all([node], self.state(), SETTINGS).plans:
            # A VM that is half made may have no metadata to come up with.
            self.task("pm.ready_drbd", lambda manager, plan=plan: manager.carry_out(plan), trouble, sure=False)  # type: ignore[misc]
