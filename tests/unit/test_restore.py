"""A restore into a VM's own disk that broke off: what refuses the VM then, and how its disk comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pmc import lvm
from pmc.errors import InDoubt, Refused, StepFailed
from pmc.plan import Action, Plan, Watch, apply
from pmc.plans import failover, restore, vm
from pmc.plans.backup import bring
from pmc.units import GiB
from tests.unit.fake import World, done
from tests.unit.samples import SETTINGS
from tests.unit.stories import half_restored_web, restored_in_place, stopped_web


def put_back(world: World) -> Plan:
    return restore.undo_in_place("web", GiB, world.state(), SETTINGS)


def broken_off(steps: int) -> World:
    """After so many steps of a restore in place."""
    world = stopped_web()
    return done(world, Plan("half", restored_in_place(world).steps[:steps]))


STEPS = len(restored_in_place(stopped_web()).steps)


def disks(world: World) -> dict[str, object]:
    return {name: node.volumes for name, node in world.nodes.items()}


@pytest.mark.parametrize("steps", range(STEPS))
def test_wherever_it_breaks_off_the_vm_is_as_before_or_refused_until_it_is_put_back(steps: int) -> None:
    world = broken_off(steps)
    if disks(world) == disks(stopped_web()):
        with pytest.raises(Refused, match="there is nothing to put back"):
            put_back(world)
        return
    with pytest.raises(Refused, match=r"a restore into its disk broke off.* --put-back"):
        vm.start("web", "", world.state(), SETTINGS)
    assert disks(done(world, put_back(world))) == disks(stopped_web())


def test_putting_back_brings_its_program_and_leaves_no_side_primary() -> None:
    world = half_restored_web()
    plan = put_back(world)
    assert plan.steps[0] == bring("pm-1")
    state = done(world, plan).state()
    assert state.primaries("web") == []


def test_putting_back_that_broke_off_is_done_again() -> None:
    whole = put_back(half_restored_web())
    for steps in range(len(whole.steps)):
        world = done(half_restored_web(), Plan("half", whole.steps[:steps]))
        assert disks(done(world, put_back(world))) == disks(stopped_web()), steps


@pytest.mark.parametrize("dead", ["pm-1", "pm-2"])
def test_the_other_side_is_not_started_when_the_node_with_the_snapshot_dies(dead: str) -> None:
    world = half_restored_web()
    world.dead.add(dead)
    with pytest.raises(Refused, match=r"a restore into its disk broke off.* --put-back"):
        failover.failover("web", world.state(), SETTINGS)


class Dying(World):
    """pm-1 loses power in the middle of the write."""

    def carry_out(self, name: str, action: Action, watch: Watch | None = None) -> None:
        if name == "pm-1" and "--compare" in str(action):
            self.dead.add("pm-1")
        if name in self.dead:
            raise InDoubt(name, str(action), "the connection was lost")
        super().carry_out(name, action, watch)


def test_the_other_side_keeps_its_mark_when_the_disk_cannot_be_put_back() -> None:
    """The manager lives and walks back: the half written copy must not be taken for a good one."""
    world = Dying()
    world.nodes = stopped_web().nodes
    with pytest.raises(StepFailed, match="pm-2: stays until that is done: mark vg/web"):
        apply(restored_in_place(world), world.carry_out)
    assert lvm.RESTORING_THERE in world.nodes["pm-2"].volumes["web"].tags
    with pytest.raises(Refused, match=r"a restore into its disk broke off.* --put-back"):
        failover.failover("web", world.state(), SETTINGS)


def test_what_was_lost_with_its_disk_is_not_put_back() -> None:
    """The node that kept it has a new disk, made a copy of the half written one."""
    world = half_restored_web()
    mine = world.nodes["pm-1"].volumes
    del mine["web.before"]
    mine["web"] = replace(mine["web"], tags=(lvm.TAG,))
    for refused in (put_back, lambda world: vm.start("web", "", world.state(), SETTINGS)):
        with pytest.raises(Refused, match=r"on a disk that is gone; restore it again: .* --in-place"):
            refused(world)
    again = done(world, restored_in_place(world))
    assert disks(again) == disks(stopped_web())


def test_a_restore_that_came_to_its_end_leaves_no_mark() -> None:
    world = broken_off(STEPS)
    marked = [v for node in world.nodes.values() for v in node.volumes.values() if v.tags != (lvm.TAG,)]
    assert marked == []
    assert restored_in_place(world).steps
