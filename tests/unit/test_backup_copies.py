"""Copies of backups in a directory of the manager, and back."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pmc.errors import Refused
from pmc.plan import Fetch, Plan, Transfer
from pmc.plans import backup_copies, vm_steps
from pmc.plans.backup import bring
from pmc.plans.restore import Found
from pmc.units import show_size
from tests.unit.samples import SETTINGS
from tests.unit.stories import BASE, DELTA

FOUND = Found("pm-2", DELTA, BASE)
BASE_FILES = [BASE.file, f"{BASE.id}.index", f"{BASE.id}.json"]
DELTA_FILES = [DELTA.file, f"{DELTA.id}.json"]
SIZES = dict.fromkeys((*BASE_FILES, *DELTA_FILES), 7)


def taken(plan: Plan) -> list[str]:
    return [str(step.do).rpartition("/")[2] for step in plan.steps if isinstance(step.do, Fetch)]


def given(plan: Plan) -> list[str]:
    return [step.do.source.rpartition("/")[2] for step in plan.steps if isinstance(step.do, Transfer)]


def test_a_backup_and_its_base_are_copied_each_manifest_last() -> None:
    assert taken(backup_copies.to_manager(FOUND, "/srv", [], SETTINGS)) == [*BASE_FILES, *DELTA_FILES]
    back = backup_copies.to_node(FOUND, "pm-1", "/srv", SIZES, [], SETTINGS)
    assert given(back) == [*BASE_FILES, *DELTA_FILES]
    assert {step.node for step in back.steps} == {"pm-1"}
    assert all(step.undo for step in back.steps if isinstance(step.do, Transfer))


def test_a_node_has_the_folder_and_the_room_before_anything_is_copied_there() -> None:
    plan = backup_copies.to_node(FOUND, "pm-1", "/srv", SIZES, [], SETTINGS)
    assert plan.steps[0] == vm_steps.folder("pm-1", SETTINGS.backup_dir, "700")
    assert plan.steps[1].note == f"see that {SETTINGS.backup_dir} has {show_size(BASE.stored + DELTA.stored)} free"
    assert [str(step.check) for step in plan.steps[2:]] == [
        f"test -e {SETTINGS.backup_dir}/{name}" for name in (*BASE_FILES, *DELTA_FILES)
    ]


def test_only_what_may_be_large_is_copied_slowly() -> None:
    plan = backup_copies.to_manager(FOUND, "/srv", [], SETTINGS, limit=5_000_000)
    slow = [str(step.do) for step in plan.steps if "--limit 5000000" in str(step.do)]
    assert [line.rpartition("/")[2] for line in slow] == [BASE.file, f"{BASE.id}.index", DELTA.file]
    assert plan.steps[0] == bring("pm-2")
    assert len(plan.steps) == 1 + len([*BASE_FILES, *DELTA_FILES])
    assert backup_copies.to_manager(FOUND, "/srv", [BASE.id, DELTA.id], SETTINGS, limit=5_000_000).steps == ()


def test_what_is_there_is_not_copied_again() -> None:
    assert taken(backup_copies.to_manager(FOUND, "/srv", [BASE.id], SETTINGS)) == DELTA_FILES
    # What is there but is not whole is not among them.
    assert taken(backup_copies.to_manager(FOUND, "/srv", [], SETTINGS)) == [*BASE_FILES, *DELTA_FILES]
    both = [f"{BASE.id}.json", f"{DELTA.id}.json"]
    assert given(backup_copies.to_node(FOUND, "pm-1", "/srv", {}, both, SETTINGS)) == []


def test_a_file_that_is_missing_is_named_before_anything_is_done() -> None:
    short = {name: 7 for name in SIZES if name != BASE.file}
    with pytest.raises(Refused, match=rf"--from /srv: {BASE.file} is missing"):
        backup_copies.to_node(FOUND, "pm-1", "/srv", short, [], SETTINGS)


def test_the_index_serves_new_deltas_only_and_may_be_missing() -> None:
    index = f"{BASE.id}.index"
    assert index in given(backup_copies.to_node(FOUND, "pm-1", "/srv", SIZES, [], SETTINGS))
    short = {name: 7 for name in SIZES if name != index}
    assert index not in given(backup_copies.to_node(FOUND, "pm-1", "/srv", short, [], SETTINGS))


def test_what_did_not_come_whole_gets_no_final_name(tmp_path: Path) -> None:
    """The manager died: its last command sees the end of its stdin."""
    part, target = tmp_path / ".x.part", tmp_path / "x"
    put = backup_copies.receive(str(part), str(target), 7)
    for text, ends in (("1234567", True), ("123456", False)):
        target.unlink(missing_ok=True)
        done = subprocess.run(replace(put, stdin=text).argv, input=text, text=True, capture_output=True)
        assert (done.returncode == 0) == ends, done.stderr
        assert target.exists() == ends
        assert not part.exists()
        assert ends or "did not come whole" in done.stderr


@pytest.mark.parametrize(("to", "directory"), [("pm-1", False), ("/srv", True), ("./x", True), ("~/b", True)])
def test_a_node_or_a_directory(to: str, directory: bool) -> None:
    assert backup_copies.is_directory(to) == directory
