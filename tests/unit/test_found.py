"""Sequences that test_machine.py has once failed at, by what was wrong; step by step."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pmc.plans import requirements
from tests.sim.links import MANAGER
from tests.sim.sequences import NONE, Trouble
from tests.unit.test_machine import Machine


def begun(second: str) -> Machine:
    """web runs on pm-1."""
    machine = Machine()
    machine.begin(second, False)
    return machine


def test_a_clone_that_fails_has_taken_away_what_a_backup_left_which_broke_off() -> None:
    machine = begun("")
    machine._backed_up("web", True, Trouble("dies", 6))
    assert "web.backup" in machine.world.nodes["pm-1"].volumes
    machine.clone(0, "mail", "pm-3", "", Trouble("fails", 12))  # its start, the last step
    assert "web.backup" not in machine.world.nodes["pm-1"].volumes
    machine.teardown()


def test_a_split_brain_beside_an_old_copy_that_is_up() -> None:
    machine = begun("pm-2")
    machine._stop("web", True, NONE)
    machine._start("web", "pm-2", NONE)
    machine.world.hang("pm-1")
    machine._peered("web", "pm-3", True, NONE)
    machine._gone_apart("web", 1, "", NONE)
    machine._stop("web", True, NONE)
    machine.world.go_on("pm-1")
    assert machine.world.sides("web")[0] == "pm-1"
    assert machine.state().homes("web") == ["pm-2", "pm-3"]
    assert machine.world.alone("web") == ["pm-2", "pm-3"]
    machine.teardown()


def with_a_used_old_copy() -> Machine:
    """web was given a new second copy on pm-2, and its primary died; a person started the stale copy on pm-3, as no
    node of web's could be asked, and stopped it again. Then all are back."""
    machine = begun("pm-3")
    world, link = machine.world, frozenset((MANAGER, "pm-2"))
    world.power_off("pm-3")
    machine._peered("web", "pm-2", True, NONE)
    machine.guests_write()
    world.power_off("pm-1")
    machine.back("pm-3")
    world.sever(link)
    machine._failed_over("web", "flag", NONE)
    machine.guests_write()
    machine._stop("web", True, NONE)
    world.heal(link)
    machine.back("pm-1")
    assert (machine.state().homes("web"), machine.state().stale_copies("web")) == (["pm-1", "pm-2"], ["pm-3"])
    assert world.lacking("pm-1", "web")
    return machine


@pytest.mark.parametrize("silent", [False, True])
def test_a_failover_that_goes_on_without_what_an_old_copy_wrote(silent: bool) -> None:
    machine = with_a_used_old_copy()
    for node in ("pm-3", "pm-2") if silent else ("pm-2",):
        machine.world.power_off(node)
    machine._failed_over("web", "fence", NONE)
    machine.teardown()


def test_what_else_goes_on_without_what_an_old_copy_wrote() -> None:
    machine = with_a_used_old_copy()
    machine._backed_up("web", True, NONE)
    machine.clone(0, "mail", "pm-1", "", NONE)
    assert machine.world.lacking("pm-1", "web")  # neither has chosen between the two
    machine._start("web", "", NONE)
    machine.no_acknowledged_write_is_lost()
    machine.teardown()


def failed_over(machine: Machine) -> None:
    machine.world.power_off("pm-2")
    machine._failed_over("web", "fence", NONE)


@pytest.mark.parametrize(
    "deed",
    [
        lambda machine: machine._start("web", "", NONE),
        lambda machine: machine._backed_up("web", True, NONE),
        lambda machine: machine.clone(0, "mail", "pm-1", "", NONE),
        failed_over,
    ],
)
def test_of_what_an_old_copy_wrote_somebody_must_be_told(
    deed: Callable[[Machine], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = with_a_used_old_copy()
    monkeypatch.setattr(requirements, "stale_copy_note", lambda name, node, state: "")
    with pytest.raises(AssertionError, match="nobody was told"):
        deed(machine)
