"""Copies of backups in a directory of the manager, and back."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pmc.actions import Fetch, Transfer
from pmc.backup import NOTES, Stored, sound
from pmc.errors import Refused
from pmc.plan import Plan
from pmc.plans import backup_copies, node_files, vm_steps
from pmc.plans.backup import bring
from pmc.plans.restore import Found, find
from pmc.tasks import backups, lookups
from pmc.tasks import restore as restores
from pmc.units import MiB, show_size
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS
from tests.unit.stories import BASE, DELTA, STORED, with_web

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


BAD = "2026-01-02T00:00:00Z"


def test_a_copy_that_was_found_damaged_does_not_count_as_there() -> None:
    """Nor does a base whose delta was: it is noted of the delta, whichever of the two is damaged."""
    base, delta = Stored("manager", BASE.id, MiB, BASE), Stored("manager", DELTA.id, MiB, DELTA)
    for kept, right in (
        ([base, delta], [base, delta]),
        ([replace(base, damaged=BAD), delta], [delta]),
        ([base, replace(delta, damaged=BAD)], []),
        ([base, replace(delta, damaged=BAD, node="pm-1")], [base]),
        ([base, replace(delta, broken="its file is missing")], [base]),
        ([replace(base, ahead=True)], [replace(base, ahead=True)]),
    ):
        assert sound(kept) == right


def test_what_takes_the_place_of_a_doubtful_copy_stays_whatever_comes_after() -> None:
    """The files that were there may be all that another delta has; and what was noted of them goes last."""
    plan = backup_copies.to_node(FOUND, "pm-1", "/srv", SIZES, [f"{DELTA.id}.json"], SETTINGS, [BASE.id])
    assert given(plan) == BASE_FILES
    assert not [step for step in plan.steps if step.undo or step.check]
    assert plan.steps[-1].do == node_files.remove(*(f"{SETTINGS.backup_dir}/{BASE.id}.{note}" for note in NOTES))


def test_of_several_copies_one_that_is_not_in_doubt_is_restored() -> None:
    base, delta = Stored("pm-1", BASE.id, MiB, BASE), Stored("pm-1", DELTA.id, MiB, DELTA)
    there, bad = [replace(base, node="pm-2"), replace(delta, node="pm-2")], replace(base, damaged=BAD)
    for id, first, node in (
        (BASE.id, [base], "pm-1"),
        (BASE.id, [bad], "pm-2"),
        (DELTA.id, [base, delta], "pm-1"),
        (DELTA.id, [bad, delta], "pm-2"),
        (DELTA.id, [base, replace(delta, damaged=BAD)], "pm-2"),
    ):
        assert find(id, [*first, *there]).node == node
    assert find(BASE.id, [bad]).node == "pm-1", "it may be all that there is"


@pytest.mark.parametrize("damaged", ["", BAD])
def test_a_damaged_copy_in_a_directory_is_copied_again(
    damaged: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And what was noted of it goes when the new one is whole."""
    monkeypatch.setattr(lookups, "kept", lambda *_: [Stored("manager", BASE.id, MiB, BASE, damaged=damaged)])
    monkeypatch.setattr(lookups, "stored_on", lambda *_: STORED)
    cluster: Any = SimpleNamespace(settings=SETTINGS)
    made = Plan("vm.backup web", (vm_steps.folder("pm-2", SETTINGS.backup_dir, "700"),))
    copy = backups._copy(cluster, DELTA.id, made, str(tmp_path), 0)
    assert taken(copy) == ([*BASE_FILES, *DELTA_FILES] if damaged else DELTA_FILES)
    notes = {tmp_path / f"{BASE.id}.{note}" for note in NOTES}
    for note in notes:
        note.write_text(BAD)
    backups._forget(copy)
    assert {path for path in notes if path.exists()} == (set() if damaged else notes)


@pytest.mark.parametrize("damaged", ["", BAD])
def test_a_damaged_copy_on_the_node_is_not_used_in_place_of_the_directorys(
    damaged: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in BASE_FILES:
        (tmp_path / name).write_text("x")
    mine, its = Stored("manager", BASE.id, MiB, BASE), Stored("pm-1", BASE.id, MiB, BASE, damaged=damaged)
    monkeypatch.setattr(lookups, "kept", lambda *_: [mine])
    monkeypatch.setattr(lookups, "stored", lambda *_: [its])
    found, copy = restores._found(with_web().state(), "web", (BASE.id, str(tmp_path)), SETTINGS)
    assert found.node == "pm-1"
    assert given(copy) == (BASE_FILES if damaged else [])


def test_a_file_that_is_missing_is_named_before_anything_is_done() -> None:
    short = {name: 7 for name in SIZES if name != BASE.file}
    with raises(Refused, "backup_copies.to_node", "--from", "/srv", str(BASE.file)):
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
