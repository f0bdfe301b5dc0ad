"""The VM's disk is the volume that its resource file names, and pmc's snapshots are known by their name and tag: no
verb reads, writes or removes another volume."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pmc import drbd, lvm
from pmc.backup import Stored
from pmc.command import Command
from pmc.drbd_generations import Generation
from pmc.errors import Refused
from pmc.facts import backing, lvm_report
from pmc.health import verify
from pmc.model import ClusterState, Domain, Odd, Resource, ResourceFile, Volume
from pmc.plan import Plan
from pmc.plans import (
    add,
    backup,
    clone,
    failover,
    peer,
    pm,
    remove,
    remove_steps,
    repair,
    restore_in_place,
    split_brain_snapshot,
    start,
    unfinished_restore,
)
from pmc.plans.backup_request import BackupRequest
from pmc.plans.repair_context import Condition, RepairOptions, SideFacts
from pmc.plans.request import Add
from pmc.plans.restore import Found
from pmc.units import GiB, MiB
from tests.sim.metadata import Disk
from tests.sim.world import Cloud
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, XML, changed, cluster, data, node, running
from tests.unit.stories import BASE, NEW, NOW, WEB, wanted
from tests.unit.test_verify import healthy, made, on, volumes

FILE = drbd.files().parse(f"==\ndb.res\n{data('drbd-handwritten-other-disk.res')}").resources["db"]
DISK = Volume("db_disk0", "vg", 32 * MiB, (), "", "-wi-ao----")
ANOTHERS = Volume("db", "vg", 32 * MiB, (), "", "-wi-a-----")  # another admin's
SIZE = 31 * MiB
DOMAIN = XML.replace("web", "db").replace("/dev/drbd1", "/dev/drbd20")
MADE = replace(BASE, id="db.20260101T000000Z.base", vm="db", device="/dev/drbd20", size=SIZE, xml=DOMAIN)


def db(active: bool = False, file: ResourceFile = FILE, *more: Volume, disk: Volume | None = DISK) -> ClusterState:
    """db lives on pm-1 and pm-2; beside its disk there is another admin's volume of its name."""
    states = []
    for name in ("pm-1", "pm-2"):
        primary = active and name == "pm-1"
        resource = Resource(
            "db", 20, "Primary" if primary else "Secondary", "UpToDate", "Connected", "Established", "Unknown",
            "UpToDate", SIZE,
        )  # fmt: skip
        there = {each.name: each for each in (ANOTHERS, *more, *([disk] if disk else []))}
        states.append(
            node(
                name, volumes=there, resources={"db": resource}, files={"db": file},
                domains={"db": Domain("db", "running" if primary else "shut off", GiB, 1)},
            )
        )  # fmt: skip
    return cluster(*states)


def marked(*tags: str) -> Volume:
    return replace(DISK, tags=tags)


def snapshot(kind: str, origin: str = "db_disk0", tags: tuple[str, ...] = ("pmc",)) -> Volume:
    return Volume(f"db.{kind}", "vg", 8 * MiB, tags, origin, "swi-a-s---", 1.0)


def apart(state: ClusterState) -> ClusterState:
    for name in ("pm-1", "pm-2"):
        resource = replace(state.nodes[name].resources["db"], connection="StandAlone", out_of_sync=MiB)
        state = changed(state, name, resources={"db": resource})
    return state


PARTED = {"pm-1": SideFacts(Generation(0x20, 0x10), xml=DOMAIN), "pm-2": SideFacts(Generation(0x30, 0x10), xml=DOMAIN)}
ALIKE = {"pm-1": SideFacts(Generation(0x20), xml=DOMAIN), "pm-2": SideFacts(Generation(0x20), xml=DOMAIN)}


def conditions(state: ClusterState, **wishes: Any) -> list[Condition]:
    return repair.conditions("db", state, PARTED if "keep" in wishes else ALIKE, SETTINGS, RepairOptions(NOW, **wishes))


def take(state: ClusterState) -> Plan:
    source = backup.choose_source("db", state)
    return backup.make_backup(BackupRequest("db"), source, SIZE, DOMAIN, (), NOW, state, SETTINGS)[1]


def cloned(state: ClusterState) -> Plan:
    request = Add("db2", "pm-1", "pm-2", SIZE, GiB, clone="db")
    return Plan("clone", tuple(clone.copy(request, SIZE, state, SETTINGS, NEW)))


def in_place(state: ClusterState) -> Plan:
    return restore_in_place.in_place(Found("pm-2", MADE, None), SIZE, DOMAIN, state, SETTINGS)


def put_back(state: ClusterState) -> Plan:
    return restore_in_place.undo_in_place("db", SIZE, state, SETTINGS)


def split(state: ClusterState) -> Plan:
    [condition] = conditions(apart(state), keep="pm-1")
    if condition.refusal:
        raise Refused(condition.refusal)
    return condition.plan("db")


def removed(state: ClusterState) -> Plan:
    return remove.remove("db", state, SETTINGS)


def peered(state: ClusterState) -> Plan:
    runs = changed(state, "pm-1", domains={"db": Domain("db", "running", GiB, 1)})
    primary = replace(state.nodes["pm-1"].resources["db"], role="Primary")
    runs = changed(runs, "pm-1", resources={"db": primary})
    return peer.peer(peer.choose("db", "pm-3", runs, SETTINGS), DOMAIN, "hunter2", runs, SETTINGS)


def cleaned(state: ClusterState) -> Plan:
    old = replace(state.nodes["pm-2"], name="pm-3", hostname="pm-3", files={}, resources={})
    return remove_steps.cleanup("db", ClusterState({**state.nodes, "pm-3": old}), SETTINGS)


def renewed(state: ClusterState) -> Plan:
    gone = replace(state.nodes["pm-2"].resources["db"], disk="Diskless")
    [condition] = conditions(changed(state, "pm-2", resources={"db": gone}), new_disk=True)
    raise Refused(condition.refusal)


def touched(plan: Plan) -> set[str]:
    """The volumes that the plan's commands and undos name."""
    text = "\n".join(f"{step.do}\n{step.undo}\n{step.check}" for step in plan.steps)
    return set(re.findall(r"(?:\bpmc vg (?:\d+ )?|\bvg/|/dev/mapper/vg-)([a-z0-9_.T-]*\w)", text, re.I))


@pytest.mark.parametrize(
    "spelled",
    ["/dev/vg/db_disk0", "/dev/mapper/vg-db_disk0", '"/dev/vg/db_disk0"', "/dev//vg/db_disk0",
     "/dev/disk/by-id/dm-name-vg-db_disk0"],
)  # fmt: skip
def test_the_disk_is_the_volume_that_the_resource_file_names(spelled: str) -> None:
    there = db(file=replace(FILE, disk=spelled)).nodes["pm-1"]
    assert backing.of(there, "db") == DISK


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/dev/mapper/my--vg-web--data", ("my-vg", "web-data")),
        ("/dev/my-vg/web-data", ("my-vg", "web-data")),
        ("/dev/mapper/a---b", None),
        ("/dev/mapper/crypt", None),
        ("/dev/sdb", None),
        ("", None),
        ("none", None),
    ],
)
def test_a_path_names_a_volume_or_none(path: str, names: tuple[str, str] | None) -> None:
    assert lvm.split(path) == names or (path == "/dev/mapper/a---b" and lvm.split(path) is not None)


def test_hosts_may_have_disks_of_different_names() -> None:
    text = """resource db { device /dev/drbd20 minor 20; meta-disk internal;
        on pm-1 { address 10.77.0.1:7950; disk /dev/vg/one; }
        on pm-2 { address 10.77.0.2:7950; volume 0 { disk "/dev/mapper/vg-two"; } } }"""
    file = drbd.files().parse(f"==\ndb.res\n{text}\n").resources["db"]
    one, two = (Volume(name, "vg", 32 * MiB, (), "", "-wi-ao----") for name in ("one", "two"))
    state = db(True, file, one, two)
    assert [backing.of(state.nodes[name], "db") for name in ("pm-1", "pm-2")] == [one, two]
    assert touched(take(state)) == {"two", "db.backup"}, "the standby's"
    assert touched(cloned(state)) == {"two", "db.clone"}
    assert touched(in_place(db(False, file, one, two))) == {"one", "two", "db.before"}
    assert FILE.disk_on("pm-1") == FILE.disk_on("pm-2") == "/dev/vg/db_disk0"


@pytest.mark.parametrize(
    ("build", "kept"),
    [(take, "db.backup"), (cloned, "db.clone"), (in_place, "db.before"), (split, "db.lost-20260102T030405Z")],
)
@pytest.mark.parametrize("beside", [True, False])
def test_what_reads_a_disk_reads_that_one(build: Callable[[ClusterState], Plan], kept: str, beside: bool) -> None:
    """Another admin's volume, vg/db, may be there, or none of that name."""
    state = db()
    if not beside:
        for name in ("pm-1", "pm-2"):
            state = changed(state, name, volumes={"db_disk0": DISK})
    plan = build(state)
    assert touched(plan) == {"db_disk0", kept}
    made = next(str(step.do) for step in plan.steps if "lvcreate" in str(step.do))
    assert made.endswith(f"--name {kept} vg/db_disk0")


def test_a_restore_that_fails_puts_back_what_was_on_that_disk() -> None:
    state = in_place(db())
    marks = [str(step.do) for step in state.steps if "lvchange" in str(step.do)]
    for mark, tag in zip(marks, (lvm.RESTORING, lvm.RESTORING_THERE), strict=False):
        assert mark.endswith(f" lvchange --addtag {tag} vg/db_disk0")
    broken = db(False, FILE, snapshot("before"), disk=marked(lvm.RESTORING))
    assert touched(put_back(broken)) == {"db_disk0", "db.before"}
    old = db(False, FILE, snapshot("before", origin="db"), disk=marked(lvm.RESTORING))
    with raises(Refused, "restore_in_place.of_the_disk", "vg/db.before on pm-1", "vg/db_disk0", "on pm-1: lvs"):
        put_back(old)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (removed, "its disk on pm-1 is /dev/vg/db_disk0, not vg/db"),
        (peered, "its disk /dev/vg/db_disk0 on pm-1 is not vg/db"),
        (renewed, "its disk is /dev/vg/db_disk0, not vg/db, on pm-2"),
    ],
)
@pytest.mark.parametrize("tags", [(), ("pmc",)])
def test_what_makes_or_removes_volumes_refuses_by_name(
    build: Callable[[ClusterState], Plan], words: str, tags: tuple[str, ...]
) -> None:
    """Also when a volume of the VM's name is pmc's."""
    with pytest.raises(Refused) as why:
        build(db(False, FILE, replace(ANOTHERS, tags=tags)))
    assert words in str(why.value)


def test_another_admins_volume_on_a_third_node_is_no_old_copy_that_may_go() -> None:
    with pytest.raises(Refused, match="the volume vg/db was not made by pmc"):
        cleaned(db())


@pytest.mark.parametrize("build", [take, cloned, in_place, split, removed, peered, renewed])
@pytest.mark.parametrize("disk", ["/dev/other/db", "/dev/sdb1", "", "/dev/mapper/vg-gone"])
def test_a_disk_that_is_elsewhere_is_refused_by_its_name(build: Callable[[ClusterState], Plan], disk: str) -> None:
    with pytest.raises(Refused) as why:
        build(db(file=replace(FILE, disk=disk)))
    assert (disk or "none") in str(why.value)


@pytest.mark.parametrize("build", [take, cloned, in_place, removed])
def test_a_file_that_is_missing_or_cannot_be_read_names_no_disk(build: Callable[[ClusterState], Plan]) -> None:
    """Not even a volume of the VM's name that is pmc's."""
    state = db(False, FILE, replace(ANOTHERS, tags=("pmc",)))
    odd = Odd("/etc/drbd.d/db.res", "line 1: a brace too many", "db")
    state = changed(state, "pm-1", files={}, odd=(odd,))
    for each in (state, changed(state, "pm-2", files={}, odd=(odd,))):
        with pytest.raises(Refused) as why:
            build(each)
        assert re.search("a brace too many|has no DRBD resource file", str(why.value))


def test_a_disk_elsewhere_is_brought_up_and_attached_all_the_same() -> None:
    """DRBD finds it; there is nothing to make anew."""
    state = db(file=replace(FILE, disk="/dev/other/db"))
    [condition] = conditions(changed(state, "pm-2", resources={}))
    assert [str(step.do) for step in condition.steps] == ["drbdadm up db"]
    gone = replace(state.nodes["pm-2"].resources["db"], disk="Diskless")
    [condition] = conditions(changed(state, "pm-2", resources={"db": gone}))
    assert str(condition.steps[-1].do) == "drbdadm attach db"
    [condition] = conditions(changed(db(disk=None), "pm-2", resources={}))
    assert "the volume vg/db_disk0 is not there on pm-2" in condition.refusal


def test_a_mark_on_that_disk_keeps_it_from_being_started() -> None:
    for tag in (lvm.RESTORING, lvm.RESTORING_THERE):
        state = db(disk=marked(tag))
        assert unfinished_restore.restoring(state, "db") == ["pm-1", "pm-2"]
        with pytest.raises(Refused, match=r"a restore into its disk (was interrupted|wrote nothing)"):
            start.start("db", "", state, SETTINGS)
        alone = replace(state.nodes["pm-2"].resources["db"], connection="Connecting")
        dead = ClusterState({
            **changed(state, "pm-2", resources={"db": alone}).nodes, "pm-1": node("pm-1", down="no ssh", answers=False)
        })  # fmt: skip
        if tag == lvm.RESTORING_THERE:
            with pytest.raises(Refused, match="a restore into its disk was interrupted"):
                failover.failover("db", dead, SETTINGS)
        else:  # what was kept is not there: nothing was written yet, or it is put back already
            notes = [step.note for step in failover.failover("db", dead, SETTINGS).steps]
            assert "no longer mark vg/db_disk0 as being restored into" in notes
    old = db(False, FILE, replace(ANOTHERS, tags=("pmc", lvm.RESTORING)))
    assert unfinished_restore.restoring(old, "db") == ["pm-1", "pm-2"], (
        "what took that one for its disk may have written half of it"
    )


def test_inactive_volumes_are_known_in_any_spelling() -> None:
    state = db(file=replace(FILE, disk="/dev/mapper/vg-db_disk0"), disk=replace(DISK, attributes="-wi-------"))
    state = changed(state, "pm-1", resources={})
    plans = pm.ready(state.nodes["pm-1"], SETTINGS, state)
    assert "vgchange --activate y vg" in str(plans[0])


# -- snapshots of ours, and thin clones of others --

THIN = {each.name: each for each in lvm_report.parse_volumes(data("lvm-2.03.16-handwritten-thin-clone.json")).values()}


def golden(*more: Volume) -> ClusterState:
    """golden is a VM on pm-1 alone with a thin disk; shop another one, off and not up, whose disk is a thin clone of
    it. On pm-2 there is a volume vg/shop, too."""
    files = {name: ResourceFile(name, minor, f"/dev/vg/{name}", ("pm-1",), ()) for name, minor in
             (("golden", 1), ("shop", 2))}  # fmt: skip
    domains = {name: Domain(name, "shut off", GiB, 1) for name in files}
    resources = {"golden": Resource("golden", 1, "Secondary", "UpToDate", size=SIZE)}
    first = node(
        "pm-1", volumes=THIN | {each.name: each for each in more}, files=files, domains=domains, resources=resources
    )
    return cluster(first, node("pm-2", volumes={"shop": Volume("shop", "vg", GiB, ("pmc",), "", "-wi-ao----")}))


BASE_OF = Volume("golden.base", "vg", 32 * MiB, ("pmc", "pmc.of.X"), "golden", "Vri-a-tz--", 1.0, None, "pool")


def test_a_thin_clone_stays_when_the_vm_that_it_was_made_of_goes() -> None:
    state = golden(BASE_OF)
    plan = remove.remove("golden", state, SETTINGS)
    assert touched(plan) == {"golden", "golden.base"}
    holders = state.knowing("golden")
    assert remove_steps.also_removed("golden", holders, SETTINGS) == "vg/golden on pm-1, vg/golden.base on pm-1"
    assert split_brain_snapshot.snapshots(state) == []


def test_a_snapshot_of_ours_on_one_node_is_not_removed_on_another_where_it_is_none() -> None:
    state = golden(BASE_OF)
    other = Volume("golden.base", "vg", GiB, (), "", "-wi-a-----")
    state = changed(
        state, "pm-2", volumes={"golden.base": other, "golden": replace(other, name="golden", tags=("pmc",))}
    )
    plan = remove.remove("golden", state, SETTINGS)
    assert [(s.node, s.note) for s in plan.steps if "remove the volume" in s.note] == [
        ("pm-1", "remove the volume vg/golden.base"),
        ("pm-1", "remove the volume vg/golden"),
        ("pm-2", "remove the volume vg/golden"),
    ]


def test_a_clone_is_no_snapshot_that_was_left() -> None:
    state = golden(BASE_OF)
    assert not [each for each in verify.findings(healthy(state)) if "vg/shop" in each.text + each.remedy]
    without = changed(state, "pm-1", files={"golden": state.nodes["pm-1"].files["golden"]}, domains={})
    found = [each for each in verify.findings(healthy(without)) if "vg/shop" in each.text]
    assert [each.code for each in found] == ["LV_ORPHAN"] * 2
    assert "fab vm.add shop --reuse --primary pm-1 makes a VM of it; fab vm.rm shop removes it" in found[0].remedy
    assert not any("lvremove" in each.remedy for each in verify.findings(healthy(without)))


LEFT = Volume("web.backup", "vg", GiB, ("pmc",), "web", "swi-a-s---", 1.0)


@pytest.mark.parametrize(
    "volume",
    [
        replace(LEFT, tags=()),
        replace(LEFT, name="web.copy"),
        replace(LEFT, name="shop", attributes="Vwi-a-tz--", pool="pool"),
        replace(LEFT, attributes="-wi-a-----", origin=""),
    ],
)
def test_verify_advises_to_remove_no_volume_without_our_name_and_tag(volume: Volume) -> None:
    found = verify.findings(made((volumes("pm-2", volume),)))
    assert not any("lvremove" in each.remedy for each in found)


def test_verify_advises_to_remove_no_volume_that_a_file_or_a_domain_uses() -> None:
    assert any("lvremove vg/web.backup" in each.remedy for each in verify.findings(made((volumes("pm-2", LEFT),))))
    file = ResourceFile("old", 9, "/dev/mapper/vg-web.backup", ("pm-2",), ())
    there = running().nodes["pm-2"]
    for change in (
        on("pm-2", files={**there.files, "old": file}, volumes={**there.volumes, "web.backup": LEFT}),
        lambda facts: replace(
            volumes("pm-2", LEFT)(facts),
            extras={**facts.extras, "pm-2": replace(facts.extras["pm-2"], domains={
                "x": replace(facts.extras["pm-2"].domains["web"], sources=("/dev/vg/web.backup",)),
            })},
        ),
    ):  # fmt: skip
        assert not any("lvremove" in each.remedy for each in verify.findings(made((change,))))


def test_verify_looks_at_the_disk_that_is_named() -> None:
    found = verify.findings(healthy(changed(db(), "pm-2", volumes={"db": ANOTHERS})))
    assert [each.text for each in found if each.code == "LV_MISSING"] == ["vg/db_disk0 is not there"]
    larger = changed(db(), "pm-2", volumes={"db": ANOTHERS, "db_disk0": replace(DISK, size=GiB)})
    [size] = [each for each in verify.findings(healthy(larger)) if each.code == "LV_SIZE"]
    assert size.remedy == f"on pm-1: lvextend --size {GiB}b vg/db_disk0 && drbdadm resize db"
    assert not [each for each in verify.findings(healthy(db())) if each.code.startswith(("LV_", "SNAPSHOT_"))]
    [broken] = [e for e in verify.findings(healthy(changed(db(), "pm-2", volumes={"db_disk0": marked(lvm.RESTORING)})))
                if e.code == "RESTORE_BROKEN"]  # fmt: skip
    assert (broken.vm, broken.remedy) == ("db", "fab vm.restore db --put-back")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            Volume("mine", "vg", GiB, (), "golden", "swi-a-s---"),
            "the volume vg/mine, which pmc did not make, depends on",
        ),
        (Volume("far", "vg", GiB, (), "golden", "Vwi-a-tz--", pool="pool2"), "the volume vg/far, which pmc did not"),
    ],
)
def test_what_would_go_with_the_disk_is_refused_by_name_before_the_first_step(more: Volume, words: str) -> None:
    with pytest.raises(Refused) as why:
        remove.remove("golden", golden(more), SETTINGS)
    assert words in str(why.value)
    assert "lvremove" not in str(why.value)


def test_a_volume_that_is_another_vms_disk_is_not_removed() -> None:
    """Half of vm.add golden was done; then another admin took the volume."""
    state = golden()
    shop = replace(state.nodes["pm-1"].files["shop"], disk="/dev/mapper/vg-golden")
    with raises(Refused, "requirements.claimed", "/etc/drbd.d/shop.res", "vg/golden", "the disk of shop"):
        remove.remove("golden", changed(state, "pm-1", files={"shop": shop}), SETTINGS)


# -- vm.add --reuse --


def reuse(volume: Volume, **files: ResourceFile) -> Plan:
    pool = THIN["pool"]
    state = cluster(node("pm-1", volumes={"web": volume, "pool": pool}, files=files))
    return add.add(wanted(reuse=True, size=32 * MiB), 32 * MiB, state, SETTINGS, WEB, XML)


CLONE = replace(THIN["shop"], name="web", tags=(), attributes="Vwi-a-tz--")


def test_a_thin_clone_that_becomes_a_disk_is_told_with_its_origin() -> None:
    assert "grow vg/web, a thin clone of vg/golden, by DRBD's metadata" in [step.note for step in reuse(CLONE).steps]


@pytest.mark.parametrize(
    ("volume", "files", "words"),
    [
        (
            CLONE,
            {"x": ResourceFile("x", 9, "/dev/mapper/vg-web", ("pm-1",), ())},
            "by /etc/drbd.d/x.res the volume vg/web is the disk of x",
        ),
        (replace(CLONE, attributes="Vri-a-tz--"), {}, "is read-only. Next: on pm-1: lvchange --permission rw vg/web"),
        (
            replace(CLONE, attributes="Vwi---tz-k"),
            {},
            "as at a boot. Next: on pm-1: lvchange --setactivationskip n vg/web",
        ),
        (replace(CLONE, attributes="swi-a-s---"), {}, "is no plain volume"),
    ],
)
def test_what_cannot_become_a_disk(volume: Volume, files: dict[str, ResourceFile], words: str) -> None:
    with pytest.raises(Refused) as why:
        reuse(volume, **files)
    assert words in str(why.value)


def test_a_new_disk_is_never_made_where_another_resource_names_it() -> None:
    """It is not there now, but DRBD would take the new one for it."""
    other = ResourceFile("x", 9, "/dev/mapper/vg-web", ("pm-3",), ())
    words = r"pm-3: by /etc/drbd\.d/x\.res the volume vg/web is the disk of x"
    with pytest.raises(Refused, match=words):
        add.check_new("web", ("pm-3",), GiB, GiB, cluster(node("pm-3", files={"x": other})), SETTINGS)
    with pytest.raises(Refused, match=words):
        peer.choose("web", "pm-3", changed(running(), "pm-3", files={"x": other}), SETTINGS)


# -- the steps look again on the node --


def ran(given: Command, folder: Path, rows: str, disks: str = "") -> tuple[int, str, list[str]]:
    """Exit status, what it says, and what lvremove was called with, by the real script; `rows` is what lvs prints,
    `disks` what drbdadm says of golden."""
    for name, script in (
        ("lvs", f"cat <<'E'\n{rows}\nE"),
        ("lvremove", f'echo "$@" >>{folder}/called'),
        ("drbdadm", f"[ \"$*\" = 'sh-ll-dev golden' ] && [ '{disks}' ] && printf '{disks}\\n'"),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    path = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(given.argv, env=path, capture_output=True, text=True)
    called = folder / "called"
    return done.returncode, done.stderr, called.read_text().splitlines() if called.exists() else []


ROWS = "  pool|||\n  golden||pool|pmc\n  shop|golden|pool|pmc\n  old|||"


BARE = ROWS.replace("golden||pool|pmc", "golden||pool|")


@pytest.mark.parametrize(
    ("rows", "disks", "said"),
    [
        (ROWS, "", ""),
        (ROWS.replace("golden||pool|pmc", "golden||pool|x,pmc"), "", ""),
        (BARE, "/dev/vg/golden", ""),
        (BARE, r"/dev/vg/other\n/dev/vg/golden", ""),
        (BARE, "", "has not the tag of pmc, and"),
        (ROWS.replace("golden||pool|pmc", "golden||pool|pmc,pmc.reused"), "", "was there before the VM"),
        (BARE.replace("golden||pool|", "golden||pool|pmc.reused"), "/dev/vg/golden", "was there before the VM"),
        (ROWS.replace("golden||pool|pmc", "golden||pool|pmcx"), "/dev/vg/other", "has not the tag of pmc, and"),
        (BARE, "/dev/vg/golden2", "has not the tag of pmc, and"),
        (BARE, "/dev/mapper/vg-golden-2", "has not the tag of pmc, and"),
        (f"{ROWS}\n  mine|golden||", "", "the volume vg/mine depends on vg/golden and would go with it"),
        (f"{ROWS}\n  far|golden|pool2|", "", "the volume vg/far depends on vg/golden and would go with it"),
        ("  golden|||pmc\n  mine|golden||", "", "the volume vg/mine depends on vg/golden"),
        ("  golden|||pmc\n  far|golden|pool|", "", "the volume vg/far depends on vg/golden"),
    ],
)
def test_a_disk_is_looked_at_again_before_it_is_removed(tmp_path: Path, rows: str, disks: str, said: str) -> None:
    status, stderr, called = ran(lvm.remove_disk("vg", "golden"), tmp_path, rows, disks)
    assert (bool(status), called) == (bool(said), [] if said else ["--yes vg/golden"]), stderr
    assert said in stderr


def test_a_disk_is_known_in_another_spelling(tmp_path: Path) -> None:
    """It is the same device, as for /dev/mapper/vg-golden."""
    (tmp_path / "golden").touch()
    (tmp_path / "link").symlink_to("golden")
    group = f"..{tmp_path}"
    status, stderr, called = ran(lvm.remove_disk(group, "golden"), tmp_path, BARE, f"{tmp_path}/link")
    assert (status, called) == (0, [f"--yes {group}/golden"]), stderr


def test_a_volume_is_in_use_by_any_volume_of_a_resource() -> None:
    two = ResourceFile("x", 9, "/dev/vg/x", ("pm-1", "pm-2"), (), (10,), (), (("pm-1", "/dev/mapper/vg-web"),))
    with raises(Refused, "requirements.claimed", "pm-1", "/etc/drbd.d/x.res", "vg/web", "the disk of x"):
        reuse(CLONE, x=two)


@pytest.mark.parametrize(("tags", "goes"), [("pmc", True), ("x,pmc,y", True), ("", False), ("pmcx", False)])
@pytest.mark.parametrize("command", [lvm.remove_snapshot, lvm.discard])
def test_a_snapshot_is_looked_at_again_before_it_is_removed(
    tmp_path: Path, command: Callable[[str, str], Command], tags: str, goes: bool
) -> None:
    status, stderr, called = ran(command("vg", "web.backup"), tmp_path, f"  {tags}")
    assert (status == 0, called) == (goes, ["--yes vg/web.backup"] if goes else [])
    assert goes or "has not, or not any more, the tag of pmc" in stderr


def test_a_delta_of_a_thin_disk_of_another_name_reads_what_has_changed() -> None:
    disk = replace(DISK, attributes="Vwi-aotz--", data_percent=25.0, pool="pool")
    kept = replace(BASE_OF, name="db.base", tags=("pmc", f"pmc.of.{MADE.id}"), origin="db_disk0")
    state = db(True, FILE, THIN["pool"], kept, disk=disk)
    source = backup.choose_source("db", state)
    stored = (Stored("pm-2", MADE.id, GiB, MADE),)
    _, plan = backup.make_backup(BackupRequest("db"), source, SIZE, DOMAIN, stored, NOW, state, SETTINGS)
    assert touched(plan) == {"db_disk0", "db.backup", "db.base"}
    assert any("read what has changed" in step.note for step in plan.steps)


def test_the_model_sees_a_disk_go_by_these_steps() -> None:
    """Written by a guest, and the only copy: removing it breaks what must hold."""
    for command, name in ((lvm.remove_disk("vg", "web"), "web"), (lvm.remove("vg", "web"), "web")):
        world = Cloud()
        world.nodes["pm-1"].volumes[name] = Volume(name, "vg", GiB, ("pmc",))
        world.disks["pm-1", name] = Disk()
        world.acknowledged[name] = world.disks["pm-1", name].writes = frozenset({1})
        world.carry_out("pm-1", command)
        assert [each for each in world.broken if "destroys the last whole copy of web" in each]
        assert not world.disks
