"""While a VM moves, sides that lose each other hold their writes: where it stays, or has gone, they go on, and nowhere
else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from invoke.context import Context

from pmc import drbd, virsh
from pmc.actions import Wait
from pmc.cluster import Cluster
from pmc.errors import Refused
from pmc.facts.domain_disks import parse_running
from pmc.model import ClusterState, Domain, Running
from pmc.plan import Plan
from pmc.plans import close_migration, failover, interrupted_migration, peer, stop
from pmc.tasks import vm as tasks
from pmc.tasks import vm_lock
from pmc.units import GiB
from pmc.view.rows import vm_rows
from tests.unit.refusals import raises
from tests.unit.samples import CLOSE, SETTINGS, changed, documents, running, with_resource

RESUME = "drbdadm resume-io web"


def lines(plan: Plan) -> list[tuple[str, str]]:
    return [(step.node, str(step.do)) for step in plan.steps]


def apart(on: str = "pm-1", why: str = "fencing") -> ClusterState:
    """In the middle of a move from pm-1; web runs on `on`."""
    state = running()
    if on != "pm-1":
        state = changed(state, "pm-1", domains={"web": Domain("web", "shut off", GiB, 1)})
        state = changed(state, on, domains={"web": Domain("web", "running", GiB, 1)})
    for node in ("pm-1", "pm-2"):
        state = with_resource(
            state, node, role="Primary", connection="Connecting", peer_role="Unknown", peer_disk="DUnknown",
            two_primaries=True, suspended=why,
        )  # fmt: skip
    return state


@pytest.mark.parametrize(("on", "other"), [("pm-1", "pm-2"), ("pm-2", "pm-1")])
def test_it_writes_again_where_it_runs_once_the_other_side_is_closed(on: str, other: str) -> None:
    plan = close_migration.close("web", apart(on))
    assert lines(plan)[0] == (other, "drbdadm secondary web")
    assert sorted(lines(plan)[1:3]) == [("pm-1", CLOSE), ("pm-2", CLOSE)]
    assert lines(plan)[3:] == [(on, RESUME)]
    assert all(step.pivot for step in plan.steps)


def test_a_side_that_holds_and_runs_nothing_is_made_secondary_by_a_stop() -> None:
    """vm.mv --cleanup wants it so, when the VM is off."""
    state = apart()
    for node in ("pm-1", "pm-2"):
        state = changed(state, node, domains={"web": Domain("web", "shut off", GiB, 1)})
    state = with_resource(state, "pm-1", role="Secondary", suspended="")
    with raises(Refused, "close_migration.close", "primary on pm-2"):
        close_migration.close("web", state)
    assert lines(stop.stop("web", False, state, SETTINGS)) == [("pm-2", "drbdadm secondary web")]
    with raises(Refused, "suspended_io.require_io", "suspended on pm-1"):
        stop.stop("web", False, apart(), SETTINGS)


@pytest.mark.parametrize("why", ["", "user", "no-data"])
def test_what_somebody_else_suspended_is_left(why: str) -> None:
    assert RESUME not in dict(lines(close_migration.close("web", apart(why=why)))).values()


def test_with_the_other_node_silent_libvirt_must_have_given_the_move_up() -> None:
    state = changed(apart(), "pm-2", down="no ssh within 10 s")
    plan = close_migration.close("web", state)
    assert [step.note for step in plan.steps] == [
        "see that web goes on here", "allow one primary of web only", "let web write again",
    ]  # fmt: skip
    assert lines(plan)[1:] == [("pm-1", CLOSE), ("pm-1", RESUME)]
    # Nothing is held: nothing to wait for.
    assert lines(close_migration.close("web", changed(apart(why=""), "pm-2", down="no ssh within 10 s"))) == [
        ("pm-1", CLOSE)
    ]


def test_what_was_closed_when_it_failed_is_let_go_all_the_same() -> None:
    state = with_resource(apart(), "pm-1", two_primaries=False)
    plan = close_migration.close("web", changed(state, "pm-2", down="no ssh within 10 s"))
    assert lines(plan)[1:] == [("pm-1", RESUME)]


def test_what_was_held_while_it_was_closed_is_let_go() -> None:
    """The link may be lost between the look that closes and its last step."""
    closed = with_resource(apart(), "pm-1", two_primaries=False)
    assert lines(close_migration.resume_after_close("web", closed)) == [("pm-1", RESUME)]
    silent = close_migration.resume_after_close("web", changed(closed, "pm-2", down="no ssh within 10 s"))
    assert [step.note for step in silent.steps] == ["see that web goes on here", "let web write again"]
    assert not close_migration.resume_after_close("web", with_resource(closed, "pm-1", suspended="")).steps
    twice = changed(closed, "pm-2", domains={"web": Domain("web", "running", GiB, 1)})
    assert not close_migration.resume_after_close("web", twice).steps


@pytest.mark.parametrize(
    ("state", "job", "goes"),
    [
        ("running", "Job type:         None        \n", True),
        ("running", "Job type:         Unbounded   \nOperation:        Outgoing migration\n", False),
        ("paused", "Job type:         None        \n", False),
        ("running", "", False),
        ("", "", False),
    ],
)
def test_whether_it_goes_on_here(tmp_path: Path, state: str, job: str, goes: bool) -> None:
    """A guest that stands still may run on the other node."""
    (tmp_path / "virsh").write_text(f"#!/bin/sh\ncase $3 in domstate) printf '{state}';; *) printf '{job}';; esac\n")
    (tmp_path / "virsh").chmod(0o755)
    asked = virsh.goes_on("web")
    done = subprocess.run(
        asked.argv, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == (0 if goes else 1)


def silent(source: str, **link: str) -> ClusterState:
    """pm-1 has it so, and pm-2, to which it was about to move, does not answer."""
    state = changed(apart(), "pm-1", domains={"web": Domain("web", source, GiB, 1)})
    return changed(with_resource(state, "pm-1", **link), "pm-2", down="no ssh within 10 s")


def test_a_guest_that_stands_still_beside_a_silent_node_is_left_to_a_person() -> None:
    """It may run there. What is said is what must be true first."""
    step = close_migration.close("web", silent("paused")).steps[0]
    assert isinstance(step.do, Wait)
    assert step.do.ask == virsh.goes_on("web"), "see above"
    assert (
        "Only when the power of that is really off, here: drbdadm resume-io web, virsh resume web" in step.do.otherwise
    )
    assert "may run on pm-2. Only when the power of that is really off" in close_migration.paused_note(
        "web", silent("paused")
    )
    linked = silent("paused", connection="Connected", peer_role="Primary")
    assert "may run on pm-2" in close_migration.paused_note("web", linked)
    sure = silent("paused", connection="Connected", peer_role="Secondary")
    assert close_migration.paused_note("web", sure) == "; but it is suspended there. Next: on pm-1: virsh resume web"
    assert close_migration.paused_note("web", silent("running")) == ""


def received(source: str = "running", target: str = "paused", why: str = "fencing") -> ClusterState:
    state = apart(why=why)
    for node, its in (("pm-1", source), ("pm-2", target)):
        state = changed(state, node, domains={"web": Domain("web", its, GiB, 1)})
    return state


def test_what_came_to_the_other_side_is_ended_while_the_writes_are_held() -> None:
    for source in ("running", "paused"):
        plan = interrupted_migration.half_received("web", "pm-1", received(source))
        assert lines(plan) == [("pm-2", str(virsh.drop_incoming("web")))]


@pytest.mark.parametrize(
    "state", [received("paused", "running"), received(why=""), received("running", "shut off"), apart("pm-2")]
)
def test_nothing_is_ended_that_runs_or_that_libvirt_ends_itself(state: ClusterState) -> None:
    assert interrupted_migration.half_received("web", "pm-1", state).steps == ()


def noted(state: ClusterState, source: str = "", target: str = "") -> ClusterState:
    """With what libvirt notes on each node."""
    for node, moves in (("pm-1", source), ("pm-2", target)):
        state = changed(state, node, running={"web": Running("kvm", (), moves)})
    return state


@pytest.mark.parametrize(
    ("source", "target", "sure"),
    [
        ("out", "in", "pm-1"), ("in", "out", "pm-2"), ("", "in", "pm-1"), ("out", "", ""), ("", "", ""),
        ("in", "in", ""), ("out", "out", ""),
    ],
)  # fmt: skip
def test_which_of_two_that_stand_still_has_run(source: str, target: str, sure: str) -> None:
    """After the manager died. What has never run is ended; without libvirt's word nothing is, and nothing is said to
    run twice."""
    state = noted(received("paused", "paused"), source, target)
    assert interrupted_migration.source_of("web", state) == sure
    ended = interrupted_migration.half_received("web", interrupted_migration.source_of("web", state), state)
    assert [node for node, _ in lines(ended)] == [node for node in ("pm-1", "pm-2") if sure and node != sure]
    with pytest.raises(Refused) as caught:
        close_migration.close("web", state)
    assert "RUNS TWICE" not in str(caught.value)
    assert ("libvirt does not tell on which of them it ran" in str(caught.value)) is not bool(sure)


def test_one_that_runs_and_one_that_stands_still_are_no_two_that_run() -> None:
    state = received("running", "paused")
    with raises(
        Refused, "requirements.runs_once", "paused on pm-2", "only should that not help: on pm-2: virsh destroy web"
    ):
        close_migration.close("web", state)
    assert [row["state"] for row in documents(vm_rows(state))] == ["moving"]
    with pytest.raises(Refused, match="RUNS TWICE"):
        close_migration.close("web", received("running", "running"))


def test_what_a_dead_manager_left_is_ended_by_the_next_cleanup(monkeypatch: pytest.MonkeyPatch) -> None:
    """On pm-2, where it never ran; then it is closed."""
    seen, done = iter([received("running", "shut off"), apart(), running()]), list[tuple[str, str]]()
    monkeypatch.setattr(tasks, "located", lambda *args, **how: noted(received("paused", "paused"), "out", "in"))
    for module in (vm_lock, tasks):
        monkeypatch.setattr(module, "refresh_vm", lambda *args, **how: next(seen))
    monkeypatch.setattr(Cluster, "state", lambda self, **how: running())
    monkeypatch.setattr(Cluster, "apply", lambda self, plan, **how: done.extend(lines(plan)))
    monkeypatch.setattr(tasks, "opened", lambda *args: Cluster(SETTINGS))
    tasks.mv(Context(), "web", cleanup=True)
    assert done[0] == ("pm-2", str(virsh.drop_incoming("web")))
    assert ("pm-1", RESUME) in done


def test_libvirts_note_of_a_move_is_read() -> None:
    note = "<job type='none' async='migration {}' phase='perform3' flags='0x0'>\n"
    for async_, moves in (("in", "in"), ("out", "out")):
        text = f"./web.xml\n{note.format(async_)}<domain type='kvm' id='1'>\n"
        assert parse_running(text)["web"].moves == moves
    assert parse_running("./web.xml\n<job type='query' async='none'/>\n<domain type='kvm' id='1'>\n")["web"].moves == ""


def test_a_guest_whose_writes_are_held_is_not_waited_for() -> None:
    """QEMU may wait for them itself."""
    assert interrupted_migration.in_progress("web", received("running", "paused"))
    held = changed(apart(), "pm-1", domains={"web": Domain("web", "paused", GiB, 1)})
    assert not interrupted_migration.in_progress("web", held)
    assert interrupted_migration.in_progress("web", with_resource(held, "pm-1", suspended=""))


def test_a_survivor_that_holds_its_writes_starts_it_all_the_same() -> None:
    state = changed(received(target="shut off"), "pm-1", down="no ssh within 10 s", answers=False, domains={})
    plan = failover.failover("web", state, SETTINGS)
    told = [line for _, line in lines(plan)]
    assert told.index(CLOSE) < told.index(RESUME) < told.index(str(virsh.start("web")))
    for step in plan.steps:
        assert not step.pivot
    with raises(Refused, "suspended_io.require_io", "suspended on pm-2"):
        failover.failover("web", with_resource(state, "pm-2", suspended="user"), SETTINGS)


def test_each_kernel_has_the_option_where_it_looks_for_it() -> None:
    for version, section in (("8.4.11", "disk-options"), ("", "disk-options"), ("9.2.18", "net-options")):
        for allowed in (True, False):
            assert drbd.two_primaries("web", allowed, version).argv[-2:] == ("web", section)


def test_a_vm_whose_move_left_it_open_gets_no_new_peer_before_it_is_closed() -> None:
    """Without its old peer it would hold its writes until the new one has all."""
    state = with_resource(running(), "pm-1", two_primaries=True)
    with pytest.raises(Refused, match="left two primaries allowed on pm-1"):
        peer.choose("web", "pm-3", state, SETTINGS)
