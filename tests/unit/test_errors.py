"""Errors: an exit status and one readable line each."""

from __future__ import annotations

from pathlib import Path

import pytest
from invoke.exceptions import Exit

from pmc.command import command
from pmc.errors import CommandFailed, InDoubt, Interrupted, NodeDown, PmcError, Refused, SettingsError, StepFailed
from pmc.plan import Plan, Step, plan
from pmc.tasks.base import opened
from tests.unit.refusals import raises


@pytest.mark.parametrize(
    ("kind", "status"),
    [(PmcError, 1), (StepFailed, 1), (Refused, 2), (SettingsError, 2), (NodeDown, 2)],
)
def test_exit_status(kind: type[PmcError], status: int) -> None:
    error = kind("why")
    assert isinstance(error, Exit)
    assert (error.code, str(error)) == (status, "why")


def test_a_failed_command_tells_node_line_status_and_the_tools_last_words() -> None:
    error = CommandFailed("pm-1", "cat <<'EOF'\nbody\nEOF", 3, "first\nlast\n")
    assert str(error) == "pm-1: 'cat <<'EOF'' ended with status 3: last"
    assert error.stderr == "first\nlast"
    assert "it said nothing" in str(CommandFailed("pm-1", "x", 1, " \n"))
    assert len(str(CommandFailed("pm-1", "x" * 5000, 1, "no"))) < 200


def test_doubt_and_interruption() -> None:
    assert str(InDoubt("pm-1", "x", "the connection was lost")).endswith("it may or may not have run")
    assert (InDoubt("pm-1", "x", "y").code, Interrupted().code) == (1, 1)


STEP = Step("pm-1", "make it", command("true"))
DONE, NOTHING = plan("vm.x", STEP), plan("vm.x")


@pytest.mark.parametrize(
    ("applied", "half", "error", "status"),
    [
        ([], [], Refused("no"), 2),
        ([NOTHING], [], NodeDown("pm-2: no ssh"), 2),
        ([DONE], [], Refused("no"), 1),
        ([NOTHING, DONE], [], NodeDown("pm-2: no ssh"), 1),
        ([DONE], [], StepFailed("undone"), 1),
        ([DONE], [StepFailed("left", half=True)], PmcError("1 of 2 failed"), 3),
        ([DONE], [StepFailed("left", half=True)], Refused("no"), 3),
    ],
)
def test_what_a_command_did_decides_its_status(
    tmp_path: Path, applied: list[Plan], half: list[StepFailed], error: PmcError, status: int
) -> None:
    """2 says that nothing was touched, 1 that all was undone, whatever the last error was."""
    conf = tmp_path / "pmc.conf"
    conf.write_text('audit_log = ""\n[nodes.pm-1]\nreplication = "10.0.0.1"\n')

    def ends() -> None:
        with opened(str(conf)) as cluster:
            cluster.applied, cluster.half = applied, half
            raise error

    with pytest.raises(PmcError) as caught:
        ends()
    assert caught.value.code == status
    assert ("What was done before stays" in str(caught.value)) == (error.status == 1 and type(error) is not StepFailed)


def test_ctrl_c_while_looking_is_a_line(tmp_path: Path) -> None:
    conf = tmp_path / "pmc.conf"
    conf.write_text('audit_log = ""\n[nodes.pm-1]\nreplication = "10.0.0.1"\n')

    def ends(applied: list[Plan]) -> None:
        with opened(str(conf)) as cluster:
            cluster.applied = applied
            raise KeyboardInterrupt

    for applied, said in (([], "interrupted; nothing was touched"), ([DONE], "interrupted; look what was done before")):
        with pytest.raises(PmcError) as caught:
            ends(applied)
        assert (str(caught.value), caught.value.code) == (said, 1)


def _refuse(names: list[str]) -> None:
    list(map(_named, names))


def _named(name: str) -> None:
    raise NodeDown(f"{name}: down", answered=True)


class _Rules:
    def _all(self) -> list[PmcError]:
        return [error for error in map(Refused, ["one"])] + [CommandFailed("pm-1", "true", 1, "")]


def test_an_error_knows_what_made_it() -> None:
    with raises(NodeDown, "test_errors.named", "pm-1"):
        _refuse(["pm-1"])
    assert {error.rule for error in _Rules()._all()} == {"test_errors.Rules.all"}
    assert [error.rule for error in (Refused(each) for each in "a")] == ["test_errors.test_an_error_knows_what_made_it"]


def test_another_rule_or_another_fact_is_noticed() -> None:
    for rule, fact in (("test_errors.refuse", "pm-1"), ("test_errors.named", "pm-2")):
        with pytest.raises(AssertionError), raises(NodeDown, rule, fact):
            _named("pm-1")
