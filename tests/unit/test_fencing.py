"""What is taken as proof that a node is dead, with a fence command and without."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pmc.cluster import Cluster
from pmc.errors import PmcError, Refused
from pmc.facts.dead_node import FRESH, LostLink
from pmc.settings import Settings
from pmc.tasks.fencing import PeerEvidence, how, off, prove
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, running

SINCE = "2026-11-23T08:20:31+0000"
FACTS = {
    "web": LostLink(SINCE, 60, True), "off": LostLink(SINCE, 60, False), "ago": LostLink(SINCE, FRESH + 1, True),
    "odd": LostLink("", math.inf, True), "before": LostLink("", -3595, True), "no": LostLink("", math.nan, True),
}  # fmt: skip


def fenced(folder: Path, status: int) -> Settings:
    script = folder / "fence_test"
    script.write_text(f"#!/bin/sh\necho ran >>{folder}/ran; exit {status}\n")
    script.chmod(0o755)
    first = replace(SETTINGS.nodes["pm-1"], fence=f"{script} --password=hunter22")
    return replace(SETTINGS, nodes={**SETTINGS.nodes, "pm-1": first})


def proved(settings: Settings, dead: str = "", names: Sequence[str] = ("web",), **sight: Any) -> None:
    prove(Cluster(settings), "pm-1", names, PeerEvidence(FACTS, **sight), dead, running())


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Any:
    def at_the_terminal(line: str | None) -> None:
        monkeypatch.setattr(sys.stdin, "isatty", lambda: line is not None, raising=False)
        monkeypatch.setattr(sys.stdin, "readline", lambda: line, raising=False)

    at_the_terminal(None)
    return at_the_terminal


def test_without_a_fence_command_a_person_says_so(typed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refused, match=r"that is no proof.*this is no terminal.*; once its power is really off"):
        proved(SETTINGS)
    said = capsys.readouterr().err
    assert "web: lost pm-1 at 2026-11-23T08:20:31+0000; that was 60 s ago (the time is by its other node's" in said
    assert "; what pm-1 wrote after that, if it still ran, is not on the other node" in said
    for wrong in ("", "yes\n", "pm-2\n"):
        typed(wrong)
        with pytest.raises(Refused, match="not confirmed; nothing was touched"):
            proved(SETTINGS)
    typed("pm-1\n")
    proved(SETTINGS)


def test_dead_says_it_without_a_terminal_and_must_name_the_node(typed: Any) -> None:
    proved(SETTINGS, "pm-1")
    with raises(Refused, "fencing.prove", "--dead pm-2", "pm-1", "nothing was touched"):
        proved(SETTINGS, "pm-2")


def test_a_fence_command_that_succeeds_is_the_proof(typed: Any, tmp_path: Path) -> None:
    proved(fenced(tmp_path, 0))
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_a_disk_that_may_be_old_needs_a_persons_word_beside_it(
    typed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its node booted since the link was lost: what the dead one wrote since then is nowhere else."""
    with pytest.raises(Refused, match=r"the disk of db may be old.*if you know that it is not, give --dead pm-1"):
        proved(fenced(tmp_path, 0), names=("web", "db"))
    assert "db: its other node has no record since its boot of when the link was lost" in capsys.readouterr().err
    with pytest.raises(Refused, match=r"the disk of ago may be old"):  # lost its link, and the other went on alone?
        proved(fenced(tmp_path, 0), names=("web", "ago"))
    for odd in ("odd", "before", "no"):
        with pytest.raises(Refused, match=f"the disk of {odd} may be old"):
            proved(fenced(tmp_path, 0), names=("web", odd))
    typed("pm-2\n")
    with pytest.raises(Refused, match="nothing was touched"):
        proved(fenced(tmp_path, 0), names=("web", "db"))
    assert not (tmp_path / "ran").exists(), "the power was taken away before the question"
    typed("pm-1\n")
    proved(fenced(tmp_path, 0), names=("web", "db"))
    typed(None)
    proved(fenced(tmp_path, 0), "pm-1", names=("web", "db"))


def test_a_disk_that_is_known_to_differ_needs_a_persons_word_beside_it(
    typed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Refused, match=r"blocks of the disk of web are known to differ.*give --dead pm-1"):
        proved(fenced(tmp_path, 0), differ={"web": 4096, "other": 4096})
    assert "web: 4 KiB of its disk differ from that on pm-1, as a verify found" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    typed("pm-1\n")
    proved(fenced(tmp_path, 0), differ={"web": 4096})
    typed(None)
    proved(fenced(tmp_path, 0), "pm-1", differ={"web": 4096})
    proved(fenced(tmp_path, 0), differ={"other": 4096})  # which does not start


def test_one_that_fails_stops_everything_but_for_a_persons_word(typed: Any, tmp_path: Path) -> None:
    typed("pm-1\n")
    with raises(PmcError, "fence_command.failed", "fence_test") as caught:
        proved(fenced(tmp_path, 1))
    assert caught.value.code == 1
    proved(fenced(tmp_path, 1), "pm-1")
    assert (tmp_path / "ran").read_text() == "ran\nran\n"


def test_a_wrong_name_keeps_the_fence_command_from_running(typed: Any, tmp_path: Path) -> None:
    with pytest.raises(Refused):
        proved(fenced(tmp_path, 0), "pm-2")
    assert not (tmp_path / "ran").exists()


def test_what_dry_run_says(tmp_path: Path) -> None:
    """And a line that lets nobody past, see test_dry_run.py."""
    assert how(Cluster(SETTINGS), "pm-1", PeerEvidence())[0].endswith("you are asked to type its name")
    told, refuses = how(Cluster(fenced(tmp_path, 0)), "pm-1", PeerEvidence())
    assert "dead=pm-1" in refuses
    assert told.endswith("the manager runs its fence command, fence_test")
    told = how(Cluster(fenced(tmp_path, 0)), "pm-1", PeerEvidence(signs=("pm-2 reaches it: it answers\nping",)))[0]
    assert told.endswith("fence_test, and waits until it is silent; for now it lives: pm-2 reaches it: it answers ping")


def test_what_was_off_there() -> None:
    assert off(PeerEvidence(FACTS)) == ["off"]


def test_of_a_node_that_lives_only_its_fence_command_is_a_proof(
    typed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person's word that the power is off is contradicted by what is seen."""
    signs = ("pm-2 reaches it: it answers ping",)
    proved(fenced(tmp_path, 0), "pm-1", signs=signs)
    assert "pm-1 gives signs of life: pm-2 reaches it: it answers ping" in capsys.readouterr().err
    with raises(PmcError, "fence_command.failed", "fence_test"):
        proved(fenced(tmp_path, 1), "pm-1", signs=signs)
    with pytest.raises(Refused, match=r"the disk of ago may be old.*take the power of pm-1 away by hand"):
        proved(fenced(tmp_path, 0), "pm-1", names=("web", "ago"), signs=signs)
    assert (tmp_path / "ran").read_text() == "ran\nran\n", "the power was taken away before the question"
    typed("pm-1\n")
    proved(fenced(tmp_path, 0), "pm-1", names=("web", "ago"), signs=signs)
