"""A restore into a VM's own disk that was interrupted: what refuses the VM then, and how its disk comes back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from pmc import backup_pipeline, lvm
from pmc.actions import Action, Watch
from pmc.command import Command
from pmc.errors import InDoubt, NodeDown, Refused, StepFailed
from pmc.model import ClusterState, Volume
from pmc.plan import Plan, apply
from pmc.plans import (
    add,
    failover,
    failover_restore,
    migrate,
    remove,
    remove_steps,
    repair_side,
    restore_in_place,
    start,
    stop,
    unfinished_restore,
)
from pmc.plans.backup import bring
from pmc.plans.repair_context import RepairContext, RepairOptions
from pmc.units import GiB
from tests.sim.fake import World, done
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, with_resource
from tests.unit.stories import ALIKE, NOW, half_restored_web, restored_in_place, stopped_web


class Changing(World):
    """Something happens while the backup is proved, which takes hours."""

    def __init__(self, happens: Callable[[World], None]) -> None:
        super().__init__()
        self.nodes, self.happens = stopped_web().nodes, happens

    def carry_out(self, name: str, action: Action, watch: Watch | None = None) -> None:
        super().carry_out(name, action, watch)
        if watch and "--target" not in str(action):
            self.happens(self)


def runs(world: World) -> None:
    """Somebody started it with virsh, on the other side."""
    world.nodes["pm-2"].resources["web"].role = "Primary"
    world.nodes["pm-2"].domains["web"] = "running"


def is_cut(world: World) -> None:
    world.nodes["pm-2"].resources["web"].alone = True


def differs(world: World) -> None:
    world.nodes["pm-1"].resources["web"].marked = 4096


@pytest.mark.parametrize(
    ("happens", "said"),
    [(runs, "it runs"), (is_cut, "is not Connected with both sides"), (differs, "no blocks known to differ")],
)
def test_it_is_looked_at_again_after_the_proof(happens: Callable[[World], None], said: str) -> None:
    """Nothing is written, marked or kept by then."""
    world = Changing(happens)
    with pytest.raises(StepFailed, match=said):
        apply(restored_in_place(stopped_web()), world.carry_out)
    assert disks(world) == disks(stopped_web())
    assert world.nodes["pm-1"].resources["web"].role == "Secondary"


class Cut(World):
    """The link to pm-1 is lost while the disk is written there, which goes on."""

    lost = False

    def carry_out(self, name: str, action: Action, watch: Watch | None = None) -> None:
        if name == "pm-1" and self.lost:
            raise NodeDown("pm-1: no ssh within 10 s")
        super().carry_out(name, action, watch)
        if isinstance(action, Command) and action.op and action.op.make is backup_pipeline.give_back:
            self.lost = True
            raise InDoubt(name, str(action), "no sign of life for 60 s")


def test_what_is_told_to_take_it_back_never_runs_beside_the_write() -> None:
    """The bare undo would: it takes no lock, and removes the snapshot, the only copy of what was there."""
    world = Cut()
    world.nodes = stopped_web().nodes
    with pytest.raises(StepFailed) as failed:
        apply(restored_in_place(world), world.carry_out)
    rows = [row.strip() for row in str(failed.value).splitlines()]
    assert "It may still run on pm-1." in rows
    assert "fab vm.restore web --put-back" in rows
    assert not [row for row in rows if row.startswith(("bash ", "ionice "))]
    world.lost = False
    assert disks(done(world, put_back(world))) == disks(stopped_web())


def put_back(world: World) -> Plan:
    return restore_in_place.undo_in_place("web", GiB, world.state(), SETTINGS)


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
    with pytest.raises(Refused, match=r"a restore into its disk (was interrupted|wrote nothing).* --put-back"):
        start.start("web", "", world.state(), SETTINGS)
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


def failed_over(world: World) -> World:
    return done(world, failover.failover("web", world.state(), SETTINGS, size=GiB))


def dead(world: World, node: str) -> World:
    world = world.copy()
    world.dead.add(node)
    return world


def test_the_other_side_is_not_started_when_the_node_with_the_snapshot_dies() -> None:
    """A backup is what is left then, and what says so names no command that refuses in its turn."""
    world = dead(half_restored_web(), "pm-1")
    with raises(
        Refused, "failover_restore.on", "--backup ID --as NEW", "bring pm-1 back", "fab vm.restore web --put-back"
    ):
        failed_over(world)


def test_nobody_else_goes_on_alone() -> None:
    """All others name vm.failover, which proves that the other node is dead."""
    for node in ("pm-1", "pm-2"):
        state = dead(half_restored_web(), node).state()
        with raises(NodeDown, "start.seen", "fab vm.failover web"):
            start.start("web", "", state, SETTINGS)
        # What pm-1 keeps a failover to pm-2 cannot put back.
        way = r"a failover puts it back on the other node. Next: fab vm\.failover web"
        gone = r"kept there only. When pm-1 is dead for good, only a backup is left. Next: fab vm\.backups web"
        with pytest.raises(NodeDown, match=gone if node == "pm-1" else way):
            failover_restore.both_there("web", state)
    failover_restore.both_there("web", half_restored_web().state())
    failover_restore.both_there("web", dead(stopped_web(), "pm-2").state())


@pytest.mark.parametrize("steps", range(STEPS - 1))
def test_a_node_that_is_dead_for_good_ends_a_restore_that_broke_off(steps: int) -> None:
    """By vm.failover: what was on the disk is put back on the node that kept it, and runs there."""
    world = dead(broken_off(steps), "pm-2")
    world.nodes["pm-1"].resources["web"].role = "Secondary"
    now = failed_over(world)
    mine = now.nodes["pm-1"]
    assert (mine.domains["web"], set(mine.volumes)) == ("running", {"web"})
    if world.nodes["pm-1"].volumes["web"].tags == (lvm.TAG,):
        return
    assert set(mine.volumes["web"].tags) == {lvm.TAG, lvm.PUT_BACK}
    # Wherever that was interrupted it is done again.
    plan = failover.failover("web", world.state(), SETTINGS, size=GiB)
    for number in range(len(plan.steps)):
        half = done(world, Plan("half", plan.steps[:number]))
        assert failed_over(half).nodes["pm-1"].volumes == mine.volumes
    # The other one is back, still marked: that keeps nothing from anything, and goes.
    now.dead.clear()
    unfinished_restore.none(now.state(), "web")
    clean = done(now, put_back(now))
    assert {v.tags for node in clean.nodes.values() for v in node.volumes.values()} == {(lvm.TAG,)}
    with pytest.raises(Refused, match="there is nothing to put back"):
        put_back(clean)


def test_a_new_restore_is_marked_by_itself() -> None:
    """What an earlier one left on the other side does not hide it."""
    world = failed_over(dead(half_restored_web(), "pm-2"))
    world.dead.clear()
    world.nodes["pm-1"].domains["web"] = "shut off"
    world.nodes["pm-1"].resources["web"].role = "Secondary"
    plan = restored_in_place(world)
    writes = next(number for number, step in enumerate(plan.steps) if "where it differs" in step.note)
    half = done(world, Plan("half", plan.steps[:writes]))
    assert not unfinished_restore.over(half.state(), "web")
    assert unfinished_restore.restoring(half.state(), "web") == ["pm-1", "pm-2"]
    assert disks(done(world, plan)) == disks(stopped_web())


def test_the_put_back_of_an_evacuation_is_a_failovers() -> None:
    with raises(Refused, "failover_restore.on", "fab vm.failover web"):
        failover.failover("web", dead(half_restored_web(), "pm-2").state(), SETTINGS)


def test_an_old_copy_that_was_restored_into_is_none_of_its_disks() -> None:
    """pm-3 has a copy that is no part of web any more."""
    world = stopped_web()
    disk = world.nodes["pm-2"].volumes["web"]
    world.nodes["pm-3"].volumes = {
        "web": replace(disk, tags=(lvm.TAG, lvm.RESTORING)),
        "web.before": Volume("web.before", "vg", GiB, (lvm.TAG,), "web", "swi-a-s---", 0.0),
    }
    state = world.state()
    assert state.stale_copies("web") == ["pm-3"]
    assert start.start("web", "", state, SETTINGS).steps
    assert any("web.before" in step.note for step in remove_steps.cleanup("web", state, SETTINGS).steps)


def test_a_snapshot_whose_volume_is_gone_goes_with_the_vm() -> None:
    """Also when nothing else is left of it."""
    world = stopped_web()
    lone = Volume("web.before", "vg", GiB, (lvm.TAG,), "", "Vri-a-tz--", 0.0, pool="pool")
    world.nodes["pm-3"].volumes["web.before"] = lone
    gone = done(world, remove.remove("web", world.state(), SETTINGS))
    assert [node.volumes for node in gone.nodes.values()] == [{}, {}, {}]
    alone = World()
    alone.nodes["pm-3"].volumes["web.before"] = lone
    assert done(alone, remove.remove("web", alone.state(), SETTINGS)).nodes["pm-3"].volumes == {}


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
    with raises(Refused, "failover_restore.on", "interrupted", "fab vm.restore web --put-back"):
        failed_over(world)


def test_what_was_lost_with_its_disk_is_not_put_back() -> None:
    """The node that kept it has a new disk, made a copy of the half written one."""
    world = half_restored_web()
    mine = world.nodes["pm-1"].volumes
    del mine["web.before"]
    mine["web"] = replace(mine["web"], tags=(lvm.TAG,))
    for refused in (put_back, lambda world: start.start("web", "", world.state(), SETTINGS)):
        with raises(
            Refused, "unfinished_restore.none", "lost with a disk", "fab vm.restore web --backup ID --in-place"
        ):
            refused(world)
    again = done(world, restored_in_place(world))
    assert disks(again) == disks(stopped_web())


def test_a_restore_that_came_to_its_end_leaves_no_mark() -> None:
    world = broken_off(STEPS)
    marked = [v for node in world.nodes.values() for v in node.volumes.values() if v.tags != (lvm.TAG,)]
    assert marked == []
    assert restored_in_place(world).steps


@pytest.mark.parametrize("steps", range(STEPS))
def test_what_a_restore_kept_is_never_put_back_over_what_the_vm_wrote_since(steps: int) -> None:
    """Wherever it was interrupted: pm-1 died, the VM ran on pm-2 for weeks, pm-1 came back and was made equal; then
    pm-2 died, or the VM was stopped."""
    world = dead(broken_off(steps), "pm-1")
    world.nodes["pm-2"].resources["web"].role = "Secondary"
    try:
        now = failed_over(world)
    except Refused:
        return  # the disk on pm-2 may be half written, and nothing runs there
    now.dead.clear()
    died, stopped = dead(now.copy(), "pm-2"), done(now, stop.stop("web", False, now.state(), SETTINGS))
    for later in (died, stopped):
        plans: list[Callable[[ClusterState], Plan]] = [
            lambda state: failover.failover("web", state, SETTINGS, size=GiB),
            lambda state: restore_in_place.undo_in_place("web", GiB, state, SETTINGS),
        ]
        for plan in plans:
            with suppress(Refused):
                assert "put the disk of web back" not in str([step.note for step in plan(later.state()).steps])


def test_a_snapshot_beside_a_disk_that_is_not_marked_is_never_put_back() -> None:
    """Of a former VM, or left by a restore that was complete: a person must look."""
    world = stopped_web()
    world.nodes["pm-1"].volumes["web.before"] = Volume("web.before", "vg", GiB, (lvm.TAG,), "web", "swi-a-s---")
    said = r"is left of a restore that was complete.* lvremove vg/web\.before"
    with pytest.raises(Refused, match=said):
        put_back(world)
    with pytest.raises(Refused, match=said):
        start.start("web", "", world.state(), SETTINGS)
    with pytest.raises(Refused, match=said):
        failover.failover("web", dead(world.copy(), "pm-2").state(), SETTINGS, size=GiB)
    with raises(Refused, "failover_restore.not_in_use"):
        failover_restore.not_in_use("web", "pm-1", half_restored_web().state(), True)
    failover_restore.not_in_use("web", "pm-1", half_restored_web().state(), False)


def test_the_mark_of_the_other_side_goes_with_the_next_move_or_start() -> None:
    """Left on, it would refuse the good copy once the node is away that says that it tells nothing any more."""
    world = dead(half_restored_web(), "pm-2")
    world.nodes["pm-1"].resources["web"].role = "Secondary"
    world = failed_over(world)
    world.dead.clear()
    moved = done(world, migrate.move("web", "", world.state(), SETTINGS))
    off = done(world, stop.stop("web", False, world.state(), SETTINGS))
    for now in (moved, done(off, start.start("web", "", off.state(), SETTINGS))):
        assert {v.tags for node in now.nodes.values() for v in node.volumes.values()} == {(lvm.TAG,)}


@pytest.mark.parametrize("how", [{"connection": "Connecting"}, {"disk": "Inconsistent"}])
def test_marks_stay_until_both_sides_are_equal(how: dict[str, str]) -> None:
    """Of a restore that was put back while a node was dead: that node's disk may still be the half written one."""
    world = dead(half_restored_web(), "pm-2")
    world.nodes["pm-1"].resources["web"].role = "Secondary"
    world = failed_over(world)
    world.dead.clear()
    off = done(world, stop.stop("web", False, world.state(), SETTINGS)).state()
    assert restore_in_place.undo_in_place("web", GiB, off, SETTINGS).steps
    with raises(Refused, "requirements.healthy", "Connected", "UpToDate/UpToDate"):
        restore_in_place.undo_in_place("web", GiB, with_resource(off, "pm-2", **how), SETTINGS)


def test_a_new_disk_beside_a_half_restored_one_is_marked_as_well() -> None:
    state = with_resource(half_restored_web().state(), "pm-2", disk="Diskless")
    case = RepairContext("web", ("pm-1", "pm-2"), state, ALIKE, SETTINGS, RepairOptions(NOW, new_disk=True))
    [condition] = repair_side.disks(case)
    assert any(f"--addtag {lvm.RESTORING_THERE}" in str(step.do) for step in condition.steps), condition


def test_nothing_new_is_made_where_something_of_a_former_vm_is_left() -> None:
    left = Volume("web.before", "vg", GiB, (lvm.TAG,), "", "Vri-a-tz--")
    node = replace(stopped_web().state().nodes["pm-3"], volumes={"web.before": left})
    with raises(Refused, "add.check_node", "pm-3", "vg/web.before", "fab vm.rm web"):
        add.check_node("web", node, GiB, GiB, SETTINGS)
