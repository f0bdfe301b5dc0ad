"""Taking locks on several nodes: all or none, waiting for another manager and giving up, and what becomes of a lock
whose connection was lost. The sessions that hold them are test_lock.py's; here they are stand-ins."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from pmc import lock_files
from pmc.cluster import Cluster
from pmc.command import Answer, command
from pmc.errors import CommandFailed, Fenced, InDoubt, NodeDown, PmcError, Refused
from pmc.lock_files import Holder, Refusal
from pmc.transport import lock as locks
from pmc.transport.lock import Lock, proved
from pmc.transport.node import Node
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS

ME = Holder("ann@here", 1, "2026-01-01T00:00:00+00:00", "vm.mv web", "m1")
BOB = "bob@there (process 7) since 2026-01-01T00:00:00+00:00 for: vm.rm web"
HELD, BUSY = Refusal("held", "web", BOB), Refusal("busy", "web", BOB)
MINE = Refusal("held", "web", str(ME), "m1")


class Session:
    """In place of locks.Hold. `answers` has for each node what its next sessions are told; then they get the locks."""

    answers: dict[str, list[Refusal | PmcError]]
    open: list[Session]

    def __init__(self, node: Any, names: object, holder: object, again: bool = False) -> None:
        self.again = again
        self.node, self.lost, self.refusal = node, False, None
        told = self.answers.get(node.name)
        answer = told.pop(0) if told else None
        if isinstance(answer, PmcError):
            raise answer
        self.refusal = answer
        if answer is None:
            self.open.append(self)

    def beat(self) -> None: ...

    def close(self) -> None:
        self.lost = True

    def release(self) -> None:
        self.open.remove(self)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Session]]:
    Session.answers, Session.open = {}, []
    monkeypatch.setattr(locks, "Hold", Session)
    monkeypatch.setattr("pmc.transport.node.Node.reach", lambda node: True)
    monkeypatch.setattr("pmc.transport.lock.time.sleep", lambda seconds: None)
    yield Session
    assert Session.open == [], "a lock is left behind"


def hold(seconds: float, work: Callable[[Lock, Cluster], object] = lambda lock, cluster: None) -> None:
    with Cluster(SETTINGS) as cluster, Lock(["web"], ME).taken(cluster.on_all, seconds) as taken:
        work(taken, cluster)


@pytest.mark.parametrize("said", ["held mail {}\n", "busy x'$(reboot)' {}\n", "since  {}\n"])
def test_a_node_that_tells_of_another_lock_gives_none(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """What is told of it is a command to paste, with its name."""
    closed = list[bool]()
    channel = SimpleNamespace(settimeout=lambda seconds: None, close=lambda: closed.append(True))
    node: Any = SimpleNamespace(
        name="pm-1", channel=lambda: channel, settings=SETTINGS, connection=SimpleNamespace(user="root")
    )
    monkeypatch.setattr(locks, "begin", lambda *args: "")
    monkeypatch.setattr(locks, "received", lambda *args, **how: said.encode())
    with pytest.raises(CommandFailed, match="it tells of a lock that it was not asked for"):
        locks.Hold(node, ["web"], ME)
    assert closed == [True]


def test_what_looks_for_a_command_can_be_pasted() -> None:
    told = lock_files.told(Refusal("busy", "x'; reboot '", BOB), "pm-1")
    assert shlex.split(told.partition("there: ")[2].partition("; to end it")[0])[:2] == ["pgrep", "-af"]
    assert shlex.split(told.partition("to end it: ")[2]) == ["pkill", "-INT", "-f", "^timeout .*/x'; reboot '[.]busy "]


def test_a_step_that_another_lock_kept_from_running_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own lock was not lost."""
    node = Node(SETTINGS.nodes["pm-1"], SETTINGS, None)
    monkeypatch.setattr(Node, "_sudo", lambda self: False)
    for name, kind in (("web", Fenced), ("mail", CommandFailed)):
        answer = Answer(lock_files.FENCED, "", f"fenced {lock_files.FOLDER}/{name}.busy -\n")
        monkeypatch.setattr(Node, "_exchange", lambda *args, answer=answer, **how: answer)
        with pytest.raises(kind):
            node.run(command("true"), locks=[("web", "m1")])


def test_all_nodes_are_held_and_let_go(sessions: type[Session]) -> None:
    hold(1, lambda lock, cluster: len(sessions.open) == 3 or pytest.fail("not on all nodes"))


def test_who_waits_is_told_for_whom_once_and_goes_on(
    sessions: type[Session], capsys: pytest.CaptureFixture[str]
) -> None:
    """All or none: while one node refuses, the others are let go, or two managers would wait for each other."""
    sessions.answers["pm-2"] = [HELD, HELD, BUSY]
    hold(60, lambda lock, cluster: len(sessions.open) == 3 or pytest.fail("not on all nodes"))
    assert capsys.readouterr().err.splitlines() == [
        f"waiting, at most 60 s: web: locked on pm-2 by {BOB}",
        f"waiting, at most 60 s: web: a command of a manager that is gone still runs on pm-2: {BOB}. It ends at its "
        "deadline. To see it there: pgrep -af '^timeout .*/web[.]busy '; "
        "to end it: pkill -INT -f '^timeout .*/web[.]busy '",
    ]


def test_who_waits_gives_up_and_has_touched_nothing(sessions: type[Session]) -> None:
    sessions.answers["pm-2"] = [HELD] * 1_000_000
    with raises(Refused, "lock.Lock.taken", "on pm-2 by bob@there", "for: vm.rm web", "0.1 s", "nothing"):
        hold(0.1, lambda lock, cluster: pytest.fail("it was not given"))


def test_two_names_of_one_machine_are_told_and_not_waited_for(sessions: type[Session]) -> None:
    sessions.answers["pm-2"] = [HELD, Refusal("held", "web", str(ME))]
    with pytest.raises(
        Refused, match=r"^pm-2: is the same machine as another node of pmc.conf, where this command has"
    ):
        hold(60, lambda lock, cluster: pytest.fail("it was not given"))


def test_a_node_that_is_down_does_not_stand_in_the_way_and_a_tool_that_fails_does(sessions: type[Session]) -> None:
    sessions.answers["pm-2"] = [NodeDown("pm-2: no ssh")]
    hold(1, lambda lock, cluster: len(sessions.open) == 2 or pytest.fail("not on the nodes that answer"))
    sessions.answers["pm-2"] = [InDoubt("pm-2", "flock", "?")]
    with pytest.raises(InDoubt):
        hold(1)


def test_a_lock_that_was_lost_with_its_connection_is_taken_again_before_the_next_step(sessions: type[Session]) -> None:
    """What the connection was lost with may run on: its end is waited for."""

    def work(lock: Lock, cluster: Cluster) -> None:
        first = sessions.open[0]
        lock.ensure(first.node)
        assert sessions.open[0] is first, "it was held still"
        first.lost = True
        first.release()
        sessions.answers[first.node.name] = [BUSY, BUSY]
        lock.ensure(first.node)
        assert sessions.answers[first.node.name] == []
        assert len(sessions.open) == 3
        assert [session.again for session in sessions.open] == [False, False, True]

    hold(1, work)


def test_a_node_that_gave_it_later_lets_go_with_the_others(sessions: type[Session]) -> None:
    """A command locks the VM's own nodes, and any other when a step comes to it."""
    with Cluster(SETTINGS) as cluster:
        near = partial(cluster.on_all, names=["pm-1"])
        with Lock(["web"], ME).taken(near, 1) as taken:
            taken.ensure(cluster.nodes["pm-3"])
            assert [session.node.name for session in sessions.open] == ["pm-1", "pm-3"]
            assert not any(session.again for session in sessions.open)
        assert sessions.open == []


def test_a_lock_that_somebody_else_has_by_now_stops_the_command(sessions: type[Session]) -> None:
    def work(lock: Lock, cluster: Cluster) -> None:
        first = sessions.open[0]
        first.lost = True
        sessions.answers[first.node.name] = [HELD]
        lock.ensure(first.node)

    with pytest.raises(Fenced, match=r"locked on pm-\d by bob@there"):
        hold(1, work)


def late(token: str, times: int) -> tuple[Callable[[], int], list[int]]:
    """A step that its node turns away so often: it knows the lock of `token` as the latest."""
    tried: list[int] = []

    def work() -> int:
        tried.append(len(tried))
        if len(tried) <= times:
            raise Fenced("pm-1", "drbdadm primary web", "nothing ran", token)
        return 7

    return work, tried


def test_a_step_that_came_after_its_node_let_go_takes_the_lock_again_and_runs(sessions: type[Session]) -> None:
    """That the node let go is not known here yet; its old session may be about to end."""

    def work(lock: Lock, cluster: Cluster) -> None:
        (first,) = [each for each in sessions.open if each.node.name == "pm-1"]
        sessions.answers["pm-1"] = [MINE, MINE]
        step, tried = late(ME.token, 1)
        assert proved(first.node, [lock], step) == 7
        assert (first.lost, len(tried), sessions.answers["pm-1"]) == (True, 2, [])
        sessions.open.remove(first)
        assert [each.again for each in sessions.open if each.node.name == "pm-1"] == [True]

    hold(1, work)


@pytest.mark.parametrize(("token", "times", "most"), [("b2", 1, 1), ("", 1, 1), (ME.token, 9, 2)])
def test_a_step_that_another_ones_lock_turned_away_stays_so(
    sessions: type[Session], token: str, times: int, most: int
) -> None:
    step, tried = late(token, times)

    def work(lock: Lock, cluster: Cluster) -> None:
        with pytest.raises(Fenced):
            proved(cluster.nodes["pm-1"], [lock], step)
        sessions.open[:] = [each for each in sessions.open if not each.lost]

    hold(1, work)
    assert len(tried) == most


def test_a_lock_that_is_over_proves_nothing(sessions: type[Session]) -> None:
    """The numbers for new VMs are let go while the VM's own lock is held on."""

    def work(lock: Lock, cluster: Cluster) -> None:
        assert list(lock.proofs) == [("web", ME.token)]
        lock.release()
        assert not lock.proofs

    hold(1, work)
