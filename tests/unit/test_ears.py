# SPDX-License-Identifier: GPL-3.0-or-later
"""What the guests said, as it arrives in the lab's run folder; and that a disk that went back is noticed by it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab import tick, witness
from lab.ears import Ears, check
from lab.errors import LabError
from lab.tick import Tick, TickError
from lab.witness import BLOCK, READER, Guest, differences, unpacked

WEB, OTHER = "706d632d-6c61-4062-8000-00000000000a", "706d632d-6c61-4062-8000-00000000000b"


class Node:
    """A node's port, and what guests say on it."""

    def __init__(self, run: Path, port: str) -> None:
        self.path = run / port
        self.path.touch()

    def starts(self, uuid: str = WEB, name: str = "web") -> Node:
        return self.says(f"\nguest {name} {uuid}\nSeaBIOS\r\n")

    def says(self, text: str) -> Node:
        with self.path.open("a", newline="") as file:
            file.write(text)
        return self

    def ticks(self, boots: int, first: int, last: int) -> Node:
        return self.says("".join(f"tick {boots} {counter}\r\n" for counter in range(first, last + 1)))


@pytest.fixture
def one(tmp_path: Path) -> Node:
    return Node(tmp_path, "pm-1.heard1")


@pytest.fixture
def two(tmp_path: Path) -> Node:
    return Node(tmp_path, "pm-2.heard3")


@pytest.fixture
def heard(tmp_path: Path) -> Ears:
    return Ears(tmp_path)


def last(heard: Ears) -> Tick | None:
    return check(heard.of("web"))


def test_a_guest_that_moves_fails_over_and_restarts(one: Node, two: Node, heard: Ears) -> None:
    assert last(heard) is None
    one.starts()
    assert last(heard) is None
    one.ticks(1, 1, 50)
    assert last(heard) == (1, 50)
    two.starts().ticks(1, 51, 60)  # moved
    assert last(heard) == (1, 60)
    one.says("tick 2 6").starts().ticks(2, 62, 70)  # killed within a line; 61 was written and not printed
    assert last(heard) == (2, 70)
    one.ticks(3, 71, 72)  # a reset
    assert last(heard) == (3, 72)
    heard.check()


def test_what_was_said_meanwhile_in_two_places_may_come_in_any_order(one: Node, two: Node, heard: Ears) -> None:
    """pm-1.heard1 is read first, and its second QEMU was started after pm-2's."""
    one.starts().ticks(1, 1, 10).starts().ticks(1, 21, 30)
    two.starts().ticks(1, 11, 20)
    assert last(heard) == (1, 30)


@pytest.mark.parametrize(
    ("boots", "first"),
    [(2, 41), (2, 100), (1, 41), (1, 100)],
    ids=["started from an old disk", "the last is lost", "moved to an old disk", "moved, the last is lost"],
)
@pytest.mark.parametrize("looked", [True, False])
def test_a_disk_that_went_back(one: Node, two: Node, heard: Ears, boots: int, first: int, looked: bool) -> None:
    one.starts().ticks(1, 1, 100)
    if looked:
        assert last(heard) == (1, 100)
    two.starts().ticks(boots, first, first + 5)
    with pytest.raises(TickError, match="the disk went back"):
        last(heard)
    with pytest.raises(TickError, match="the disk went back"):
        heard.check()


def test_a_disk_from_before_all_that_was_heard(one: Node, two: Node, heard: Ears) -> None:
    """No counter is said twice, so only the order tells."""
    one.starts().ticks(5, 500, 510)
    assert last(heard) == (5, 510)
    two.starts().ticks(3, 100, 101)
    with pytest.raises(TickError, match="the disk went back"):
        last(heard)


def test_a_disk_that_went_back_under_a_running_guest(one: Node, heard: Ears) -> None:
    one.starts().ticks(2, 50, 100).ticks(1, 41, 42)
    with pytest.raises(TickError, match=r"pm-1\.heard1/1"):
        last(heard)


def test_a_guest_that_runs_twice(one: Node, two: Node, heard: Ears) -> None:
    one.starts().ticks(1, 1, 100)
    assert last(heard) == (1, 100)
    two.starts().ticks(2, 101, 103)
    one.ticks(1, 101, 102)
    with pytest.raises(TickError, match="the disk went back"):
        last(heard)


def test_an_older_disk_on_purpose(one: Node, two: Node, heard: Ears) -> None:
    one.starts().ticks(1, 1, 100)
    heard.restored("web")
    assert last(heard) is None
    two.starts().ticks(2, 41, 50)
    assert last(heard) == (2, 50)
    heard.check()
    one.starts().ticks(3, 50, 51)
    with pytest.raises(TickError):
        last(heard)


def test_each_vm_by_itself_also_one_of_the_same_name(one: Node, two: Node, heard: Ears) -> None:
    one.starts().ticks(1, 1, 100)
    two.starts(OTHER, "a b").ticks(1, 1, 7)
    assert last(heard) == (1, 100)
    assert check(heard.of("a b")) == (1, 7)
    one.starts(OTHER.replace("b", "c")).ticks(1, 1, 3)
    assert last(heard) == (1, 3)
    heard.check()


def test_a_new_lab_in_the_same_folder(one: Node, heard: Ears) -> None:
    one.starts().ticks(1, 1, 100)
    assert last(heard) == (1, 100)
    one.path.write_text("")
    one.starts().ticks(1, 1, 3)
    assert last(heard) == (1, 3)


class Lab:
    """In place of a lab: its run folder, and two nodes that have these disks."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def machines(self) -> list[Any]:
        return []


class Disks(Guest):
    def __init__(self, run: Path, **disks: bytes) -> None:
        lab: Any = Lab(run)
        super().__init__(lab, "web")
        self.disks = {name.replace("_", "-"): disk for name, disk in disks.items()}

    def image(self, node: str, volume: str = "") -> bytes:
        return self.disks[node]


def image(boots: int, counter: int) -> bytearray:
    content = bytearray((tick.DATA + tick.SLOTS * 5) * tick.SECTOR)
    for sector, data in [
        (tick.HEAD, tick.head_sector(boots, counter, 5)),
        *((tick.place(value, 5), tick.data_sector(value)) for value in range(1, counter + 1)),
    ]:
        content[sector * tick.SECTOR : (sector + 1) * tick.SECTOR] = data
    return content


def test_ticking_hears_that_the_disk_went_back(tmp_path: Path, one: Node, two: Node) -> None:
    """Acknowledged 100, started again at 40: the counter on the disk is past 100 soon, and right by itself."""
    guest = Disks(tmp_path)
    one.starts().ticks(1, 1, 100)
    assert guest.ticking(5) == (1, 100)
    two.starts().ticks(2, 41, 101)
    with pytest.raises(TickError, match="the disk went back: tick boots 2 counter 41 came after boots 1 counter 100"):
        guest.ticking(100, boots=2)


def test_a_guest_that_is_not_heard_does_not_count(tmp_path: Path, one: Node) -> None:
    with pytest.raises(LabError, match="does not count past 0"):
        Disks(tmp_path).ticking(0, seconds=0.1)
    one.starts().ticks(1, 1, 4)
    with pytest.raises(LabError, match="does not count past 0 in start 2"):
        Disks(tmp_path).ticking(0, boots=2, seconds=0.1)


def test_whole(tmp_path: Path, one: Node) -> None:
    good = bytes(image(1, 60))
    one.starts().ticks(1, 1, 60)
    assert Disks(tmp_path, pm_1=good, pm_2=good).whole("pm-1", "pm-2") == (1, 60)
    # One block that was left out, where the guest writes nothing.
    other = bytearray(good)
    other[4_800_000 - 1] ^= 1
    with pytest.raises(
        TickError, match=f"pm-1 and pm-2 differ in 1 blocks of 4096 bytes, at {4_800_000 // 4096 * 4096}$"
    ):
        Disks(tmp_path, pm_1=good, pm_2=bytes(other)).whole("pm-1", "pm-2")
    # Both sides went back together.
    old = bytes(image(1, 59))
    with pytest.raises(TickError, match=r"has said Tick\(boots=1, counter=60\), and its disk on pm-1, pm-2 has"):
        Disks(tmp_path, pm_1=old, pm_2=old).whole("pm-1", "pm-2")
    lost = image(1, 60)
    place = tick.place(30, 5) * tick.SECTOR
    lost[place : place + tick.SECTOR] = bytes(tick.SECTOR)
    with pytest.raises(TickError, match=r"slot 30 .*: lost write"):
        Disks(tmp_path, pm_1=bytes(lost), pm_2=bytes(lost)).whole("pm-1", "pm-2")


def test_a_vm_that_never_said_anything_is_compared_all_the_same(tmp_path: Path) -> None:
    assert Disks(tmp_path, pm_1=bytes(8192), pm_2=bytes(8192)).whole("pm-1", "pm-2") is None
    with pytest.raises(TickError, match="at 4096"):
        Disks(tmp_path, pm_1=bytes(8192), pm_2=bytes(4096)).whole("pm-1", "pm-2")


def test_differences() -> None:
    assert differences(b"a" * 10000, b"a" * 10000) == []
    assert differences(b"a" * 10000, b"a" * 9999 + b"b") == [2]
    assert differences(b"a" * 10000, b"a" * 4096) == [1, 2]


@pytest.mark.parametrize("size", [3 * BLOCK, (5 << 20) + 512])
def test_a_disk_is_read_whole(tmp_path: Path, size: int) -> None:
    content = bytearray(size + 4096)
    for at in (0, 4095, size - 1, size, size + 4095):  # the last two are not the VM's: DRBD's metadata
        content[at] = 1 + at % 255
    (tmp_path / "disk").write_bytes(content)
    argv = [sys.executable, "-c", READER, str(tmp_path / "disk"), str(size)]
    blocks = subprocess.run(argv, capture_output=True, check=True).stdout
    assert len(blocks) == 2 * (4 + BLOCK)
    assert unpacked(blocks, size) == bytes(content[:size])
    done = subprocess.run([*argv[:-1], str(size + 8192)], capture_output=True)
    assert done.returncode == 1
    assert b"bytes at" in done.stderr


def test_the_wrapper_gives_a_guest_a_port_of_its_own(tmp_path: Path) -> None:
    """Of the first free one; the other arguments stay, but for the memory."""
    wrapper = (witness.ROOT / "lab/rootfs/usr/local/bin/qemu-system-x86_64").read_text()
    for number, kind in enumerate(("console", "heard1", "heard2")):
        port = tmp_path / f"ports/vport0p{number}"
        port.mkdir(parents=True)
        (port / "name").write_text(f"{kind}\n")
        (tmp_path / f"vport0p{number}").touch()
    (tmp_path / "qemu").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>{tmp_path}/asked\nexec sleep 60\n')
    (tmp_path / "qemu").chmod(0o755)
    for old, new in (
        ("/usr/bin/qemu-system-x86_64", f"{tmp_path}/qemu"),
        ("/sys/class/virtio-ports", f"{tmp_path}/ports"),
        ("/dev/$port", f"{tmp_path}/$port"),
        ("/run/$port", f"{tmp_path}/$port"),
    ):
        assert old in wrapper
        wrapper = wrapper.replace(old, new)
    (tmp_path / "wrapper").write_text(wrapper)
    argv = ["-name", "guest=web,debug-threads=on", "-m", "16", "-uuid", WEB, "-chardev", "pty,id=charserial0", "-S"]
    started = []
    try:
        for number in (1, 2, 3):
            started.append(subprocess.Popen(["sh", str(tmp_path / "wrapper"), *argv]))
            while not (tmp_path / "asked").exists():
                pass
            while (asked := (tmp_path / "asked").read_text()).count("-S\n") < number:
                pass
    finally:
        for process in started:
            process.kill()
            process.wait()
    chardevs = [line for line in asked.splitlines() if line.startswith("pty")]
    log = f"pty,id=charserial0,logfile={tmp_path}/vport0p%d,logappend=on"
    assert chardevs == [log % 1, log % 2, "pty,id=charserial0"]
    assert (tmp_path / "vport0p1").read_text() == f"\nguest web {WEB}\n"
    assert (tmp_path / "vport0p0").read_text() == ""
    assert asked.splitlines()[:4] == ["-name", "guest=web,debug-threads=on", "-m", "16392k"]
