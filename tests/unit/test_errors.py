"""Errors: an exit status and one readable line each."""

from __future__ import annotations

import pytest
from invoke.exceptions import Exit

from pmc.errors import CommandFailed, InDoubt, Interrupted, NodeDown, PmcError, Refused, SettingsError, StepFailed


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
