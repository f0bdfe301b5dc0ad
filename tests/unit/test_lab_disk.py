# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk that forgets: what is flushed stays, what is not may go; and its server, spoken to by QEMU and by hand."""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import disk as lab_disk
from lab import guests, nbd, tick
from lab.disk import SECTOR, SHARES, Disk
from lab.witness import ROOT
from tests.unit.test_tick import qemu

SIZE = 1 << 20


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


def block(value: int, sectors: int = 8) -> bytes:
    return bytes([value]) * SECTOR * sectors


def states(fd: int, *steps: tuple[str, int, bytes], sector: int = 0, rounds: int = 200) -> set[int]:
    """The values that a sector may have after these steps and a power loss."""
    found = set()
    for seed in range(rounds):
        os.ftruncate(fd, 0)
        disk = Disk(fd, SIZE)
        for what, offset, data in steps:
            disk.flush() if what == "flush" else disk.write(offset, data, what == "fua")
        disk.lose_power(random.Random(seed))
        content = disk.read(sector * SECTOR, SECTOR)
        assert len(set(content)) == 1, "a sector is whole or not at all"
        found.add(content[0])
    return found


FLUSH = ("flush", 0, b"")


def test_what_lvm_writes_of_its_group_stays(fd: int) -> None:
    for seed in range(50):
        disk = Disk(fd, SIZE, 8192)
        disk.write(4096, block(1))
        disk.write(8192, block(2))
        disk.lose_power(random.Random(seed))
        assert disk.read(4096, 4096) == block(1)
        disk.write(4096, bytes(4096), fua=True)
        disk.write(8192, bytes(4096), fua=True)


def test_what_was_written_is_read_at_once(fd: int) -> None:
    disk = Disk(fd, SIZE)
    assert disk.read(SIZE - 512, 512) == bytes(512)
    disk.write(4096, block(1))
    disk.write(4608, block(2, 1))
    assert disk.read(4096, 1536) == block(1, 1) + block(2, 1) + block(1, 1)
    disk.flush()
    assert disk.read(4608, 512) == block(2, 1)


def test_what_was_flushed_stays_and_the_rest_may_go(fd: int) -> None:
    assert states(fd, ("write", 0, block(1))) == {0, 1}
    assert states(fd, ("write", 0, block(1)), FLUSH) == {1}
    assert states(fd, ("write", 0, block(1)), FLUSH, ("write", 0, block(2))) == {1, 2}
    assert states(fd, ("write", 0, block(1)), ("write", 0, block(2))) == {0, 1, 2}
    assert states(fd, ("write", 0, block(1)), ("write", 0, block(2)), FLUSH) == {2}
    # The same once more is no write that could be lost.
    assert states(fd, ("write", 0, block(1)), FLUSH, ("write", 0, block(1))) == {1}


def test_fua_stays_and_flushes_nothing_else(fd: int) -> None:
    under = ("write", 0, block(1, 16))
    assert states(fd, under, ("fua", 2048, block(2, 8)), sector=5) == {2}
    assert states(fd, under, ("fua", 2048, block(2, 8)), sector=0) == {0, 1}
    assert states(fd, under, ("fua", 2048, block(2, 8)), sector=15) == {0, 1}
    assert states(fd, under, ("fua", 0, block(1, 16)), sector=3) == {1}


def test_a_later_write_may_be_there_without_an_earlier_one(fd: int) -> None:
    found = set()
    for seed in range(200):
        os.ftruncate(fd, 0)
        disk = Disk(fd, SIZE)
        disk.write(0, block(1))
        disk.write(8192, block(2))
        disk.lose_power(random.Random(seed))
        found.add((any(disk.read(0, 512)), any(disk.read(8192, 512))))
    assert found == {(False, False), (True, False), (False, True), (True, True)}


def test_writes_are_torn_at_sectors(fd: int) -> None:
    torn = 0
    for seed in range(200):
        os.ftruncate(fd, 0)
        disk = Disk(fd, SIZE)
        disk.write(512, block(7))
        loss = disk.lose_power(random.Random(seed))
        sectors = {disk.read(512 + at * SECTOR, SECTOR) for at in range(8)}
        assert sectors <= {bytes(SECTOR), block(7, 1)}
        assert (len(sectors) == 2) == bool(loss.torn)
        assert (loss.unflushed, disk.read(0, 512), disk.read(512 * 9, 512)) == (1, bytes(512), bytes(512))
        torn += loss.torn
    assert 10 < torn < 100


def test_a_seed_repeats_it(fd: int) -> None:
    def once(seed: int) -> bytes:
        os.ftruncate(fd, 0)
        disk = Disk(fd, SIZE)
        for at in range(40):
            disk.write(at * 4096, block(at + 1))
        disk.lose_power(random.Random(seed))
        return disk.read(0, SIZE)

    assert once(5) == once(5)
    assert len({once(seed) for seed in range(20)}) > 10


def test_the_oldest_is_written_when_the_cache_is_full(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_disk, "CACHE", 8 * 4096)
    steps = [("write", at * 4096, block(at + 1)) for at in range(10)]
    assert states(fd, *steps, sector=8) == {2}
    assert states(fd, *steps, sector=16) == {0, 3}


def test_zeroing_leaves_the_file_sparse(tmp_path: Path, fd: int) -> None:
    disk = Disk(fd, 64 << 20)
    disk.write(0, bytes(32 << 20))
    assert (tmp_path / "file").stat().st_size == 0
    assert disk.writes == []


@contextmanager
def served(folder: Path, size: int = SIZE, seed: str = "7") -> Iterator[subprocess.Popen[str]]:
    (folder / "seed").write_text(seed)
    places = (str(folder / name) for name in ("seed", "s", "file"))
    argv = [sys.executable, "-m", "lab.nbd", *places, str(size)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            while not (folder / "s").exists():
                assert process.poll() is None
            yield process
            assert process.wait(60) == 0
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=60)[0]


@pytest.mark.skipif(not shutil.which("qemu-io"), reason="needs qemu-io (Debian: qemu-utils)")
def test_qemu_writes_and_reads_it(tmp_path: Path) -> None:
    """And stops in order, so nothing is lost, though nothing was flushed before."""
    with served(tmp_path, 80 << 20) as process:
        writes = ["write -P 3 4096 65536", "write -z 8k 4k", "write -P 9 30M 40M"]
        reads = ["read -P 3 4k 4k", "read -P 0 8k 4k", "read -P 9 69M 1M", "read -P 0 79M 1M"]
        commands = [word for one in (*writes, *reads) for word in ("-c", one)]
        argv = ["qemu-io", "-f", "raw", "-t", "unsafe", *commands]
        done = subprocess.run([*argv, f"nbd+unix:///disk?socket={tmp_path}/s"], capture_output=True, text=True)
        assert (done.returncode, "verification failed" in done.stdout) == (0, False), done
        assert ended(process) == "file: stopped\n"
    content = (tmp_path / "file").read_bytes()
    assert content[4096:12288] == b"\3" * 4096 + bytes(4096)
    assert content[30 << 20 :] == b"\t" * (40 << 20)


class Peer:
    """A client, by hand."""

    def __init__(self, folder: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(60)
        self.socket.connect(str(folder / "s"))
        self.file = self.socket.makefile("rb")
        assert self.file.read(18) == b"NBDMAGICIHAVEOPT\0\3"
        self.socket.sendall(struct.pack(">I", 3))

    def option(self, number: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """The replies, up to one that is no information."""
        self.socket.sendall(b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data)
        found = list[tuple[int, bytes]]()
        while not found or found[-1][0] == nbd.REP_INFO:
            _, answered, kind, length = struct.unpack(">QIII", self.file.read(20))
            assert answered == number
            found.append((kind, self.file.read(length)))
        return found

    def go(self) -> Peer:
        assert [kind for kind, _ in self.option(nbd.GO, bytes(6))] == [nbd.REP_INFO, nbd.REP_INFO, nbd.ACK]
        return self

    def ask(self, kind: int, offset: int = 0, data: bytes = b"", length: int = 0, flags: int = 0) -> int:
        """The error."""
        header = struct.pack(">IHHQQI", 0x25609513, flags, kind, 42, offset, len(data) or length)
        self.socket.sendall(header + data)
        magic, error, handle = struct.unpack(">IIQ", self.file.read(16))
        assert (magic, handle) == (0x67446698, 42)
        return int(error)

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.mark.parametrize("seed", ["1", "2", "3", "4", "5", "6"])
def test_a_client_that_dies_has_lost_power(tmp_path: Path, seed: str) -> None:
    with served(tmp_path, seed=seed) as process:
        peer = Peer(tmp_path).go()
        assert peer.ask(nbd.WRITE, 0, block(1, 128)) == 0
        assert peer.ask(nbd.FLUSH) == 0
        assert peer.ask(nbd.WRITE, 1024, block(2, 2), flags=nbd.FUA) == 0
        for at in range(16):
            assert peer.ask(nbd.WRITE, at * 4096, block(3)) == 0
        assert peer.ask(nbd.WRITE_ZEROES, 65536, length=4096) == 0
        peer.close()
        said = ended(process)
    assert f"file: power loss with seed {seed}: Loss(unflushed=16, kept=" in said
    content = (tmp_path / "file").read_bytes()
    for at in range(128):
        before = block(2, 1) if at in (2, 3) else block(1, 1)
        assert content[at * SECTOR : (at + 1) * SECTOR] in (before, block(3, 1))


def test_some_seeds_lose_what_was_not_flushed(tmp_path: Path) -> None:
    lost = 0
    for seed in range(8):
        (tmp_path / "file").unlink(missing_ok=True)
        with served(tmp_path, seed=str(seed)) as process:
            peer = Peer(tmp_path).go()
            assert peer.ask(nbd.WRITE, 0, block(1)) == 0
            peer.close()
            ended(process)
        lost += not any((tmp_path / "file").read_bytes())
    assert 0 < lost < 8


def test_protocol(tmp_path: Path) -> None:
    with served(tmp_path) as process:
        peer = Peer(tmp_path)
        assert peer.option(8) == [(nbd.UNSUPPORTED, b"")]  # structured replies
        (_, export), (_, sizes), (kind, _) = peer.option(nbd.INFO, bytes(6))
        assert struct.unpack(">HQH", export) == (0, SIZE, 1 | 4 | 8 | 64)
        assert (struct.unpack(">HIII", sizes), kind) == ((3, 512, 4096, 32 << 20), nbd.ACK)
        peer.go()
        assert peer.ask(nbd.WRITE, SIZE - 512, block(1, 2)) == nbd.ENOSPC
        assert peer.ask(nbd.READ, SIZE, length=512) == nbd.EINVAL
        assert peer.ask(nbd.READ, 0, length=(32 << 20) + 512) == nbd.EINVAL
        assert peer.ask(nbd.WRITE_ZEROES, 512, length=SIZE) == nbd.ENOSPC
        assert peer.ask(4, 0, length=512) == nbd.EINVAL  # trim was not offered
        assert peer.ask(nbd.READ, SIZE - 512, length=512) == 0
        assert peer.file.read(512) == bytes(512)
        peer.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, nbd.DISC, 0, 0, 0))
        assert peer.file.read() == b""
        peer.close()
        assert ended(process) == "file: stopped\n"


@pytest.mark.parametrize("garbage", [b"x" * 28, struct.pack(">IHHQQI", 0x25609513, 0, nbd.WRITE, 0, 0, 1 << 30)])
def test_nonsense_ends_the_connection(tmp_path: Path, garbage: bytes) -> None:
    with served(tmp_path) as process:
        peer = Peer(tmp_path).go()
        peer.socket.sendall(garbage)
        assert peer.file.read() == b""
        peer.close()
        assert "no request of NBD" in ended(process)


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_a_guest_that_loses_power(tmp_path: Path, form: str) -> None:
    """All that it said is on its disk, whatever else is lost: QEMU writes for it with FUA, or flushes."""
    guests.build_disk(tmp_path / "raw")
    subprocess.run(["qemu-img", "convert", "-O", form, tmp_path / "raw", tmp_path / "file"], check=True)
    losing = next(seed for seed in map(str, range(99)) if random.Random(f"{seed} file").choice(SHARES) == 0.0)
    with served(tmp_path, 64 << 20, losing) as process:
        drive = f"if=virtio,format={form},cache=writeback,file=nbd+unix:///disk?socket={tmp_path}/s"
        with qemu("pc", "-drive", drive) as guest:
            said = guest.ticks(10)
            guest.kill()
        assert f"power loss with seed {losing}" in ended(process)
    subprocess.run(["qemu-img", "convert", "-f", form, "-O", "raw", tmp_path / "file", tmp_path / "raw"], check=True)
    found = tick.check((tmp_path / "raw").read_bytes().ljust(64 << 20, b"\0"))  # the file ends behind the last write
    assert found.counter >= said.counter
    if form == "qcow2":  # 3: clusters that are not used, as after any loss of power
        assert subprocess.run(["qemu-img", "check", "-q", tmp_path / "file"]).returncode in (0, 3)


def test_a_disk_that_lies_has_not_flushed(tmp_path: Path) -> None:
    (tmp_path / "seed.lies").touch()
    with served(tmp_path) as process:
        peer = Peer(tmp_path).go()
        assert peer.ask(nbd.WRITE, 0, block(1), flags=nbd.FUA) == peer.ask(nbd.FLUSH) == 0
        peer.close()
        assert "Loss(unflushed=1, " in ended(process)
