"""What a lab test takes for whole backups and equal copies, and what it must not miss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.tick import TickError
from lab.witness import Guest
from pmc.model import ClusterState
from tests.lab.conftest import judged
from tests.lab.rig import whole_backups
from tests.unit.samples import alone, cluster, running, stopped, with_resource
from tests.unit.stories import BASE, DELTA

UUID = "706d632d-6c61-4062-8000-00000000000a"


class Nodes:
    """In place of a lab: pm-2 has a base, and these files."""

    def __init__(self, *files: str, broken: str = "") -> None:
        self.files, self.broken, self.asked = files, broken, list[tuple[str, ...]]()

    def ok(self, *argv: str) -> str:
        self.asked.append(argv)
        return json.dumps([{"id": BASE.id, "node": "pm-2", "broken": self.broken}])

    def ssh(self, node: str, command: str) -> str:
        return "".join(f"{name}\n" for name in self.files) if node == "pm-2" else ""


def test_whole_ones_are_read_back() -> None:
    lab: Any = Nodes(*BASE.files)
    assert [row["id"] for row in whole_backups(lab)] == [BASE.id]
    assert lab.asked[-1] == ("vm.verify_backup", "--all")


@pytest.mark.parametrize("strange", [f".{BASE.id}.part", f".{BASE.id}.part.sums", DELTA.file, f"{DELTA.id}.index", "x"])
def test_a_file_that_is_of_no_whole_backup_is_seen(strange: str) -> None:
    lab: Any = Nodes(*BASE.files, strange)
    with pytest.raises(AssertionError):
        whole_backups(lab)


def test_a_broken_one_is_seen() -> None:
    lab: Any = Nodes(*BASE.files, broken="its file is missing")
    with pytest.raises(AssertionError):
        whole_backups(lab)


class Judged:
    """In place of a lab: its state before and after pm.ready_drbd, and what the witness was asked to compare."""

    def __init__(self, run: Path, *states: ClusterState) -> None:
        self.run, self.states, self.asked = run, list(states), list[str]()
        self.lab = self  # of the Pmc, that is the lab

    def state(self) -> ClusterState:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def fab(self, *argv: str) -> None:
        self.asked.append(" ".join(argv))

    def compared(self, guest: Guest, *nodes: str) -> None:
        self.asked.append(f"{guest.name} {' '.join(nodes)}")


APART = with_resource(with_resource(running(), "pm-1", connection="StandAlone"), "pm-2", connection="StandAlone")


@pytest.mark.parametrize(
    ("states", "asked"),
    [
        ((running(),), ["web pm-1 pm-2"]),
        ((stopped(),), ["web pm-1 pm-2"]),
        ((alone(active=True),), ["web pm-1"]),
        ((APART, running()), ["pm.ready_drbd", "web pm-1 pm-2"]),
        ((APART, APART), ["pm.ready_drbd", "web pm-1"]),
    ],
    ids=["running", "off", "on one node", "healed", "apart"],
)
def test_both_copies_are_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, states: tuple[ClusterState, ...], asked: list[str]
) -> None:
    lab: Any = Judged(tmp_path, *states)
    monkeypatch.setattr(Guest, "whole", lambda guest, *nodes: lab.compared(guest, *nodes))
    judged(lab)
    assert lab.asked == asked


def test_what_a_removed_vm_said_is_judged(tmp_path: Path) -> None:
    said = f"\nguest web {UUID}\ntick 1 5\ntick 2 3\n"
    (tmp_path / "pm-1.heard1").write_text(said)
    lab: Any = Judged(tmp_path, cluster())
    with pytest.raises(TickError, match="the disk went back"):
        judged(lab)
