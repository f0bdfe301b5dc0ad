"""What a restore into a VM's own disk leaves when it does not come to its end: whose disk it writes, and what its marks
and its snapshot say of it afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pmc import drbd, lvm
from pmc.actions import Action, Watch
from pmc.errors import CommandFailed, PmcError, Refused, StepFailed
from pmc.health import vm_volumes
from pmc.model import ClusterState, Domain, NodeState, Resource, ResourceFile, Volume
from pmc.plan import Plan, apply
from pmc.plans import (
    backup,
    failover,
    other_disks,
    peer,
    repair_side,
    restore_in_place,
    start,
    stop,
    unfinished_restore,
)
from pmc.plans.repair_context import RepairContext, RepairOptions
from pmc.plans.restore import Found
from pmc.units import GiB, MiB
from tests.sim.fake import World, done
from tests.sim.machine import Kernel
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, XML, changed, cluster, node, with_resource
from tests.unit.stories import ALIKE, BASE, NOW, half_restored_web, restored_in_place, stopped_web
from tests.unit.test_verify import healthy

# -- whose device it is --

DISK = Volume("web", "vg", GiB + 8 * MiB, (lvm.TAG,), attributes="-wi-ao----")
KEPT = Volume("web.before", "vg", GiB, (lvm.TAG,), "web", "swi-a-s---", 3.0)


def side(name: str, db: bool = False) -> NodeState:
    """Of web, whose minor is 2; with `db`, which has minor 1 and runs there."""
    names = {"web": 2} | ({"db": 1} if db else {})
    return node(
        name,
        domains={vm: Domain(vm, "running" if vm == "db" else "shut off", GiB, 1) for vm in names},
        resources={
            vm: Resource(vm, minor, "Primary" if vm == "db" else "Secondary", "UpToDate", "Connected", "Established",
                         "Secondary", "UpToDate", GiB) for vm, minor in names.items()
        },
        files={vm: ResourceFile(vm, minor, f"/dev/vg/{vm}", ("pm-2", "pm-3"), (7800 + minor,))
               for vm, minor in names.items()},
        volumes={vm: replace(DISK, name=vm) for vm in names},
    )  # fmt: skip


def made_anew() -> ClusterState:
    """pm-1, the first of pmc.conf, was away when web was removed and made anew: it has the old file, with minor 1."""
    old = ResourceFile("web", 1, "/dev/vg/web", ("pm-1", "pm-2"), (7800,))
    domains = {"web": Domain("web", "shut off", GiB, 1)}
    return cluster(node("pm-1", files={"web": old}, volumes={"web": DISK}, domains=domains), side("pm-2", True),
                   side("pm-3"))  # fmt: skip


def half_written() -> ClusterState:
    disk = replace(DISK, tags=(lvm.TAG, lvm.RESTORING, lvm.RESTORE_WRITES))
    state = made_anew()
    state = changed(state, "pm-2", volumes={**state.nodes["pm-2"].volumes, "web": disk, "web.before": KEPT})
    there = replace(DISK, tags=(lvm.TAG, lvm.RESTORING_THERE))
    return changed(state, "pm-3", volumes={"web": there})


def devices(plan: Plan) -> set[str]:
    return {word for step in plan.steps for do in (step.do, step.undo) for word in getattr(do, "argv", ())
            if word.startswith("/dev/drbd")}  # fmt: skip


def test_what_is_written_is_the_vms_own_device_whatever_a_stale_copy_says() -> None:
    state, xml = made_anew(), XML.replace("/dev/drbd1", "/dev/drbd2")
    assert state.stale_copies("web") == ["pm-1"]
    found = Found("pm-2", replace(BASE, device="/dev/drbd2", nodes=("pm-2", "pm-3"), xml=xml), None)
    assert devices(restore_in_place.in_place(found, GiB, xml, state, SETTINGS)) == {"/dev/drbd2"}
    assert devices(restore_in_place.undo_in_place("web", GiB, half_written(), SETTINGS)) == {"/dev/drbd2"}
    assert backup.drbd_device("web", state) == "/dev/drbd2"
    with pytest.raises(Refused, match="is not in it"):
        other_disks.whole("web", "a backup", XML, state)


def test_a_failover_puts_it_back_there_too() -> None:
    state = with_resource(
        half_written(), "pm-2", connection="Connecting", peer_disk="DUnknown", peer_role="Unknown",
        minor=2, role="Secondary",
    )  # fmt: skip
    state = ClusterState({**state.nodes, "pm-3": NodeState("pm-3", down="no ssh", answers=False)})
    assert devices(failover.failover("web", state, SETTINGS, size=GiB)) == {"/dev/drbd2"}


@pytest.mark.parametrize("what", ["file", "kernel"])
def test_a_minor_that_is_not_the_same_everywhere_is_refused(what: str) -> None:
    state = side("pm-3")
    if what == "file":
        other = replace(state, files={"web": replace(state.files["web"], minor=5)})
    else:
        other = replace(state, resources={"web": replace(state.resources["web"], minor=5)})
    with pytest.raises(
        Refused, match=r"its minor is 2 in the file on pm-2 and 5 in \w+( file)? on pm-3|not known which"
    ):
        backup.drbd_device("web", cluster(side("pm-2"), other))


# -- the other side is lost meanwhile --


class Cut(World):
    """The link between the nodes is lost while the disk is written."""

    cut = fails = False

    def carry_out(self, name: str, action: Action, watch: Watch | None = None) -> None:
        writes = name == "pm-1" and "--compare" in str(action)
        self.cut = self.cut or writes
        super().carry_out(name, action, watch)
        if self.fails and writes and "--expect" in str(action):
            raise CommandFailed(name, "put", 65, "the image has another checksum")

    def peer(self, name: str, vm: str) -> Kernel | None:
        return None if self.cut else super().peer(name, vm)


@pytest.mark.parametrize("fails", [False, True])
def test_the_other_side_keeps_its_mark_when_it_did_not_get_all(fails: bool) -> None:
    world = Cut()
    world.nodes, world.fails = stopped_web().nodes, fails
    with pytest.raises(StepFailed):
        apply(restored_in_place(world), world.carry_out)
    assert lvm.RESTORING_THERE in world.nodes["pm-2"].volumes["web"].tags
    assert "web.before" in world.nodes["pm-1"].volumes
    world.dead.add("pm-1")
    with pytest.raises(Refused):
        failover.failover("web", world.state(), SETTINGS, size=GiB)


def test_putting_back_keeps_it_then_as_well() -> None:
    world = Cut()
    world.nodes = half_restored_web().nodes
    with pytest.raises(StepFailed):
        apply(restore_in_place.undo_in_place("web", GiB, world.state(), SETTINGS), world.carry_out)
    assert lvm.RESTORING_THERE in world.nodes["pm-2"].volumes["web"].tags
    assert "web.before" in world.nodes["pm-1"].volumes


def test_marks_alone_are_taken_off_when_both_sides_are_equal() -> None:
    world = at_its_end(stopped_web())
    apart = with_resource(world.state(), "pm-1", connection="Connecting", peer_disk="DUnknown")
    with raises(Refused, "requirements.healthy", "Connected"):
        restore_in_place.undo_in_place("web", GiB, apart, SETTINGS)
    assert restore_in_place.undo_in_place("web", GiB, world.state(), SETTINGS).steps


# -- the snapshot is gone --


def without_snapshot() -> World:
    world = half_restored_web()
    del world.nodes["pm-1"].volumes["web.before"]
    return world


def at_its_end(world: World) -> World:
    """The restore is complete, its marks are left."""
    whole = restored_in_place(world)
    at = next(number for number, step in enumerate(whole.steps) if step.note.startswith("remove the snapshot"))
    return done(world, Plan("half", whole.steps[: at + 1]))


def put_back(world: World) -> object:
    return restore_in_place.undo_in_place("web", GiB, world.state(), SETTINGS)


def started(world: World) -> object:
    return start.start("web", "", world.state(), SETTINGS)


@pytest.mark.parametrize("command", [put_back, started])
def test_a_half_written_disk_without_its_snapshot_is_restored_again(command: Callable[[World], object]) -> None:
    with raises(Refused, "unfinished_restore.none", "lost with a disk", "Restore it again"):
        command(without_snapshot())


def test_nor_does_a_failover_start_it() -> None:
    world = without_snapshot()
    world.nodes["pm-1"].resources["web"].role = "Secondary"
    world.dead.add("pm-2")
    with raises(Refused, "failover_restore.on", "snapshot", "gone", "--backup ID --as NEW"):
        failover.failover("web", world.state(), SETTINGS, size=GiB)


def test_what_fails_when_it_is_restored_again_leaves_it_marked() -> None:
    """What was kept of a torn disk is torn."""

    class Failing(World):
        def carry_out(self, name: str, action: Action, watch: Watch | None = None) -> None:
            super().carry_out(name, action, watch)
            if "--expect" in str(action) and "--compare" in str(action):
                raise CommandFailed(name, "put", 65, "the image has another checksum")

    world = Failing()
    world.nodes = without_snapshot().nodes
    with pytest.raises(PmcError):
        apply(restored_in_place(world), world.carry_out)
    assert unfinished_restore.interrupted(world.state(), "web")
    assert lvm.RESTORING_THERE in world.nodes["pm-2"].volumes["web"].tags, "a failover must see it there, too"
    again = done(without_snapshot(), restored_in_place(without_snapshot()))
    assert [each.volumes for each in again.nodes.values()] == [each.volumes for each in stopped_web().nodes.values()]


def test_marks_that_are_left_at_the_end_are_told_as_what_they_are() -> None:
    with pytest.raises(Refused, match="wrote nothing, or came to its end, and left its marks on pm-1 and pm-2"):
        restored_in_place(at_its_end(stopped_web()))


def test_nobody_is_told_to_remove_what_was_kept() -> None:
    """A restore of a wholly different disk fills it, and it has room for all of that."""
    state = half_restored_web().state()
    volumes = state.nodes["pm-1"].volumes
    full = replace(volumes["web.before"], attributes="swi-a-s---", data_percent=97.0, origin="web")
    state = changed(state, "pm-1", volumes={**volumes, "web.before": full})
    (found,) = vm_volumes.nearly_full(healthy(state))
    assert "remove" not in found.remedy
    case = context(with_resource(state, "pm-1", disk="Diskless"))
    [condition] = repair_side.disks(case)
    assert "remove it first" not in condition.refusal
    assert "fab vm.restore web --put-back" in condition.refusal


def context(state: ClusterState) -> RepairContext:
    return RepairContext("web", ("pm-1", "pm-2"), state, ALIKE, SETTINGS, RepairOptions(NOW, new_disk=True))


# -- somebody else has the disk open --


def test_a_side_that_is_primary_is_made_secondary_first_which_drbd_refuses_while_it_is_open() -> None:
    world = stopped_web()
    world.nodes["pm-1"].resources["web"].role = "Primary"

    def opens(plan: Plan) -> list[tuple[str, Any]]:
        return [(step.node, step.do) for step in plan.steps if step.do == drbd.secondary("web")][:1]

    plan = restored_in_place(world)
    assert opens(plan) == [("pm-1", drbd.secondary("web"))]
    order = [step.note for step in plan.steps]
    first = next(number for number, note in enumerate(order) if "nobody has its disk open" in note)
    assert first < order.index("mark vg/web as being restored into")
    assert opens(restore_in_place.undo_in_place("web", GiB, half_restored_web().state(), SETTINGS))


# -- it was put back while the other node was dead --


def runs_alone() -> World:
    world = half_restored_web()
    world.dead.add("pm-2")
    world.nodes["pm-1"].resources["web"].role = "Secondary"
    return done(world, failover.failover("web", world.state(), SETTINGS, size=GiB))


def test_that_it_was_put_back_is_known_until_another_peer_has_all() -> None:
    world = runs_alone()
    state = world.state()
    plan = peer.peer(peer.choose("web", "pm-3", state, SETTINGS), XML, "hunter2", state, SETTINGS)
    for steps in range(1, 6):
        half = done(world, Plan("half", plan.steps[:steps]))
        half.dead.clear()  # pm-2 is back, DRBD has copied all to it
        backup.choose_source("web", half.state())
        off = done(half, stop.stop("web", False, half.state(), SETTINGS))
        assert start.start("web", "", off.state(), SETTINGS).steps
    whole = done(world, plan)
    assert {tag for each in whole.nodes["pm-1"].volumes.values() for tag in each.tags} == {lvm.TAG}


def test_and_until_the_other_disk_is_gone() -> None:
    world = runs_alone()
    world.dead.clear()
    world.nodes["pm-2"].resources["web"].disk = "Diskless"
    case = context(with_resource(world.state(), "pm-2", disk="Diskless"))
    [condition] = repair_side.disks(case)
    for steps in range(1, len(condition.steps)):
        half = done(world, Plan("half", tuple(condition.steps[:steps])))
        assert not unfinished_restore.interrupted(half.state(), "web")
