"""The snapshot of a base that a thin volume keeps: when a delta may trust it, and when it goes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pmc import lvm
from pmc.backup import Stored
from pmc.errors import Refused, StepFailed
from pmc.model import Volume
from pmc.plan import Plan, apply
from pmc.plans import backup, base_snapshot, remove
from pmc.units import GiB
from tests.sim.fake import World, done
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS
from tests.unit.stories import (
    BASE,
    POOL,
    STORED,
    kept_of,
    stopped_thin_web,
    taken,
    thin_moved_web,
    with_kept_web,
    with_thin_web,
    with_web,
)

OLDER = "web.20250101T000000Z.base"


OUTSIDE = Volume("golden", "vg", GiB, (), "", "ori-------")


def lines(plan: Plan) -> list[str]:
    return [str(step.do) for step in plan.steps]


def notes(plan: Plan) -> list[str]:
    return [f"{step.node}: {step.note}" for step in plan.steps]


def with_kept(**changes: object) -> World:
    """As with_kept_web, but the snapshot is changed."""
    world = with_kept_web()
    volumes = world.nodes["pm-2"].volumes
    volumes["web.base"] = replace(volumes["web.base"], **changes)  # type: ignore[arg-type]
    return world


def of_another_base() -> World:
    return with_kept(tags=("pmc", f"pmc.of.{OLDER}"))


def test_a_base_reads_what_the_pool_says_is_there_and_keeps_its_snapshot() -> None:
    world = with_thin_web()
    made, plan = taken(world.state())
    assert not any("dd if=" in line for line in lines(plan))
    read = next(line for line in lines(plan) if "pmc.remote.stream base" in line)
    assert '--source /dev/vg/web.backup --ranges "$1.ranges"' in read
    after = done(world, plan).nodes["pm-2"]
    assert base_snapshot.base_of(after.volumes["web.base"]) == made.id
    assert set(after.volumes) == {"pool", "web", "web.base"}
    assert not [path for path in after.files if ".part" in path]


def test_a_delta_reads_what_the_pool_says_has_changed_since_the_base() -> None:
    world = with_kept_web()
    made, plan = taken(world.state(), STORED)
    assert (made.kind, made.base) == ("delta", BASE.id)
    readers = [line for line in lines(plan) if "lvremove" not in line]
    assert not any("dd if=" in line or "zstd -dc" in line for line in readers)
    read = next(line for line in lines(plan) if "pmc.remote.stream delta" in line)
    assert '--source /dev/vg/web.backup --old /dev/vg/web.base --ranges "$1.ranges"' in read
    seen = next(number for number, note in enumerate(notes(plan)) if "is what" in note)
    assert lines(plan).index(read) > seen, "it is looked at again before it is trusted"
    after = done(world, plan)
    assert after.nodes["pm-2"].volumes == world.nodes["pm-2"].volumes


@pytest.mark.parametrize(
    ("begin", "why"),
    [
        (with_web, "its volume is classic"),
        (with_thin_web, "pm-2 keeps no snapshot of the base"),
        (of_another_base, "pm-2 keeps no snapshot of the base"),
        (thin_moved_web, "the base lies on pm-2"),
        (lambda: with_kept(tags=("pmc",)), ""),
        (lambda: with_kept(tags=(f"pmc.of.{BASE.id}",)), ""),
        (lambda: with_kept(pool="other"), "the snapshot web.base of the base cannot be used"),
        (lambda: with_kept(attributes="Vwi-a-tz--"), "the snapshot web.base of the base cannot be used"),
        (lambda: with_kept(attributes="Vri---tz--"), "the snapshot web.base of the base cannot be used"),
    ],
)
def test_without_that_very_snapshot_all_is_read_and_the_plan_says_why(begin: Callable[[], World], why: str) -> None:
    world = begin()
    if not why:  # not made by pmc, or not as one of a base: it is not touched
        with raises(Refused, "requirements.foreign", "pm-2", "vg/web.base"):
            taken(world.state(), STORED)
        return
    _, plan = taken(world.state(), STORED)
    read = next(step for step in plan.steps if step.note.startswith("read the disk"))
    assert read.note.endswith(f"into a delta against {BASE.id}; all of it, since {why}")
    assert "/dev/vg/web.backup " in str(read.do)
    assert not any("/dev/vg/web.base" in line for line in lines(plan))
    done(world, plan)


def test_of_two_copies_of_a_base_the_one_beside_its_snapshot_is_used() -> None:
    copies = [replace(STORED[0], node=node) for node in ("pm-1", "pm-2", "pm-3")]
    _, plan = taken(with_kept_web().state(), copies)
    assert any("/dev/vg/web.base" in line for line in lines(plan))


def test_a_disk_that_has_grown_is_read_whole() -> None:
    _, plan = taken(with_kept_web().state(), STORED, 2 * GiB)
    assert any(note.endswith("all of it, since the disk has grown since") for note in notes(plan))


def test_a_snapshot_that_was_changed_after_the_look_is_not_trusted() -> None:
    world, meanwhile = with_kept_web(), of_another_base()
    _, plan = taken(world.state(), STORED)
    before = meanwhile.copy()
    with pytest.raises(StepFailed, match="is not the snapshot of this base"):
        apply(plan, meanwhile.carry_out)
    assert meanwhile == before


def test_a_pool_past_its_limits_keeps_none_and_the_older_one_goes() -> None:
    world = with_kept_web()
    world.nodes["pm-2"].volumes["pool"] = replace(POOL, data_percent=81.0)
    _, plan = taken(world.state(), STORED, base=True)
    assert any("its snapshot will not be kept: the pool's data are 81 % full" in note for note in notes(plan))
    assert set(done(world, plan).nodes["pm-2"].volumes) == {"pool", "web"}
    assert any("pmc.remote.stream delta" in line for line in lines(taken(world.state(), STORED)[1])), "deltas go on"


def test_a_base_that_is_stored_elsewhere_keeps_none() -> None:
    """Its pool could only be asked on the node that is read."""
    world = with_kept_web()
    _, plan = taken(world.state(), STORED, base=True, to="pm-1")
    assert any("root@10.0.0.2" in line for line in lines(plan))
    assert "web.base" not in done(world, plan).nodes["pm-2"].volumes


def outside(*between: Volume, **golden: str) -> World:
    """As with_kept_web, but web's volume on pm-2 is a snapshot of golden, outside its pool, or of one of that."""
    world = with_kept_web()
    volumes = world.nodes["pm-2"].volumes
    volumes["golden"] = replace(OUTSIDE, **golden)  # type: ignore[arg-type]
    names = [*(each.name for each in between), "golden"]
    for each, origin in zip((volumes["web"], *between), names, strict=True):
        volumes[each.name] = replace(each, origin=origin, pool="pool", attributes="Vwi-aotz--")
    return world


@pytest.mark.parametrize(
    "begin",
    [
        outside,
        lambda: outside(pool="other", attributes="Vri---tz--"),
        lambda: outside(Volume("template", "vg", GiB)),
    ],
)
def test_what_a_thin_volume_reads_from_outside_its_pool_is_in_its_backups(begin: Callable[[], World]) -> None:
    """The pool's metadata list only what the volume wrote itself: a base of that would have zeros for the rest."""
    world = begin()
    why = "; all of it, since its thin volume reads from (golden|template) what it never wrote"
    for stored, base, end in ((STORED, True, " into a base"), (STORED, False, f" into a delta against {BASE.id}")):
        _, plan = taken(world.state(), stored, base=base)
        read = next(step for step in plan.steps if step.note.startswith("read the disk"))
        assert re.fullmatch(f"read the disk of web \\(1 GiB\\){re.escape(end)}{why}", read.note)
        assert "--source /dev/vg/web.backup" in str(read.do)
        assert not any("--ranges" in line or "--old /dev/vg/web.base" in line for line in lines(plan))
        done(world, plan)
    free = next(step for step in taken(world.state(), base=True)[1].steps if "free" in step.note)
    assert free.note.endswith("has 1 GiB free"), "as large as the disk, however little the volume holds"


def test_an_origin_that_is_not_found_may_be_outside() -> None:
    world = outside()
    del world.nodes["pm-2"].volumes["golden"]
    assert not any("--ranges" in line for line in lines(taken(world.state())[1]))


def test_the_snapshot_of_another_volume_of_the_pool_is_told_of_by_the_pool() -> None:
    world = outside(pool="pool", attributes="Vwi-a-tz--")
    assert any("--ranges" in line for line in lines(taken(world.state())[1]))


def test_a_new_base_replaces_the_snapshots_of_older_ones_everywhere() -> None:
    world = thin_moved_web()
    made, plan = taken(world.state(), STORED, base=True)
    assert (made.source, backup.kept_on(plan), plan.steps[-1].node) == ("pm-1", "pm-1", "pm-2")
    after = done(world, plan)
    assert base_snapshot.base_of(after.nodes["pm-1"].volumes["web.base"]) == made.id
    assert "web.base" not in after.nodes["pm-2"].volumes


def test_the_snapshot_of_a_base_that_is_gone_goes_when_all_nodes_tell() -> None:
    world = with_thin_web()
    world.nodes["pm-1"].volumes["web.base"] = kept_of(OLDER, world.nodes["pm-1"].volumes["web"])
    _, plan = taken(world.state(), STORED)
    assert notes(plan)[-1] == "pm-1: remove the snapshot vg/web.base of a base that is gone"
    there = (*STORED, Stored("pm-3", OLDER, GiB, replace(BASE, id=OLDER)))
    assert "web.base of" not in str(notes(taken(world.state(), there)[1]))
    world.dead.add("pm-3")
    assert "web.base of" not in str(notes(taken(world.state(), STORED)[1]))


def test_a_manager_that_dies_before_the_snapshot_is_kept_leaves_what_the_next_backup_removes() -> None:
    world = with_thin_web()
    made, plan = taken(world.state())
    number = next(n for n, step in enumerate(plan.steps) if step.note.startswith("keep"))
    apply(Plan("half", plan.steps[:number]), world.carry_out)
    stored = [Stored("pm-2", made.id, GiB, replace(made, image_sha256="0" * 64, stored=1))]
    _, plan = taken(world.state(), stored)
    assert any("all of it, since pm-2 keeps no snapshot of the base" in note for note in notes(plan))
    number = next(n for n, step in enumerate(plan.steps) if step.note.startswith("take the snapshot"))
    left = done(world, Plan("next", plan.steps[: number + 1]))
    assert set(left.nodes["pm-2"].volumes) == {"pool", "web", "web.backup"}


def test_it_goes_with_the_vm() -> None:
    world = stopped_thin_web()
    after = done(world, remove.remove("web", world.state(), SETTINGS))
    assert [set(machine.volumes) for machine in after.nodes.values()] == [{"pool"}] * 3


@pytest.mark.parametrize(
    ("row", "fine"),
    [
        (f"  Vri-a-tz-- pmc,pmc.of.{BASE.id}", True),
        (f"  Vri-aotz-k pmc.of.{BASE.id},pmc", True),
        (f"  Vwi-a-tz-- pmc,pmc.of.{BASE.id}", False),
        (f"  Vri---tz-- pmc,pmc.of.{BASE.id}", False),
        (f"  swi-a-s--- pmc,pmc.of.{BASE.id}", False),
        (f"  Vri-a-tz-- pmc,pmc.of.{OLDER}", False),
        (f"  Vri-a-tz-- pmc,pmc.of.{BASE.id}x", False),
        ("  Vri-a-tz-- pmc", False),
        ("  Vri-a-tz--", False),
    ],
)
def test_the_node_is_asked_whether_it_is_of_that_very_base(tmp_path: Path, row: str, fine: bool) -> None:
    tool = tmp_path / "lvs"
    tool.write_text(f'#!/bin/bash\necho "{row}"\n')
    tool.chmod(0o755)
    asked = lvm.is_kept("vg", "web.base", BASE.id).argv
    got = subprocess.run(asked, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True)
    assert (got.returncode == 0) == fine, got.stderr
    assert fine or "is not, or not any more, the snapshot of this base" in got.stderr


def test_what_is_no_snapshot_of_a_base() -> None:
    its = kept_of(BASE.id, Volume("web", "vg", GiB, pool="pool"))
    assert base_snapshot.base_of(its) == BASE.id
    for other in (replace(its, tags=("pmc",)), replace(its, tags=its.tags[1:]), replace(its, attributes="swi-a-s---")):
        assert base_snapshot.base_of(other) == ""
