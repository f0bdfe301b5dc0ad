"""A disk that stands still or is not whole: what is told of it, and what would hang or go on with less is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from pmc.errors import Refused
from pmc.facts import lvm_attr
from pmc.facts.drbd_status import parse_status
from pmc.facts.lvm_report import Group
from pmc.health import node_checks
from pmc.health import node_lvm as lvm_checks
from pmc.model import ClusterState, Volume
from pmc.plan import Plan
from pmc.plans import (
    add,
    backup,
    clone,
    failover,
    migrate,
    peer,
    remove,
    repair,
    restore,
    restore_in_place,
    start,
    stop,
    suspended_io,
)
from pmc.plans.repair_context import RepairOptions
from pmc.units import GiB
from pmc.view.rows import pm_rows, vm_rows
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, XML, cells, changed, data, documents, node, running, stopped, with_resource
from tests.unit.stories import ALIKE, DELTA, POOL, STORED, half_restored_web, orphaned_web, taken

SUSPENDED = data("drbdsetup-handwritten-events2-suspended-user.txt")


def suspended(state: ClusterState, why: str = "user", at: str = "pm-1") -> ClusterState:
    return with_resource(state, at, suspended=why)


def lettered(state: ClusterState, attributes: str, at: str = "pm-2") -> ClusterState:
    """web's volume there has this lv_attr."""
    volumes = {**state.nodes[at].volumes, "web": replace(state.nodes[at].volumes["web"], attributes=attributes)}
    return changed(state, at, volumes=volumes)


def test_drbd_says_why_io_is_suspended() -> None:
    assert parse_status(SUSPENDED)["web"].suspended == "user"
    assert parse_status(SUSPENDED.replace("suspended:user", "suspended:no"))["web"].suspended == ""
    assert parse_status(SUSPENDED.replace(" suspended:user", ""))["web"].suspended == ""
    nine = SUSPENDED.replace("suspended:user", "suspended:no-data,quorum")
    assert parse_status(nine)["web"].suspended == "no-data,quorum"


def place(state: ClusterState) -> Plan:
    found = restore.find(DELTA.id, STORED)
    return restore_in_place.in_place(found, GiB, XML, state, SETTINGS)


HANG: dict[str, Callable[[ClusterState], object]] = {
    "vm.start": lambda state: start.start("web", "", state, SETTINGS),
    "vm.mv": lambda state: migrate.move("web", "", state, SETTINGS),
    "vm.stop": lambda state: stop.stop("web", False, state, SETTINGS),
    "vm.stop --force": lambda state: stop.stop("web", True, state, SETTINGS),
    "vm.rm": lambda state: remove.remove("web", state, SETTINGS),
    "vm.restore --in-place": place,
    "vm.restore --put-back": lambda state: restore_in_place.undo_in_place("web", GiB, state, SETTINGS),
    "vm.failover": lambda state: failover.failover("web", state, SETTINGS),
    "vm.peer": lambda state: peer.choose("web", "pm-3", state, SETTINGS),
    "vm.backup that freezes": lambda state: taken(state, agent=True),
}
OFF = ("vm.start", "vm.restore --in-place")
BROKEN = {"vm.restore --put-back": half_restored_web, "vm.failover": orphaned_web}


def begin(task: str) -> tuple[ClusterState, str]:
    """A state that the task is carried out in, and the node that matters."""
    if task in BROKEN:
        return BROKEN[task]().state(), "pm-2" if task == "vm.failover" else "pm-1"
    return (stopped() if task in OFF else running()), "pm-1"


@pytest.mark.parametrize("task", HANG)
def test_what_would_hang_is_refused(task: str) -> None:
    state, at = begin(task)
    HANG[task](state)
    resume = rf"on {at}: drbdadm resume-io web"
    with pytest.raises(Refused, match=rf"web: its I/O is suspended on {at} \(user\), so .*{resume}"):
        HANG[task](suspended(state, at=at))


@pytest.mark.parametrize(
    ("why", "way"),
    [
        ("user", "on pm-1: drbdadm resume-io web"),
        ("user,quorum", "on pm-1: drbdadm resume-io web"),
        ("no-data", "bring a side with good data back (fab pm.ready_drbd, fab vm.repair web); or give"),
        ("quorum", "bring its other nodes back: fab pm.ready_drbd"),
        ("fencing", "see that its other node is really off, then on pm-1: drbdadm resume-io web"),
    ],
)
def test_the_way_out_is_that_of_the_reason(why: str, way: str) -> None:
    with pytest.raises(Refused) as caught:
        migrate.move("web", "", suspended(running(), why), SETTINGS)
    assert way in str(caught.value)


def test_a_backup_that_does_not_freeze_reads_a_snapshot_below_it() -> None:
    assert taken(suspended(running()))[0].consistency == "crash"


def test_a_repair_says_so_and_does_nothing() -> None:
    """What DRBD suspended for want of data goes on when the repair is done."""
    wishes = RepairOptions(datetime(2026, 1, 2, tzinfo=UTC))

    def codes(state: ClusterState) -> list[tuple[str, bool, bool]]:
        return [
            (a.code, bool(a.steps), bool(a.refusal)) for a in repair.conditions("web", state, ALIKE, SETTINGS, wishes)
        ]

    assert codes(suspended(running())) == [("suspended", False, True)]
    assert codes(suspended(running(), "no-data")) == []
    assert codes(lettered(running(), "-wi-so----")) == [("stands", False, True)]
    assert codes(lettered(running(), "-wi-ao--p-")) == []


# -- volumes --

STAND = ["-wi-so----", "-wi-ao--p-", "-wi-ao--X-", "-wi-Xo----", "-wi-do----", "Vwi-aotzF-"]


@pytest.mark.parametrize("attributes", STAND)
@pytest.mark.parametrize("task", ["vm.start", "vm.mv", "vm.restore --in-place"])
def test_a_volume_that_stands_or_is_not_whole(task: str, attributes: str) -> None:
    with pytest.raises(
        Refused, match=r"web: on pm-2 vg/web (is|has) .*\. Next: on pm-2: ((bring|dmsetup|lvchange) .*)"
    ):
        HANG[task](lettered(begin(task)[0], attributes))


@pytest.mark.parametrize("attributes", STAND)
def test_it_is_not_read(attributes: str) -> None:
    """Of the side that is read; what its other side has is no reason to make no backup."""
    with raises(Refused, "suspended_io.readable", "web: on pm-2 vg/web"):
        taken(lettered(running(), attributes))
    with raises(Refused, "suspended_io.readable", "web: on pm-2 vg/web"):
        clone.snapshot("web", "clone", "pm-2", lettered(running(), attributes), SETTINGS)
    assert backup.choose_source("web", running()).node == "pm-2"
    assert taken(lettered(running(), attributes, at="pm-1"))[1].steps


@pytest.mark.parametrize("attributes", ["-wi-ao----", "-wi-a-----", "owi-aos---", "rwi-aor-r-", "rwi-aor-m-", ""])
def test_a_volume_that_works(attributes: str) -> None:
    for task in ("vm.start", "vm.mv", "vm.restore --in-place"):
        HANG[task](lettered(begin(task)[0], attributes))


@pytest.mark.parametrize("kind", ["r", "R", "m", "M"])
def test_a_mirror_that_lost_a_leg_is_weak_and_works(kind: str) -> None:
    """Its other legs are read and written; of a linear volume nothing else is left."""
    weak = lvm_attr.unwell(Volume("web", "vg", GiB, attributes=f"{kind}wi-aor-p-"))
    assert weak is not None
    assert (weak.stands, weak.hangs, weak.remedy) == (False, False, "lvconvert --repair vg/web")
    for task in ("vm.start", "vm.mv", "vm.restore --in-place"):
        HANG[task](lettered(begin(task)[0], f"{kind}wi-aor-p-"))
    broken = lvm_attr.unwell(Volume("web", "vg", GiB, attributes="-wi-a---p-"))
    assert broken is not None
    assert broken.stands


def test_a_volume_that_only_has_the_vms_name_is_not_its_disk() -> None:
    """The file names another one; or there is none, and vg/web may be anybody's."""
    state = lettered(running(), "-wi-so----")
    file = replace(state.nodes["pm-2"].files["web"], disk="/dev/vg/other")
    volumes = {**state.nodes["pm-2"].volumes, "other": Volume("other", "vg", GiB, attributes="-wi-ao----")}
    for files in ({"web": file}, {}):
        named = changed(state, "pm-2", files=files, volumes=volumes)
        suspended_io.require_io("web", named, ["pm-2"])
        assert documents(vm_rows(named))[0]["unwell"] == {}
    named = changed(named, "pm-2", files={"web": replace(file, disk="/dev/vg/web")})
    unwell = documents(vm_rows(named))[0]["unwell"]
    assert isinstance(unwell, dict)
    assert set(unwell) == {"pm-2"}


def test_any_volume_of_the_resource_counts() -> None:
    state = running()
    file = replace(state.nodes["pm-2"].files["web"], more_disks=(("pm-2", "/dev/vg/web_log"),))
    log = Volume("web_log", "vg", GiB, attributes="-wi-so----")
    state = changed(state, "pm-2", files={"web": file}, volumes={**state.nodes["pm-2"].volumes, "web_log": log})
    with raises(Refused, "suspended_io.readable", "web: on pm-2 vg/web_log is suspended"):
        suspended_io.require_io("web", state, ["pm-2"])


def test_only_what_hangs_keeps_a_vm_from_being_stopped_and_removed() -> None:
    for task in ("vm.stop", "vm.stop --force", "vm.rm"):
        HANG[task](lettered(running(), "-wi-ao--p-"))
        with raises(Refused, "suspended_io.readable", "dmsetup resume vg-web"):
            HANG[task](lettered(running(), "-wi-so----"))


def test_a_thin_volume_stands_with_its_pool() -> None:
    for letters, way in (
        ("twi-sotz--", "lvchange --refresh vg/pool"),
        ("twi-aotzD-", "lvextend"),
        ("twi-aotzF-", "lvconvert"),
    ):
        state = lettered(stopped(), "Vwi-aotz--")
        web = replace(state.nodes["pm-2"].volumes["web"], pool="pool")
        state = changed(state, "pm-2", volumes={"web": web, "pool": replace(POOL, attributes=letters)})
        with raises(Refused, "suspended_io.readable", "web: on pm-2", "vg/pool", "Next: on pm-2: ") as caught:
            start.start("web", "", state, SETTINGS)
        assert way in str(caught.value)


def test_the_device_to_resume_is_called_as_device_mapper_does() -> None:
    its = lvm_attr.unwell(Volume("my-web", "vg-0", GiB, attributes="-wi-so----"))
    assert its is not None
    assert its.remedy == "dmsetup resume vg--0-my--web"
    assert its.hangs


# -- volume groups --


@pytest.mark.parametrize(("letters", "says"), [("wz-pn-", "is partial"), ("wzx-n-", "is exported"), ("rz--n-", "read")])
def test_a_volume_group_that_is_not_whole(letters: str, says: str) -> None:
    its = lvm_attr.group(letters, "vg")
    assert its is not None
    assert says in its.why
    about = node_checks.About("pm-1", SETTINGS)
    found = lvm_checks.judge_group(Group(GiB, GiB, letters), about)
    assert not found.ok
    assert says in found.text
    assert lvm_checks.judge_group(Group(GiB, GiB, "wz--n-"), about).ok


def test_nothing_new_is_made_in_one_that_is_not_whole() -> None:
    broken = node("pm-1", group_attributes="wz-pn-")
    with raises(Refused, "add.check_node", "--size: pm-1", "vg is partial"):
        add.check_node("new", broken, GiB, GiB, SETTINGS)
    with raises(Refused, "room.snapshot_room", "pm-2: ", "vg is partial"):
        taken(changed(running(), "pm-2", group_attributes="wz-pn-"))


# -- what is listed --


def test_listings_show_it() -> None:
    def drbd(state: ClusterState) -> Any:
        return cells(vm_rows(state))[0]["drbd"]

    assert drbd(suspended(running())) == "Connected UpToDate/UpToDate I/O SUSPENDED (user)"
    assert documents(vm_rows(suspended(running())))[0]["suspended"] == "user"
    stands = "Connected UpToDate/UpToDate; pm-2: vg/web is partial: a disk that it lies on is missing"
    assert drbd(lettered(running(), "-wi-ao--p-")) == stands
    assert documents(vm_rows(lettered(running(), "-wi-ao--p-")))[0]["unwell"] == {
        "pm-2": "vg/web is partial: a disk that it lies on is missing"
    }
    assert documents(vm_rows(running()))[0]["unwell"] == {}
    free = [row["vg free"] for row in cells(pm_rows(changed(running(), "pm-2", group_attributes="wz-pn-")))]
    assert free == ["90 GiB", "90 GiB, PARTIAL", "90 GiB"]
    assert cells(pm_rows(suspended(running())))[0]["drbd"] == "1 Connected UpToDate/UpToDate I/O SUSPENDED (user)"
