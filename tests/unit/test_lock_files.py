"""The locks as the nodes keep them, with the real flock(1) and bash; and how what they say is read."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pmc import lock_files
from pmc.lock_files import Holder, Refusal
from pmc.transport.node import WRAPPER

ANN = Holder("ann@m1", 11, "2026-01-02T03:04:05+00:00", "vm.mv web", "a1")
BOB = Holder("bob@m2", 22, "2026-01-02T03:04:06+00:00", "vm.rm web; 'rm -rf $HOME' \"x", "b2")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lock_files, "FOLDER", str(tmp_path / "run"))
    return tmp_path


@contextmanager
def held(holder: Holder, *names: str, again: bool = False) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The session of a manager, and its first line."""
    argv = lock_files.hold(holder, names, again).argv
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        try:
            yield session, session.stdout.readline()
        finally:
            with suppress(BrokenPipeError):
                session.stdin.close()


def step(holder: Holder, *names: str) -> tuple[str, ...]:
    """What stands before the command of a step that is done under these locks."""
    return lock_files.fence([(name, holder.token) for name in names])


def ran(holder: Holder, *names: str) -> tuple[int, Refusal | None]:
    done = subprocess.run([*step(holder, *names), "sh", "-c", "exit 5"], capture_output=True, text=True, check=False)
    return done.returncode, lock_files.fenced(done.stderr)


def test_one_at_a_time_and_the_other_is_told_who() -> None:
    with held(ANN, "web") as (_, said):
        assert lock_files.parse(said) is None
        with held(BOB, "web") as (_, second):
            assert lock_files.parse(second) == Refusal("held", "web", str(ANN), ANN.token)
        with held(BOB, "db") as (_, other):
            assert lock_files.parse(other) is None
    with held(BOB, "web") as (_, said):
        assert lock_files.parse(said) is None
        with held(ANN, "web") as (_, second):
            assert lock_files.parse(second) == Refusal("held", "web", str(BOB), BOB.token)


def test_who_lost_a_lock_is_told_who_had_it_since() -> None:
    """Also when it is free again by then: what was seen under it may have changed."""
    for holder, again in ((ANN, False), (ANN, True)):
        with held(holder, "web", again=again) as (_, said):
            assert lock_files.parse(said) is None
    with held(BOB, "web") as (_, said):
        assert lock_files.parse(said) is None
    with held(ANN, "db", "web", again=True) as (_, said):
        assert lock_files.parse(said) == Refusal("since", "web", str(BOB), BOB.token)
    with held(ANN, "web") as (_, said):
        assert lock_files.parse(said) is None, "a new command begins with a look"


def test_all_or_none() -> None:
    with held(ANN, "web"):
        with held(BOB, "db", "web") as (_, said):
            assert said.startswith("held web")
        with held(BOB, "db") as (_, said):
            assert said == "locked\n"


def test_more_locks_than_a_process_may_usually_have_files() -> None:
    """Each is two open files, and a step holds one for each."""
    names = [f"vm{number}" for number in range(300)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        with held(ANN, *names) as (_, said):
            assert said == "locked\n"
            assert ran(ANN, *names) == (5, None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_dead_manager_lets_go() -> None:
    with held(ANN, "web") as (session, said):
        assert said == "locked\n"
        assert session.stdin is not None
        session.stdin.close()  # as sshd does when the connection ends
        assert session.wait(30) == 0
        with held(BOB, "web") as (_, second):
            assert second == "locked\n"


def test_a_silent_manager_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_files, "SILENCE", 1)
    with held(ANN, "web") as (session, said):
        assert said == "locked\n"
        assert session.wait(30) == 0


def test_the_last_command_of_a_dead_manager_is_waited_for() -> None:
    with held(ANN, "web") as (session, _):
        argv = [*step(ANN, "web"), "sh", "-c", "echo begun; cat"]
        running = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None
        assert running.stdout.readline() == "begun\n"
        session.stdin.close()  # type: ignore[union-attr]
        session.wait(30)
        with held(BOB, "web") as (_, said):
            assert lock_files.parse(said) == Refusal("busy", "web", str(ANN), ANN.token)
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
    told = lock_files.told(Refusal("busy", name, str(ANN)), "pm-1")
    see, end = (re.search(f"{word}: (.*?)(?:;|$)", told)[1] for word in ("To see it there", "to end it"))  # type: ignore[index]
    work = ("sh", "-c", f"trap 'sleep 1; exit 9' INT; echo $$ >{tmp_path}/pid; while :; do sleep 0.1; done")
    argv = ["sh", "-c", WRAPPER, "pmc", "600", *step(ANN, name), *work]
    with held(ANN, name), subprocess.Popen(argv, stderr=subprocess.DEVNULL) as running:
        while not (tmp_path / "pid").exists() or not (pid := (tmp_path / "pid").read_text().strip()):
            assert running.poll() is None
        assert subprocess.run(["sh", "-c", see], capture_output=True, text=True).stdout.startswith(
            f"{running.pid} time"
        )
        subprocess.run(["sh", "-c", end], check=True)
        assert running.wait(30) == 9
        assert not _alive(pid), "the lock is busy until the end of what was told to end"


def test_a_daemon_that_a_command_leaves_behind_is_not_waited_for() -> None:
    with held(ANN, "web") as (session, _):
        left = [*step(ANN, "web"), "sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"]
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
        argv = [*step(ANN, "web", "db"), "sh", "-c", 'echo "$1"; exit 7', "x", "a b; $(c)"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "a b; $(c)\n")


def test_a_step_runs_only_under_the_lock_of_its_own_manager() -> None:
    """However long it was on its way."""
    with held(ANN, "db", "web"):
        assert ran(ANN, "db", "web") == (5, None)
        assert ran(BOB, "db", "web") == (97, Refusal("lost", "db", str(ANN), ANN.token))
    assert ran(ANN, "web") == (97, Refusal("lost", "web", str(ANN), ANN.token)), "it let go"
    with held(BOB, "web"):
        assert ran(ANN, "web") == (97, Refusal("lost", "web", str(BOB), BOB.token))
        assert ran(BOB, "web") == (5, None)
        assert ran(BOB, "web", "db") == (97, Refusal("lost", "db", str(ANN), ANN.token)), "each of its locks"
    again = Holder(ANN.who, ANN.pid, ANN.since, ANN.what, "c3")
    with held(again, "web"):
        assert ran(ANN, "web")[0] == 97, "the same manager in the same second: another command"


def test_a_step_whose_node_lost_its_locks_with_its_power_does_not_run() -> None:
    done = subprocess.run([*step(ANN, "web"), "echo", "ran"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    with held(ANN, "web"):
        pass
    Path(f"{lock_files.FOLDER}/web.lock").write_text("")
    assert ran(ANN, "web")[0] == 97


def test_a_manager_that_was_silent_may_take_its_lock_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_files, "SILENCE", 1)
    with held(ANN, "web") as (session, _):
        assert session.wait(30) == 0
        assert ran(ANN, "web")[0] == 97
        with held(ANN, "web", again=True) as (_, said):
            assert said == "locked\n"
            assert ran(ANN, "web")[0] == 5


def test_no_step_of_another_begins_while_a_lock_changes_hands() -> None:
    """Two managers fight for two locks, and the steps of both come as they like: none ever runs under the other's."""
    log = Path(lock_files.FOLDER).with_name("log")
    work = f'echo "$0 $(head -c 16 {lock_files.FOLDER}/web.lock)" >>{log}'
    for turn in range(20):
        one, other = (ANN, BOB) if turn % 2 else (BOB, ANN)
        with held(one, "db", "web") as (_, said):
            assert said == "locked\n"
            late = [
                subprocess.Popen([*step(each, "web", "db"), "sh", "-c", work, each.token], stderr=subprocess.DEVNULL)
                for each in (other, one, other)
            ]
            if turn % 3:
                assert [each.wait(30) for each in late] == [97, 0, 97]
        for each in late:
            each.wait(30)
    lines = log.read_text().split("\n")[:-1]
    assert len(lines) >= 13
    # One that began in time goes on when the lock is let go, which is just being written.
    assert all(re.fullmatch(r'(\w\w) (-?\{"token": "\1".*)?', line) for line in lines), lines


def test_what_a_dead_manager_had_on_its_way_does_not_begin_while_its_lock_is_taken(tmp_path: Path) -> None:
    """Its session was killed, so that nothing says that it let go; who comes next is slow to write its own name."""
    with held(ANN, "web") as (session, _):
        session.kill()
    taken, argv = tmp_path / "taken", lock_files.hold(BOB, ["web"]).argv
    slow = [word.replace("for n; do printf", f"touch {taken}; sleep 1; for n; do printf", 1) for word in argv]
    assert slow != list(argv)
    pipe = subprocess.PIPE
    with subprocess.Popen(slow, stdin=pipe, stdout=pipe, text=True) as session:
        assert session.stdout is not None
        while not taken.exists():
            assert session.poll() is None
        assert ran(ANN, "web") == (97, Refusal("lost", "web", str(BOB), BOB.token))
        assert session.stdout.readline() == "locked\n"


@pytest.mark.parametrize("said", ["", "held", "held web", "held web {}", "held web not json", "busy web []"])
def test_an_unfinished_note_is_still_a_lock(said: str) -> None:
    if not said:
        with pytest.raises(ValueError, match="neither"):
            lock_files.parse(said)
        return
    refusal = lock_files.parse(said)
    assert refusal is not None
    assert "somebody" in refusal.holder


def test_what_those_who_wait_are_told() -> None:
    assert lock_files.told(Refusal("held", "web", str(ANN)), "pm-1") == (
        "web: locked on pm-1 by ann@m1 (process 11) since 2026-01-02T03:04:05+00:00 for: vm.mv web"
    )
    assert lock_files.told(Refusal("held", lock_files.ALLOCATION, str(ANN)), "pm-1").startswith(
        "the numbers for new VMs: locked"
    )
    assert "still runs" in lock_files.told(Refusal("busy", "web", str(ANN)), "pm-1")
    assert lock_files.told(Refusal("lost", "web", str(BOB)), "pm-1") == (
        "nothing ran: web is not locked for this command any more on pm-1, which heard nothing of it for 60 s. The "
        f"latest to have it: {BOB}. Look what it did"
    )
