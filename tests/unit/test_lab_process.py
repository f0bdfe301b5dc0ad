# SPDX-License-Identifier: GPL-3.0-or-later
"""Only what is surely ours may be killed."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab import process
from lab.errors import LabError
from lab.process import Process


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    """A process of ours: the run folder is in its command line."""
    started = process.spawn(["tail", "-f", str(tmp_path / "log")], tmp_path / "log")
    yield started
    process.kill(started, str(tmp_path))


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_kill_ends_it_and_leaves_no_zombie(sleeper: Process, tmp_path: Path) -> None:
    assert process.ours(sleeper, str(tmp_path))
    assert process.memory(sleeper) > 0
    assert process.kill(sleeper, str(tmp_path))
    assert gone(sleeper.pid)
    assert not process.kill(sleeper, str(tmp_path))
    assert process.memory(sleeper) == 0


@pytest.mark.parametrize("change", [{"started": 1}, {"boot": "another"}])
def test_a_reused_pid_is_left_alone(sleeper: Process, tmp_path: Path, change: dict[str, int]) -> None:
    stale = replace(sleeper, **change)  # type: ignore[arg-type]
    assert not process.kill(stale, str(tmp_path))
    assert not gone(sleeper.pid)


def test_a_process_of_another_lab_is_left_alone(sleeper: Process, tmp_path: Path) -> None:
    assert not process.kill(sleeper, str(tmp_path)[:-1])  # lab h1 is not lab h10
    assert not process.kill(sleeper, str(tmp_path / "other"))
    assert not gone(sleeper.pid)


def test_one_that_ended_by_itself_is_not_ours_any_more(tmp_path: Path) -> None:
    started = process.spawn(["ls", str(tmp_path)], tmp_path / "log")
    end = time.monotonic() + 5
    while process.ours(started, str(tmp_path)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not process.kill(started, str(tmp_path))
    assert gone(started.pid)


def test_record_survives_and_nonsense_is_none(sleeper: Process, tmp_path: Path) -> None:
    file = tmp_path / "x.pid"
    assert process.load(file) is None
    process.save(sleeper, file)
    assert process.load(file) == sleeper
    for nonsense in ("", "12", "{}", '{"pid": 1}', "[1]"):
        file.write_text(nonsense)
        assert process.load(file) is None


def test_start_time_of_a_program_with_an_odd_name() -> None:
    rest = " ".join(str(number) for number in range(4, 53))
    assert process.start_time(f"7 (a) b (c)) S {rest}") == 22


def test_a_missing_tool_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no-such-tool is missing"):
        process.spawn(["no-such-tool"], tmp_path / "log")


def test_output_goes_to_the_log_and_the_session_is_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    started = process.spawn(["sh", "-c", "echo out; echo err >&2; sleep 60", f"{tmp_path}/"], log)
    try:
        assert os.getsid(started.pid) == started.pid
        end = time.monotonic() + 5
        while log.read_text().count("\n") < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert log.read_text() == "out\nerr\n"
    finally:
        assert process.kill(started, str(tmp_path))


def test_it_is_ours_from_the_first_moment(tmp_path: Path) -> None:
    """The kernel shows an empty command line for a moment after exec; `spawn` waits for that to pass."""
    for _ in range(100):
        started = process.spawn(["tail", "-f", str(tmp_path / "log")], tmp_path / "log")
        assert process.kill(started, str(tmp_path))


def test_it_outlives_its_starter(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from lab import process; run = Path(sys.argv[1]);"
        "process.save(process.spawn(['tail', '-f', str(run / 'log')], run / 'log'), run / 'x.pid')"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    found = process.load(tmp_path / "x.pid")
    assert found is not None
    assert process.ours(found, str(tmp_path))
    assert process.kill(found, str(tmp_path))
