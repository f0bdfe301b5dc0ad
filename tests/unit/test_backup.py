"""Manifests, the listing, and the pipelines: run here by the real bash, dd, zstd and xdelta3, on files."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pmc import backup, backup_pipeline
from pmc.backup import Backup, Stored
from pmc.backup_pipeline import How
from pmc.command import Command
from pmc.plans import backup_copies, prune
from pmc.plans.backup import remove_unfinished
from pmc.plans.backup_request import BackupRequest, follows, passed_over
from pmc.remote import blocks, stream, vcdiff
from pmc.remote.device import opened
from pmc.remote.manifest import DAMAGED, manifest_sum
from tests.unit.samples import data
from tests.unit.stories import BASE, DELTA

LISTING = data("pmc-0.1.0-backup-listing.txt")
BLOCK = blocks.BLOCK
DISK = b"boot" + bytes(300_000) + b"data" * 100_000 + bytes(200_000) + b"end"
ROOT = Path(__file__).parents[2]
METADATA = b"DRBD's metadata behind the guest's disk"


def run(command: Command) -> subprocess.CompletedProcess[str]:
    """As on a node, here. The program is there already: it is this very one."""
    there = f"PYTHONPATH={backup_pipeline.FOLDER} python3"
    line = [word.replace(there, f"PYTHONPATH={ROOT} {sys.executable}") for word in command.argv]
    return subprocess.run(
        line, input=command.stdin or "", capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip


def fine(command: Command) -> str:
    got = run(command)
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


def made(disk: Path, folder: Path, size: int = len(DISK), base: Backup | None = None, compress: bool = True) -> Backup:
    """A backup that the pipelines of pmc have made."""
    meant = replace(DELTA if base else BASE, size=size, compression="zstd" if compress and not base else "none")
    part, how = str(folder / f".{meant.id}.part"), How(compress)
    source = backup_pipeline.Disk(str(disk), size)
    if base:
        fine(backup_pipeline.store_delta(source, base, str(folder), part, how))
    else:
        fine(backup_pipeline.store_base(source, part, how))
    fine(backup_pipeline.seal(str(folder), part, meant))
    return backup.from_json((folder / f"{meant.id}.json").read_text())


def given_back(each: Backup, base: Backup | None, folder: Path, target: Path, compare: bool = False) -> Command:
    return backup_pipeline.give_back(each, backup_pipeline.decoded(each, base, str(folder)), str(target), compare)


def found(folder: Path, vm: str = "") -> list[Stored]:
    query = backup.listing(str(folder), "pm-1", vm)
    return query.parse(fine(query.command))


@pytest.mark.parametrize("name", ["3cx", "01-web", "Web_1"])
def test_a_vm_of_any_name_that_pmc_takes_finds_its_backups_again(disk: Path, folder: Path, name: str) -> None:
    base = replace(BASE, id=BASE.id.replace("web", name), vm=name, size=len(DISK), compression="none")
    part = str(folder / f".{base.id}.part")
    fine(backup_pipeline.store_base(backup_pipeline.Disk(str(disk), len(DISK)), part, How(False)))
    fine(backup_pipeline.seal(str(folder), part, base))
    (folder / f"-x{base.id.removeprefix(name)}.json").write_text("{}")  # a word of an option, to stat(1) and base64(1)
    [listed] = found(folder)
    assert (listed.id, listed.broken) == (base.id, "")
    assert [each.id for each in found(folder, name)] == [base.id]


def test_a_pipe_in_the_place_of_a_note_is_not_waited_for(folder: Path) -> None:
    (folder / f"{BASE.id}.json").write_text("{}")
    for note in backup.NOTES:
        os.mkfifo(folder / f"{BASE.id}.{note}")
    query = backup.listing(str(folder), "pm-1")
    done = subprocess.run(query.command.argv, capture_output=True, text=True, timeout=60, check=True)
    assert [(each.id, each.verified, each.damaged) for each in query.parse(done.stdout)] == [(BASE.id, "", "")]


def tree(data: bytes) -> str:
    """The checksum as the documentation says it, by other means."""
    parts = [hashlib.sha256(data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def written(disk: Path, seed: int = 1) -> bytes:
    """A disk on which some pages changed, one block was emptied, and one of zeros was filled."""
    rng, data = random.Random(seed), bytearray(DISK)
    for _ in range(5):
        at = rng.randrange(len(data) // 4096) * 4096
        data[at : at + 700] = rng.randbytes(min(700, len(data) - at))
    data[4 * BLOCK : 5 * BLOCK] = bytes(BLOCK)
    data[2 * BLOCK : 3 * BLOCK] = rng.randbytes(BLOCK)
    data[-1:] = b"!"
    disk.write_bytes(bytes(data) + METADATA)
    return bytes(data)


@pytest.mark.parametrize("compress", [True, False])
def test_a_base_is_the_disk_alone_and_small(disk: Path, folder: Path, compress: bool) -> None:
    whole = made(disk, folder, compress=compress)
    image = folder / whole.file
    unpacked = subprocess.run(["zstd", "-dcq", image], capture_output=True, check=True).stdout if compress else b""
    assert (unpacked or image.read_bytes()) == DISK
    assert whole.image_sha256 == tree(DISK)
    assert whole.stored == image.stat().st_size
    assert image.stat().st_blocks * 512 < len(DISK) * 2 / 3
    end = ".zst" if compress else ""
    assert {path.name for path in folder.iterdir()} == {f"{BASE.id}.{e}" for e in (f"img{end}", "index", "json")}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("kinds", ["0", "1", "0110", "1001", "0" * 5 + "1", "10101"])
@pytest.mark.parametrize("tail", [b"", bytes(BLOCK), b"end"])
def test_a_base_is_the_disk_wherever_it_is_empty(folder: Path, tmp_path: Path, kinds: str, tail: bytes) -> None:
    """What is empty does not go through zstd."""
    content = b"".join(random.Random(1).randbytes(blocks.CHUNK) if k == "1" else blocks.ZEROS for k in kinds) + tail
    (tmp_path / "disk").write_bytes(content)
    whole = made(tmp_path / "disk", folder, len(content))
    assert whole.image_sha256 == tree(content)
    assert subprocess.run(["zstd", "-dcq", folder / whole.file], capture_output=True, check=True).stdout == content
    assert whole.stored < kinds.count("1") * blocks.CHUNK + 2000


def test_a_zstd_that_fails_is_no_base(disk: Path, folder: Path) -> None:
    source, part = backup_pipeline.Disk(str(disk), len(DISK)), str(folder / ".x.part")
    store = backup_pipeline.store_base(source, part, How())
    line = [word.replace(' >"$1"', " >/dev/full") for word in store.argv]
    got = run(replace(store, argv=tuple(line)))
    assert got.returncode != 0
    assert "zstd" in got.stderr


def test_the_line_of_the_documentation_gives_the_checksum(disk: Path) -> None:
    line = (stream.__doc__ or "").partition("By hand: ")[2].splitlines()[0]
    disk.write_bytes(DISK)
    script = line.replace("DISK", shlex.quote(str(disk))).replace("xxd -r -p", UNHEX)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == tree(DISK)


# xxd -r -p, for machines without it.
UNHEX = f"{sys.executable} -c 'import sys; sys.stdout.buffer.write(bytes.fromhex(sys.stdin.read()))'"


def brought(folder: Path) -> Command:
    """Into that folder, whose name ends as the real one's: in the program's sum."""
    given = backup_pipeline.bring()
    return replace(given, argv=tuple(word.replace(backup_pipeline.FOLDER, str(folder)) for word in given.argv))


def program_in(folder: Path) -> Path:
    return folder / "run" / Path(backup_pipeline.FOLDER).name


def put(there: Path, expected: str) -> int:
    argv = [sys.executable, "-I", "-c", f"import runpy, sys; sys.path[:0] = [{str(there)!r}]; "
            f"sys.argv[1:] = ['put', '--size', '{len(DISK)}', '--expect', {expected!r}]; "
            "runpy.run_module('pmc.remote.stream', run_name='__main__', alter_sys=True)"]  # fmt: skip
    return subprocess.run(argv, input=DISK, check=False, capture_output=True).returncode


@pytest.mark.parametrize("left", [0, 1, 2000, -60, -1])
def test_a_program_that_does_not_come_whole_is_not_there(tmp_path: Path, left: int) -> None:
    """The manager dies before its stdin is sent, or while; the next one brings it."""
    there = program_in(tmp_path)
    bring = brought(there)
    cut = run(replace(bring, stdin=backup_pipeline.PROGRAM[:left]))
    assert cut.returncode != 0
    assert "did not come whole" in cut.stderr
    assert list(there.parent.iterdir()) == []
    fine(bring)
    assert put(there, tree(DISK)) == 0
    assert put(there, "wrong") != 0


@pytest.mark.parametrize("name", ["__init__.py", "remote/blocks.py", "remote/stream.py"])
@pytest.mark.parametrize("left", [0, 100, -60, -1])
def test_a_program_that_is_not_whole_proves_nothing(tmp_path: Path, name: str, left: int) -> None:
    """However it became so; an older pmc's was there for good when nothing of it had come."""
    there = program_in(tmp_path)
    fine(brought(there))
    path = there / "pmc" / name
    path.write_bytes(path.read_bytes()[:left])
    assert put(there, "wrong") != 0


def test_the_program_is_all_that_is_for_nodes() -> None:
    there = {path.name for path in (Path(backup_pipeline.__file__).parent / "remote").glob("*.py")}
    assert set(re.findall(r"^#== remote/(.*)$", backup_pipeline.PROGRAM, re.M)) == there


def test_the_program_is_brought_once_and_runs(disk: Path, tmp_path: Path) -> None:
    there = program_in(tmp_path)
    bring = brought(there)
    for _ in range(2):
        fine(bring)
    assert {str(path.relative_to(there / "pmc")) for path in (there / "pmc").rglob("*.py")} == {
        "__init__.py", "remote/__init__.py", "remote/blocks.py", "remote/vcdiff.py", "remote/manifest.py",
        "remote/device.py", "remote/stream.py",
    }  # fmt: skip
    argv = [sys.executable, "-I", "-c", f"import sys; sys.path[:0] = [{str(there)!r}]; import pmc.remote.stream as s; "
            f"sys.exit(s.main(['put', '--size', '{len(DISK)}', '--expect', '{tree(DISK)}']))"]  # fmt: skip
    assert subprocess.run(argv, input=DISK, check=False, capture_output=True).returncode == 0
    assert subprocess.run(argv, input=DISK[:-1] + b"?", check=False, capture_output=True).returncode == DAMAGED
    printed = subprocess.run(
        [sys.executable, "-m", "pmc.backup_pipeline"], capture_output=True, text=True, check=True
    ).stdout
    assert printed == backup_pipeline.bring().stdin


def test_a_base_is_listed(disk: Path, folder: Path) -> None:
    whole = made(disk, folder)
    (folder / f".{DELTA.id}.part").write_text("begun and never finished")
    (listed,) = found(folder)
    assert listed == Stored("pm-1", BASE.id, (folder / whole.file).stat().st_blocks * 512, whole)
    assert found(folder, "web") == [listed]
    assert found(folder, "we") == []
    assert found(folder / "no such folder") == []
    fine(backup_pipeline.prove(whole, backup_pipeline.decoded(whole, None, str(folder)), str(folder)))
    assert found(folder)[0].verified.startswith("20")
    (folder / whole.file).unlink()
    assert found(folder)[0].broken == "its file is missing"


def test_what_is_found_damaged_is_noted_until_it_is_found_right(disk: Path, folder: Path) -> None:
    whole = made(disk, folder)
    prove = backup_pipeline.prove(whole, backup_pipeline.decoded(whole, None, str(folder)), str(folder))
    fine(prove)
    right = (folder / whole.file).read_bytes()
    for wrong in (right[:-9], right[:-9] + bytes(9), right[: len(right) // 2], right[:99] + b"?" + right[100:]):
        (folder / whole.file).write_bytes(wrong)
        assert run(prove).returncode == 1
        assert {path.name for path in folder.glob("*.*ed")} == {f"{whole.id}.damaged"}
        (listed,) = found(folder)
        assert (listed.verified, listed.damaged[:2]) == ("", "20")
        assert backup.newest_base([replace(listed, broken="")], "web") is None
    (folder / whole.file).write_bytes(right)
    fine(prove)
    assert {path.name for path in folder.glob("*.*ed")} == {f"{whole.id}.verified"}
    assert (found(folder)[0].verified[:2], found(folder)[0].damaged) == ("20", "")
    assert not set(backup_copies.files(whole)) & {f"{whole.id}.verified", f"{whole.id}.damaged"}


@pytest.mark.parametrize("how", ["kill -9 $BASHPID", "no-such-program-of-ours", "exit 137"])
def test_what_could_not_be_read_is_not_known_to_be_damaged(disk: Path, folder: Path, how: str) -> None:
    whole = made(disk, folder)
    read = f"{{ head -c 1000 /dev/zero; {how}; }}"
    assert run(backup_pipeline.prove(whole, read, str(folder))).returncode == 1
    reader = backup_pipeline.decoded(whole, None, str(folder))
    assert run(backup_pipeline.prove(whole, reader, str(folder), "python3 -m no_such_module")).returncode == 1
    assert not list(folder.glob("*.*ed"))


@pytest.mark.parametrize("how", ["kill -9 $BASHPID", "no-such-program-of-ours", "exit 137"])
def test_a_delta_is_not_damaged_when_what_unpacks_its_base_is_killed(disk: Path, folder: Path, how: str) -> None:
    """xdelta3 itself sees an end of its base, as of one that is cut short, and ends as it does then."""
    whole = made(disk, folder)
    written(disk)
    part = made(disk, folder, base=whole)
    reader = backup_pipeline.decoded(part, whole, str(folder))
    fine(backup_pipeline.prove(part, reader, str(folder)))
    unpack = f"nobody zstd -dcq <{shlex.quote(str(folder / whole.file))}"
    assert reader.count(unpack) == 1
    killed = reader.replace(unpack, f"{{ {unpack} | head -c 1000 || :; {how}; }}")
    assert run(Command(("bash", "-o", "pipefail", "-c", f"{killed} >/dev/null"))).returncode == 126
    assert run(backup_pipeline.prove(part, killed, str(folder))).returncode == 1
    assert not list(folder.glob(f"{part.id}.*ed"))
    short = reader.replace(unpack, f"{{ {unpack} | head -c 1000 || :; exit 1; }}")  # as of a base that is damaged
    assert run(backup_pipeline.prove(part, short, str(folder))).returncode == 1
    assert [path.name for path in folder.glob(f"{part.id}.*ed")] == [f"{part.id}.damaged"]


def test_those_of_the_future_are_named_without_a_process(folder: Path) -> None:
    def laid(id: str) -> str:
        folder.mkdir(exist_ok=True)
        (folder / f"{id}.json").write_text("")
        return id

    laid(BASE.id)
    laid("web.21000101T000000Z.base it's odd")
    later = [laid("web.21000101T000000Z.base"), laid("db-1.20991231T235959Z.delta")]
    query = backup.of_the_future(str(folder))
    assert sorted(query.parse(fine(query.command))) == sorted(later)
    script = query.command.argv[-2]
    assert "$(" not in script
    assert "`" not in script
    assert query.parse(fine(backup.of_the_future(str(folder / "none")).command)) == ()


def test_ids_never_go_back() -> None:
    """Which backup is the newest is told by its id, so a manager whose clock is behind must not make an older one."""
    now = datetime(2026, 1, 5, tzinfo=UTC)

    def at(second: str, vm: str = "web", ahead: bool = False) -> Stored:
        return Stored("pm-2", f"{vm}.{second}.base", 0, None, ahead=ahead)

    assert follows("web", [at("20260104T235959Z"), at("20260105T010000Z", "other")], now) == (now, "")
    assert follows("web", [], now) == (now, "")
    time, said = follows("web", [at("20260105T000030Z")], now)
    assert (time, said) == (datetime(2026, 1, 5, 0, 0, 31, tzinfo=UTC), ""), "two managers' clocks differ a little"
    time, said = follows("web", [at("20260105T010000Z"), at("20260101T000000Z")], now)
    assert time == datetime(2026, 1, 5, 1, 0, 1, tzinfo=UTC)
    assert "this machine's clock is 3600 s behind the newest backup, web.20260105T010000Z.base" in said
    time, said = follows("web", [at("20990105T010000Z", ahead=True), at("20260101T000000Z")], now)
    assert time == now
    assert "web.20990105T010000Z.base is of the future by this machine's clock, which says 2026-01-05T00:00:00" in said


def test_a_right_backup_where_there_is_no_room_for_a_note(disk: Path, folder: Path) -> None:
    whole = made(disk, folder)
    (folder / f"{whole.id}.verified").symlink_to("/dev/full")
    fine(backup_pipeline.prove(whole, backup_pipeline.decoded(whole, None, str(folder)), str(folder)))
    assert found(folder)[0].verified == ""


def put_to(target: str, *more: str) -> subprocess.CompletedProcess[str]:
    """The disk, by the program, as a restore writes it."""
    put = ("put", "--size", str(len(DISK)), "--expect", tree(DISK), "--target", target, *more)
    return subprocess.run(
        [sys.executable, "-m", "pmc.remote.stream", *put], cwd=ROOT, input=DISK.decode(), text=True,
        capture_output=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("target", ["/dev/drbd-of-no-test", "/dev/null"])
@pytest.mark.parametrize("more", [(), ("--compare",)])
def test_nothing_is_made_where_a_device_is_missing(target: str, more: tuple[str, ...]) -> None:
    """The disk would be a file in the node's memory, and the restore be done."""
    got = put_to(target, *more)
    assert got.returncode == 1, got.stderr
    assert target in got.stderr
    assert not Path("/dev/drbd-of-no-test").exists()


def test_only_what_is_there_is_compared(tmp_path: Path) -> None:
    new = tmp_path / "new"
    assert put_to(str(new), "--compare").returncode == 1
    assert not new.exists()
    assert put_to(str(new)).returncode == 0
    new.write_bytes(bytes(len(DISK)))
    assert put_to(str(new), "--compare").returncode == 0
    assert new.read_bytes() == DISK


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "device").write_bytes(bytes(len(DISK) // 512 * 512 + 512))
    made = subprocess.run(
        ["losetup", "--find", "--show", str(tmp_path / "device")], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop device can be made here: {made.stderr}")
    yield made.stdout.strip()
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


def test_of_two_that_write_a_device_the_second_writes_nothing(loop: str, tmp_path: Path) -> None:
    device = tmp_path / "device"
    with opened(loop, compare=True):
        got = put_to(loop, "--compare")
        assert got.returncode == 1
        assert (
            f"{loop} is in use by a mount, by LVM, or by a restore that still runs; nothing was written" in got.stderr
        )
        assert not any(device.read_bytes())
    assert put_to(loop, "--compare").returncode == 0
    assert device.read_bytes()[: len(DISK)] == DISK


def test_who_only_looks_at_a_device_is_waited_for(monkeypatch: pytest.MonkeyPatch, loop: str) -> None:
    held = [opened(loop, compare=True)]
    monkeypatch.setattr("time.sleep", lambda seconds: held.pop().close() if held else None)
    opened(loop, compare=True).close()
    assert held == []


def test_a_file_is_passed_on_as_it_is(disk: Path) -> None:
    disk.write_text("an image\n" * 300_000 + "its end")
    assert fine(backup_pipeline.passed(str(disk), disk.stat().st_size, 10**9)) == disk.read_text()
    for wrong in (disk.stat().st_size + 1, disk.stat().st_size - 1):
        got = run(backup_pipeline.passed(str(disk), wrong, 10**9))
        assert got.returncode == 1
        assert got.stderr.splitlines()[-1] == f"{disk} cannot be read, or is not as long as its manifest says"


def test_a_backup_that_is_removed_while_it_is_read_gets_no_note(disk: Path, folder: Path) -> None:
    """Nothing is locked meanwhile."""
    whole = made(disk, folder)
    remove = shlex.join(prune.remove(str(folder), whole.files).argv)
    got = run(
        backup_pipeline.prove(
            whole, f"{{ {backup_pipeline.decoded(whole, None, str(folder))}; {remove}; }}", str(folder)
        )
    )
    assert (got.returncode, got.stderr.splitlines()[-1]) == (1, f"{whole.id} was removed meanwhile")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("what", ["the manifest", "the unfinished"])
def test_what_is_removed_while_the_note_is_written(
    disk: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """By vm.prune, which has the manifest first and did not see a note; by vm.backup, which leaves a finished one."""
    whole = made(disk, folder)
    gone = (
        prune.remove(str(folder), whole.files[:1]) if what == "the manifest" else remove_unfinished(str(folder), "web")
    )
    (tmp_path / "date").write_text(f"#!/bin/bash\n{shlex.join(gone.argv)}; echo 2026-01-01T00:00:00Z\n")
    (tmp_path / "date").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    got = run(backup_pipeline.prove(whole, backup_pipeline.decoded(whole, None, str(folder)), str(folder)))
    noted = [path.name for path in folder.glob("*.verified")]
    assert (got.returncode, noted) == ((1, []) if what == "the manifest" else (0, [f"{whole.id}.verified"]))


@pytest.mark.parametrize("compress", [True, False])
def test_a_delta_is_for_plain_xdelta3_and_for_us(disk: Path, folder: Path, tmp_path: Path, compress: bool) -> None:
    whole = made(disk, folder, compress=compress)
    new = written(disk)
    part = made(disk, folder, base=whole)
    assert part.image_sha256 == tree(new)
    assert part.stored < 2 * BLOCK + 20 * 4096
    plain = tmp_path / "base.img"
    plain.write_bytes(DISK)
    by_hand = subprocess.run(["xdelta3", "-d", "-c", "-s", plain, folder / part.file], capture_output=True, check=True)
    assert by_hand.stdout == new
    device = tmp_path / "device"
    device.write_bytes(bytes(len(DISK)))
    fine(given_back(part, whole, folder, device))
    assert device.read_bytes() == new
    device.write_bytes(os.urandom(len(DISK)))
    fine(given_back(part, whole, folder, device, compare=True))
    assert device.read_bytes() == new


def words(count: int) -> bytes:
    """What can be compressed."""
    return b"".join(b"%d words " % number for number in range(count // 8 + 1))[:count]


@given(old=st.integers(0, 5), new=st.integers(1, 5), tail=st.integers(0, 9000), seed=st.integers(0, 1 << 32))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_delta_of_any_disk_is_right(old: int, new: int, tail: int, seed: int) -> None:
    """The disk may have grown since its base. Compared with plain xdelta3's decoder."""
    rng = random.Random(seed)
    before = rng.randbytes(old * BLOCK // 2 + 1) + bytes(old * BLOCK // 2)
    after = bytearray(before + bytes(new * BLOCK // 2) + rng.randbytes(tail))
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(after))
        new_bytes = rng.choice((bytes, rng.randbytes, words))
        after[at : at + rng.randrange(1, 3 * BLOCK)] = new_bytes(rng.randrange(1, 3 * BLOCK))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "disk").write_bytes(before)
        whole = made(folder / "disk", folder, len(before))
        if len(after) < len(before):
            after += bytes(len(before) - len(after))
        (folder / "disk").write_bytes(after)
        part = made(folder / "disk", folder, len(after), whole)
        (folder / "base").write_bytes(before)
        done = subprocess.run(["xdelta3", "-d", "-c", "-s", folder / "base", folder / part.file], capture_output=True)
        assert (done.returncode, done.stdout == bytes(after)) == (0, True), done.stderr
        assert part.image_sha256 == tree(bytes(after))
        fine(backup_pipeline.prove(part, backup_pipeline.decoded(part, whole, name), name))


def windows(*contents: bytes) -> bytes:
    """A delta of a base that is not there, a window for each."""
    made = list[bytes]()
    out, at = blocks.Windows(made.append), 0
    for content in contents:
        window = vcdiff.Window(at, 0)
        window.add(content)
        out.add(window)
        at += len(content)
    out.end()
    return b"".join(made)


@given(
    kinds=st.lists(st.sampled_from([bytes, random.Random(1).randbytes, words]), min_size=1, max_size=9),
    size=st.sampled_from([1, 4096, 70_000, 300_000]),
)
@settings(max_examples=20, deadline=None)
def test_windows_compressed_by_themselves_are_one_delta(kinds: list[Callable[[int], bytes]], size: int) -> None:
    """Plain xdelta3 decodes them, whichever of them could be compressed."""
    contents = [kind(size + number) for number, kind in enumerate(kinds)]
    made = windows(*contents)
    done = subprocess.run(["xdelta3", "-d", "-c"], input=made, capture_output=True, check=False)
    assert (done.returncode, done.stdout == b"".join(contents)) == (0, True), done.stderr


def test_a_delta_is_compressed_where_that_helps() -> None:
    assert len(windows(words(1 << 20))) < 1 << 18
    assert vcdiff.packed(random.Random(1).randbytes(1 << 20)) == b""
    assert vcdiff.packed(b"") == b""


@pytest.mark.parametrize(
    ("ranges", "read"),
    [
        ("", 0), ("0 65536\n", 1), ("131072 70000\n262144 1\n", 3), ("400000 600000\n131072 65536\n", 9),
        (f"{len(DISK) + BLOCK} 70000\n", 0),
    ],
)  # fmt: skip
def test_a_thin_delta_is_that_of_the_whole_disk(
    disk: Path, folder: Path, tmp_path: Path, ranges: str, read: int
) -> None:
    """What thin_delta lists is read, and nothing else; what is not listed is as in the base. The metadata behind the
    disk do not count."""
    whole, new = made(disk, folder), bytearray(DISK)
    for line in ranges.splitlines():
        start, length = map(int, line.split())
        end = min(start + length, len(DISK))
        new[start:end] = os.urandom(max(end - start, 0))
    old, now = tmp_path / "old", tmp_path / "now"
    old.write_bytes(DISK + METADATA)
    now.write_bytes(new + b"other metadata")
    meant = replace(DELTA, size=len(DISK))
    part = str(folder / f".{meant.id}.part")
    Path(f"{part}.ranges").write_text(ranges)
    fine(backup_pipeline.store_thin_delta(str(now), str(old), len(DISK), whole, str(folder), part, How()))
    fine(backup_pipeline.seal(str(folder), part, meant))
    after = backup.from_json((folder / f"{meant.id}.json").read_text())
    old.write_bytes(DISK)
    done = subprocess.run(["xdelta3", "-d", "-c", "-s", old, folder / after.file], capture_output=True, check=True)
    assert done.stdout == bytes(new)
    assert after.image_sha256 == tree(bytes(new))
    assert read * BLOCK - BLOCK < after.read <= read * BLOCK
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("compress", [True, False])
def test_a_thin_base_reads_only_what_is_there(disk: Path, folder: Path, compress: bool) -> None:
    meant = replace(BASE, size=len(DISK), compression="zstd" if compress else "none")
    part = str(folder / f".{meant.id}.part")
    Path(f"{part}.ranges").write_text(f"{4 * BLOCK} {BLOCK}\n0 {BLOCK}\n")
    fine(backup_pipeline.store_thin_base(str(disk), len(DISK), part, How(compress)))
    fine(backup_pipeline.seal(str(folder), part, meant))
    whole = backup.from_json((folder / f"{meant.id}.json").read_text())
    image = bytearray(len(DISK))
    for at in (0, 4 * BLOCK):
        image[at : at + BLOCK] = DISK[at : at + BLOCK]
    reader = [*(("zstd", "-dc") if compress else ("cat",)), str(folder / whole.file)]
    assert subprocess.run(reader, capture_output=True, check=True).stdout == image
    assert whole.image_sha256 == tree(bytes(image))
    assert whole.read == 2 * BLOCK
    assert not list(folder.glob(".*"))


def test_a_snapshot_that_is_not_the_bases_makes_no_delta(disk: Path, folder: Path, tmp_path: Path) -> None:
    whole, other = made(disk, folder), tmp_path / "other"
    data = bytearray(DISK)
    data[3 * BLOCK + 7] ^= 1
    other.write_bytes(data)
    part = str(folder / ".x.part")
    for ranges, exit in ((f"{3 * BLOCK} 1\n", 1), (f"{2 * BLOCK} 1\n", 0)):
        Path(f"{part}.ranges").write_text(ranges)
        got = run(backup_pipeline.store_thin_delta(str(disk), str(other), len(DISK), whole, str(folder), part, How()))
        assert got.returncode == exit
        assert ("does not fit the block sums of the base; make a new base" in got.stderr) == bool(exit)


def test_a_thin_delta_of_a_disk_with_a_bad_sector_is_no_backup(disk: Path, folder: Path, tmp_path: Path) -> None:
    """What is before a bad sector is read without an error, and is less than was asked for; as at this file's end."""
    whole, old, now = made(disk, folder), tmp_path / "old", tmp_path / "now"
    part = str(folder / ".x.part")
    Path(f"{part}.ranges").write_text(f"{2 * BLOCK} {BLOCK}\n")
    for short, other in ((now, old), (old, now)):
        short.write_bytes(DISK[: 2 * BLOCK + 5000])
        other.write_bytes(DISK)
        got = run(backup_pipeline.store_thin_delta(str(now), str(old), len(DISK), whole, str(folder), part, How()))
        assert got.returncode == 1
        assert f"cannot be read at byte {2 * BLOCK}" in got.stderr


def test_an_index_that_was_cut_or_is_gone_is_told(disk: Path, folder: Path) -> None:
    whole = made(disk, folder)
    index = folder / f"{whole.id}.index"
    index.write_bytes(index.read_bytes()[:-40])
    part = str(folder / ".x.part")
    Path(f"{part}.ranges").write_text("0 1\n")
    got = run(backup_pipeline.store_thin_delta(str(disk), str(disk), len(DISK), whole, str(folder), part, How()))
    assert got.returncode == 1
    assert "the block sums of the base are damaged; make a new base" in got.stderr
    index.unlink()
    for store in (
        backup_pipeline.store_thin_delta(str(disk), str(disk), len(DISK), whole, str(folder), part, How()),
        backup_pipeline.store_delta(backup_pipeline.Disk(str(disk), len(DISK)), whole, str(folder), part, How()),
    ):
        Path(f"{part}.ranges").write_text("0 1\n")
        got = run(store)
        assert got.returncode == 1
        assert f"({index}) are missing; make a new base" in got.stderr


@pytest.mark.parametrize("magic", [b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"\x1f\x9d"])
def test_a_disk_that_begins_as_a_compressed_file(disk: Path, folder: Path, magic: bytes) -> None:
    """xdelta3 would unpack its base first."""
    disk.write_bytes(magic + DISK[len(magic) :])
    whole = made(disk, folder)
    disk.write_bytes(magic + written(disk)[len(magic) :])
    part = made(disk, folder, base=whole)
    fine(backup_pipeline.prove(part, backup_pipeline.decoded(part, whole, str(folder)), str(folder)))


@pytest.mark.parametrize("lost", ["ranges", "source"])
def test_a_thin_volume_of_which_nothing_is_known_is_no_backup(disk: Path, folder: Path, lost: str) -> None:
    part = str(folder / ".x.part")
    if lost == "source":
        Path(f"{part}.ranges").write_text(f"0 {BLOCK}\n")
        disk.unlink()
    assert run(backup_pipeline.store_thin_base(str(disk), len(DISK), part, How())).returncode == 1


PLACES = ["first", "middle", "last", "short", "missing"]


def damage(path: Path, place: str) -> None:
    data = bytearray(path.read_bytes())
    if place == "missing":
        path.unlink()
        return
    if place == "short":
        del data[-3:]
    else:
        data[{"first": 0, "middle": len(data) // 2, "last": -1}[place]] ^= 0x20
    path.write_bytes(data)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", ["manifest", "base", "raw base", "delta"])
def test_damage_is_found_out(disk: Path, folder: Path, tmp_path: Path, what: str, place: str) -> None:
    """By the listing, or when it is read back; and nothing wrong is ever given back in silence."""
    whole = made(disk, folder, compress=what != "raw base")
    new = written(disk)
    part = made(disk, folder, base=whole)
    victim = part if what in ("delta", "manifest") else whole
    damage(folder / (f"{victim.id}.json" if what == "manifest" else victim.file), place)
    listed = {each.id: each for each in found(folder)}
    known = victim.id not in listed or listed[victim.id].broken != ""
    if place in ("short", "missing") or what == "manifest":
        assert known
        return
    base = whole if victim is part else None
    got = run(backup_pipeline.prove(victim, backup_pipeline.decoded(victim, base, str(folder)), str(folder)))
    assert known or got.returncode != 0, got
    device = tmp_path / "device"
    device.write_bytes(bytes(len(DISK)))
    if run(given_back(part, whole, folder, device)).returncode == 0:
        assert device.read_bytes() == new, "right in spite of the damage: what it hit was not needed"


def test_a_damaged_index_makes_no_delta(disk: Path, folder: Path) -> None:
    whole = made(disk, folder)
    damage(folder / f"{BASE.id}.index", "middle")
    source = backup_pipeline.Disk(str(disk), len(DISK))
    got = run(backup_pipeline.store_delta(source, whole, str(folder), str(folder / ".x.part"), How()))
    assert got.returncode != 0
    assert "make a new base" in got.stderr


def test_a_disk_that_cannot_be_read_is_no_backup(folder: Path, tmp_path: Path) -> None:
    part = str(folder / ".x.part")
    for path in (tmp_path / "none", folder):
        assert run(backup_pipeline.store_base(backup_pipeline.Disk(str(path), 10), part, How())).returncode != 0
    (tmp_path / "short").write_bytes(b"123")
    got = run(backup_pipeline.store_base(backup_pipeline.Disk(str(tmp_path / "short"), 10), part, How()))
    assert "the disk ends after 3 bytes of 10" in got.stderr
    assert got.returncode != 0


def test_a_backup_without_its_sums_is_not_sealed(folder: Path) -> None:
    part = folder / ".x.part"
    part.write_text("disk")
    assert run(backup_pipeline.seal(str(folder), str(part), BASE)).returncode != 0
    Path(f"{part}.sums").write_text("")
    assert run(backup_pipeline.seal(str(folder), str(part), BASE)).returncode != 0
    assert list(folder.glob("*.json")) == []


def test_a_backup_whose_manifest_did_not_come_whole_is_not_sealed(folder: Path) -> None:
    """The manager died before it had sent all of it."""
    part = folder / ".x.part"
    part.write_text("disk")
    Path(f"{part}.sums").write_text(json.dumps({"image_sha256": "0" * 64, "file_sha256": ""}))
    sealed = backup_pipeline.seal(str(folder), str(part), BASE)
    for text in ("", (sealed.stdin or "")[:-3]):
        got = run(replace(sealed, stdin=text))
        assert (got.returncode, got.stderr.strip()) == (1, "the manifest did not come whole")
    assert [path for path in folder.iterdir() if not path.name.startswith(".")] == []
    fine(sealed)


def test_reading_can_be_slowed_down(disk: Path, folder: Path) -> None:
    """The clock is that of the pace, not ours: what is asserted is how long it slept."""
    slept = list[float]()
    pace = blocks.Pace(1000, clock=lambda: sum(slept), sleep=slept.append)
    for _ in range(5):
        pace.add(500)
    assert sum(slept) == pytest.approx(2.5)


# -- manifests --


def test_a_captured_listing() -> None:
    base, delta = backup.parse_listing(LISTING, "pm-1")
    assert (base.id, base.stored, base.broken) == ("web.20261125T045844Z.base", 8 * 512, "")
    assert base.backup is not None
    assert delta.backup is not None
    assert (base.backup.kind, base.backup.size, base.backup.device) == ("base", 8347648, "/dev/drbd1")
    assert base.backup.nodes == ("pm-1", "pm-2")
    assert delta.backup.base == base.id
    assert (delta.verified, delta.backup.role) == ("2026-11-25T05:00:23Z", "standby")
    assert base.backup.xml.startswith("<domain")


@pytest.mark.parametrize("manifest", [BASE, DELTA])
def test_a_manifest_is_read_as_it_was_written(manifest: Backup) -> None:
    assert backup.from_json(changed(manifest)) == manifest


def changed(manifest: Backup, **fields: object) -> str:
    """As it is sealed, but for these fields; its sum is right."""
    table = {**backup.to_table(manifest), **fields}
    return json.dumps({**table, "manifest_sha256": manifest_sum(table)})


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "[]", "{}", "null", '{"pmc": 1}', changed(BASE, pmc=1), changed(BASE, more="x"),
        changed(BASE, id="web2.20260101T000000Z.base"), changed(BASE, id="../../etc/passwd"),
        changed(BASE, id=BASE.id + "\n"),
        changed(BASE, kind="delta"), changed(BASE, vm="web;id"), changed(BASE, size=0), changed(BASE, size="1"),
        changed(BASE, device="/dev/drbd1; id"), changed(BASE, device="drbd1"), changed(BASE, image_sha256="$(id)"),
        changed(BASE, image_sha256=""), changed(BASE, stored="1"), changed(BASE, compression="lzma"),
        changed(DELTA, base=""), changed(DELTA, base=DELTA.id),
        changed(BASE, time="yesterday"), changed(BASE, source="pm-2; id"), changed(BASE, nodes=["pm-1", "$(id)"]),
        changed(DELTA, file_sha256=""), changed(DELTA, file_sha256="$(id)"),
        changed(DELTA, base="mail.20260101T000000Z.base"), changed(DELTA, base="/etc/shadow"),
        changed(BASE, nodes=None), changed(BASE, id=None), changed(BASE, id=7), changed(BASE, image_sha256=7),
        changed(DELTA, base=None), changed(BASE, device=None),
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own, or ours
        backup.from_json(text)


def test_a_manifest_that_was_changed_is_no_manifest() -> None:
    text = changed(BASE)
    for old, new in (("2026-01-01T", "2026-01-02T"), ("pm-2", "pm-1"), ("<name>", "<name >")):
        other = text.replace(old, new)
        assert other != text
        with pytest.raises(ValueError, match="damaged"):
            backup.from_json(other)


def row(name: str, text: str) -> str:
    return f"{name} 8 512 {BASE.stored} - {base64.b64encode(text.encode()).decode()}\n"


def test_a_manifest_that_is_broken_is_listed_as_such_and_hides_no_other() -> None:
    good = row(BASE.id, changed(BASE))
    listed = backup.parse_listing(good + row("odd", "{}") + row("web.20260103T000000Z.base", changed(BASE)), "pm-1")
    assert [(each.id, bool(each.broken)) for each in listed] == [
        (BASE.id, False), ("odd", True), ("web.20260103T000000Z.base", True),
    ]  # fmt: skip
    assert backup.parse_listing(f"{BASE.id} 8 512 4096 - \n", "pm-1")[0].broken
    assert backup.parse_listing(f"{BASE.id} 8 512 4096 - ???\n", "pm-1")[0].broken


@pytest.mark.parametrize(
    "text", ["garbage\n", "web.base 8\n", "web.base a b c d\n", "we;b 8 512 1 - e30=\n", "web 8 512 1 a;b e30=\n"]
)
def test_a_listing_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        backup.parse_listing(text, "pm-1")


def test_a_base_that_was_cut_short_is_broken_and_no_new_delta_is_made_against_it() -> None:
    [listed] = backup.parse_listing(row(BASE.id, changed(BASE)).replace(f" {BASE.stored} ", " 4096 "), "pm-1")
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


def test_a_newer_base_that_nothing_is_made_against_is_named() -> None:
    old, new = stored("web.20260101T000000Z.base"), stored("web.20260201T000000Z.base", "pm-2")
    bad, delta = replace(new, damaged="2026-03-01"), stored("web.20260301T000000Z.delta", "pm-2")
    short = replace(new, broken="its file is missing")
    here, there = replace(bad, node="pm-1"), new
    of_it = replace(delta, damaged="2026-03-02", backup=replace(BASE, id=delta.id, kind="delta", base=new.id))
    said, verify = f"web: no delta is made against {new.id} on", "Next: fab vm.verify_backup web --backup"
    found = f"as it was found damaged. {verify} {new.id}"
    both = f"as {delta.id}, which needs it, was found damaged. {verify} {delta.id}"
    broken = f"web: {new.id} on pm-2 is broken (its file is missing), so no delta is made against it"
    for every, wish, told in (
        ([old, bad], BackupRequest("web"), f"{said} pm-2, {found}"),
        ([bad], BackupRequest("web"), f"{said} pm-2, {found}"),
        ([old, short], BackupRequest("web"), f"{broken}. Next: fab vm.backup web --base"),
        ([short], BackupRequest("web"), broken),
        ([old, new, of_it], BackupRequest("web"), f"{said} pm-2, {both}"),
        ([here, there], BackupRequest("web", to="pm-1"), f"{said} pm-1, {found}"),
        ([here, there], BackupRequest("web"), ""),
        ([old, bad], BackupRequest("web", to="pm-1"), ""),
        ([old, bad], BackupRequest("web", base=True), ""),
        ([old, bad], BackupRequest("mail"), ""),
        ([old, new], BackupRequest("web"), ""),
        ([old, replace(bad, ahead=True)], BackupRequest("web"), ""),
    ):  # fmt: skip
        assert passed_over(wish, "pm-1", every) == told


def test_a_read_error_says_where(disk: Path, folder: Path) -> None:
    """At the begin of a process's memory there is nothing to be read (EIO, as of a bad sector)."""
    bad, part = backup_pipeline.Disk("/proc/self/mem", len(DISK)), str(folder / ".x.part")
    whole = made(disk, folder)
    for store in (
        backup_pipeline.store_base(bad, part, How()),
        backup_pipeline.store_delta(bad, whole, str(folder), part, How()),
    ):
        assert run(store).stderr.splitlines()[-1] == "/proc/self/mem cannot be read at byte 0: Input/output error"


def test_an_id_has_the_time_in_utc() -> None:
    now = datetime(2026, 3, 1, 1, 2, 3, tzinfo=timezone(timedelta(hours=2)))
    assert backup.new_id("web", "base", now) == "web.20260228T230203Z.base"
    assert backup.ID.fullmatch(backup.new_id("a-b", "delta", datetime.now(UTC)))


def test_reading_on_another_node_quotes_twice() -> None:
    line = backup_pipeline.read_volume("/dev/vg/it's", 5, "10.0.0.2")
    assert "ssh -o BatchMode=yes" in line
    assert "root@10.0.0.2" in line
    # What the remote shell gets is again a line of which it makes the same path.
    as_ssh = 'ssh() { [ "${@: -1}" = true ] || printf %s "${@: -1}"; }'
    words = subprocess.run(["bash", "-c", f"{as_ssh}; {line}"], capture_output=True, text=True, check=True)
    assert words.stdout == "ionice -c 3 " + backup_pipeline.read_volume("/dev/vg/it's", 5)
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
    command = backup_pipeline.store_base(backup_pipeline.Disk("/dev/zero", 4), "/dev/full/x", How())
    done = subprocess.run(command.argv, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == "No space left on device: /dev/full is full"


# Says on stderr what it may do, then does what it is for.
STUB = """\
#!/bin/sh
{ id -u; id -G; sed -n 's/^NoNewPrivs://p; s/^CapEff://p' /proc/self/status; cat "$SECRET"; } >"$TOLD/$$" 2>&1
exec /usr/bin/NAME "$@"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root has no rights to give up")
@pytest.mark.parametrize("kind", ["base", "delta", "a delta of a raw base"])
def test_what_a_stranger_may_have_made_is_decoded_without_roots_rights(
    disk: Path, folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoders' own words say so; and all is given back as before."""
    whole = made(disk, folder, compress=kind != "a delta of a raw base")
    new = DISK if kind == "base" else written(disk)
    part = made(disk, folder, base=whole) if kind != "base" else None
    with tempfile.TemporaryDirectory() as name:  # nobody gets into pytest's own
        tools = Path(name)
        tools.chmod(0o755)
        for tool in ("zstd", "xdelta3"):
            (tools / tool).write_text(STUB.replace("NAME", tool))
            (tools / tool).chmod(0o755)
        (tools / "told").mkdir()
        (tools / "told").chmod(0o777)
        (tmp_path / "secret").write_text("ROOT-SECRET")
        monkeypatch.setenv("PATH", name, prepend=":")
        monkeypatch.setenv("TOLD", str(tools / "told"))
        monkeypatch.setenv("SECRET", str(tmp_path / "secret"))
        device = tmp_path / "device"
        device.write_bytes(bytes(len(DISK)))
        each, base = (part, whole) if part else (whole, None)
        fine(given_back(each, base, folder, device))
        fine(backup_pipeline.prove(each, backup_pipeline.decoded(each, base, str(folder)), str(folder)))
        told = "".join(path.read_text() for path in (tools / "told").iterdir())
    assert device.read_bytes() == new
    runs = {"base": 2, "delta": 4, "a delta of a raw base": 2}[kind]
    assert [told.count(f"{word}\n") for word in ("65534\n65534", "\t1", "Permission denied")] == [runs] * 3, told
    assert "ROOT-SECRET" not in told
    assert told.count("\t0000000000000000\n") >= runs, "no capability is in effect"


def test_a_new_delta_decodes_its_base_without_roots_rights(disk: Path, folder: Path) -> None:
    """It may be a copy from a stranger's directory."""
    whole = made(disk, folder)
    line = str(backup_pipeline.store_delta(backup_pipeline.Disk(str(disk), len(DISK)), whole, str(folder), "x", How()))
    assert line.count("zstd -dcq") == line.count("nobody zstd -dcq") == 1
