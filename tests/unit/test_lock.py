"""The locks as the nodes keep them, with the real flock(1) and bash; and how what they say is read."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pmc import lock
from pmc.lock import Holder, Refusal
from pmc.node import WRAPPER

ANN = Holder("ann@m1", 11, "2026-01-02T03:04:05+00:00", "vm.mv web")
BOB = Holder("bob@m2", 22, "2026-01-02T03:04:06+00:00", "vm.rm web; 'rm -rf $HOME' \"x")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lock, "FOLDER", str(tmp_path / "run"))
    return tmp_path


@contextmanager
def held(holder: Holder, *names: str, again: bool = False) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The session of a manager, and its first line."""
    argv = lock.hold(holder, names, again).argv
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        try:
            yield session, session.stdout.readline()
        finally:
            with suppress(BrokenPipeError):
                session.stdin.close()


def test_one_at_a_time_and_the_other_is_told_who() -> None:
    with held(ANN, "web") as (_, said):
        assert lock.parse(said) is None
        with held(BOB, "web") as (_, second):
            assert lock.parse(second) == Refusal("held", "web", str(ANN))
        with held(BOB, "db") as (_, other):
            assert lock.parse(other) is None
    with held(BOB, "web") as (_, said):
        assert lock.parse(said) is None
        with held(ANN, "web") as (_, second):
            assert lock.parse(second) == Refusal("held", "web", str(BOB))


def test_who_lost_a_lock_is_told_who_had_it_since() -> None:
    """Also when it is free again by then: what was seen under it may have changed."""
    for holder, again in ((ANN, False), (ANN, True)):
        with held(holder, "web", again=again) as (_, said):
            assert lock.parse(said) is None
    with held(BOB, "web") as (_, said):
        assert lock.parse(said) is None
    with held(ANN, "db", "web", again=True) as (_, said):
        assert lock.parse(said) == Refusal("since", "web", str(BOB))
    with held(ANN, "web") as (_, said):
        assert lock.parse(said) is None, "a new command begins with a look"


def test_all_or_none() -> None:
    with held(ANN, "web"):
        with held(BOB, "db", "web") as (_, said):
            assert said.startswith("held web")
        with held(BOB, "db") as (_, said):
            assert said == "locked\n"


def test_a_dead_manager_lets_go() -> None:
    with held(ANN, "web") as (session, said):
        assert said == "locked\n"
        assert session.stdin is not None
        session.stdin.close()  # as sshd does when the connection ends
        assert session.wait(30) == 0
        with held(BOB, "web") as (_, second):
            assert second == "locked\n"


def test_a_silent_manager_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SILENCE", 1)
    with held(ANN, "web") as (session, said):
        assert said == "locked\n"
        assert session.wait(30) == 0


def test_the_last_command_of_a_dead_manager_is_waited_for() -> None:
    with held(ANN, "web") as (session, _):
        running = subprocess.Popen([*lock.busy(["web"]), "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        # Not before it has its lock: nobody else may get this one.
        probe = ["flock", "-n", f"{lock.FOLDER}/web.busy", "true"]
        while subprocess.run(probe, check=False).returncode == 0:
            assert running.poll() is None
        session.stdin.close()  # type: ignore[union-attr]
        session.wait(30)
        with held(BOB, "web") as (_, said):
            assert lock.parse(said) == Refusal("busy", "web", str(ANN))
        running.communicate()
    with held(BOB, "web") as (_, said):
        assert said == "locked\n"


def _alive(pid: str) -> bool:
    """A zombie is not: process 1 of a container may let them be."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_what_is_told_of_it_shows_and_ends_it(tmp_path: Path) -> None:
    """Under a name that no other process of this machine has."""
    name = f"web-{os.getpid()}"
    told = lock.told(Refusal("busy", name, str(ANN)), "pm-1")
    see, end = (re.search(f"{word}: (.*?)(?:;|$)", told)[1] for word in ("to see it there", "to end it"))  # type: ignore[index]
    argv = ["sh", "-c", WRAPPER, "pmc", "600", *lock.busy([name]), "sh", "-c", f"echo $$ >{tmp_path}/pid; sleep 600"]
    with held(ANN, name), subprocess.Popen(argv, stderr=subprocess.DEVNULL) as running:
        while not (tmp_path / "pid").exists() or not (pid := (tmp_path / "pid").read_text().strip()):
            assert running.poll() is None
        assert subprocess.run(["sh", "-c", see], capture_output=True, text=True).stdout.startswith(
            f"{running.pid} time"
        )
        subprocess.run(["sh", "-c", end], check=True)
        assert running.wait(30) != 0
    deadline = time.monotonic() + 30
    while _alive(pid):  # timeout(1) waits for flock(1), not for what that ran
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_daemon_that_a_command_leaves_behind_is_not_waited_for() -> None:
    with held(ANN, "web") as (session, _):
        left = [*lock.busy(["web"]), "sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"]
        pid = int(subprocess.run(left, capture_output=True, text=True, check=True).stdout)
        try:
            session.stdin.close()  # type: ignore[union-attr]
            session.wait(30)
            with held(BOB, "web") as (_, said):
                assert said == "locked\n"
        finally:
            os.kill(pid, signal.SIGKILL)


def test_a_command_keeps_its_arguments_and_its_status() -> None:
    with held(ANN, "web", "db"):
        argv = [*lock.busy(["web", "db"]), "sh", "-c", 'echo "$1"; exit 7', "x", "a b; $(c)"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "a b; $(c)\n")


@pytest.mark.parametrize("said", ["", "held", "held web", "held web {}", "held web not json", "busy web []"])
def test_an_unfinished_note_is_still_a_lock(said: str) -> None:
    if not said:
        with pytest.raises(ValueError, match="neither"):
            lock.parse(said)
        return
    refusal = lock.parse(said)
    assert refusal is not None
    assert "somebody" in refusal.holder


def test_what_those_who_wait_are_told() -> None:
    assert lock.told(Refusal("held", "web", str(ANN)), "pm-1") == (
        "web: locked on pm-1 by ann@m1 (process 11) since 2026-01-02T03:04:05+00:00 for: vm.mv web"
    )
    assert lock.told(Refusal("held", lock.ALLOCATION, str(ANN)), "pm-1").startswith("the numbers for new VMs: locked")
    assert "still runs" in lock.told(Refusal("busy", "web", str(ANN)), "pm-1")
