"""Steps that come too late, as the link to their node was cut: none runs under the lock of another manager. Against a
real ssh server, with real locks (tests/unit/wire.py)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pmc import lock_files
from pmc.cluster import Cluster
from pmc.command import Command, bash
from pmc.errors import InDoubt, PmcError, StepFailed
from pmc.plan import Step, plan
from pmc.transport import connection
from pmc.transport.connection import NotRun
from pmc.transport.lock import Lock
from pmc.transport.node import Node
from tests.unit.wire import Here, Wire

SILENCE = 2  # in place of a minute
WAIT = 60  # seconds, for a machine that is busy with other things


@dataclass
class Site:
    """Two managers of one node. The first one's wire can be cut; `log`: what ran there, and whose lock it was under."""

    wire: Wire
    slow: Cluster
    other: Cluster
    log: Path

    def step(self, word: str) -> Command:
        return bash('echo "$1 under $(cat "$2")" >>"$3"', word, lock_files.file("web"), str(self.log))

    @property
    def ran(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(lock_files, "FOLDER", str(tmp_path / "run"))
    monkeypatch.setattr(lock_files, "SILENCE", SILENCE)
    monkeypatch.setattr(lock_files, "BEAT", 0.3)
    monkeypatch.setattr("pmc.transport.lock.random.uniform", lambda low, high: 0.1)
    with ExitStack() as stack:
        here = Here(tmp_path)
        stack.callback(here.close)
        wire = Wire(here.port)
        stack.callback(wire.close)
        patient = f"[deadlines]\nconnect = {WAIT}"  # a session is waited for as long as the link is cut
        slow = stack.enter_context(Cluster(here.settings(wire.port, patient)))
        other = stack.enter_context(Cluster(here.settings(here.port)))
        yield Site(wire, slow, other, tmp_path / "log")


def cut_after(monkeypatch: pytest.MonkeyPatch, site: Site, times: int) -> threading.Event:
    """The wire is cut when the first manager has seen for the so many-th time that it has its lock, and before the step
    is on its way: the moment that no look of the manager can see. The event: it was."""
    really, seen, cut = Lock.ensure, list[str](), threading.Event()

    def ensure(held: Lock, node: Node) -> None:
        really(held, node)
        if held.holder.what == "slow":
            seen.append(node.name)
            if len(seen) == times:
                site.wire.cut()
                cut.set()

    monkeypatch.setattr(Lock, "ensure", ensure)
    return cut


@pytest.mark.parametrize("error", [NotRun("its login shell did not run the command"), PmcError("no session")])
def test_a_command_that_cannot_be_ended_may_run_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It is in doubt, and did not end with a status of its own."""

    def begin(channel: Any, line: str, seconds: float) -> str:
        if "kill" in line:
            raise error
        return usual(channel, line, seconds)

    usual = connection.begin
    monkeypatch.setattr("pmc.transport.node.begin", begin)
    slow = replace(bash("sleep 5"), long=True)
    with pytest.raises(InDoubt, match=r"it cannot be ended: (its login shell did not run|no session).*may or may not"):
        site.other.nodes["pm-1"].run(slow, stopped=lambda: True)


def two_steps(site: Site, **more: Any) -> None:
    steps = [Step("pm-1", each, site.step(each), **more) for each in ("one", "two")]
    with site.slow.lock("slow", "web"):
        site.slow.apply(plan("both", *steps))


def under(site: Site, word: str) -> list[str]:
    """The commands that ran while the lock was of `word`."""
    return [line.split()[0] for line in site.ran if f'"what": "{word}"' in line]


def test_a_step_whose_lock_another_manager_has_by_now_does_not_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link is cut between the last look at the lock and the step, until the node has given the lock to another one;
    then all that was on its way arrives."""
    cut = cut_after(monkeypatch, site, times=2)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(two_steps, site)
        assert cut.wait(WAIT)
        with site.other.lock("other", "web"):
            site.wire.heal()
            error = late.exception(WAIT)
            site.other.apply(plan("mine", Step("pm-1", "mine", site.step("mine"))))
    assert under(site, "other") == ["mine"]
    assert under(site, "slow") == ["one"]
    assert isinstance(error, StepFailed)
    assert "step 2 of 2 failed: two, on pm-1" in str(error)
    assert "nothing ran: web is not locked for this command any more on pm-1" in str(error)
    assert "for: other. Look what it did" in str(error)


def test_what_undoes_does_not_run_under_another_ones_lock_either(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = cut_after(monkeypatch, site, times=2)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(two_steps, site, undo=site.step("undo"))
        assert cut.wait(WAIT)
        with site.other.lock("other", "web"):
            site.wire.heal()
            error = late.exception(WAIT)
    assert [line.split()[0] for line in site.ran] == ["one"]
    assert "NOT undone; see first what the other command did, then run by hand what is still right" in str(error)


def test_a_lock_that_nobody_had_since_is_taken_again_and_the_step_runs(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = cut_after(monkeypatch, site, times=2)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(two_steps, site)
        assert cut.wait(WAIT)
        until(lambda: Path(lock_files.file("web")).read_text().startswith("-"))
        site.wire.heal()
        late.result(WAIT)
    assert under(site, "slow") == ["one", "two"]


def until(holds: Callable[[], bool]) -> None:
    over = threading.Event()
    for _ in range(WAIT * 10):
        if holds():
            return
        over.wait(0.1)
    pytest.fail("never")


def test_a_lock_is_not_given_while_a_step_runs_whose_manager_is_not_heard(site: Site) -> None:
    """It began in time; whoever comes next waits for its end."""
    began, go = site.log.with_name("began"), site.log.with_name("go")
    script = 'touch "$1"; until [ -e "$2" ]; do sleep 0.1; done; echo "long under $(cat "$3")" >>"$4"'
    long = bash(script, str(began), str(go), lock_files.file("web"), str(site.log))
    with ThreadPoolExecutor(2) as pool:

        def slow() -> None:
            with site.slow.lock("slow", "web"):
                site.slow.apply(plan("long", Step("pm-1", "long", long)))

        def other() -> None:
            with site.other.lock("other", "web"):
                site.other.apply(plan("mine", Step("pm-1", "mine", site.step("mine"))))

        first = pool.submit(slow)
        until(began.exists)
        site.wire.cut()
        until(lambda: Path(lock_files.file("web")).read_text().startswith("-"))
        second = pool.submit(other)
        with pytest.raises(TimeoutError):
            second.result(1)
        go.touch()
        second.result(WAIT)
        site.wire.heal()
        first.result(WAIT)
    assert (under(site, "slow"), under(site, "other")) == (["long"], ["mine"])


def test_a_manager_that_comes_after_all_was_over_is_told(site: Site) -> None:
    """The other one came and went while the link was cut; what the first one saw may not be true any more."""
    with ThreadPoolExecutor(1) as pool, site.slow.lock("slow", "web"):
        site.wire.cut()
        with site.other.lock("other", "web"):
            pass
        site.wire.heal()
        late = pool.submit(site.slow.apply, plan("late", Step("pm-1", "late", site.step("late"))))
        error = late.exception(WAIT)
    assert isinstance(error, PmcError)
    # On a slow machine it has been silent for too long by then, and is told that in place of the lock's name.
    assert "for: other. Look what it did" in str(error)
    assert site.ran == []
