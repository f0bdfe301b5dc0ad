"""The benchmark of backups runs: its smallest. What it measures here is of no interest, but that it is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import backup, backup_report
from bench.disk import DELTA, Disk
from bench.places import Place, line
from pmc import backup_pipeline
from pmc.backup_pipeline import How

MiB = 1 << 20


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(Path(__file__).parents[2])
    return Place("files", str(tmp_path))


def test_the_smallest_run(place: Place) -> None:
    found = backup.pairs(place, 8, 1)
    json.dumps(found)
    assert set(backup_report.ROWS) <= set(found)
    assert all(found[row]["ours"] > 0 for row in backup_report.ROWS)
    # The disk once, by the kernel's count; and Python's own modules.
    assert 8 * MiB <= found["sparse, 90 % empty"]["read"] < 16 * MiB
    # Only the changed blocks are read, of old and new; and Python's own modules.
    assert found["delta, usr, thin"]["read"] < 8 * MiB
    shown = backup_report.tables({"files": found})
    assert "| restore of a delta " in shown


def test_what_differs_from_the_target_is_said() -> None:
    run = {"ours": 1.0, "theirs": 1.0, "ratio": 1.0, "processor": 1.0, "memory": MiB, "read": 1}
    sizes = {f"size, {kind}": 1.2 for kind in backup_report.KINDS}
    found = {"size": 8, "rounds": 1, "on": {}, "load": 1.0, **sizes}
    shown = backup_report.tables({"lab": {**found, **dict.fromkeys(backup_report.ROWS, run)}})
    rows = [row for row in shown.splitlines() if "| 1.00 " in row]
    assert [" **no** " in row for row in rows] == [False, *[True] * (len(backup_report.ROWS) - 2), False]
    assert len([row for row in shown.splitlines() if "| 1.20 " in row and " **no** " in row]) == len(sizes)


def test_a_disk_is_read_in_one_pass(place: Place, tmp_path: Path) -> None:
    """It comes through a pipe here, which gives it once."""
    disk = Disk(place, 4, full=70)
    disk.base_of_pmc()
    content = Path(disk.path).read_bytes()
    once = str(tmp_path / "once")
    os.mkfifo(once)
    source = backup_pipeline.Disk(once, disk.bytes)
    for store in (
        backup_pipeline.store_base(source, disk.file(".again.part"), How()),
        backup_pipeline.store_delta(source, disk.base, place.folder, disk.file(".again.part"), How()),
    ):
        writer = subprocess.Popen(
            [sys.executable, "-c", f"open({once!r}, 'wb').write(open({disk.path!r}, 'rb').read())"]
        )
        place.run(line(store))
        assert writer.wait(10) == 0
    disk.delta = disk._sealed(disk.file(".again.part"), replace(DELTA, size=disk.bytes))
    disk.give_back()
    assert Path(disk.file("back")).read_bytes() == content
