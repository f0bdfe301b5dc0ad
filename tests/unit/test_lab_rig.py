"""What a lab test takes for whole backups, and what it must not miss."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lab.rig import whole_backups
from tests.unit.stories import BASE, DELTA


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
