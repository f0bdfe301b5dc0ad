"""What is taken as proof that a node is dead, with a fence command and without."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pmc.cluster import Cluster
from pmc.errors import PmcError, Refused
from pmc.plans.failover import FRESH, Lost
from pmc.settings import Settings
from pmc.tasks.failover import _how_proved, _off, _prove
from tests.unit.samples import SETTINGS, running

SINCE = "2026-11-23T08:20:31+0000"
FACTS = {"web": Lost(SINCE, 60, True), "off": Lost(SINCE, 60, False), "ago": Lost(SINCE, FRESH + 1, True)}


def fenced(folder: Path, status: int) -> Settings:
    script = folder / "fence_test"
    script.write_text(f"#!/bin/sh\necho ran >>{folder}/ran; exit {status}\n")
    script.chmod(0o755)
    first = replace(SETTINGS.nodes["pm-1"], fence=f"{script} --password=hunter22")
    return replace(SETTINGS, nodes={**SETTINGS.nodes, "pm-1": first})


def prove(settings: Settings, dead: str = "", names: Sequence[str] = ("web",)) -> None:
    _prove(Cluster(settings), "pm-1", names, FACTS, dead, running())


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Any:
    def at_the_terminal(line: str | None) -> None:
        monkeypatch.setattr(sys.stdin, "isatty", lambda: line is not None, raising=False)
        monkeypatch.setattr(sys.stdin, "readline", lambda: line, raising=False)

    at_the_terminal(None)
    return at_the_terminal


def test_without_a_fence_command_a_person_says_so(typed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refused, match=r"that is no proof.*nobody is here to confirm it; once its power is really off"):
        prove(SETTINGS)
    assert "web: lost pm-1 at 2026-11-23T08:20:31+0000; what pm-1 wrote after that" in capsys.readouterr().err
    for wrong in ("", "yes\n", "pm-2\n"):
        typed(wrong)
        with pytest.raises(Refused, match="not confirmed; nothing was touched"):
            prove(SETTINGS)
    typed("pm-1\n")
    prove(SETTINGS)


def test_dead_says_it_without_a_terminal_and_must_name_the_node(typed: Any) -> None:
    prove(SETTINGS, "pm-1")
    with pytest.raises(Refused, match="--dead pm-2: the node that does not answer is pm-1; nothing was touched"):
        prove(SETTINGS, "pm-2")


def test_a_fence_command_that_succeeds_is_the_proof(typed: Any, tmp_path: Path) -> None:
    prove(fenced(tmp_path, 0))
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_a_disk_that_may_be_old_needs_a_persons_word_beside_it(
    typed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its node booted since the link was lost: what the dead one wrote since then is nowhere else."""
    with pytest.raises(Refused, match=r"the disk of db may be old.*if you know that it is not, give --dead pm-1"):
        prove(fenced(tmp_path, 0), names=("web", "db"))
    assert "db: its other node has no record since its boot of when the link was lost" in capsys.readouterr().err
    with pytest.raises(Refused, match=r"the disk of ago may be old"):  # lost its link, and the other went on alone?
        prove(fenced(tmp_path, 0), names=("web", "ago"))
    typed("pm-2\n")
    with pytest.raises(Refused, match="nothing was touched"):
        prove(fenced(tmp_path, 0), names=("web", "db"))
    assert not (tmp_path / "ran").exists(), "the power was taken away before the question"
    typed("pm-1\n")
    prove(fenced(tmp_path, 0), names=("web", "db"))
    typed(None)
    prove(fenced(tmp_path, 0), "pm-1", names=("web", "db"))


def test_one_that_fails_stops_everything_but_for_a_persons_word(typed: Any, tmp_path: Path) -> None:
    typed("pm-1\n")
    with pytest.raises(PmcError, match="its fence command fence_test failed") as caught:
        prove(fenced(tmp_path, 1))
    assert caught.value.code == 1
    prove(fenced(tmp_path, 1), "pm-1")
    assert (tmp_path / "ran").read_text() == "ran\nran\n"


def test_a_wrong_name_keeps_the_fence_command_from_running(typed: Any, tmp_path: Path) -> None:
    with pytest.raises(Refused):
        prove(fenced(tmp_path, 0), "pm-2")
    assert not (tmp_path / "ran").exists()


def test_what_dry_run_says(tmp_path: Path) -> None:
    assert _how_proved(Cluster(SETTINGS), "pm-1").endswith("you are asked to type its name")
    told = _how_proved(Cluster(fenced(tmp_path, 0)), "pm-1")
    assert told.endswith("the manager runs its fence command, fence_test")


def test_what_was_off_there() -> None:
    assert list(_off(FACTS)) == ["off"]
