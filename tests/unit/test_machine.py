"""Any sequence of tasks and faults: whatever happens, the invariants hold, and at the end everything can be cleaned.

hypothesis chooses tasks, and for each what goes wrong while its plan is carried out: a step fails, its end is not
known, the manager dies between two steps (nothing is undone), a node loses power, a link is cut. Between tasks nodes
boot, links heal, guests write, resyncs end, time passes, a person says that a node is dead, or which side of a split
brain stays. The world is world.py (with links.py, metadata.py, hands.py); the rules that make and remove no VM are in
life.py, losses.py, fixing.py and misfortunes.py.

The normal run takes the same 960 sequences each time, or more, and 40 that nobody has seen: it prints their seed, and
with PMC_MODEL_SEED set to that it takes them again. `make test-long` takes 3,000 new ones.
"""

from __future__ import annotations

import os
import random
from copy import deepcopy
from dataclasses import replace
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from pmc import drbd
from pmc.backup import Stored
from pmc.capacity import allocate
from pmc.model import ClusterState
from pmc.plans import add, backup, clone, requirements, restore
from pmc.plans import remove as remove_plan
from pmc.plans.backup_request import BackupRequest
from pmc.plans.request import Add
from pmc.plans.vm_steps import Given
from pmc.units import GiB
from tests.sim.links import WAYS, Link
from tests.sim.sequences import ENDS, KINDS, NAME, NAMES, NODE, NODES, ONE, TROUBLE, Manager, Trouble
from tests.sim.swarm import Swarm
from tests.unit.samples import SETTINGS, XML, parsed_files

UUID = "00000000-0000-4000-8000-000000000002"


class Machine(Swarm):
    def __init__(self) -> None:
        super().__init__()
        self.stored: list[Stored] = []

    @initialize(second=st.sampled_from(("pm-2", "pm-2", "pm-2", "")), two=st.booleans())
    def begin(self, second: str, two: bool) -> None:
        """Nothing is tried on an empty cluster."""
        self.made("vm.add", lambda manager: self._add(manager, Add("web", "pm-1", second, GiB, GiB)), Trouble())
        if two:
            self.made("vm.add", lambda manager: self._add(manager, Add("mail", "pm-2", "pm-3", GiB, GiB)), Trouble())

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
        plan = add.add(request, GiB, state, SETTINGS, given, self.xml(request.name, given), content)
        missing, source = frozenset[int](), request.clone
        if source:
            at = clone.standby(source, state)
            missing = self.only_old_copies_have(source, at, requirements.stale_copy_note(source, at, state))
        with self.giving_up(source, missing):
            manager.carry_out(plan)

    @rule(name=NAME, first=NODE, second=st.sampled_from((*NODES, "")), trouble=TROUBLE)
    def add(self, name: str, first: str, second: str, trouble: Trouble) -> None:
        request = Add(self.absent(name), first, second if second != first else "", GiB, GiB)
        self.made("vm.add", lambda manager: self._add(manager, request), trouble)

    @rule(one=ONE, new=NAME, first=NODE, second=NODE, trouble=TROUBLE)
    def clone(self, one: int, new: str, first: str, second: str, trouble: Trouble) -> None:
        name = self.there(one)
        request = Add(self.absent(new), first, second if second != first else "", GiB, GiB, clone=name)
        self.made("vm.add --clone", lambda manager: self._add(manager, request), trouble)

    @rule(one=ONE, base=st.booleans(), trouble=TROUBLE)
    def backup(self, one: int, base: bool, trouble: Trouble) -> None:
        self._backed_up(self.there(one, running=True), base, trouble)

    def _backed_up(self, name: str, base: bool, trouble: Trouble) -> None:
        def work(manager: Manager) -> None:
            state = self.state()
            silent = {node.name for node in state if node.down}
            stored = [each for each in self.stored if each.node not in silent]
            device = next((f.minor for n in state for f in n.files.values() if f.name == name), 0)
            xml = XML.replace("web", name).replace("/dev/drbd1", drbd.device(device))
            wish, source = BackupRequest(name, base), backup.choose_source(name, state)
            made, plan = backup.make_backup(wish, source, GiB, xml, stored, self.world.now, state, SETTINGS)
            with self.giving_up(
                name,
                self.only_old_copies_have(name, source.node, requirements.stale_copy_note(name, source.node, state)),
            ):
                manager.carry_out(plan)
            sums = replace(made, image_sha256="0" * 64, stored=GiB)
            self.stored.append(Stored(plan.steps[-1].node, made.id, GiB, sums))

        self.task("vm.backup", work, trouble)

    @rule(number=st.integers(0, 9), new=NAME, trouble=TROUBLE)
    def restore(self, number: int, new: str, trouble: Trouble) -> None:
        self._restored(number, new, trouble)

    def _restored(self, number: int, new: str, trouble: Trouble) -> None:
        if not self.stored:
            return
        found, new = self.stored[number % len(self.stored)], self.absent(new)

        def work(manager: Manager) -> None:
            state = self.state()
            wanted = restore.find(found.id, self.stored)
            nodes = restore.nodes_for(wanted, "", "", SETTINGS)
            add.check_new(new, nodes, GiB, 0, state, SETTINGS)
            manager.carry_out(restore.as_new(wanted, new, nodes, state, SETTINGS, self.given(state), UUID))

        self.made("vm.restore", work, trouble)

    def _remove(self, manager: Manager, name: str) -> None:
        plan = remove_plan.remove(name, self.state(), SETTINGS)
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
        if self.task("vm.rm", lambda manager: self._remove(manager, name), trouble) == "done":
            self.opened.discard(name)
            self.forced.discard(name)
            # A node that is away keeps what it has, until the same is done again when it is back.
            there = [machine for node, machine in self.world.nodes.items() if not self.world.silent(node)]
            assert not any(name in machine.volumes or drbd.path(name) in machine.files for machine in there)
            before = deepcopy(self.world.nodes)
            assert self.task("vm.rm", lambda manager: self._remove(manager, name), Trouble()) == "refused"
            assert self.world.nodes == before

    # -- what happens to the world --

    @rule(what=st.sampled_from((*NODES, *WAYS)))
    def breaks(self, what: str | Link) -> None:
        """A node loses power, or a link is cut."""
        if isinstance(what, str):
            self.world.power_off(what)
        else:
            self.world.sever(what)
        self.guests_write()

    @rule(node=NODE)
    def hangs(self, node: str) -> None:
        self.world.hang(node)
        self.guests_write()

    @precondition(lambda self: self.world.off or self.world.cut or self.world.hung)
    @rule(data=st.data())
    def mends(self, data: Any) -> None:
        """What hung goes on as if no time had passed."""
        world = self.world
        what = data.draw(st.sampled_from([*sorted(world.off | world.hung), *sorted(world.cut, key=sorted)]))
        if what in world.hung:
            world.go_on(what)
        elif isinstance(what, str):
            self.world.boot(what)
        else:
            self.world.heal(what)

    @rule()
    def all_is_well_again(self) -> None:
        """Nodes and links are up, pm.ready_drbd was run, and what could be copied is."""
        for node in sorted(self.world.hung):
            self.world.go_on(node)
        for node in sorted(self.world.off):
            self.world.boot(node)
        for link in sorted(self.world.cut, key=sorted):
            self.world.heal(link)
        for node in NODES:
            self._ready(node, Trouble())
        for name in NAMES:
            self.world.resync(name)

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
        """Not on one node. On all of them a port may be, when vm.peer did not see a VM whose nodes were all silent."""
        for machine in self.world.nodes.values():
            owners: dict[object, str] = {}
            for file in parsed_files("".join(machine.files.get(drbd.path(name), "") for name in NAMES)).values():
                for number in (("minor", file.minor), *(("port", port) for port in file.ports)):
                    assert owners.setdefault(number, file.name) == file.name, f"{number} is given twice"
        owners = {}
        for (_, name), xml in self.world.xml.items():
            mac = xml.partition('mac address="')[2][:17]
            assert owners.setdefault(mac, name) == name, f"{mac} is given twice"

    @invariant()
    def no_acknowledged_write_is_lost(self) -> None:
        assert self.world.broken == [], self.world.broken
        for name in self.world.acknowledged:
            assert any(self.world.has_all(node, name) for node in NODES), f"{name} has lost a write"
        for name in NAMES:
            assert all(self.world.sees_all(node, name) for node in self.world.running(name))

    def teardown(self) -> None:
        """All nodes and links work again: every VM can be cleaned, stopped and removed, and nothing is left."""
        world, self.ending = self.world, True
        self.all_is_well_again()
        self.no_acknowledged_write_is_lost()
        for name in sorted(self.opened):
            self._cleanup(name, Trouble())
            if name in self.opened:  # it does not run, so no side is preferred: stop it, then close
                self._stop(name, True, Trouble())
                self._cleanup(name, Trouble())
        self.opened &= {name for name in NAMES if any(name not in m.domains for m in world.nodes.values())}
        for name in self.known():
            self._repaired(name, "", True, Trouble())
            if world.alone(name):
                # One of the VM's own sides: a stale copy elsewhere may be up, too, and vm.repair keeps none of that.
                self._repaired(name, (world.running(name) or self.state().homes(name))[0], True, Trouble())
            self._cleared(name, Trouble())
            if name in world.acknowledged:
                assert not world.alone(name), f"{name} is still apart"
                kernels = (machine.resources.get(name) for machine in world.nodes.values())
                assert not any(kernel and kernel.held for kernel in kernels), f"{name} still holds its writes"
                # A person may have started a stale copy, told that there may be a newer one: it is theirs to choose.
                busy = {*self.state().active_on(name), *self.state().primaries(name)}
                assert set(self.state().stale_copies(name)) <= busy, f"{name} still has a stale copy"
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


# What must have been tried, or the invariants held for nothing: each trouble has struck inside a step of each task.
TASKS = (
    "vm.add", "vm.add --clone", "vm.restore", "vm.backup", "vm.rm", "vm.start", "vm.stop", "vm.mv", "vm.mv --cleanup",
    "vm.failover", "vm.repair", "vm.peer", "vm.peer --cleanup", "pm.evacuate", "pm.evacuate --failover",
    "pm.ready_drbd",
)  # fmt: skip
REACHED = {
    *(f"{task} struck: {kind}" for task in TASKS for kind in KINDS),
    *(f"{task}: done" for task in TASKS),
    *(f"{what}: refused" for what in ("vm.failover", "vm.repair", "vm.peer", "vm.peer --cleanup", "vm.start", "vm.mv")),
    "vm.repair: split-brain",
    "vm.failover: gives up writes",
}
KEPT, FEW = 240, 4  # so many seeds at least, with so many sequences each: those of one seed resemble each other


def sequences(number: int, seed: int | None = None, shrink: bool = True) -> None:
    """`seed`: always the same ones. `shrink`: look for the shortest one that fails."""

    def machine() -> Machine:
        return Machine()

    run_state_machine_as_test(
        machine if seed is None else hypothesis.seed(seed)(machine),  # type: ignore[arg-type]
        settings=settings(
            max_examples=number, stateful_step_count=30, deadline=None, database=None, print_blob=False,
            suppress_health_check=list(HealthCheck), phases=tuple(Phase) if shrink else (Phase.generate,),
        ),
    )  # fmt: skip


def new(seeds: int, record_property: Any) -> None:
    """Sequences that nobody has seen."""
    seed = int(os.environ.get("PMC_MODEL_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"these again: PMC_MODEL_SEED={seed}")
    for number in range(seeds):
        sequences(FEW, seed=seed + number)
    record_property("rounds", seeds * FEW)


@pytest.mark.fault("random sequences of commands and faults, on a model")
def test_sequences_of_tasks_and_faults(record_property: Any) -> None:
    """As many as are kept, and then until all was reached: a change of pmc changes what a seed comes to."""
    ENDS.clear()
    missing, number = REACHED, 0
    while number < KEPT or (missing and number < 3 * KEPT):
        sequences(FEW, seed=number)
        missing = {end for end in REACHED if not ENDS[end]}
        number += 1
    record_property("rounds", number * FEW)
    assert sorted(missing) == [], "no sequence came to this"


@pytest.mark.fault("random sequences of commands and faults, on a model; new ones each time")
def test_new_sequences_of_tasks_and_faults(record_property: Any) -> None:
    new(10, record_property)


@pytest.mark.long
@pytest.mark.fault("random sequences of commands and faults, on a model; new ones each time")
def test_many_sequences_of_tasks_and_faults(record_property: Any) -> None:
    new(750, record_property)
