"""vm.peer, and where a VM lives when files of nodes contradict each other."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pmc import drbd_new_peer, lvm
from pmc.errors import NodeDown, Refused, StepFailed
from pmc.model import ClusterState, Domain, NodeState, Resource, ResourceFile, Volume
from pmc.plan import apply
from pmc.plans import close_migration, migrate, peer, remove, remove_steps, requirements, start, stop
from pmc.plans import pm as nodes
from pmc.units import GiB, MiB
from pmc.view.rows import vm_rows
from tests.sim.fake import Faulty, World, done
from tests.sim.machine import Machine
from tests.unit.refusals import raises
from tests.unit.samples import (
    SETTINGS,
    XML,
    alone,
    cells,
    changed,
    cluster,
    documents,
    home,
    node,
    running,
    stopped,
    with_resource,
)
from tests.unit.stories import STORIES, half_made_peer, half_peered, peered, with_stale_copy, with_web, without_pm_2

NEW = ("vm.peer", "vm.peer-alone", "vm.peer-dead", "vm.peer-iso")


def says(name: str, *hosts: str, **more: object) -> NodeState:
    return node(name, files={"web": ResourceFile("web", 1, "/dev/vg/web", hosts, (7800,))}, **more)


DOWN = "no ssh"
RUNS = {"domains": {"web": Domain("web", "running", GiB, 1)}}
MADE = {"web": Volume("web", "vg", GiB, ("pmc",))}


@pytest.mark.parametrize(
    ("state", "homes", "stale_copies", "contradicted"),
    [
        (running(), ["pm-1", "pm-2"], [], False),
        (alone(active=True), ["pm-1"], [], False),
        # pm-2 has its old file: pm-1, which it names, says otherwise.
        (cluster(says("pm-1", "pm-1", "pm-3"), says("pm-2", "pm-1", "pm-2"), says("pm-3", "pm-1", "pm-3")),
         ["pm-1", "pm-3"], ["pm-2"], False),
        (cluster(says("pm-1", "pm-1", "pm-3"), says("pm-2", "pm-1", "pm-2"), node("pm-3", down=DOWN)),
         ["pm-1", "pm-3"], ["pm-2"], False),
        # A new side that is being made ready, of a VM on one node.
        (cluster(says("pm-1", "pm-1"), says("pm-2", "pm-1", "pm-2")), ["pm-1"], ["pm-2"], False),
        # pm-1 is away, and could tell.
        (cluster(node("pm-1", down=DOWN), says("pm-2", "pm-1", "pm-2"), says("pm-3", "pm-1", "pm-3")),
         ["pm-1", "pm-2", "pm-3"], [], True),
        (cluster(node("pm-1", down=DOWN), says("pm-2", "pm-1", "pm-2"), says("pm-3", "pm-1", "pm-3", **RUNS)),
         ["pm-1", "pm-3"], ["pm-2"], False),
        # Each denies the other.
        (cluster(says("pm-1", "pm-1", "pm-2"), says("pm-2", "pm-2", "pm-3"), says("pm-3", "pm-3", "pm-1")),
         ["pm-1", "pm-2", "pm-3"], [], True),
        # Half made: a file is missing. With a domain alone it is not pmc's, whose file comes first.
        (cluster(says("pm-1", "pm-1", "pm-2")), ["pm-1", "pm-2"], [], False),
        (cluster(node("pm-3", **RUNS)), [], [], False),
        (cluster(node("pm-3", volumes=MADE, **RUNS)), ["pm-3"], [], False),
        (cluster(says("pm-1", "pm-1", "pm-2"), says("pm-2", "pm-1", "pm-2"), node("pm-3", **RUNS)),
         ["pm-1", "pm-2"], [], False),
        (cluster(says("pm-1", "pm-1", "pm-2"), says("pm-2", "pm-1", "pm-2"), node("pm-3", volumes=MADE, **RUNS)),
         ["pm-1", "pm-2"], ["pm-3"], False),
    ],
)  # fmt: skip
def test_where_a_vm_lives(state: ClusterState, homes: list[str], stale_copies: list[str], contradicted: bool) -> None:
    assert state.homes("web") == homes
    assert state.stale_copies("web") == stale_copies
    assert state.contradicted("web") is contradicted


def test_what_contradicts_itself_is_not_started_nor_moved() -> None:
    both = cluster(
        home("pm-1", active=False, primary=False, down=DOWN, files={}),
        home("pm-2", active=False, primary=False),
        home("pm-3", active=False, primary=False),
    )
    state = changed(both, "pm-3", files={"web": ResourceFile("web", 1, "/dev/vg/web", ("pm-1", "pm-3"), (7800,))})
    with raises(Refused, "requirements.consistent_placement", "disagree"):
        migrate.move("web", "", state, SETTINGS)
    with raises(Refused, "requirements.consistent_placement", "disagree"):
        close_migration.close("web", state)
    with raises(NodeDown, "start.seen", "may run on pm-1"):
        start.start("web", "", state, SETTINGS)
    answering = changed(state, "pm-1", down="")
    with raises(Refused, "requirements.consistent_placement", "disagree"):
        start.start("web", "pm-2", answering, SETTINGS)


def test_a_vm_that_is_off_and_has_an_old_copy_may_have_run_there_last() -> None:
    world = with_stale_copy()
    assert requirements.stale_copy_note("web", "pm-1", world.state()) == ""  # it runs: what its guest sees counts
    world.nodes["pm-1"].domains["web"] = "shut off"
    assert requirements.stale_copy_note("web", "pm-1", world.state()) == (
        "web: there is a stale copy on pm-2. If web ran there last (vm.failover while its own nodes were silent), pm-1 "
        "lacks what it wrote then. fab vm.peer web --cleanup removes that copy for good"
    )
    world.nodes["pm-2"] = Machine(saved={"web"}, volumes={"web": Volume("web", "vg", GiB)})
    assert world.state().stale_copies("web") == ["pm-2"]
    assert requirements.stale_copy_note("web", "pm-1", world.state()) == "", "nothing could run of these"


def test_a_stale_copy_is_not_started() -> None:
    world = with_stale_copy()
    world = done(world, stop.stop("web", False, world.state(), SETTINGS))
    with raises(Refused, "start.start", "--on pm-2", "web lives on pm-1 and pm-3", "fab vm.peer web --cleanup"):
        start.start("web", "pm-2", world.state(), SETTINGS)
    assert [step.node for step in start.start("web", "", world.state(), SETTINGS).steps] == ["pm-1", "pm-1"]


def test_a_stale_copy_is_not_brought_up_after_a_boot() -> None:
    world = with_stale_copy()
    world.nodes["pm-2"].resources.clear()
    state = world.state()
    assert nodes.ready(state.nodes["pm-2"], SETTINGS, state) == []
    (side,) = nodes.sides(state, ["pm-2"])
    assert not side.waiting
    assert "fab vm.peer web --cleanup" in side.note


def test_a_stale_copy_is_listed_as_what_it_is() -> None:
    state = with_stale_copy().state()
    assert cells(vm_rows(state))[0]["secondary"] == "pm-3 (stale copy: pm-2)"
    assert documents(vm_rows(state))[0]["stale_copies"] == ["pm-2"]
    silent = cluster(node("pm-1", down=DOWN), says("pm-2", "pm-1", "pm-2"), says("pm-3", "pm-1", "pm-3"))
    assert cells(vm_rows(silent))[0]["state"] == "CONTRADICTED"


def test_removing_the_vm_removes_its_stale_copies() -> None:
    world = with_stale_copy()
    after = done(world, remove.remove("web", world.state(), SETTINGS))
    assert not any(machine.volumes or machine.files or machine.domains for machine in after.nodes.values())


# -- what a change leads to --


@pytest.mark.parametrize("name", [*NEW, "vm.peer-again", "vm.peer-finish"])
def test_the_vm_is_whole_on_its_new_pair_and_ran_all_the_time(name: str) -> None:
    story = STORIES[name]()
    world = story.world.copy()
    for step in story.plan.steps:
        world.carry_out(step.node, step.do)
        assert world.state().active_on("web") == ["pm-1"]
    new = "pm-3"
    state = world.state()
    assert state.homes("web") == ["pm-1", new]
    assert state.stale_copies("web") == []
    assert all(state.nodes[place].resources["web"].healthy for place in ("pm-1", new))
    assert [world.nodes[place].volumes["web"].tags for place in ("pm-1", new)] == [("pmc",)] * 2
    assert not any(".old" in path for machine in world.nodes.values() for path in machine.files)
    assert migrate.move("web", "", state, SETTINGS).steps[-1].note == "migrate web to pm-3"
    assert peered(world).steps == ()


def test_the_old_copy_goes_last_and_the_vm_is_never_demoted() -> None:
    plan = STORIES["vm.peer"]().plan
    lines = [(step.node, str(step.do).splitlines()[0]) for step in plan.steps]
    complete = next(n for n, (_, line) in enumerate(lines) if "--deltag pmc.unfinished" in line)
    assert [n for n, (place, _) in enumerate(lines) if place == "pm-2"] == list(range(complete + 1, len(lines)))
    first = next(n for n, step in enumerate(plan.steps) if step.pivot)
    assert "equal" in plan.steps[first - 1].note
    for story in NEW:
        assert not any("drbdadm secondary" in str(step.do) for step in STORIES[story]().plan.steps)


@pytest.mark.parametrize("name", NEW)
def test_while_the_primary_may_copy_to_the_new_side_that_stays_as_it_is(name: str) -> None:
    """It cannot be switched back: whoever does that by hand removes the rest after it."""
    story = STORIES[name]()
    switch = next(number for number, step in enumerate(story.plan.steps) if step.note.endswith("while it runs"))

    if story.plan.steps[switch + 1].pivot:
        return  # it is never switched back
    with pytest.raises(StepFailed) as caught:
        apply(story.plan, Faulty(story.world.copy(), switch + 1, "fails", stuck=switch + 2))
    made = [step for step in story.plan.steps[:switch] if step.undo]
    assert len(made) > 3
    for step in made:
        assert f"# pm-3: stays until that is done: {step.note}\n" in f"{caught.value}\n"


def test_the_volume_is_as_large_as_the_primarys() -> None:
    world = with_web("")
    size = world.nodes["pm-1"].volumes["web"].size
    assert any(f"--size {size}b --name web vg" in str(step.do) for step in peered(world).steps)


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("how", ["fails", "lost before", "lost after"])
def test_whichever_step_goes_wrong_all_is_as_before_or_the_same_again_ends_it(name: str, how: str) -> None:
    story = STORIES[name]()
    for at, step in enumerate(story.plan.steps):
        world = story.world.copy()
        try:
            apply(story.plan, Faulty(world, at, how))
        except StepFailed as error:
            told = str(error)
        else:
            assert how == "lost after"
            assert step.pivot
            assert world == done(story.world, story.plan)
            continue
        if "Past the point of no return" not in told and "NOT undone" not in told:
            assert world == story.world, f"{at}: {told}"
            continue
        assert_ends_well(world)


def assert_ends_well(world: World) -> None:
    """Running vm.peer again, and --cleanup, is enough."""
    assert world.state().active_on("web") == ["pm-1"]
    world = done(world, peered(world))
    world = done(world, remove_steps.cleanup("web", world.state(), SETTINGS))
    assert world.state().homes("web") == ["pm-1", "pm-3"]
    assert world.state().stale_copies("web") == []
    assert world.state().nodes["pm-1"].resources["web"].healthy


@pytest.mark.parametrize("begin", [with_web, lambda: with_web(""), without_pm_2, half_made_peer])
def test_a_manager_that_dies_between_any_two_steps(begin: Callable[[], World]) -> None:
    plan = peered(begin())
    for count in range(len(plan.steps) + 1):
        world = begin()
        for step in plan.steps[:count]:
            world.carry_out(step.node, step.do)
        assert_ends_well(world.copy())
        gone = done(world, remove.remove("web", world.state(), SETTINGS))
        assert not any(machine.volumes or machine.files or machine.domains for machine in gone.nodes.values())


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("gone", [{"domains"}, {"domains", "resources"}])
def test_what_a_new_side_has_lost_since_it_was_connected_is_made_again(finished: bool, gone: set[str]) -> None:
    """Its node was booted, or somebody undefined it there; only that is left to do."""
    world = half_peered()
    if finished:
        world = done(world, peered(world))
        gone = gone - {"resources"}  # pm.ready_drbd's
    for each in gone:
        getattr(world.nodes["pm-3"], each).clear()
    world = done(world, peered(world))
    state = world.state()
    assert "web" in state.nodes["pm-3"].domains
    assert state.nodes["pm-1"].resources["web"].healthy
    assert world.nodes["pm-3"].volumes["web"].tags == (lvm.TAG,)


def test_a_new_side_that_is_complete_and_not_equal_is_not_called_whole() -> None:
    world = half_peered()
    state = with_resource(done(world, peered(world)).state(), "pm-1", connection="Connecting", peer_disk="DUnknown")
    with raises(Refused, "requirements.healthy", "DRBD on pm-1 is Connecting"):
        peer.peer(choose(state), XML, "hunter2", state, SETTINGS)


PAIR = "    on pm-1 {\n        address ipv4 10.0.0.1:7800;\n    }\n    on pm-2 {\n        address ipv4 10.0.0.2:7800;\n"
SHOW = (
    "    _remote_host {\n\taddress\t\t\tipv4 10.0.0.%d:7800;\n    }\n"
    "    _this_host {\n\taddress\t\t\tipv4 10.0.0.1:7800;\n"
)


@pytest.mark.parametrize(
    ("old", "shown", "failing", "calls", "status"),
    [
        # The new peer was let in: the old one may lack what the bitmap does not say.
        (PAIR, SHOW % 3, "", ["disconnect --force web", "invalidate-remote web", "adjust web"], 0),
        (PAIR, "resource web {", "", ["invalidate-remote web", "adjust web"], 0),
        (PAIR, SHOW % 2, "", ["adjust web"], 0),
        (PAIR.partition("    on pm-2")[0], SHOW % 3, "", ["disconnect --force web"], 0),
        # In doubt the old peer stays out.
        (PAIR, SHOW % 3, "invalidate-remote", ["disconnect --force web", "invalidate-remote web"], 1),
        (PAIR, SHOW % 3, "disconnect", ["disconnect --force web"], 1),
        (PAIR, "_remote_host in words of another version", "", [], 1),
    ],
)
def test_a_former_peer_is_let_in_only_to_be_copied_to_in_full(
    tmp_path: Path, old: str, shown: str, failing: str, calls: list[str], status: int
) -> None:
    """DRBD 8.4 would sync it by a bitmap that the new peer's copy has thinned out, and lose writes. The command itself
    is run, with stand-ins for DRBD's tools."""
    for tool, script in (
        ("drbdsetup", f"cat {tmp_path}/shown"),
        ("drbdadm", f'echo "$*" >>{tmp_path}/calls; [ "$1" != "{failing}" ]'),
    ):
        (tmp_path / tool).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / tool).chmod(0o755)
    for name, text in (("shown", shown), ("calls", ""), ("file.old", old), ("file", "new")):
        (tmp_path / name).write_text(text)
    argv = drbd_new_peer.switch_back("web").argv[:-2]
    ran = subprocess.run(
        [*argv, str(tmp_path / "file"), "web"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == status, ran.stderr
    assert (tmp_path / "calls").read_text().splitlines() == calls
    assert (tmp_path / "file").read_text() == ("new" if status else old)


# -- what is asked, and refused --


def choose(state: ClusterState, new: str = "pm-3") -> peer.Change:
    return peer.choose("web", new, state, SETTINGS)


def test_what_a_person_must_agree_to() -> None:
    assert "no second copy from now until the one on pm-3 is complete" in choose(running()).ask
    assert choose(changed(running(), "pm-2", down=DOWN, domains={}, resources={}, files={}, volumes={})).ask != ""
    dead = with_resource(running(), "pm-1", connection="Connecting", peer_disk="DUnknown")
    assert choose(changed(dead, "pm-2", down=DOWN, domains={}, resources={}, files={}, volumes={})).ask == ""
    assert "the copy of web on pm-2 is removed when" in choose(dead).ask
    assert choose(alone(active=True)).ask == ""
    lost = Volume("web.lost-20260102T030405Z", "vg", GiB, ("pmc",), "web", "swi-a-s---")
    with_lost = changed(running(), "pm-2", volumes={**running().nodes["pm-2"].volumes, lost.name: lost})
    assert f"is removed; so is {lost.name} on pm-2, a kept side of a split brain" in choose(with_lost).ask
    assert choose(half_made_peer().state()).ask == ""
    old = changed(alone(active=True), "pm-3", volumes={"web": Volume("web", "vg", GiB, (lvm.TAG,))})
    assert "what pm-3 has of web is removed first" in choose(old).ask


MAIL = ResourceFile("mail", 2, "/dev/vg/mail", ("pm-3",), (7800,))


@pytest.mark.parametrize("taken", [{"ports": frozenset({22, 7800})}, {"files": {"mail": MAIL}}])
def test_a_taken_port_is_replaced(taken: dict[str, object]) -> None:
    """Also one that nothing listens on now."""
    state = changed(alone(active=True), "pm-3", **taken)
    plan = peer.peer(choose(state), XML, "hunter2", state, SETTINGS)
    assert any("port 7801" in step.note for step in plan.steps)


def test_the_new_pair_has_a_port_that_the_old_peer_does_not_call() -> None:
    """Seen on the lab: `Authentication of peer failed`, `Discarding network configuration`, StandAlone."""
    for name in ("vm.peer", "vm.peer-dead"):
        plan = STORIES[name]().plan
        assert any("port 7801" in step.note for step in plan.steps)
        assert not any(":7800" in str(step.do) for step in plan.steps)
    assert any("port 7800" in step.note for step in STORIES["vm.peer-alone"]().plan.steps)


FOREIGN = Volume("web", "vg", GiB)
FILE = running().nodes["pm-1"].files["web"]
THREE = {"web": replace(FILE, hosts=("pm-1", "pm-2", "pm-3"))}
TWICE = cluster(home("pm-1", active=True, primary=True), home("pm-2", active=True, primary=False))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: choose(cluster()), "no such VM"),
        (lambda: choose(stopped()), "runs nowhere; vm.peer is for a VM that runs on one node. Next: fab vm.start web"),
        (lambda: choose(running(), "pm-1"), "--secondary pm-1: web runs there"),
        (lambda: choose(changed(running(), "pm-3", down=DOWN)), "pm-3: no ssh"),
        (lambda: choose(changed(running(), "pm-3", drbd="")), "fab pm.ready_drbd --node pm-3"),
        (lambda: choose(changed(running(), "pm-3", drbd="9.2.1")), "has DRBD 9.2.1; vm.peer is made for 8.4"),
        (lambda: choose(changed(running(), "pm-3", hostname="debian")), "its host name is 'debian'"),
        (lambda: choose(changed(running(), "pm-3", group_free=GiB)), "--secondary pm-3: it has 1 GiB free in vg, 10"),
        (lambda: choose(changed(running(), "pm-3", memory=MiB)), "pm-3: has 1 MiB of memory, web needs 1 GiB"),
        (lambda: choose(changed(running(), "pm-3", volumes={"web": FOREIGN})), "was not made by pmc"),
        (lambda: choose(changed(running(), "pm-3", files={"db": ResourceFile("db", 1, "/dev/vg/db", ("x",), (1,))})),
         "DRBD's minor 1 is db's there"),
        (lambda: choose(changed(running(), "pm-3", resources={"db": Resource("db", 5, more_minors=(1,))})),
         "DRBD's minor 1 is db's there"),
        (lambda: choose(changed(running(), "pm-3", minors=frozenset({1}))),
         "DRBD's minor 1 is taken by what is not pmc's there"),
        (lambda: choose(with_resource(running(), "pm-1", disk="Diskless")), "first. Next: fab vm.repair web"),
        (lambda: choose(with_resource(running(), "pm-1", connection="StandAlone")), "split brain"),
        (lambda: choose(with_resource(running(), "pm-2", role="Primary")), "fab vm.mv web --cleanup"),
        (lambda: choose(TWICE), "RUNS TWICE, on pm-1 and pm-2"),
        (lambda: choose(changed(running(), "pm-1", failures={"lvs": "no answer"})), "pm-1: lvs: no answer"),
        (lambda: choose(changed(running(), "pm-3", volumes=MADE, **RUNS)), "its stale copy on pm-3 is in use"),
        (lambda: choose(cluster(*(home(f"pm-{n}", active=n == 1, primary=n == 1, files=THREE) for n in (1, 2, 3)))),
         "web: lives on pm-1, pm-2, pm-3; vm.peer is for a VM with one or two nodes"),
        (lambda: choose(changed(running(), "pm-1", files={"web": replace(FILE, ports=())})),
         "web: its resource file on pm-1 names no port"),
        (lambda: choose(changed(running(), "pm-3", files={"web": replace(FILE, disk="/dev/vg/x")})),
         "web: its disk on pm-3 is /dev/vg/x, not vg/web, so pmc did not make it"),
        (lambda: choose(changed(running(), "pm-2", files={"web": replace(FILE, disk="/dev/vg/x")}), "pm-2"),
         "web: its disk on pm-2 is /dev/vg/x, not vg/web, so pmc did not make it"),
        (lambda: remove_steps.cleanup(
            "web", changed(with_stale_copy().state(), "pm-2", failures={"lvs": "no answer"}), SETTINGS),
         "pm-2: lvs: no answer"),
        (lambda: choose(changed(running(), "pm-1", files={})), "which has no part in its DRBD resource"),
        (lambda: remove_steps.cleanup("web", with_resource(running(), "pm-1", connection="Connecting"), SETTINGS),
         "DRBD on pm-1 is Connecting"),
        (lambda: remove_steps.cleanup("web", with_resource(alone(True), "pm-1", disk="Failed"), SETTINGS),
         "is not UpToDate"),
    ],
)  # fmt: skip
def test_refused(build: Callable[[], object], words: str) -> None:
    with pytest.raises(Refused) as caught:
        build()
    assert words in str(caught.value)


def test_an_old_copy_in_use_is_not_removed() -> None:
    world = with_stale_copy()
    state = world.state()
    kernel = replace(state.nodes["pm-2"].resources["web"], role="Primary")
    with pytest.raises(Refused, match="its stale copy on pm-2 is in use"):
        remove_steps.cleanup("web", changed(state, "pm-2", resources={"web": kernel}), SETTINGS)
    assert remove_steps.cleanup("web", running(), SETTINGS).steps == ()


def test_an_old_copy_stays_while_blocks_are_known_to_differ() -> None:
    state = with_resource(with_resource(running(), "pm-1", out_of_sync=4096), "pm-2", out_of_sync=4096)
    with raises(Refused, "requirements.in_sync", "fab vm.repair web"):
        remove_steps.cleanup("web", state, SETTINGS)
