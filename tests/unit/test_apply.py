"""A cluster that applies a plan: what it holds meanwhile, and how it is walked back."""

from __future__ import annotations

import signal
from typing import Any, cast

import pytest

from pmc.command import Command, command
from pmc.errors import Interrupted, StepFailed
from pmc.lock import ALLOCATION
from pmc.node import _drain
from pmc.plan import Step, plan
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
        with pytest.raises(Interrupted), cluster.interruptible():
            signal.raise_signal(signal.SIGINT)
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
