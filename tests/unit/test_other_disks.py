"""A VM with more than the one disk of its DRBD resource: refused by name, never half done in silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from invoke.context import Context

from pmc.errors import PmcError, Refused
from pmc.facts import domain_disks
from pmc.health.questions import parse_domain_files
from pmc.model import ClusterState, Disk, Running
from pmc.plans import migrate, other_disks, peer, remove, remove_steps, repair, restore, restore_in_place
from pmc.plans.backup_request import BackupRequest
from pmc.plans.repair_context import RepairOptions, SideFacts
from pmc.plans.restore import Found
from pmc.tasks import backups, ns
from pmc.units import GiB
from tests.unit import counted as counting
from tests.unit.counted import counted
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, XML, changed, data, running, stopped, with_resource
from tests.unit.stories import BASE, NEW, NOW, STORED, UUID, taken, with_two, with_web

TWO = data("libvirt-handwritten-two-disks.xml")


def disk(target: str, source: str, more: str = "", kind: str = "block", device: str = "disk") -> str:
    return f'<disk type="{kind}" device="{device}">{source}<target dev="{target}"/>{more}</disk>'


def with_disks(*more: str) -> str:
    return XML.replace("<interface", f"{''.join(more)}<interface")


SECOND = with_disks(disk("vdb", '<source dev="/dev/vg/data"/>'))
OTHER_RESOURCE = with_disks(disk("vdb", '<source dev="/dev/drbd2"/>'))
ELSEWHERE = XML.replace("/dev/drbd1", "/dev/vg/web")
CD = disk("sda", '<source file="/iso"/>', kind="file", device="cdrom")
EMPTY = disk("sdb", "", kind="file", device="cdrom")
READ_ONLY = disk("vdc", '<source file="/seed.img"/>', "<readonly/>", kind="file")
FLOPPY = disk("fda", "", kind="file", device="floppy")
HARMLESS = with_disks(CD, EMPTY, READ_ONLY, FLOPPY)
UNCOVERED = [
    (SECOND, "vdb (/dev/vg/data)"),
    (OTHER_RESOURCE, "vdb (/dev/drbd2)"),
    (ELSEWHERE, "vda (/dev/vg/web)"),
    (with_disks(disk("vdb", '<source file="/x.qcow2"/>', kind="file")), "vdb (/x.qcow2)"),
    (with_disks(disk("vdb", '<source protocol="rbd" name="pool/x"/>', kind="network")), "vdb (network rbd pool/x)"),
    (with_disks(disk("vdb", '<source pool="p" volume="v"/>', kind="volume")), "vdb (volume p v)"),
    (with_disks(disk("sdz", '<source dev="/dev/sdz"/>', device="lun")), "sdz (/dev/sdz)"),
]


def several(state: ClusterState) -> ClusterState:
    """The resource of web has two volumes."""
    for name in ("pm-1", "pm-2"):
        files = {"web": replace(state.nodes[name].files["web"], more_minors=(9,))}
        state = changed(with_resource(state, name, more_minors=(9,)), name, files=files)
    return state


def test_the_disks_of_a_domain() -> None:
    assert domain_disks.writable(TWO) == (Disk("vda", "/dev/drbd20"), Disk("vdb", "/dev/vg/db_data"))
    assert domain_disks.writable(HARMLESS) == domain_disks.writable(XML) == (Disk("vda", "/dev/drbd1"),)
    for xml, said in UNCOVERED:
        assert said in [str(each) for each in domain_disks.writable(xml)]


@pytest.mark.parametrize(
    "device", ["/dev/drbd1", "/dev/drbd/by-res/web", "/dev/drbd/by-res/web/0", "/dev/drbd/by-disk/vg/web"]
)
def test_the_names_of_a_vms_device(device: str) -> None:
    other_disks.whole("web", "a backup", XML.replace("/dev/drbd1", device), running())


def in_place(xml: str, state: ClusterState) -> object:
    return restore_in_place.in_place(restore.find(BASE.id, STORED), GiB, xml, state, SETTINGS)


def second_copy(xml: str, state: ClusterState) -> object:
    change = peer.choose("web", "pm-3", state, SETTINGS)
    return peer.peer(change, xml, "0" * 48, state, SETTINGS)


def backed_up(xml: str, state: ClusterState) -> object:
    from pmc.plans import backup

    source = backup.choose_source("web", state)
    return backup.make_backup(BackupRequest("web"), source, GiB, xml, (), NOW, state, SETTINGS)


BY_HALF: dict[str, tuple[Callable[[str, ClusterState], object], Callable[[], ClusterState]]] = {
    "a backup": (backed_up, running),
    "a restore": (in_place, stopped),
    "a second copy": (second_copy, running),
}


@pytest.mark.parametrize("what", BY_HALF)
@pytest.mark.parametrize(("xml", "said"), UNCOVERED, ids=[said for _, said in UNCOVERED])
def test_nothing_is_done_by_half(what: str, xml: str, said: str) -> None:
    build, state = BY_HALF[what]
    build(HARMLESS, state())
    with pytest.raises(Refused) as caught:
        build(xml, state())
    assert f"web: {what} is of one disk, that of its DRBD resource (/dev/drbd1); {said} is not in it" in str(
        caught.value
    )


def attached(state: ClusterState, *more: Disk) -> ClusterState:
    """To the guest as it runs on pm-1 (virsh attach-disk --live); its definition has none of it."""
    runs = {"web": Running("kvm", (Disk("vda", "/dev/drbd1"), *more))}
    return changed(state, "pm-1", running=runs)


@pytest.mark.parametrize("what", [what for what, (_, state) in BY_HALF.items() if state is running])
def test_a_disk_that_only_the_running_guest_has_counts_too(what: str) -> None:
    build, _ = BY_HALF[what]
    build(XML, attached(running()))
    with raises(Refused, "other_disks.whole", f"web: {what} ", "vdb (/dev/vg/data)"):
        build(XML, attached(running(), Disk("vdb", "/dev/vg/data")))


@pytest.mark.parametrize("what", BY_HALF)
def test_nor_is_a_resource_with_several_volumes(what: str) -> None:
    build, state = BY_HALF[what]
    with raises(Refused, "other_disks.one_volume", f"web: {what} ", "/dev/drbd1, /dev/drbd9"):
        build(XML, several(state()))
    # Also where only one of the nodes says so, or only the kernel.
    with raises(Refused, "other_disks.one_volume"):
        build(XML, with_resource(state(), "pm-2", more_minors=(9,)))


def test_nor_are_its_volumes_removed_by_half() -> None:
    with raises(Refused, "other_disks.one_volume", "web: vm.rm ", "/dev/drbd1, /dev/drbd9"):
        remove.remove("web", several(stopped()), SETTINGS)
    with raises(Refused, "other_disks.one_volume", "web: vm.peer --cleanup ", "/dev/drbd1, /dev/drbd9"):
        remove_steps.cleanup("web", several(stopped()), SETTINGS)


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        (XML.replace('<target dev="vda"/>', '<target dev="vda"/><readonly/>'), "not at all"),
        (with_disks(disk("vdb", '<source dev="/dev/drbd1"/>')), "more than once"),
        (XML[:40], "XML cannot be read"),
    ],
)
def test_the_disk_must_be_there_once(xml: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        other_disks.whole("web", "a backup", xml, running())


def told(monkeypatch: pytest.MonkeyPatch, world: Any, vm: str, xml: str) -> Any:
    """The tasks' cluster, in which the VM is defined so."""
    cluster = counted(monkeypatch, world)
    usual = counting.CountedNode._answer

    def answer(self: Any, query: Any) -> Any:
        asked = query.command.argv
        return xml if "dumpxml" in asked and asked[-1] == vm else usual(self, query)

    monkeypatch.setattr(counting.CountedNode, "_answer", answer)
    return cluster


def test_all_others_are_backed_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = told(monkeypatch, with_two(), "web", SECOND)
    with raises(PmcError, "backups.all", "1 of 2", ": web"):
        backups.backup(Context(), all=True)
    out, err = capsys.readouterr()
    assert "vdb (/dev/vg/data) is not in it" in err
    assert "web2." in out
    assert [line for line in str(cluster.world.log).split("'") if "web.2" in line] == []


def test_a_clone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = told(monkeypatch, with_web(), "web", SECOND)
    before = cluster.world.copy()
    with raises(Refused, "other_disks.whole", "web: a clone ", "vdb (/dev/vg/data)"):
        ns["vm.add"](Context(), name="new", clone="web", primary="pm-1", memory="1G", address="10.0.0.9")
    assert cluster.world == before


CLONE = {"name": "new", "clone": "web", "primary": "pm-1", "memory": "1G", "address": "10.0.0.9"}


@pytest.mark.parametrize(
    ("task", "flags"),
    [
        ("vm.add", CLONE),
        ("vm.backup", {"name": "web"}),
        ("vm.backup", {"all": True}),
        ("vm.peer", {"name": "web", "secondary": "pm-3"}),
        ("vm.repair", {"name": "web", "new_disk": True, "yes": True}),
    ],
)
def test_each_task_asks_what_the_running_guest_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], task: str, flags: dict[str, Any]
) -> None:
    world = with_web()
    if task == "vm.repair":
        del world.nodes["pm-2"].volumes["web"]
        world.nodes["pm-2"].resources["web"].disk = "Diskless"
    cluster = counted(monkeypatch, world)
    cluster.attached["web"] = (Disk("vda", "/dev/drbd1"), Disk("vdb", "/dev/vg/data"))
    before = cluster.world.copy()
    with pytest.raises(PmcError) as caught:
        ns[task](Context(), **flags)
    assert "vdb (/dev/vg/data) is not in it" in f"{caught.value}{capsys.readouterr().err}"
    assert cluster.world == before


def test_no_new_vm_of_a_backup_that_has_one_of_two_disks() -> None:
    """Those that pmc made before it looked."""
    old = replace(BASE, xml=SECOND)
    with raises(Refused, "other_disks.manifest", f"--backup {old.id}: web", "vdb (/dev/vg/data)", "--to FILE"):
        restore.as_new(Found("pm-2", old, None), "new", ("pm-1",), stopped(), SETTINGS, NEW, UUID)
    restore.as_new(Found("pm-2", replace(BASE, xml=HARMLESS), None), "new", ("pm-1",), stopped(), SETTINGS, NEW, UUID)
    restore.to_file(Found("pm-2", old, None), "/tmp/x", SETTINGS)


@pytest.mark.parametrize("xml", [XML, SECOND])
def test_a_new_disk(xml: str) -> None:
    """The other one on that node would have to be made anew too."""
    state = with_resource(running(), "pm-2", disk="Diskless")
    state = with_resource(state, "pm-1", peer_disk="Diskless")
    about = {name: SideFacts(xml=xml) for name in ("pm-1", "pm-2")}
    wishes = RepairOptions(datetime(2026, 1, 2, tzinfo=UTC), new_disk=True)
    (first, *_) = repair.conditions("web", state, about, SETTINGS, wishes)
    assert bool(first.steps) is (xml == XML)
    assert ("--new-disk: a new disk is of one disk" in first.refusal) is (xml == SECOND)
    (first, *_) = repair.conditions("web", several(state), about, SETTINGS, wishes)
    assert "several volumes" in first.refusal


# -- vm.mv --


def moved(*found: Disk, state: ClusterState | None = None) -> object:
    runs = {"web": Running("kvm", (Disk("vda", "/dev/drbd1"), *found))}
    return migrate.move("web", "", changed(state or running(), "pm-1", running=runs), SETTINGS)


def test_a_vm_does_not_move_without_one_of_its_disks() -> None:
    moved()
    moved(Disk("vdb", "network rbd pool/x", network=True))
    moved(Disk("vdb", "/dev/drbd9"), state=several(running()))  # replicated too
    with raises(Refused, "other_disks.there_too", "web: vdb (/dev/vg/data)", "pm-2"):
        moved(Disk("vdb", "/dev/vg/data"))


# -- pm.verify --


def test_the_disks_are_read_of_libvirts_own_files() -> None:
    (found,) = parse_domain_files(f"== manual\n{TWO}").values()
    assert found.disks == domain_disks.writable(TWO)


def test_a_backup_of_one_disk_is_taken() -> None:
    assert taken(running())[1].steps


def test_notes_in_which_no_disk_has_an_end_take_no_time_for_ever() -> None:
    """What has no end is not known; what follows it is."""
    disk = "<disk type='block' device='disk'>\n<source dev='/dev/drbd1'/>\n<target dev='vda'/>\n</disk>\n"
    began = time.process_time()
    found = domain_disks.parse_running("./web.xml\n<domain type='kvm'>\n" + "<disk type=\n" * 40_000 + disk)
    assert time.process_time() - began < 5
    assert found == {"web": Running("kvm", (Disk("vda", "/dev/drbd1"),))}
    assert domain_disks.parse_running("./web.xml\n<domain type='kvm'>\n" + "<disk type=\n" * 40_000) == {
        "web": Running("kvm")
    }
