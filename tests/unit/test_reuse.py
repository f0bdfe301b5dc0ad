"""vm.add --reuse is given a volume with what is on it. Wherever that breaks off, the volume stays."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pmc import lvm
from pmc.actions import Action, Watch
from pmc.errors import Refused, StepFailed
from pmc.health import verify
from pmc.health.cluster_facts import Facts
from pmc.model import Volume
from pmc.plan import Plan, apply
from pmc.plans import peer, remove, remove_steps
from pmc.units import GiB
from tests.sim.fake import Faulty, World, done
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, changed, cluster, home, node, running
from tests.unit.stories import STORIES, _add, reused, wanted, with_a_volume

LAST = len(reused().plan.steps) - 1
MARKED = Volume("web", "vg", GiB, ("pmc", "pmc.reused"), attributes="-wi-a-----")


def half(steps: int) -> World:
    """The manager died before the step of that number."""
    story = reused()
    return done(story.world, Plan("half", story.plan.steps[:steps]))


@pytest.mark.parametrize("steps", range(1, LAST + 1))
def test_the_volume_survives_a_vm_rm_wherever_the_manager_died(steps: int) -> None:
    left = half(steps)
    plan = remove.remove("web", left.state(), SETTINGS)
    for until in range(len(plan.steps) + 1):  # and wherever that breaks off, too
        world = left.copy()
        apply(Plan("half", plan.steps[:until]), world.carry_out)
        state = world.state()
        if "web" in state.vm_names() or lvm.REUSED in state.nodes["pm-1"].volumes["web"].tags:
            world = done(world, remove.remove("web", state, SETTINGS))
        [(name, volume)] = world.nodes["pm-1"].volumes.items()
        assert (name, volume.tags) == ("web", ())
        assert volume.size >= GiB
        assert all(not (machine.files or machine.resources or machine.domains) for machine in world.nodes.values())
        assert not world.nodes["pm-2"].volumes
        assert _add(wanted(reuse=True), world).steps  # and it can be given once more


class Twice(Faulty):
    """Call number `also`, an undo, goes wrong too, and none behind it."""

    def __init__(self, world: World, at: int, how: str, also: int) -> None:
        super().__init__(world, at, how)
        self.also = also

    def __call__(self, node: str, action: Action, watch: Watch | None) -> None:
        if self.calls == self.also:
            self.calls += 1
            raise self.error(node, action)
        super().__call__(node, action, watch)


@pytest.mark.parametrize("how", ["fails", "lost before"])
@pytest.mark.parametrize("at", range(1, LAST))
def test_it_survives_a_vm_rm_where_an_undo_fails_too(at: int, how: str) -> None:
    """And that removes all of the VM: the file stays as long as anything else."""
    story = reused()
    for also in range(at + 1, at + 2 + LAST):
        world = story.world.copy()
        with pytest.raises(StepFailed):
            apply(story.plan, Twice(world, at, how, also))
        if "web" in world.state().vm_names():
            world = done(world, remove.remove("web", world.state(), SETTINGS))
        assert list(world.nodes["pm-1"].volumes) == ["web"]
        assert all(not (machine.files or machine.resources or machine.domains) for machine in world.nodes.values())


@pytest.mark.parametrize("story", ["vm.add", "vm.add-single", "vm.add-clone", "vm.restore"])
def test_what_an_undo_left_of_a_new_vm_is_the_vms(story: str) -> None:
    """Its domain, say: without the file it would be nobody's."""
    told = STORIES[story]()
    last = len(told.plan.steps) - 1
    new = next(iter(set(done(told.world, told.plan).state().vm_names()) - set(told.world.state().vm_names())))
    for also in range(last + 1, 2 * last + 2):
        world = told.world.copy()
        with pytest.raises(StepFailed):
            apply(told.plan, Twice(world, last, "fails", also))
        if any(new in machine.domains for machine in world.nodes.values()):
            world = done(world, remove.remove(new, world.state(), SETTINGS))
        assert not any(new in machine.domains for machine in world.nodes.values())


def test_a_vm_that_was_made_has_no_mark_and_its_disk_goes_with_it() -> None:
    world = half(LAST + 1)
    assert world.nodes["pm-1"].volumes["web"].tags == ("pmc",)
    assert not done(world, remove.remove("web", world.state(), SETTINGS)).nodes["pm-1"].volumes


def test_the_same_command_again_is_told_what_removes_what_is_half_made() -> None:
    with raises(Refused, "add.check_cluster", "--reuse", "leaves the volume", "fab vm.rm web"):
        _add(wanted(reuse=True), half(LAST - 3))


def test_a_first_step_alone_is_no_hindrance() -> None:
    assert done(half(1), _add(wanted(reuse=True), half(1))).nodes["pm-1"].volumes["web"].tags == ("pmc",)
    assert done(with_a_volume(), reused().plan) == done(half(1), _add(wanted(reuse=True), half(1)))


def test_the_question_names_what_goes_and_what_stays() -> None:
    state = half(LAST).state()
    holders = remove_steps.holders("web", state)
    assert remove_steps.also_removed("web", holders, SETTINGS) == "vg/web on pm-2"
    said = remove_steps.stays("web", holders, SETTINGS)
    assert said == "vg/web on pm-1 stays, as it was there before vm.add --reuse"
    assert remove_steps.stays("web", remove_steps.holders("web", running()), SETTINGS) == ""


def test_no_second_copy_takes_its_place() -> None:
    state = changed(running(), "pm-3", volumes={"web": MARKED})
    with raises(Refused, "whose.not_reused", "vg/web on pm-3", "on pm-3: lvrename vg/web NEW"):
        peer.choose("web", "pm-3", state, SETTINGS)


def test_as_an_old_second_copy_it_stays_too() -> None:
    state = changed(running(), "pm-2", volumes={"web": MARKED})
    change = peer.choose("web", "pm-3", state, SETTINGS)
    assert change.ask.endswith("vg/web on pm-2 stays, as it was there before vm.add --reuse")
    steps = remove_steps.steps("web", peer.old_side(change, state), SETTINGS)
    assert not any("lvremove" in str(step.do) for step in steps)


@pytest.mark.parametrize("tags", [("pmc", "pmc.reused"), ("pmc.reused",)])
def test_without_its_vm_it_is_told_as_what_it_is(tags: tuple[str, ...]) -> None:
    facts = Facts(cluster(node("pm-1", volumes={"web": replace(MARKED, tags=tags)})), {}, SETTINGS)
    [found] = [each for each in verify.findings(facts) if each.code == "LV_ORPHAN"]
    assert found.text == "vg/web was given to a vm.add --reuse that did not end"
    assert found.remedy == "This leaves the volume, and takes pmc's marks off it. Next: fab vm.rm web"


def test_a_home_that_has_no_such_mark_loses_its_disk_as_before() -> None:
    state = cluster(home("pm-1", active=False, primary=False, single=True))
    assert any("lvremove" in str(step.do) for step in remove.remove("web", state, SETTINGS).steps)


@pytest.mark.parametrize(("tags", "status"), [("", 0), ("pmc", 0), ("pmc,pmc.reused", 1), ("pmc.reused,x", 1)])
def test_the_mark_is_looked_for_on_the_node(tmp_path: Path, tags: str, status: int) -> None:
    (tmp_path / "lvs").write_text(f"#!/bin/sh\necho '  {tags}'\n")
    (tmp_path / "lvs").chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert subprocess.run(lvm.unmarked("vg", "web", lvm.REUSED).argv, env=path).returncode == status
    (tmp_path / "lvs").write_text("#!/bin/sh\nexit 5\n")
    assert subprocess.run(lvm.unmarked("vg", "web", lvm.REUSED).argv, env=path).returncode == 124
