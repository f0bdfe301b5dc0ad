"""Any sequence of tasks and faults: whatever happens, the invariants hold, and at the end everything can be cleaned.

hypothesis chooses tasks, and for each what goes wrong while its plan is carried out: a step fails, its end is not
known, the manager dies between two steps (nothing is undone), a node loses power, a link is cut. Between tasks nodes
boot, links heal, guests write, resyncs end, and a person does by hand what docs/failover.md says. The world is
tests/unit/world.py.

The normal run always takes the same 200 sequences; `make test-long` takes 1,500 others.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pmc import allocate, drbd
from pmc.backup import Stored
from pmc.errors import CommandFailed, InDoubt, PmcError, Refused
from pmc.model import ClusterState
from pmc.plan import Action, Plan, Watch, apply
from pmc.plans import add, backup, clone, pm, restore, vm
from pmc.plans.backup import Wish
from pmc.plans.make import Given
from pmc.plans.request import Add
from pmc.units import GiB
from tests.unit.samples import SETTINGS, XML
from tests.unit.world import LINKS, Cloud, Link

NAMES = ("web", "mail", "dns")
NODES = tuple(SETTINGS.nodes)
UUID = "00000000-0000-4000-8000-000000000002"


@dataclass(frozen=True)
class Trouble:
    """What goes wrong at call number `at` of a task; `link` is the one that a cut would cut."""

    kind: str = ""
    at: int = 0
    link: Link = LINKS[0]


KINDS = ("fails", "lost before", "lost after", "dies", "power before", "power after", "cut")
TROUBLE = st.one_of(
    st.just(Trouble()),
    st.just(Trouble()),
    st.builds(Trouble, st.sampled_from(KINDS), st.integers(0, 8), st.sampled_from(LINKS)),
    st.builds(Trouble, st.sampled_from(KINDS), st.integers(8, 22), st.sampled_from(LINKS)),
)
NAME, NODE = st.sampled_from(NAMES), st.sampled_from(NODES)
# Which of the VMs that there are, the first more often: sequences get further with one VM than with three.
ONE = st.sampled_from((0, 0, 0, 1, 2))


class Died(BaseException):
    """The manager is gone between two steps. Not an Exception: nothing of pmc may catch it."""


class Manager:
    """Carries the steps of one task out, and has its trouble at one of them."""

    def __init__(self, world: Cloud, trouble: Trouble) -> None:
        self.world, self.trouble, self.calls = world, trouble, 0

    def __call__(self, node: str, action: Action, watch: Watch | None) -> None:
        kind = self.trouble.kind if self.calls == self.trouble.at else ""
        self.calls += 1
        if kind == "fails":
            raise CommandFailed(node, str(action), 1, "it fails")
        if kind == "dies":
            raise Died
        if kind == "cut":
            self.world.cut.add(self.trouble.link)
        if kind not in ("lost before", "power before"):
            self.world.carry_out(node, action, watch)
        if kind.startswith("power"):
            self.world.power_off(node)
        if kind.startswith(("power", "lost")):
            raise InDoubt(node, str(action), "the connection was lost")

    def carry_out(self, plan: Plan) -> None:
        apply(plan, self)


Task = Callable[[Manager], object]


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = Cloud()
        self.opened: set[str] = set()  # of these a migration broke off, which only --cleanup puts right
        self.stored: list[Stored] = []
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def state(self) -> ClusterState:
        return self.world.state()

    def there(self, one: int, running: bool | None = None) -> str:
        """The name of a VM of which anything is there, rather of one that runs (or does not, as asked); of one that is
        not there, when there is none."""
        machines = self.world.nodes.values()
        known = [n for n in NAMES if any(n in m.volumes or n in m.domains or drbd.path(n) in m.files for m in machines)]
        fit = [name for name in known if running is None or bool(self.world.running(name)) == running]
        return fit[one % len(fit)] if fit else known[one % len(known)] if known else NAMES[one]

    def absent(self, name: str) -> str:
        """A name for a new VM: `name` is asked for, and is taken only when all are."""
        return next((n for n in NAMES if not any(n in m.volumes for m in self.world.nodes.values())), name)

    def guests_write(self) -> None:
        """They never stop to."""
        for name in NAMES:
            for node in self.world.running(name):
                self.world.write(name, node)

    @initialize(second=st.sampled_from(("pm-2", "pm-2", "pm-2", "")), two=st.booleans())
    def begin(self, second: str, two: bool) -> None:
        """Nothing is tried on an empty cluster."""
        self.made(lambda manager: self._add(manager, Add("web", "pm-1", second, GiB, GiB)), Trouble())
        if two:
            self.made(lambda manager: self._add(manager, Add("mail", "pm-2", "pm-3", GiB, GiB)), Trouble())

    def task(self, work: Task, trouble: Trouble, sure: bool = True) -> str:
        """How a task ends: done, refused (then nothing was touched), failed, left (not all undone), died. `sure`: where
        nothing is in the way it does not fail, what can be known is refused before."""
        manager = Manager(self.world, trouble)
        well = sure and not (trouble.kind or self.world.off or self.world.cut or self.world.standalone)
        self.guests_write()
        try:
            work(manager)
        except Refused:
            assert manager.calls == 0, "refused after the first step"
            return "refused"
        except PmcError as error:
            if well:
                raise AssertionError(f"nothing was in the way: {error}") from error
            # A trouble that meets an undo, after a cut link has failed the task: what is left is told, as commands.
            return "left" if "NOT undone" in str(error) else "failed"
        except Died:
            return "died"
        return "done"

    def made(self, work: Task, trouble: Trouble) -> None:
        """A task that makes a VM: it is whole, or what was there before is. But for a snapshot that a clone left behind
        which lost its power: the next clone takes it away, and that is not undone."""
        before = deepcopy(self.world.nodes)
        end = self.task(work, trouble)
        if end == "refused" or (end == "failed" and trouble.kind in ("fails", "lost before", "lost after")):
            for name, machine in before.items():
                for left in [each for each in machine.volumes if each.endswith(".clone")]:
                    if left not in self.world.nodes[name].volumes:
                        del machine.volumes[left]
            assert self.world.nodes == before

    # -- tasks --

    def given(self, state: ClusterState) -> Given:
        number = self.world.next()
        mac = allocate.mac(state, SETTINGS, "", lambda limit: number % limit)
        return Given(allocate.minor(state), allocate.port(state, SETTINGS), mac, "hunter2")

    def xml(self, name: str, given: Given) -> str:
        return XML.replace("web", name).replace("52:54:00:77:00:01", given.mac).replace("/dev/drbd1", given.device)

    def _add(self, manager: Manager, request: Add) -> None:
        state = self.state()
        add.check_new(request.name, request.nodes, GiB, GiB, state, SETTINGS)
        given = self.given(state)
        content = clone.copy(request, GiB, state, SETTINGS, given) if request.clone else ()
        manager.carry_out(add.add(request, GiB, state, SETTINGS, given, self.xml(request.name, given), content))

    @rule(name=NAME, first=NODE, second=st.sampled_from((*NODES, "")), trouble=TROUBLE)
    def add(self, name: str, first: str, second: str, trouble: Trouble) -> None:
        request = Add(self.absent(name), first, second if second != first else "", GiB, GiB)
        self.made(lambda manager: self._add(manager, request), trouble)

    @rule(one=ONE, new=NAME, first=NODE, second=NODE, trouble=TROUBLE)
    def clone(self, one: int, new: str, first: str, second: str, trouble: Trouble) -> None:
        name = self.there(one)
        request = Add(self.absent(new), first, second if second != first else "", GiB, GiB, clone=name)
        self.made(lambda manager: self._add(manager, request), trouble)

    @rule(one=ONE, on=st.sampled_from(("", "", *NODES)), trouble=TROUBLE)
    def start(self, one: int, on: str, trouble: Trouble) -> None:
        name = self.there(one, running=False)
        if self.task(lambda manager: manager.carry_out(vm.start(name, on, self.state(), SETTINGS)), trouble) == "done":
            self.opened.discard(name)

    @rule(one=ONE, force=st.booleans(), trouble=TROUBLE)
    def stop(self, one: int, force: bool, trouble: Trouble) -> None:
        self._stop(self.there(one, running=True), force, trouble)

    def _stop(self, name: str, force: bool, trouble: Trouble) -> None:
        self.task(lambda manager: manager.carry_out(vm.stop(name, force, self.state(), SETTINGS)), trouble)

    def _close(self, manager: Manager, name: str) -> None:
        try:
            manager.carry_out(vm.settle(name, self.state()))
        except PmcError:
            self.opened.add(name)
            raise

    def _move(self, manager: Manager, name: str) -> None:
        """As vm.mv: it closes on every way out."""
        plan = vm.move(name, "", self.state(), SETTINGS)
        try:
            manager.carry_out(plan)
        except PmcError as error:
            with suppress(PmcError):
                self._close(manager, name)
            raise error from None
        self._close(manager, name)

    @rule(one=ONE, trouble=TROUBLE)
    def move(self, one: int, trouble: Trouble) -> None:
        name = self.there(one, running=True)
        if self.task(lambda manager: self._move(manager, name), trouble) == "died":
            self.opened.add(name)

    @rule(one=ONE, trouble=TROUBLE)
    def cleanup(self, one: int, trouble: Trouble) -> None:
        self._cleanup(self.there(one), trouble)

    def _cleanup(self, name: str, trouble: Trouble) -> None:
        if self.task(lambda manager: manager.carry_out(vm.settle(name, self.state())), trouble) == "done":
            self.opened.discard(name)
            assert not vm.settle(name, self.state()).steps, "there is nothing to clean twice"

    @rule(one=ONE, base=st.booleans(), trouble=TROUBLE)
    def backup(self, one: int, base: bool, trouble: Trouble) -> None:
        name = self.there(one, running=True)

        def work(manager: Manager) -> None:
            state = self.state()
            self.now += timedelta(seconds=1)
            silent = {node.name for node in state if node.down}
            stored = [each for each in self.stored if each.node not in silent]
            device = next((f.minor for n in state for f in n.files.values() if f.name == name), 0)
            xml = XML.replace("web", name).replace("/dev/drbd1", drbd.device(device))
            wish, source = Wish(name, base), backup.choose_source(name, state)
            made, plan = backup.make_backup(wish, source, GiB, xml, stored, self.now, state, SETTINGS)
            manager.carry_out(plan)
            sums = replace(made, image_sha256="0" * 64, stored=GiB)
            self.stored.append(Stored(plan.steps[-1].node, made.id, GiB, sums))

        self.task(work, trouble)

    @precondition(lambda self: self.stored)
    @rule(data=st.data(), new=NAME, trouble=TROUBLE)
    def restore(self, data: Any, new: str, trouble: Trouble) -> None:
        found, new = data.draw(st.sampled_from(self.stored)), self.absent(new)

        def work(manager: Manager) -> None:
            state = self.state()
            wanted = restore.find(found.id, self.stored)
            nodes = restore.nodes_for(wanted, "", "", SETTINGS)
            add.check_new(new, nodes, GiB, 0, state, SETTINGS)
            manager.carry_out(restore.as_new(wanted, new, nodes, state, SETTINGS, self.given(state), UUID))

        self.made(work, trouble)

    def _remove(self, manager: Manager, name: str) -> None:
        plan = vm.remove(name, self.state(), SETTINGS)
        self.world.removing = name
        self.world.acknowledged.pop(name, None)
        try:
            manager.carry_out(plan)
        finally:
            self.world.removing = ""

    @rule(one=ONE, trouble=TROUBLE)
    def remove(self, one: int, trouble: Trouble) -> None:
        self._removed(self.there(one), trouble)

    def _removed(self, name: str, trouble: Trouble) -> None:
        if self.task(lambda manager: self._remove(manager, name), trouble) == "done":
            self.opened.discard(name)
            assert not any(name in m.volumes or drbd.path(name) in m.files for m in self.world.nodes.values())
            before = deepcopy(self.world.nodes)
            assert self.task(lambda manager: self._remove(manager, name), Trouble()) == "refused"
            assert self.world.nodes == before

    @rule(node=NODE, trouble=TROUBLE)
    def ready(self, node: str, trouble: Trouble) -> None:
        self._ready(node, trouble)

    def _ready(self, node: str, trouble: Trouble) -> None:
        for plan in pm.ready_all([node], self.state(), SETTINGS).plans:
            # A VM that is half made may have no metadata to come up with.
            self.task(lambda manager, plan=plan: manager.carry_out(plan), trouble, sure=False)  # type: ignore[misc]

    # -- what happens to the world --

    @rule(one=ONE)
    def resync(self, one: int) -> None:
        name = self.there(one)
        self.world.resync(name)

    @rule(what=st.sampled_from((*NODES, *LINKS)))
    def breaks(self, what: str | Link) -> None:
        """A node loses power, or a link is cut."""
        if isinstance(what, str):
            self.world.power_off(what)
        else:
            self.world.cut.add(what)
        self.guests_write()

    @precondition(lambda self: self.world.off or self.world.cut)
    @rule(data=st.data())
    def mends(self, data: Any) -> None:
        what = data.draw(st.sampled_from([*sorted(self.world.off), *sorted(self.world.cut, key=sorted)]))
        if isinstance(what, str):
            self.world.boot(what)
        else:
            self.world.heal(what)

    @rule()
    def all_is_well_again(self) -> None:
        """Nodes and links are up, pm.ready_drbd was run, and what could be copied is."""
        for node in sorted(self.world.off):
            self.world.boot(node)
        for link in sorted(self.world.cut, key=sorted):
            self.world.heal(link)
        for node in NODES:
            self._ready(node, Trouble())
        for name in NAMES:
            self.world.resync(name)

    @rule(one=ONE)
    def go_apart(self, one: int) -> None:
        """The shortest way to a split brain: the link breaks, the guest goes on; then its node dies, a person starts
        the VM on the other one; then all come back."""
        name = self.there(one, running=True)
        for node in self.world.running(name):
            if other := self.world.other(node, name):
                link = frozenset((node, other))
                self.world.cut.add(link)
                self.world.write(name, node)
                self.world.power_off(node)
                self._fail_over(name)
                self.guests_write()
                self.world.boot(node)
                self._ready(node, Trouble())
                self.world.heal(link)

    @precondition(lambda self: self.world.off)
    @rule(one=ONE)
    def fail_over_by_hand(self, one: int) -> None:
        """docs/failover.md: the other node is surely off. What only that one had is given up by the person."""
        self._fail_over(self.there(one))

    def _fail_over(self, name: str) -> None:
        world = self.world
        homes = [node for node in NODES if name in world.nodes[node].domains]
        here = [node for node in homes if node not in world.off]
        if len(homes) != 2 or len(here) != 1:
            return
        kernel = world.nodes[here[0]].resources.get(name)
        if kernel and kernel.disk == "UpToDate":
            kernel.role = "Primary"
            world.nodes[here[0]].domains[name] = "running"
            world.acknowledged[name] = world.disks[here[0], name].writes

    @precondition(lambda self: self.world.standalone)
    @rule(one=ONE, first=st.booleans())
    def mend_by_hand(self, one: int, first: bool) -> None:
        """A person lets the sides meet again; after a split brain one side is given up: never one that a guest uses."""
        name = self.there(one)
        world, sides = self.world, self.world.sides(name)
        if len(sides) != 2 or not any((side, name) in world.standalone for side in sides):
            return
        keep, lose = sides if first else sides[::-1]
        if world.nodes[lose].resources[name].role == "Primary":
            return
        world.standalone -= {(side, name) for side in sides}
        if world.other(keep, name) and world.behind(keep, lose, name) == "?":
            world.disks[lose, name] = replace(world.disks[keep, name], alone=False)
            world.mark(lose, name, world.disks[keep, name].state)
            world.disks[keep, name].alone = False
            world.acknowledged[name] = world.disks[keep, name].writes
        world.meet(name)

    # -- what must hold at any time --

    @invariant()
    def nothing_runs_twice(self) -> None:
        for name in NAMES:
            assert len(self.world.running(name)) <= 1, f"{name} runs twice"

    @invariant()
    def two_primaries_only_where_a_migration_broke_off(self) -> None:
        for name in NAMES:
            kernels = [self.world.nodes[side].resources[name] for side in self.world.sides(name)]
            if name not in self.opened:
                assert [kernel.role for kernel in kernels].count("Primary") <= 1, f"{name} has two primaries"
                assert not any(kernel.two_primaries for kernel in kernels), f"{name} may have two primaries"

    @invariant()
    def every_resource_has_its_volume(self) -> None:
        for machine in self.world.nodes.values():
            assert set(machine.resources) <= set(machine.volumes)

    @invariant()
    def no_number_is_given_twice(self) -> None:
        owners: dict[object, str] = {}
        for machine in self.world.nodes.values():
            for file in drbd.parse_files("".join(machine.files.get(drbd.path(name), "") for name in NAMES)).values():
                for number in (("minor", file.minor), *(("port", port) for port in file.ports)):
                    assert owners.setdefault(number, file.name) == file.name, f"{number} is given twice"
        for (_, name), xml in self.world.xml.items():
            mac = xml.partition('mac address="')[2][:17]
            assert owners.setdefault(mac, name) == name, f"{mac} is given twice"

    @invariant()
    def no_acknowledged_write_is_lost(self) -> None:
        assert self.world.broken == []
        for name in self.world.acknowledged:
            assert any(self.world.has_all(node, name) for node in NODES), f"{name} has lost a write"
        for name in NAMES:
            assert all(self.world.has_all(node, name) for node in self.world.running(name))

    def teardown(self) -> None:
        """All nodes and links work again: every VM can be cleaned, stopped and removed, and nothing is left."""
        world = self.world
        self.all_is_well_again()
        self.no_acknowledged_write_is_lost()
        for name in sorted(self.opened):
            self._cleanup(name, Trouble())
            if name in self.opened:  # it does not run, so no side is preferred: stop it, then close
                self._stop(name, True, Trouble())
                self._cleanup(name, Trouble())
        self.opened &= {name for name in NAMES if any(name not in m.domains for m in world.nodes.values())}
        self.two_primaries_only_where_a_migration_broke_off()
        for name in NAMES:
            self._removed(name, Trouble())
        left = [
            (node, kind, name)
            for node, machine in world.nodes.items()
            for kind in ("volumes", "resources", "domains", "files")
            for name in getattr(machine, kind)
            if not (kind == "files" and name.startswith(SETTINGS.backup_dir))
        ]
        assert left == []


def sequences(number: int, **more: Any) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=number, stateful_step_count=30, deadline=None, database=None, print_blob=False,
            suppress_health_check=list(HealthCheck), **more,
        ),
    )  # fmt: skip


@pytest.mark.fault("random sequences of commands and faults, on a model")
def test_sequences_of_tasks_and_faults(record_property: Any) -> None:
    sequences(200, derandomize=True)
    record_property("rounds", 200)


@pytest.mark.long
@pytest.mark.fault("random sequences of commands and faults, on a model")
def test_many_sequences_of_tasks_and_faults(record_property: Any) -> None:
    sequences(1500)
    record_property("rounds", 1500)
