"""A cluster that applies a plan: what it holds meanwhile, and how it is walked back."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, cast

import pytest
from invoke.config import Config
from invoke.context import Context

from pmc import drbd
from pmc.actions import Fetch, Relay, Wait
from pmc.command import Command, command
from pmc.errors import CommandFailed, Fenced, InDoubt, Interrupted, Refused, StepFailed
from pmc.lock_files import ALLOCATION
from pmc.plan import Step, plan
from pmc.tasks import ns
from pmc.transport.node import _drain
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
    with cluster.lock("test", "web"), pytest.raises(StepFailed, match=r"Undone: keep it"):
        cluster.apply(plan("restore", *steps))
    assert ran == [("keep", False), ("write", False), ("back", False)]


def test_each_step_its_question_and_its_undo_show_their_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers' lock only until they are claimed; the VM's to the end."""
    cluster, ran = counted(monkeypatch, with_web()), dict[str, list[str]]()

    def run(node: CountedNode, given: Command, **how: Any) -> str:
        ran[str(given)] = [name for name, token in how["locks"] if cluster.tokens[node.name][name] == token]
        assert len(ran[str(given)]) == len(how["locks"])
        if given.argv[0] == "lost":
            raise InDoubt(node.name, "lost", "the connection was lost")
        return ""

    monkeypatch.setattr(CountedNode, "run", run)
    steps = (
        Step("pm-1", "claim", command("claim"), undo=command("unclaim"), claims=True),
        Step("pm-2", "more", command("more")),
        Step("pm-2", "relay", Relay("pm-1", command("read"), command("write"))),
        Step("pm-1", "lost", command("lost"), undo=command("back"), check=command("check")),
    )
    with cluster.lock("test", "web"), cluster.lock("test", ALLOCATION), pytest.raises(StepFailed):
        cluster.apply(plan("claims", *steps))
    both, one = ["web", ALLOCATION], ["web"]
    assert ran == {"claim": both, **dict.fromkeys(("more", "read", "write <<'EOF'\n\nEOF"), one), "lost": one,
                   "check": one, "back": one, "unclaim": one}  # fmt: skip


def test_the_lock_is_seen_to_before_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, seen = counted(monkeypatch, with_web()), list[str]()
    monkeypatch.setattr("pmc.transport.lock.Lock.ensure", lambda lock, node: seen.append(f"ensure {node.name}"))
    monkeypatch.setattr(CountedNode, "run", lambda node, given, **how: seen.append(str(given)))
    steps = Step("pm-1", "one", command("one")), Step("pm-2", "two", command("two"))
    with cluster.lock("test", "web"):
        cluster.apply(plan("two", *steps))
    assert seen == ["ensure pm-1", "one", "ensure pm-2", "two"]


def test_without_a_lock_nothing_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = counted(monkeypatch, with_web())
    with pytest.raises(Refused, match=r"one: nothing is locked; lock what it changes"):
        cluster.apply(plan("one", Step("pm-1", "one", command("one"))))


def test_another_ones_lock_stops_a_plan_and_its_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done stays, and whoever reads it is told to look first."""
    cluster, ran = counted(monkeypatch, with_web()), list[str]()

    def run(node: CountedNode, given: Command, **how: Any) -> str:
        ran.append(str(given))
        if len(ran) > 1:
            raise Fenced(node.name, str(given), "nothing ran: web is not locked for this command any more", "b2")
        return ""

    monkeypatch.setattr(CountedNode, "run", run)
    steps = (
        Step("pm-1", "one", command("one"), undo=command("un-one")),
        Step("pm-1", "two", command("two"), undo=command("un-two"), check=command("check")),
    )
    with cluster.lock("test", "web"), pytest.raises(StepFailed) as caught:
        cluster.apply(plan("both", *steps))
    assert ran == ["one", "two", "un-one"], "nothing is in doubt of the second: it did not run"
    assert str(caught.value).splitlines() == [
        "both: step 2 of 2 failed: two, on pm-1",
        "  pm-1: 'two': nothing ran: web is not locked for this command any more",
        "  NOT undone; see first what the other command did, then run by hand what is still right:",
        "    # pm-1: pm-1: 'un-one': nothing ran: web is not locked for this command any more",
        "    un-one",
    ]


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
    close = plan("close", Step("pm-2", "make web secondary", drbd.secondary("web")))
    cluster.until_closed(cluster.lock("test", "web"))
    cluster.apply(close)
    with pytest.raises(StepFailed, match=r"step 1 of 1 failed: .*\n  interrupted\n  Nothing had to be undone"):
        cluster.apply(close)
    assert len(ran) == 1
    cluster.apply(close, to_the_end=True)
    assert len(ran) == 2, "what must be closed is closed"


def test_ctrl_c_does_not_end_a_wait_that_goes_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, answers = counted(monkeypatch, with_web()), [0, 1]
    cluster.stop.set()
    wait = Wait(command("true"), 60, "never")
    monkeypatch.setattr(CountedNode, "ask_each", lambda node, query: [answered(node, answers.pop())])
    cluster.apply(plan("close", Step("pm-1", "wait", wait)), to_the_end=True, under=())
    assert answers == []


def test_a_task_that_was_done_says_so_and_the_next_one_is_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`fab vm.stop web vm.start web`, Ctrl-C while the first one's last step runs."""
    counted(monkeypatch, with_web())
    ran = interrupted_by(monkeypatch, "secondary")
    with pytest.raises(Interrupted, match=r"^interrupted after the last step; vm.stop web --force is done, and stays$"):
        ns["vm.stop"](Context(Config()), name="web", force=True)
    assert "secondary" in ran[-1]


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


def test_a_logout_ends_it_as_ctrl_c_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done is undone; by itself the signal would kill pmc in the middle of a step."""
    cluster = counted(monkeypatch, with_web())
    before = signal.signal(signal.SIGHUP, lambda *_: pytest.fail("it is not pmc's"))
    try:
        with cluster.interruptible():
            signal.raise_signal(signal.SIGHUP)
        assert cluster.stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_a_node_prints_becomes_a_file_of_the_manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = counted(monkeypatch, with_web())
    monkeypatch.setattr(CountedNode, "run", lambda node, given, *, sink, **how: sink(str(given).encode()))
    fetch = Fetch(command("cat", "/b"), str(tmp_path / "x"), 6)
    cluster.apply(plan("copy", Step("pm-1", "copy", fetch)), under=())
    assert (tmp_path / "x").read_text() == "cat /b"


def test_a_wait_has_its_deadline_and_says_what_never_was(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = counted(monkeypatch, with_web())
    wait = Wait(command("true"), 0.1, "it runs")
    monkeypatch.setattr(CountedNode, "ask_each", lambda node, query: [answered(node, 1)])
    with pytest.raises(StepFailed, match=r"it runs \(waited 0.1 s\)"):
        cluster.apply(plan("see", Step("pm-1", "wait", wait)), under=())


def test_a_wait_that_cannot_ask_does_not_go_on_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = counted(monkeypatch, with_web())
    monkeypatch.setattr(CountedNode, "ask_each", lambda node, query: [answered(node, 2)])
    with pytest.raises(StepFailed, match="ended with status 2: cannot ask"):
        cluster.apply(plan("see", Step("pm-1", "wait", Wait(command("true"), 60, "it runs"))), under=())


def answered(node: CountedNode, status: int) -> object:
    return CommandFailed(node.name, "true", status, "cannot ask") if status else ""


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
