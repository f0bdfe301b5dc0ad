"""Files of the manager that go to nodes and come from them, while somebody else has a hand on either end."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pmc.actions import Fetch, Transfer, identity
from pmc.backup import LONGEST
from pmc.cluster import Cluster
from pmc.command import command
from pmc.errors import CommandFailed, Refused, StepFailed
from pmc.plan import Plan
from pmc.plans import add, backup_copies, request, restore
from pmc.plans.request import Image
from pmc.plans.restore import Found
from pmc.transport.fetch import fetched, given
from pmc.transport.node import Node
from pmc.units import GiB, MiB
from tests.unit.samples import SETTINGS
from tests.unit.stories import BASE, DELTA

CAT = command("cat", "/b/x")


def fetch(path: Path, size: int, blocks: list[bytes], most: int = 0) -> None:
    with fetched("pm-1", Fetch(CAT, str(path), size, most)) as take:
        for block in blocks:
            take(block)


def nothing_in(folder: Path) -> bool:
    return not list(folder.iterdir())


@pytest.mark.parametrize("blocks", [[b"x" * 9], [b"x" * 5, bytes(4)], [bytes(9)], [], [b"x" * 9, b""]])
def test_fewer_bytes_than_promised(tmp_path: Path, blocks: list[bytes]) -> None:
    with pytest.raises(CommandFailed, match=r"\d+ bytes came, not 10"):
        fetch(tmp_path / "x", 10, blocks)
    assert nothing_in(tmp_path)


def test_what_is_zeros_takes_no_room(tmp_path: Path) -> None:
    disk = b"x" * MiB + bytes(8 * MiB)
    fetch(tmp_path / "x", len(disk), [disk[start : start + MiB] for start in range(0, len(disk), MiB)])
    assert (tmp_path / "x").read_bytes() == disk
    assert (tmp_path / "x").stat().st_blocks * 512 < 2 * MiB


@pytest.mark.parametrize("block", [b"x" * 4096, bytes(4096)])
@pytest.mark.parametrize(("size", "most"), [(10_000, 0), (0, 10_000)])
def test_more_bytes_than_promised_end_at_once(tmp_path: Path, block: bytes, size: int, most: int) -> None:
    """Not when the node has sent all that it wants to: it may never end, and fill the disk."""
    taken = list[int]()

    def send() -> None:
        with fetched("pm-1", Fetch(CAT, str(tmp_path / "x"), size, most)) as take:
            for _ in range(100):
                taken.append(take(block))

    with pytest.raises(CommandFailed, match="more than 10000 bytes came"):
        send()
    assert len(taken) == 2
    assert nothing_in(tmp_path)


def test_a_fetch_without_a_bound_is_none() -> None:
    with pytest.raises(ValueError, match="how large"):
        Fetch(CAT, "/x", 0)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_what_is_fetched_is_for_its_owner_alone_from_the_first_byte(tmp_path: Path, umask: int) -> None:
    path, before = tmp_path / "x", os.umask(umask)
    try:
        with fetched("pm-1", Fetch(CAT, str(path), 5)) as take:
            [part] = tmp_path.iterdir()
            assert part.stat().st_mode & 0o777 == 0o600
            take(b"12345")
            assert not path.exists(), "under another name until it is whole"
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == b"12345"


def test_a_link_in_its_place_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("precious")
    (tmp_path / ".x.part").symlink_to(tmp_path / "other")
    (tmp_path / "x").symlink_to(tmp_path / "other")
    fetch(tmp_path / "x", 5, [b"12345"])
    assert (tmp_path / "other").read_text() == "precious"
    assert (tmp_path / "x").read_bytes() == b"12345"


FOUND = Found("pm-1", DELTA, BASE)


def test_all_that_is_fetched_has_a_bound_that_fits(tmp_path: Path) -> None:
    """Exact where the manifest tells the size."""
    plan = backup_copies.to_manager(FOUND, str(tmp_path), [], SETTINGS)
    most = {step.do.target.rpartition("/")[2]: (step.do.size, step.do.most) for step in plan.steps
            if isinstance(step.do, Fetch)}  # fmt: skip
    assert most[BASE.file][0] == BASE.stored
    assert most[DELTA.file][0] == DELTA.stored
    assert most[f"{BASE.id}.index"] == (0, BASE.size // 65536 * 32)
    assert most[f"{BASE.id}.json"] == most[f"{DELTA.id}.json"] == (0, LONGEST)
    [out] = [step.do for step in restore.to_file(FOUND, "/x.qcow2", SETTINGS).steps if isinstance(step.do, Fetch)]
    assert GiB < out.most < GiB + 20 * MiB
    [out] = [step.do for step in restore.to_file(FOUND, "/x.img", SETTINGS).steps if isinstance(step.do, Fetch)]
    assert (out.size, out.most) == (GiB, 0)


def test_a_full_disk_as_qcow2_is_within_its_bound(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.write_bytes(os.urandom(64 * MiB))
    subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, out], check=True)
    found = replace(FOUND, backup=replace(BASE, size=64 * MiB), base=None)
    [fetch] = [step.do for step in restore.to_file(found, "/x.qcow2", SETTINGS).steps if isinstance(step.do, Fetch)]
    assert 64 * MiB < out.stat().st_size <= fetch.most


# -- to a node --


def qcow2(size: int = MiB, backing: int = 0, features: int = 0, version: int = 3) -> bytes:
    head = struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", version, backing, 12 if backing else 0, 16, size, 0, 0, 0, 0,
                       0, 0, 0, features, 0, 0, 4, 104)  # fmt: skip
    return head + bytes(400)


def exchange(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def write_in_place(path: Path) -> None:
    """With its old size and its old times, as whoever owns it can."""
    about = path.stat()
    with path.open("r+b") as file:
        file.write(qcow2(backing=512))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


CHANGES = [exchange, write_in_place, grow, lambda path: path.unlink()]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_an_image_that_is_changed_after_it_was_checked_is_not_taken(
    tmp_path: Path, change: Callable[[Path], None], when: str, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the flag that names it to the end of the step that copies it."""
    path = tmp_path / "image"
    path.write_bytes(qcow2() if format == "qcow2" else b"x" * 504)
    image = request._image(str(path))
    wanted = request.Add("web", "pm-1", "pm-2", GiB, GiB, image=image)
    [step] = [step for step in add.from_image(wanted, SETTINGS, "/dev/drbd1") if isinstance(step.do, Transfer)]
    if when == "before":
        change(path)

    def run(node: Node, command: Any, source: Any, on_sent: Any, **how: Any) -> str:
        source.read()
        if when == "meanwhile":
            change(path)
        return ""

    monkeypatch.setattr("pmc.transport.node.Node.run", run)
    with Cluster(SETTINGS) as cluster, pytest.raises(StepFailed, match=r"has changed|No such file"):
        cluster.apply(Plan("x", (step,)), under=[])


def test_a_file_that_ends_early_is_not_taken_for_whole(tmp_path: Path) -> None:
    """Of a directory of backups only the sizes are known."""
    (tmp_path / "x").write_bytes(b"123")
    with (
        pytest.raises(CommandFailed, match="has changed: 3 bytes, not 5"),
        given("pm-1", Transfer(str(tmp_path / "x"), 5, CAT)) as file,
    ):
        file.read()


def test_what_has_no_end_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (str(tmp_path / "pipe"), "/dev/zero", str(tmp_path)):
        with pytest.raises(Refused, match=r"is no file|directory"):
            request._image(name)


def unpacked(image: Path, device: Path, size: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(add.unpack(str(image), str(device), size).argv, capture_output=True, text=True, check=False)


def test_a_copy_is_unpacked(tmp_path: Path) -> None:
    raw, image, device = (tmp_path / name for name in ("raw", "image", "device"))
    raw.write_bytes(os.urandom(MiB) + bytes(MiB))
    for version in ("0.10", "1.1"):
        subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", "-o", f"compat={version}", raw, image],
                       check=True)  # fmt: skip
        assert request._image(str(image)) == Image(
            str(image), "qcow2", 2 * MiB, image.stat().st_size, identity(image.stat())
        )
        device.write_bytes(bytes(2 * MiB))
        done = unpacked(image, device, 2 * MiB)
        assert (done.returncode, done.stderr) == (0, "")
        assert device.read_bytes() == raw.read_bytes()


@pytest.mark.parametrize("content", [
    b"", b"QFI\xfb", qcow2()[:20], qcow2(backing=512), qcow2(features=4), qcow2(features=0xC), qcow2(size=2 * MiB),
    qcow2(version=1), qcow2(version=4), qcow2(version=0x10000003), b"# Disk DescriptorFile\nversion=1\n" + bytes(200),
    b"KDMV" + bytes(500), bytes(504),
])  # fmt: skip
def test_a_copy_that_is_another_image_is_not_unpacked(tmp_path: Path, content: bytes) -> None:
    """Above all one that names another file, which would come into the guest's disk."""
    secret, image, device = (tmp_path / name for name in ("secret", "image", "device"))
    secret.write_bytes(b"ROOT-SECRET" + bytes(MiB - 11))
    image.write_bytes(content + str(secret).encode())
    device.write_bytes(bytes(MiB))
    done = unpacked(image, device, MiB)
    assert done.returncode == 1
    assert "is not the image that was looked at" in done.stderr.splitlines()[-1]
    assert device.read_bytes() == bytes(MiB)


def test_an_image_that_claims_too_much_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """qemu-img's memory and time have bounds, whatever it is led to."""
    image = tmp_path / "image"
    image.write_bytes(qcow2())
    (tmp_path / "qemu-img").write_text("#!/bin/sh\nulimit -v; ulimit -t\nexit 1\n")
    (tmp_path / "qemu-img").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    done = unpacked(image, tmp_path / "device", MiB)
    assert done.stdout.split() == [str(add.MEMORY // 1024), "300"]
