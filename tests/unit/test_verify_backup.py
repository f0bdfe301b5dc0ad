"""vm.verify_backup beside commands that remove backups: it holds no lock, and tells a removed one from a bad one."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from pmc.actions import Action, Watch
from pmc.backup import Stored
from pmc.command import Command, bash
from pmc.errors import CommandFailed, Interrupted, PmcError, Refused
from pmc.tasks import vm
from pmc.transport.local import run
from tests.sim.fake import World
from tests.unit.counted import counted
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS
from tests.unit.stories import BASE, DELTA, NEWER, backed_up_web
from tests.unit.test_backup import DISK, made

MANIFEST = f"{SETTINGS.backup_dir}/{DELTA.id}.json"


class Reading(World):
    """The delta cannot be read; with `removed` because it goes just then."""

    removed = False

    def carry_out(self, name: str, action: Action, watch: Watch | None = None) -> None:
        if isinstance(action, Command) and f"{DELTA.id}.xd3" in str(action):
            if self.removed:
                del self.nodes[name].files[MANIFEST]
            raise CommandFailed(name, "xdelta3", 1, "xdelta3: no such file")
        super().carry_out(name, action, watch)


def proved(monkeypatch: pytest.MonkeyPatch, removed: bool, **given: Any) -> str:
    world = Reading()
    world.nodes, world.removed = backed_up_web().nodes, removed
    cluster = counted(monkeypatch, world)
    said = ""
    try:
        vm.verify_backup(Context(), "web", **given)
    except PmcError as error:
        said = str(error)
    assert not any(asked["lock"] for asked in cluster.asked.values())
    return said


def test_a_backup_that_is_removed_meanwhile_is_not_bad(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert proved(monkeypatch, True, all=True) == ""
    rows = [line.split(None, 2) for line in capsys.readouterr().out.splitlines()[2:]]
    right = [[BASE.id, "pm-1", "right"], [BASE.id, "pm-2", "right"], [NEWER.id, "pm-2", "right"]]
    assert rows == [*right[:2], [DELTA.id, "pm-2", "removed meanwhile"], right[2]]


def test_when_nothing_else_was_proved_the_status_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proved(monkeypatch, True, backup=DELTA.id).startswith(
        f"nothing was proved: {DELTA.id} was removed meanwhile"
    )


def test_one_that_is_still_there_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proved(monkeypatch, False, all=True) == f"1 of 4 cannot be used: {DELTA.id}"


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """A directory of the manager with a base and a delta, as pmc's pipelines make them."""
    folder, disk = tmp_path / "copies, all", tmp_path / "disk"
    folder.mkdir()
    disk.write_bytes(DISK)
    made(disk, folder, base=made(disk, folder))
    return folder


def test_the_copies_in_a_directory_of_the_manager_are_read_back_there(
    copies: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = counted(monkeypatch, World())
    vm.verify_backup(Context(), "web", all=True, from_=str(copies), dry_run=True)
    assert "xdelta3 -D -d" in capsys.readouterr().out
    assert not list(copies.glob("*.verified"))
    vm.verify_backup(Context(), all=True, from_=str(copies), json=True)
    rows = json.loads(capsys.readouterr().out)
    assert rows == [{"backup": each.id, "node": "manager", "result": "right"} for each in (BASE, DELTA)]
    assert {path.name for path in copies.glob("*.verified")} == {f"{each.id}.verified" for each in (BASE, DELTA)}
    assert not any(sum(asked.values()) for asked in cluster.asked.values()), "no node is asked"
    with raises(Refused, "verify_backup.verify_backup", "vm.verify_backup mail: ", "/copies, all"):
        vm.verify_backup(Context(), "mail", from_=str(copies))
    with raises(Refused, "lookups.kept", "no directory on this machine"):
        vm.verify_backup(Context(), "web", from_=str(copies / "none"))
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("pmc.tasks.lookups.kept", lambda *_: [Stored("manager", BASE.id, 1, BASE)])
    with raises(Refused, "local.need", "apt install xdelta3 zstd"):
        vm.verify_backup(Context(), "web", from_=str(copies))


@pytest.mark.parametrize("damage", ["base", "delta"])
def test_a_damaged_copy_on_the_manager_is_told(
    copies: Path, damage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counted(monkeypatch, World())
    file = copies / (BASE.file if damage == "base" else DELTA.file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (copies / f"{DELTA.id}.verified").write_text("2026-11-26T23:42:27Z\n")
    with raises(PmcError, "verify_backup.verify_backup", "of 2 cannot be used", DELTA.id) as told:
        vm.verify_backup(Context(), "web", all=True, from_=str(copies))
    assert "remove their files (ID.*) from" in str(told.value)
    results = {row.split()[0]: row.split(None, 2)[2] for row in capsys.readouterr().out.splitlines()[2:]}
    assert (results[BASE.id] == "right") is (damage == "delta")
    assert results[DELTA.id] != "right"
    assert not (copies / f"{DELTA.id}.verified").exists()


def lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_runs_on_the_manager_ends_when_it_is_stopped(tmp_path: Path) -> None:
    told = threading.Event()
    script = bash('sleep 600 & echo $! >"$1"; echo "17 bytes" >&2; wait', str(tmp_path / "pid"))
    with pytest.raises(Interrupted):
        run(script, told.is_set, lambda line: told.set())
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 60
    while time.monotonic() < end and lives(pid):
        time.sleep(0.05)
    assert not lives(pid)
    with pytest.raises(CommandFailed, match="ended with status 3: no such disk") as failed:
        run(bash('echo "17 bytes" >&2; echo "no such disk" >&2; exit 3'))
    assert failed.value.stderr == "no such disk"


def test_no_module_of_the_folder_where_one_happens_to_be_is_run(
    copies: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counted(monkeypatch, World())
    (tmp_path / "hashlib.py").write_text("raise SystemExit('somebody else wrote this')")
    monkeypatch.chdir(tmp_path)
    vm.verify_backup(Context(), "web", all=True, from_=f"./{copies.name}")


def test_what_is_odd_in_the_directory_is_told(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch, World())
    with raises(Refused, "verify_backup.proved", "--backup web.20200101T000000Z.base", "/copies, all", "Next: fab"):
        vm.verify_backup(Context(), "web", backup="web.20200101T000000Z.base", from_=str(copies))
    os.mkfifo(copies / "web.20300101T000000Z.base.json")
    (copies / f"{BASE.id}.index").unlink()  # which only new deltas need
    vm.verify_backup(Context(), "web", all=True, from_=str(copies))
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith(BASE.file))
    with raises(PmcError, "verify_backup.verify_backup", "2 of 2 cannot be used"):
        vm.verify_backup(Context(), "web", all=True, from_=str(copies))
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith(f"{BASE.id}.json"))
    with pytest.raises(Refused, match=rf"you may not read {BASE.id}.json"):
        vm.verify_backup(Context(), "web", all=True, from_=str(copies))


def test_rows_that_were_proved_are_shown_when_it_is_interrupted(
    copies: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = counted(monkeypatch, World())
    monkeypatch.setattr("pmc.tasks.verify_backup.run", lambda *_: cluster.stop.set())
    with pytest.raises(Interrupted, match=f"not begun: {DELTA.id}"):
        vm.verify_backup(Context(), "web", all=True, from_=str(copies))
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()[2:]] == [BASE.id]


def test_a_directory_that_goes_meanwhile_is_not_bad(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        shutil.rmtree(copies)
        raise CommandFailed("manager", "zstd", 1, "no such file")

    counted(monkeypatch, World())
    monkeypatch.setattr("pmc.tasks.verify_backup.run", gone)
    with raises(PmcError, "verify_backup.verify_backup", "nothing was proved", f"{BASE.id} was removed meanwhile"):
        vm.verify_backup(Context(), "web", backup=BASE.id, from_=str(copies))
