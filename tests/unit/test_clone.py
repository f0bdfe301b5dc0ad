"""What `vm.add --clone` leaves of its source when it is interrupted, and what takes that away."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pmc import lvm
from pmc.backup_pipeline import STREAM
from pmc.command import Command
from pmc.errors import Refused, StepFailed
from pmc.health import verify
from pmc.model import Volume
from pmc.plan import Plan, apply
from pmc.plans import add, backup, clone, remove, stop
from pmc.units import GiB
from tests.sim.fake import World, done
from tests.unit.samples import SETTINGS, changed, running
from tests.unit.stories import STORIES, taken, with_stale_copy, with_web
from tests.unit.test_verify import healthy, volumes

LEFT = Volume("web.clone", "vg", GiB, ("pmc", "pmc.for.web2"), "web", "swi-a-s---")


def broken_off() -> World:
    """The manager was killed while web was copied to web2."""
    story = STORIES["vm.add-clone"]()
    end = next(number for number, step in enumerate(story.plan.steps) if step.note == "copy web to web2")
    apply(Plan("half", story.plan.steps[:end]), story.world.carry_out)
    assert "web.clone" in story.world.nodes["pm-2"].volumes
    return story.world


def test_it_goes_with_the_half_made_clone_which_leaves_nothing() -> None:
    world = broken_off()
    assert done(world, remove.remove("web2", world.state(), SETTINGS)) == with_web()


def test_it_goes_with_the_next_backup_of_the_source() -> None:
    world = broken_off()
    _, plan = taken(world.state())
    assert "web.clone" not in done(world, plan).nodes["pm-2"].volumes


def test_what_is_read_for_another_clone_stays() -> None:
    world = broken_off()
    plan = remove.remove("web2", world.state(), SETTINGS)
    again = world.nodes["pm-2"].volumes["web.clone"] = Volume("web.clone", "vg", GiB, ("pmc", "pmc.for.db"), "web")
    assert done(world, plan).nodes["pm-2"].volumes["web.clone"] == again, "made anew after the look"
    assert "web.clone" not in str(remove.remove("web2", world.state(), SETTINGS))


def test_a_standby_that_lost_its_peer_while_the_new_disk_was_zeroed_is_not_copied() -> None:
    """It would be an older disk; or, catching up, parts of two."""
    story = STORIES["vm.add-clone"]()
    world = story.world.copy()
    end = next(number for number, step in enumerate(story.plan.steps) if step.note.startswith("take the snapshot"))
    apply(Plan("until then", story.plan.steps[: end - 1]), world.carry_out)
    world.nodes["pm-1"].resources["web"].alone = True
    with pytest.raises(StepFailed, match="both sides of web are equal, on pm-2"):
        apply(Plan("rest", story.plan.steps[end - 1 :]), world.carry_out)


@pytest.mark.parametrize("use", ["runs", "primary"])
def test_nothing_is_copied_of_a_vm_whose_old_copy_elsewhere_is_in_use(use: str) -> None:
    """Its guest writes there, and what its nodes have is something else."""
    world = done(with_stale_copy(), stop.stop("web", True, with_stale_copy().state(), SETTINGS))
    kernel = world.nodes["pm-2"].resources["web"]
    world.nodes["pm-2"].domains["web"] = "running" if use == "runs" else "shut off"
    kernel.role = "Primary"
    for source in (clone.standby, backup.choose_source):
        with pytest.raises(Refused, match="its stale copy on pm-2 is in use, where it does not live"):
            source("web", world.state())


@pytest.mark.parametrize("foreign", [Volume("web.clone", "vg", GiB, (), "web"), Volume("web.clone", "vg", GiB)])
def test_a_volume_that_only_has_the_name_stays_and_is_in_no_backups_way(foreign: Volume) -> None:
    state = running()
    state = changed(state, "pm-2", volumes={**state.nodes["pm-2"].volumes, "web.clone": foreign})
    _, plan = taken(state)
    assert "web.clone" not in str(plan)


def test_what_is_told_mends_it() -> None:
    [left] = verify.findings(volumes("pm-2", LEFT)(healthy()))
    assert (left.code, left.vm) == ("SNAPSHOT_LEFT", "web")
    assert left.remedy == "on pm-2: lvremove vg/web.clone, or fab vm.backup web, which removes it too"
    found = verify.findings(healthy(broken_off().state()))
    assert {each.remedy for each in found if each.code == "SNAPSHOT_LEFT"} == {"fab vm.rm web2"}
    assert "fab vm.rm web2" in next(each.remedy for each in found if each.code == "VM_HALF_MADE")


def run(given: Command, folder: Path, tags: str) -> list[str]:
    """What lvremove is called with, by the real script."""
    for name, script in (("lvs", f"echo '  {tags}'"), ("lvremove", f'echo "$@" >>{folder}/called')):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    argv = [word.replace("flock -w 10", "flock -w 0") for word in given.argv]
    path = f"{folder}:{os.environ['PATH']}"
    subprocess.run(argv, check=True, env={**os.environ, "PATH": path})
    called = folder / "called"
    return called.read_text().splitlines() if called.exists() else []


def test_it_is_removed_only_with_its_mark_and_while_its_source_is_not_locked(tmp_path: Path) -> None:
    lock = tmp_path / "run/web.lock"
    given = lvm.discard_marked("vg", "web.clone", "pmc.for.web2", str(lock))
    for tags in ("pmc,pmc.for.web22", "pmc", ""):
        assert run(given, tmp_path, tags) == []
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run(given, tmp_path, "pmc,pmc.for.web2") == []
    assert run(given, tmp_path, "pmc,pmc.for.web2") == ["--yes vg/web.clone"]


@pytest.mark.parametrize(
    "reader",
    [
        "dd if=/dev/vg/{} bs=1M",
        f"{STREAM.partition(' ')[2]} base --zstd --source /dev/vg/{{}}",
        "python3 -m pmc.stream base --source /dev/vg/{}",
    ],
)
def test_what_still_reads_a_snapshot_is_ended_before_it_is_removed(tmp_path: Path, reader: str) -> None:
    """The link between the nodes is cut: it cannot write on, and nobody tells it."""
    readers = [
        subprocess.Popen(["bash", "-c", f'exec -a "{reader.format(name)}" sleep 1000'])
        for name in ("web.backup", "web-backup", "web.backup2")
    ]
    # In use at first; then LVM tries for some seconds (retry_deactivation).
    first = f"[ -e {tmp_path}/tried ] || {{ touch {tmp_path}/tried; exit 5; }}"
    again = f'while [ "$(ps -o stat= -p {readers[0].pid})" = S ]; do sleep 0.1; done; echo "$@" >>{tmp_path}/called'
    try:
        while not all(Path(f"/proc/{each.pid}/cmdline").read_text().startswith(reader[:5]) for each in readers):
            time.sleep(0.05)
        for name, script in (("lvs", "echo '  pmc'"), ("lvremove", f"{first}; {again}")):
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        subprocess.run(lvm.discard("vg", "web.backup").argv, check=True, env={**os.environ, "PATH": path})
        assert (tmp_path / "called").read_text() == "--yes vg/web.backup\n"
        assert readers[0].wait(60) < 0
        assert [each.poll() for each in readers[1:]] == [None, None]
    finally:
        for each in readers:
            each.kill()
            each.wait()


@pytest.mark.parametrize("write", [add.write, partial(clone.write, "cat")])
def test_nothing_is_made_where_the_device_is_missing(write: Callable[[str], Command], tmp_path: Path) -> None:
    """With the real dd."""
    there, missing = tmp_path / "disk", tmp_path / "drbd1"
    there.write_bytes(bytes(8))
    for path, status in ((there, 0), (missing, 1)):
        done = subprocess.run(write(str(path)).argv, input=b"a disk", capture_output=True, check=False)
        assert done.returncode == status, done.stderr
    assert there.read_bytes().startswith(b"a disk")
    assert not missing.exists()
