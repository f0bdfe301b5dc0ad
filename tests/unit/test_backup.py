"""Manifests, the listing, and the pipelines: run here by the real bash, dd and sha256sum, on files."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from pmc import backup
from pmc.backup import Backup, Stored
from pmc.command import Command
from tests.unit.samples import data
from tests.unit.stories import BASE, DELTA

LISTING = data("pmc-0.1.0-backup-listing.txt")
DISK = b"boot" + bytes(300_000) + b"data" * 1000 + bytes(200_000)
METADATA = b"DRBD's metadata behind the guest's disk"


def run(command: Command, **environment: str) -> subprocess.CompletedProcess[str]:
    """As on a node, here."""
    return subprocess.run(
        command.argv, input=command.stdin or "", capture_output=True, text=True, timeout=30, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def fine(command: Command, **environment: str) -> str:
    got = run(command, **environment)
    assert got.returncode == 0, got.stderr
    return got.stdout


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "it's a volume"
    path.write_bytes(DISK + METADATA)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "backups"
    path.mkdir(mode=0o700)
    return path


def made(kind: str, disk: Path, folder: Path, **environment: str) -> Backup:
    """A backup that the pipelines of pmc have made."""
    meant = replace(BASE if kind == "base" else DELTA, size=len(DISK), image_sha256=backup.IMAGE_SUM,
                    file_sha256=backup.FILE_SUM)  # fmt: skip
    part = str(folder / f".{meant.id}.part")
    reader = backup.read_volume(str(disk), meant.size)
    fine(backup.store(kind, reader, str(folder / f"{meant.base}.img") if meant.base else "", part), **environment)
    fine(backup.seal(str(folder), part, meant))
    return backup.from_json((folder / f"{meant.id}.json").read_text())


def found(folder: Path, vm: str = "") -> list[Stored]:
    query = backup.listing(str(folder), "pm-1", vm)
    return query.parse(fine(query.command))


def test_a_base_is_the_disk_alone_and_sparse(disk: Path, folder: Path) -> None:
    whole = made("base", disk, folder)
    image = folder / whole.file
    assert image.read_bytes() == DISK
    assert whole.image_sha256 == whole.file_sha256 == hashlib.sha256(DISK).hexdigest()
    assert image.stat().st_blocks * 512 < len(DISK) / 2
    assert sorted(path.name for path in folder.iterdir()) == [f"{BASE.id}.img", f"{BASE.id}.json"]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_base_is_listed(disk: Path, folder: Path) -> None:
    whole = made("base", disk, folder)
    (folder / f".{DELTA.id}.part").write_text("begun and never finished")
    (listed,) = found(folder)
    assert listed == Stored("pm-1", BASE.id, (folder / whole.file).stat().st_blocks * 512, whole)
    assert found(folder, "web") == [listed]
    assert found(folder, "we") == []
    assert found(folder / "no such folder") == []
    (folder / whole.file).unlink()
    assert found(folder)[0].broken == "its file is missing"


def test_a_base_is_given_back(disk: Path, folder: Path, tmp_path: Path) -> None:
    whole = made("base", disk, folder)
    target = tmp_path / "device"
    target.write_bytes(bytes(len(DISK)))
    fine(backup.give_back(whole, str(folder), "", str(target)))
    assert target.read_bytes()[: len(DISK)].rstrip(b"\0") == DISK.rstrip(b"\0")


def test_a_damaged_base_is_not_given_back_in_silence(disk: Path, folder: Path, tmp_path: Path) -> None:
    whole = made("base", disk, folder)
    image = folder / whole.file
    image.write_bytes(b"B" + image.read_bytes()[1:])
    got = run(backup.give_back(whole, str(folder), "", str(tmp_path / "device")))
    assert got.returncode != 0
    assert whole.image_sha256 in got.stderr
    image.unlink()
    assert run(backup.give_back(whole, str(folder), "", str(tmp_path / "device"))).returncode != 0


def test_a_disk_that_cannot_be_read_is_no_backup(folder: Path, tmp_path: Path) -> None:
    part = str(folder / ".x.part")
    assert run(backup.store("base", backup.read_volume(str(tmp_path / "none"), 10), "", part)).returncode != 0


def test_a_backup_without_its_sums_is_not_sealed(folder: Path) -> None:
    part = folder / ".x.part"
    for end, text in (("", "disk"), (".image", ""), (".file", "0" * 64)):
        Path(f"{part}{end}").write_text(text)
    assert run(backup.seal(str(folder), str(part), replace(BASE, image_sha256=backup.IMAGE_SUM))).returncode != 0
    assert list(folder.glob("*.json")) == []


def test_a_backup_whose_manifest_did_not_come_whole_is_not_sealed(folder: Path) -> None:
    """The manager died before it had sent it."""
    part = folder / ".x.part"
    for end, text in (("", "disk"), (".image", "0" * 64), (".file", "0" * 64)):
        Path(f"{part}{end}").write_text(text)
    sealed = backup.seal(str(folder), str(part), replace(BASE, image_sha256=backup.IMAGE_SUM))
    assert run(replace(sealed, stdin="")).returncode != 0
    assert [path for path in folder.iterdir() if not path.name.startswith(".")] == []


# A stand-in that "compresses" by upper case, so that it is seen to have been run, with which arguments.
XDELTA3 = """#!/bin/sh
echo "$@" >>"$XDELTA3_LOG"
case " $* " in
    *" -h "*) [ "$XDELTA3_VERSION" = new ] && echo "   -a     use an adler32 of its own"; echo "   -S djw"; exit 1;;
    *" -e "*) exec tr a-z A-Z;;
    *" -d "*) exec tr A-Z a-z <"$5";;
esac
"""


@pytest.mark.parametrize("version", ["old", "new"])
def test_a_delta_is_made_with_any_xdelta3(disk: Path, folder: Path, tmp_path: Path, version: str) -> None:
    """xdelta3 -h has exit status 1, and tells whether there is -a."""
    tool = tmp_path / "xdelta3"
    tool.write_text(XDELTA3)
    tool.chmod(0o755)
    log = tmp_path / "log"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "XDELTA3_LOG": str(log), "XDELTA3_VERSION": version}
    part = made("delta", disk, folder, **environment)
    used = next(line for line in log.read_text().splitlines() if line.startswith("-e"))
    assert used.endswith(" -a") == (version == "new")
    assert f"-s {folder}/{BASE.id}.img" in used
    stored = (folder / f"{DELTA.id}.xd3").read_bytes()
    assert stored == DISK.upper()
    assert part.image_sha256 == hashlib.sha256(DISK).hexdigest()
    assert part.file_sha256 == hashlib.sha256(stored).hexdigest()
    device = tmp_path / "device"
    fine(backup.give_back(part, str(folder), "", str(device)), **environment)
    assert device.read_bytes().rstrip(b"\0") == DISK.rstrip(b"\0")


# -- manifests --


def test_a_captured_listing() -> None:
    base, delta = backup.parse_listing(LISTING, "pm-1")
    assert (base.id, base.stored, base.broken) == ("web.20261123T050944Z.base", 2176 * 512, "")
    assert base.backup is not None
    assert delta.backup is not None
    assert (base.backup.kind, base.backup.size, base.backup.device) == ("base", 71262208, "/dev/drbd1")
    assert base.backup.nodes == ("pm-1", "pm-2")
    assert delta.backup.base == base.id
    assert base.backup.xml.startswith("<domain")


@pytest.mark.parametrize("manifest", [BASE, DELTA])
def test_a_manifest_is_read_as_it_was_written(manifest: Backup) -> None:
    assert backup.from_json(backup.to_json(replace(manifest, file_sha256="2" * 64))) == replace(
        manifest, file_sha256="2" * 64
    )


def changed(manifest: Backup, **fields: object) -> str:
    return json.dumps({**json.loads(backup.to_json(replace(manifest, file_sha256="2" * 64))), **fields})


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "[]", "{}", "null", '{"pmc": 1}', changed(BASE, pmc=2), changed(BASE, more="x"),
        changed(BASE, id="web2.20260101T000000Z.base"), changed(BASE, id="../../etc/passwd"),
        changed(BASE, id=BASE.id + "\n"),
        changed(BASE, kind="delta"), changed(BASE, vm="web;id"), changed(BASE, size=0), changed(BASE, size="1"),
        changed(BASE, device="/dev/drbd1; id"), changed(BASE, device="drbd1"), changed(BASE, image_sha256="$(id)"),
        changed(BASE, image_sha256=backup.IMAGE_SUM), changed(DELTA, base=""), changed(DELTA, base=DELTA.id),
        changed(DELTA, base="mail.20260101T000000Z.base"), changed(DELTA, base="/etc/shadow"),
        changed(BASE, nodes=None), changed(BASE, id=None), changed(BASE, id=7), changed(BASE, image_sha256=7),
        changed(DELTA, base=None), changed(BASE, device=None),
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own, or ours
        backup.from_json(text)


def row(name: str, text: str) -> str:
    return f"{name} 8 512 {BASE.size} {base64.b64encode(text.encode()).decode()}\n"


def test_a_manifest_that_is_broken_is_listed_as_such_and_hides_no_other() -> None:
    good = row(BASE.id, changed(BASE))
    listed = backup.parse_listing(good + row("odd", "{}") + row("web.20260103T000000Z.base", changed(BASE)), "pm-1")
    assert [(each.id, bool(each.broken)) for each in listed] == [
        (BASE.id, False), ("odd", True), ("web.20260103T000000Z.base", True),
    ]  # fmt: skip
    assert backup.parse_listing(f"{BASE.id} 8 512 4096 \n", "pm-1")[0].broken
    assert backup.parse_listing(f"{BASE.id} 8 512 4096 ???\n", "pm-1")[0].broken


@pytest.mark.parametrize("text", ["garbage\n", "web.base 8\n", "web.base a b c d\n"])
def test_a_listing_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        backup.parse_listing(text, "pm-1")


def test_a_base_that_was_cut_short_is_broken_and_no_new_delta_is_made_against_it() -> None:
    [listed] = backup.parse_listing(row(BASE.id, changed(BASE)).replace(f" {BASE.size} ", " 4096 "), "pm-1")
    assert "4096 bytes" in listed.broken
    assert backup.newest_base([listed], "web") is None


def test_no_backups() -> None:
    assert backup.parse_listing("", "pm-1") == []


def stored(id: str, node: str = "pm-1", broken: str = "") -> Stored:
    vm, _, kind = id.split(".")
    return Stored(node, id, 1, replace(BASE, id=id, vm=vm, kind=kind), broken)


def test_the_newest_base_is_that_of_the_latest_time_on_any_node() -> None:
    every = [
        stored("web.20260101T000000Z.base"), stored("web.20260301T000000Z.base", "pm-2"),
        stored("web.20260201T000000Z.base"), stored("web.20260401T000000Z.base", broken="its file is missing"),
        stored("web.20260501T000000Z.delta"), stored("mail.20260601T000000Z.base"),
        Stored("pm-1", "web.x", 1, None, "x"),
    ]  # fmt: skip
    newest = backup.newest_base(every, "web")
    assert newest is not None
    assert (newest.id, newest.node) == ("web.20260301T000000Z.base", "pm-2")
    assert backup.newest_base(every, "none") is None


def test_an_id_has_the_time_in_utc() -> None:
    now = datetime(2026, 3, 1, 1, 2, 3, tzinfo=timezone(timedelta(hours=2)))
    assert backup.new_id("web", "base", now) == "web.20260228T230203Z.base"
    assert backup.ID.fullmatch(backup.new_id("a-b", "delta", datetime.now(UTC)))


def test_reading_on_another_node_quotes_twice() -> None:
    line = backup.read_volume("/dev/vg/it's", 5, "10.0.0.2")
    assert "ssh -o BatchMode=yes" in line
    assert "root@10.0.0.2" in line
    # What the remote shell gets is again a line of which it makes the same path.
    as_ssh = 'ssh() { [ "${@: -1}" = true ] || printf %s "${@: -1}"; }'
    words = subprocess.run(["bash", "-c", f"{as_ssh}; {line}"], capture_output=True, text=True, check=True)
    assert words.stdout == backup.read_volume("/dev/vg/it's", 5)
    # A login script that prints would put its words before the disk.
    loud = subprocess.run(["bash", "-c", f"ssh() {{ echo Welcome; }}; {line}"], capture_output=True, text=True)
    assert loud.returncode == 1
    assert loud.stdout == ""
    assert "prints something" in loud.stderr


def test_a_directory_that_is_full_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a df that knows of no room: dd fails to write, whatever its own words are."""
    (tmp_path / "df").write_text("#!/bin/sh\necho Avail; echo 4096\n")
    (tmp_path / "df").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    command = backup.store("base", "printf disk", "", "/dev/full/x")
    done = subprocess.run(command.argv, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == "No space left on device: /dev/full is full"
