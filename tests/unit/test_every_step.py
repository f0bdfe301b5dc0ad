"""Each step of each task goes wrong in each way, on the model: whatever is left, the invariants hold, and at the end
the commands that are named for it clean it (the machine's teardown). What test_machine.py meets by chance is tried
here in order: with one trouble, and with a second one in what comes after it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from tests.sim.links import Link
from tests.sim.sequences import KINDS, NONE, OTHERS, Trouble
from tests.unit.test_machine import Machine

Deed = Callable[[Machine, Trouble], object]
LINK: Link = frozenset(("pm-1", "pm-2"))


def nothing(machine: Machine) -> None:
    """web runs on pm-1."""


def stopped(machine: Machine) -> None:
    machine._stop("web", True, NONE)


def backed_up(machine: Machine) -> None:
    machine._backed_up("web", True, NONE)


def open_after_a_move(machine: Machine) -> None:
    machine._moved("web", Trouble("dies", 4))


def dead(machine: Machine) -> None:
    machine.world.power_off("pm-1")


def secondary_dead(machine: Machine) -> None:
    machine.world.power_off("pm-2")


def apart(machine: Machine) -> None:
    machine._gone_apart("web", 1, "", NONE)


def apart_and_off(machine: Machine) -> None:
    apart(machine)
    machine._stop("web", True, NONE)


def disconnected(machine: Machine) -> None:
    machine.world.nodes["pm-2"].resources["web"].alone = True
    machine.world.see_links()


def detached(machine: Machine) -> None:
    machine.world.detach("pm-2", "web")


def rebooted(machine: Machine) -> None:
    machine.back_without_drbd("pm-2")


def replaced(machine: Machine) -> None:
    secondary_dead(machine)
    machine._peered("web", "pm-3", True, NONE)
    machine.back("pm-2")


SCENES: dict[str, tuple[Callable[[Machine], None], Deed]] = {
    "vm.add": (nothing, lambda m, t: m.add("mail", "pm-1", "pm-2", t)),
    "vm.add --clone": (nothing, lambda m, t: m.clone(0, "mail", "pm-1", "pm-3", t)),
    "vm.backup": (nothing, lambda m, t: m._backed_up("web", True, t)),
    "vm.restore": (backed_up, lambda m, t: m._restored(0, "mail", t)),
    "vm.rm": (nothing, lambda m, t: m._removed("web", t)),
    "vm.start": (stopped, lambda m, t: m._start("web", "", t)),
    "vm.stop": (nothing, lambda m, t: m._stop("web", False, t)),
    "vm.mv": (nothing, lambda m, t: m._moved("web", t)),
    "vm.mv --cleanup": (open_after_a_move, lambda m, t: m._cleanup("web", t)),
    "vm.failover": (dead, lambda m, t: m._failed_over("web", "flag", t)),
    "vm.repair --keep the older": (apart_and_off, lambda m, t: m._repaired("web", "pm-1", True, t)),
    "vm.repair --keep the newer": (apart, lambda m, t: m._repaired("web", "pm-2", True, t)),
    "vm.repair, disconnected": (disconnected, lambda m, t: m._repaired("web", "", True, t)),
    "vm.repair, diskless": (detached, lambda m, t: m._repaired("web", "", True, t)),
    "vm.repair, opened": (open_after_a_move, lambda m, t: m._repaired("web", "", True, t)),
    "vm.peer": (nothing, lambda m, t: m._peered("web", "pm-3", True, t)),
    "vm.peer, secondary dead": (secondary_dead, lambda m, t: m._peered("web", "pm-3", True, t)),
    "vm.peer --cleanup": (replaced, lambda m, t: m._cleared("web", t)),
    "pm.evacuate": (nothing, lambda m, t: m.evacuate("pm-1", "", True, t)),
    "pm.evacuate --failover": (dead, lambda m, t: m.evacuate("pm-1", "flag", False, t)),
    "pm.ready_drbd": (rebooted, lambda m, t: m._ready("pm-2", t)),
}


def begun(scene: str) -> Machine:
    machine = Machine()
    machine.begin("pm-2", False)
    SCENES[scene][0](machine)
    machine.managers.clear()
    return machine


def steps(scene: str) -> int:
    """How many there are when all goes well, over all its plans."""
    machine = begun(scene)
    SCENES[scene][1](machine, NONE)
    assert machine.managers[0].calls > 0, "there is nothing to do"
    return machine.managers[0].calls


def goes_wrong(scene: str, trouble: Trouble) -> None:
    machine = begun(scene)
    print(trouble)  # shown when it fails
    SCENES[scene][1](machine, trouble)
    for holds in (
        machine.nothing_runs_twice, machine.two_primaries_only_where_a_migration_broke_off,
        machine.every_resource_has_its_volume, machine.no_number_is_given_twice, machine.no_acknowledged_write_is_lost,
    ):  # fmt: skip
        holds()
    machine.teardown()


@pytest.mark.parametrize("scene", SCENES)
def test_each_step_goes_wrong_in_each_way(scene: str) -> None:
    for kind, at in product(KINDS, range(steps(scene))):
        goes_wrong(scene, Trouble(kind, at, LINK, other=OTHERS[at % len(OTHERS)]))


@pytest.mark.parametrize("scene", SCENES)
def test_and_what_comes_after_it_goes_wrong_too(scene: str) -> None:
    """What undoes, or a check that is asked."""
    for kind, at in product(("fails", "lost before", "lost after"), range(steps(scene))):
        for then in ("fails", "lost after", "dies", "power before"):
            goes_wrong(scene, Trouble(kind, at, LINK, then=then))
