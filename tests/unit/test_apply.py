"""A cluster that applies a plan: what it holds meanwhile, and how it is walked back."""

from __future__ import annotations

import signal
from typing import Any, cast

import pytest
from invoke.config import Config
from invoke.context import Context

from pmc.command import Command, Query, command
from pmc.errors import Interrupted, StepFailed
from pmc.lock import ALLOCATION
from pmc.node import _drain
from pmc.plan import Step, Wait, plan
from pmc.tasks import ns
from tests.unit.counted import CountedNode, counted
from tests.unit.stories import with_web


def test_the_numbers_are_free_again_when_a_plan_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """vm.peer finishing a copy that is there already may take hours; nobody needs to wait for that."""
    cluster = counted(monkeypatch, with_web())
    with cluster.lock("test", "web"), cluster.lock("test", ALLOCATION) as numbers:
        cluster.apply(plan("nothing to allocate"))
        assert numbers.holds == {}
        assert cluster.locked[0].holds != {}


def test_ctrl_c_does_not_end_what_undoes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Putting a disk back takes long: a second of it would leave half a disk."""
    cluster, ran = counted(monkeypatch, with_web()), list[tuple[str, bool]]()

    def run(node: CountedNode, given: Command, **how: Any) -> str:
        ran.append((given.argv[0], how["stopped"]()))
        if given.argv[0] == "write":
            cluster.stop.set()
            raise Interrupted()
        return ""

    monkeypatch.setattr(CountedNode, "run", run)
    steps = Step("pm-1", "keep it", command("keep"), undo=command("back")), Step("pm-1", "write", command("write"))
    with pytest.raises(StepFailed, match=r"Undone: keep it"):
        cluster.apply(plan("restore", *steps))
    assert ran == [("keep", False), ("write", False), ("back", False)]


def interrupted_by(monkeypatch: pytest.MonkeyPatch, word: str) -> list[str]:
    """Ctrl-C comes while the command with this word runs, which ends well all the same. What runs, in order."""
    ran, really = list[str](), CountedNode.run

    def run(node: CountedNode, given: Command, **how: Any) -> str:
        ran.append(str(given))
        if word in str(given):
            signal.raise_signal(signal.SIGINT)
        return really(node, given, **how)

    monkeypatch.setattr(CountedNode, "run", run)
    return ran


def test_ctrl_c_in_the_last_step_is_too_late_but_nothing_begins_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = counted(monkeypatch, with_web())
    ran = interrupted_by(monkeypatch, "secondary")
    close = plan("close", Step("pm-2", "make web secondary", command("drbdadm", "secondary", "web")))
    cluster.apply(close)
    with pytest.raises(StepFailed, match=r"step 1 of 1 failed: .*\n  interrupted\n  Nothing was changed"):
        cluster.apply(close)
    assert len(ran) == 1
    cluster.apply(close, to_the_end=True)
    assert len(ran) == 2, "what must be closed is closed"


def test_ctrl_c_does_not_end_a_wait_that_goes_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, answers = counted(monkeypatch, with_web()), [True, False]
    cluster.stop.set()
    wait = Wait(Query(command("true"), lambda text: True), 60, "never", "true")
    monkeypatch.setattr(CountedNode, "ask", lambda node, query: [answers.pop()])
    cluster.apply(plan("close", Step("pm-1", "wait", wait)), to_the_end=True)
    assert answers == []


def test_a_task_that_was_done_says_so_and_the_next_one_is_not_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fab vm.stop web vm.start web`, Ctrl-C while the first one's last step runs."""
    cluster = counted(monkeypatch, with_web())
    ran = interrupted_by(monkeypatch, "secondary")
    ns["vm.stop"](Context(Config()), name="web", force=True)
    assert "interrupted, but all was done by then, and stays\n" in capsys.readouterr().err
    assert "secondary" in ran[-1]
    cluster.stop.clear()  # the next task has a cluster of its own
    with pytest.raises(Interrupted, match=r"vm.stop web --force is done, vm.start web was not begun"):
        ns["vm.start"](Context(Config()), name="web")
    assert "secondary" in ran[-1]
    ns["vm.start"](Context(Config()), name="web")
    assert "start" in ran[-1], "said once"


def test_a_signal_that_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """`nohup fab pm.evacuate` goes on when the person logs out."""
    cluster = counted(monkeypatch, with_web())
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with cluster.interruptible():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
            signal.raise_signal(signal.SIGHUP)
        assert not cluster.stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_one_that_a_shell_ignores_for_what_runs_in_the_background_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """`kill -INT` of a command in a script's background means it."""
    cluster = counted(monkeypatch, with_web())
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with cluster.interruptible():
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted):
            cluster.go_on()
    finally:
        signal.signal(signal.SIGINT, before)


def test_output_without_an_end_leaves_ctrl_c_its_turn() -> None:
    class Endless:
        def recv_ready(self) -> bool:
            return True

        def recv(self, size: int) -> bytes:
            return b"x"

        def recv_stderr_ready(self) -> bool:
            return False

    out: list[bytes] = []
    assert not _drain(cast(Any, Endless()), out, [], None, None)
    assert out
