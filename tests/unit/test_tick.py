# SPDX-License-Identifier: GPL-3.0-or-later
"""The tick guest: its checker on made-up images, and the guest itself in QEMU without KVM."""

import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import guests, tick

DEADLINE = 120.0  # seconds for any one event; it takes one or two on a quiet machine


def image(boots: int, counter: int, ahead: bool = False, stride: int = 1) -> bytearray:
    """What the guest leaves at this counter; ahead: the next data is written, its head not yet."""
    content = bytearray((tick.DATA + tick.SLOTS * stride) * tick.SECTOR)
    put(content, tick.HEAD, tick.head_sector(boots, counter, stride))
    for value in range(max(1, counter - tick.SLOTS + 1), counter + 1 + ahead):
        put(content, tick.place(value, stride), tick.data_sector(value))
    return content


def put(content: bytearray, sector: int, data: bytes) -> None:
    content[sector * tick.SECTOR : sector * tick.SECTOR + len(data)] = data


def error(content: bytes | bytearray) -> str:
    with pytest.raises(tick.TickError) as caught:
        tick.check(bytes(content))
    return str(caught.value)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("counter", [0, 1, 2, 2046, 2047, 2048, 2049, 4095, 4096, 5000, 0xFFFFFFFE])
def test_good(counter: int, ahead: bool) -> None:
    assert tick.check(bytes(image(3, counter, ahead))) == (3, counter)


def test_the_writes_jump_over_the_whole_disk() -> None:
    """A disk of 64 MiB: each 4 MiB of it (an extent of DRBD's activity log) is soon met, no slot twice."""
    places = [tick.place(counter, 63) for counter in range(1, tick.SLOTS + 1)]
    assert len(set(places)) == tick.SLOTS
    assert 120_000 < max(places) < 131_072
    assert {place // 8192 for place in places[:24]} == set(range(16))
    assert tick.check(bytes(image(2, 3000, stride=63))) == (2, 3000)


def test_a_lost_sector_is_seen_at_the_end_of_the_disk() -> None:
    content = image(1, 3000, stride=63)
    (last,) = [counter for counter in range(tick.SLOTS) if tick.place(counter, 63) == tick.DATA + 63 * 2047]
    put(content, tick.DATA + 63 * 2047, bytes(tick.SECTOR))
    assert f"slot {last} (sector 128969): lost write" in error(content)


def test_installed_and_never_started() -> None:
    assert tick.check(bytes(image(0, 0))) == (0, 0)


def test_the_rest_of_the_image_is_ignored() -> None:
    assert tick.check(bytes(image(1, 5)) + b"rest") == (1, 5)


def test_a_disk_that_was_started_has_a_stride() -> None:
    content = image(0, 0)
    put(content, tick.HEAD, tick.head_sector(1, 0, 0))
    assert error(content) == "head (sector 7): counter 0 with 1 boots and stride 0"


def test_too_short() -> None:
    assert error(bytes(tick.SECTOR * 7)) == "head (sector 7): 0 bytes, not 512"
    assert error(image(1, 5)[:-1]) == "image too short: 1052671 bytes, the tick guest uses 1052672"


def test_no_head() -> None:
    assert error(bytes(tick.SIZE)).startswith("head (sector 7): empty")
    content = image(1, 5)
    put(content, tick.HEAD, b"something else" * 36)
    assert error(content).startswith("head (sector 7): begins with b'some', not b'TCK2'")


def test_torn_head() -> None:
    content = image(1, 5)
    put(content, tick.HEAD, tick.head_sector(1, 6, 1)[:256])
    record = "54434b32010000000100000005000000"
    expected = f"head (sector 7): torn, begins with boots 1 counter 6, at byte 256 has {record}"
    assert error(content) == expected


def test_head_of_no_boot() -> None:
    assert error(image(0, 5)) == "head (sector 7): counter 5 with 0 boots and stride 1"


def test_lost_first_write() -> None:
    content = image(1, 10)
    put(content, tick.place(4, 1), bytes(tick.SECTOR))
    expected = "slot 4 (sector 1868): lost write, has 0, expected 4 as the head's counter is 10"
    assert error(content) == expected


def test_lost_write_past_the_ring() -> None:
    content = image(1, 5000)
    put(content, tick.place(904, 1), tick.data_sector(5000 - 2048))
    expected = "slot 904 (sector 528): lost write, has 2952, expected 5000 as the head's counter is 5000"
    assert error(content) == expected


def test_lost_write_of_the_ring_before() -> None:
    content = image(1, 5000)
    put(content, tick.place(905, 1), tick.data_sector(2953 - 2048))
    expected = "slot 905 (sector 1505): lost write, has 905, expected 2953 as the head's counter is 5000"
    assert error(content) == expected


def test_stale_head() -> None:
    content = image(1, 5000)
    put(content, tick.HEAD, tick.head_sector(1, 4998, 1))
    expected = "slot 904 (sector 528): stale head or disordered write, has 5000, expected 2952"
    assert error(content) == f"{expected} as the head's counter is 4998"


def test_the_write_after_next_without_the_next() -> None:
    content = image(1, 10)
    put(content, tick.place(12, 1), tick.data_sector(12))
    assert "slot 12 (sector 1492): stale head or disordered write" in error(content)


def test_misplaced_write() -> None:
    content = image(1, 10)
    put(content, tick.place(20, 1), tick.data_sector(7))
    expected = "slot 20 (sector 1116): misplaced write, has 7, expected 0 as the head's counter is 10"
    assert error(content) == expected
    put(content, tick.place(20, 1), tick.data_sector(11))  # the counter that may be ahead, in a wrong slot
    assert "slot 20 (sector 1116): misplaced write, has 11" in error(content)


def test_torn_data() -> None:
    content = image(1, 5000)
    put(content, tick.place(900, 1), tick.data_sector(4996)[:100] + tick.data_sector(2948)[100:])
    assert error(content) == "slot 900 (sector 716): torn, begins with 4996, at byte 100 has 2948"


def test_torn_data_ahead_of_the_head() -> None:
    content = image(1, 5000)
    put(content, tick.place(905, 1), tick.data_sector(5001)[:256])
    assert error(content) == "slot 905 (sector 1505): torn, begins with 5001, at byte 256 has 2953"


def test_a_lost_sector_is_seen_anywhere() -> None:
    good = image(1, 3000)
    for slot in [*range(0, tick.SLOTS, 31), 951, 952, 953, 2047]:
        content = good.copy()
        put(content, tick.place(slot, 1), bytes(tick.SECTOR))
        assert f"slot {slot} " in error(content)


def test_serial() -> None:
    text = "SeaBIOS\r\ntick 1 1\r\ntick-error\r\ntick 1 2\ntick 1 tick 2 3\r\ntick-off 2 3\r\ntick 3 4"
    assert tick.parse_serial(text) == [(1, 1), (1, 2), (2, 3)]


def test_serial_order() -> None:
    tick.check_serial([])
    tick.check_serial(tick.parse_serial("tick 1 1\r\ntick 1 2\r\ntick 1 7\r\ntick 2 8\r\n"))
    for text in ("tick 1 7\ntick 2 7\n", "tick 1 7\ntick 2 6\n", "tick 2 7\ntick 1 8\n"):
        with pytest.raises(tick.TickError, match="the disk went back"):
            tick.check_serial(tick.parse_serial(text))


def test_command(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]

    def run(content: bytearray) -> tuple[int, str, str]:
        file = tmp_path / "image"
        file.write_bytes(content)
        command = [sys.executable, "-m", "lab.tick", str(file)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr.replace(str(file), "FILE")

    assert run(image(1, 512)) == (0, "boots=1 counter=512 ok\n", "")
    assert run(image(0, 512)) == (1, "", "FILE: head (sector 7): counter 512 with 0 boots and stride 1\n")
    assert tick.main([str(tmp_path / "missing")]) == 1
    assert tick.main([]) == 2


def test_build(tmp_path: Path) -> None:
    first = guests.build(tmp_path / "one")
    assert first == (tmp_path / "one/tick.img", tmp_path / "one/tick.iso")
    assert first.disk.stat().st_size == 4 << 20
    assert tick.check(first.disk.read_bytes()) == (0, 0)
    second = guests.build(tmp_path / "two")
    again = guests.build(tmp_path / "two")
    for one, two, three in zip(first, second, again, strict=True):
        assert one.read_bytes() == two.read_bytes() == three.read_bytes()
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["tick.img", "tick.iso"]


def test_build_disk_size(tmp_path: Path) -> None:
    guests.build_disk(tmp_path / "disk", tick.SIZE)
    assert (tmp_path / "disk").stat().st_size == tick.SIZE
    for size in (tick.SIZE - 512, tick.SIZE + 1):
        with pytest.raises(guests.GuestError, match="at least 1052672 bytes"):
            guests.build_disk(tmp_path / "disk", size)


def test_build_without_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(guests.GuestError, match="nasm is not installed"):
        guests.build(tmp_path / "guests")
    monkeypatch.undo()
    nasm = shutil.which("nasm")
    assert nasm
    (tools / "nasm").symlink_to(nasm)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(guests.GuestError, match="xorriso is not installed"):
        guests.build(tmp_path / "guests")
    assert [path.name for path in (tmp_path / "guests").iterdir()] == ["tick.img"]


class Machine:
    """A QEMU of ours with 16 MB. Its serial line is a pipe and its QMP a socket, both made here."""

    def __init__(self, machine: str, *options: str, backlog: int = 0) -> None:
        """backlog: so many bytes are in the pipe already; 65536 fill it."""
        self.serial, serial = os.pipe()
        os.write(serial, b"\n" * backlog)
        self.qmp, qmp = socket.socketpair()
        self.qmp.settimeout(DEADLINE)
        self.answers = self.qmp.makefile("r")
        command = ["qemu-system-x86_64", "-accel", "tcg", "-machine", machine, "-m", "16", "-nodefaults"]
        command += ["-display", "none", "-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"]
        command += ["-chardev", f"socket,id=qmp,fd={qmp.fileno()}", "-mon", "chardev=qmp,mode=control"]
        self.process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.PIPE,  # never written to; with an end of file QEMU would close the serial line
            stdout=serial,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[qmp.fileno()],
        )
        os.close(serial)
        qmp.close()
        self.text = ""
        self.seen = 0  # how much of the text earlier waits have used up
        self.events: list[dict[str, Any]] = []

    def start(self) -> None:
        self._answer("QMP")
        self.command("qmp_capabilities")

    def wait(self, pattern: str) -> re.Match[str]:
        """Wait until the serial line said this, after what was waited for before."""
        end = time.monotonic() + DEADLINE
        while not (match := re.compile(pattern).search(self.text, self.seen)):
            ready, _, _ = select.select([self.serial], [], [], max(0.0, end - time.monotonic()))
            more = bool(ready) and self._receive()
            assert more, f"no {pattern!r} in {self.text!r}; QEMU said: {self.kill()!r}"
        self.seen = match.end()
        return match

    def ticks(self, number: int) -> tick.Tick:
        """Wait for so many more ticks, with nothing else between them; the last one."""
        match = self.wait(rf"(?:tick (\d+) (\d+)\r\n){{{number}}}")
        return tick.Tick(int(match[1]), int(match[2]))

    def command(self, name: str, **arguments: Any) -> Any:
        """What a QMP command returned."""
        self.qmp.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        return self._answer("return")["return"]

    def event(self, name: str, **data: Any) -> None:
        """Wait until QEMU reported this, since it started."""
        while not any(e["event"] == name and data.items() <= e.get("data", {}).items() for e in self.events):
            self.events.append(self._answer("event"))

    def exited(self) -> int:
        """Wait until QEMU ended by itself; its exit status. The whole serial output is then in the text."""
        status = self.process.wait(DEADLINE)
        self.kill()
        return status

    def kill(self) -> str:
        """SIGKILL, unless it has ended. What it said on stderr."""
        self.process.kill()
        _, said = self.process.communicate()
        while self._receive():
            pass
        return said

    def close(self) -> None:
        if self.process.returncode is None:
            self.kill()
        self.answers.close()
        self.qmp.close()
        os.close(self.serial)

    def _receive(self) -> bool:
        data = os.read(self.serial, 65536)
        self.text += data.decode("latin-1")
        return bool(data)

    def _answer(self, kind: str) -> dict[str, Any]:
        while True:
            line = problem = ""
            try:
                line = self.answers.readline()
            except OSError as error:  # past the deadline, or QEMU ended without reading it all
                problem = str(error)
            assert line, f"QMP ended ({problem}) after {self.events}; QEMU said: {self.kill()!r}"
            answer: dict[str, Any] = json.loads(line)
            assert "error" not in answer, answer
            if kind in answer:
                return answer
            self.events.append(answer)


@contextmanager
def qemu(machine: str, *options: str, backlog: int = 0) -> Iterator[Machine]:
    started = Machine(machine, *options, backlog=backlog)
    try:
        started.start()
        yield started
    finally:
        started.close()


def disk_option(path: Path) -> list[str]:
    return ["-drive", f"if=virtio,format=raw,file={path}"]


def failing_disk_options(path: Path, sector: int, once: bool) -> list[str]:
    """A disk of which writes to one sector fail."""
    rule = {"event": "none", "iotype": "write", "errno": 5, "once": once, "sector": sector}
    file = {"driver": "file", "filename": str(path)}
    debug = {"driver": "blkdebug", "inject-error": [rule], "image": file}
    node = json.dumps({"driver": "raw", "node-name": "disk", "file": debug})
    return ["-blockdev", node, "-device", "virtio-blk-pci,drive=disk,werror=report,bootindex=1"]


def image_tick(path: Path) -> tick.Tick:
    return tick.check(path.read_bytes())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> guests.Guests:
    return guests.build(tmp_path_factory.mktemp("guests"))


@pytest.fixture
def disk(built: guests.Guests, tmp_path: Path) -> Path:
    return Path(shutil.copy(built.disk, tmp_path / "disk"))


both = pytest.mark.parametrize("machine", ["pc", "q35"])


@both
def test_ticks_and_survives_kills(machine: str, disk: Path) -> None:
    said = ""
    counter = 0
    for boots in (1, 2, 3):
        with qemu(machine, *disk_option(disk)) as guest:
            first = guest.ticks(1)
            assert first == (boots, counter + 1)
            assert guest.ticks(20) == (boots, first.counter + 20)
            guest.kill()
        said += guest.text
        last = tick.parse_serial(said)[-1]
        found = image_tick(disk)
        assert found.boots == boots
        assert found.counter in (last.counter, last.counter + 1)  # killed between the head and its line
        counter = found.counter
    tick.check_serial(tick.parse_serial(said))
    assert "tick-" not in said


@both
def test_reset_and_power_button(machine: str, disk: Path) -> None:
    with qemu(machine, *disk_option(disk)) as guest:
        before = guest.ticks(5)
        guest.command("system_reset")
        after = guest.ticks(1)
        while after.boots == 1:  # printed before the reset
            before, after = after, guest.ticks(1)
        assert after.boots == 2
        assert after.counter in (before.counter + 1, before.counter + 2)
        guest.command("system_powerdown")
        assert guest.exited() == 0
    off = re.search(r"tick (\d+ \d+)\r\ntick-off \1\r\n$", guest.text)
    assert off, guest.text
    last = image_tick(disk)
    assert f"{last.boots} {last.counter}" == off[1]


@both
def test_power_button_of_a_guest_without_a_head(machine: str, disk: Path) -> None:
    content = bytearray(disk.read_bytes())
    put(content, tick.HEAD, bytes(tick.SECTOR))
    disk.write_bytes(content)
    with qemu(machine, *disk_option(disk)) as guest:
        guest.wait("tick-head\r\n")
        guest.command("system_powerdown")
        assert guest.exited() == 0
    assert "tick-off 0 0\r\n" in guest.text
    assert disk.read_bytes() == content


@both
def test_resumes_from_a_saved_state(machine: str, disk: Path, tmp_path: Path) -> None:
    """As in a migration: the boots stay, nothing is lost or repeated, the power button still works."""
    state = tmp_path / "state"
    with qemu(machine, *disk_option(disk)) as guest:
        guest.ticks(5)
        guest.command("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        guest.command("migrate", uri=f"exec:cat > '{state}'")
        guest.event("MIGRATION", status="completed")
        guest.command("quit")
        assert guest.exited() == 0
    last = tick.parse_serial(guest.text)[-1]
    with qemu(machine, *disk_option(disk), "-incoming", f"exec:cat '{state}'") as resumed:
        resumed.ticks(5)
        resumed.command("system_powerdown")
        assert resumed.exited() == 0
    ticks = tick.parse_serial(guest.text + resumed.text)
    assert ticks == [(1, counter) for counter in range(1, ticks[-1].counter + 1)]
    assert image_tick(disk) == ticks[-1]
    assert ticks[-1].counter >= last.counter + 5


def test_torn_head_is_not_written_over(disk: Path) -> None:
    content = bytearray(disk.read_bytes())
    put(content, tick.HEAD, tick.head_sector(1, 5, 3)[:256] + tick.head_sector(1, 4, 3)[256:])
    disk.write_bytes(content)
    with qemu("pc", *disk_option(disk)) as guest:
        guest.wait("tick-head\r\n")
        guest.kill()
    assert disk.read_bytes() == content


def test_no_acpi(disk: Path) -> None:
    with qemu("pc,acpi=off", *disk_option(disk)) as guest:
        guest.wait("tick-noacpi\r\n")
        assert guest.ticks(2) == (1, 2)


@pytest.mark.parametrize("sector", [tick.HEAD, tick.place(1, 3)])
def test_failed_write_is_repeated(sector: int, disk: Path) -> None:
    with qemu("pc", *failing_disk_options(disk, sector, once=True)) as guest:
        guest.wait("tick-error\r\n")
        assert guest.ticks(5) == (1, 5)
        guest.kill()
    assert guest.text.count("tick-error") == 1
    assert image_tick(disk).counter >= 5


def test_writes_are_not_cached_by_qemu(disk: Path) -> None:
    """A BIOS knows no flush: QEMU then flushes each write to the host's disk before it reports success."""
    with qemu("pc", *disk_option(disk)) as guest:
        guest.ticks(1)
        (block,) = guest.command("query-block")
        assert block["inserted"]["cache"]["writeback"] is False


def test_reader_that_hangs_does_not_stop_the_disk(disk: Path) -> None:
    with qemu("pc", *disk_option(disk), backlog=65536) as guest:
        end = time.monotonic() + DEADLINE
        while (counter := int.from_bytes(disk.read_bytes()[tick.HEAD * 512 + 12 :][:4], "little")) < 20:
            assert time.monotonic() < end, counter
            time.sleep(0.02)
        assert guest.ticks(3).counter > 20
        guest.kill()
    tick.check_serial(tick.parse_serial(guest.text))
    image_tick(disk)


def install_options(iso: Path, disk: Path | None) -> list[str]:
    """First the hard disk is tried, then the CD."""
    options = ["-drive", f"if=none,id=cd,media=cdrom,readonly=on,format=raw,file={iso}"]
    options += ["-device", "ide-cd,drive=cd,bootindex=2"]
    if disk:
        options += ["-drive", f"if=none,id=disk,format=raw,file={disk}"]
        options += ["-device", "virtio-blk-pci,drive=disk,bootindex=1"]
    return options


@both
def test_install(machine: str, built: guests.Guests, disk: Path) -> None:
    size = built.disk.stat().st_size
    disk.write_bytes(bytes(size))
    with qemu(machine, *install_options(built.iso, disk)) as guest:
        guest.wait("install\r\n")
        guest.wait("install-done\r\n")
        assert guest.ticks(1) == (1, 1)
        guest.ticks(5)
        guest.command("system_reset")
        guest.wait(r"tick 2 \d+\r\n")  # the disk starts, not the CD once more
        guest.command("system_powerdown")
        assert guest.exited() == 0
    assert guest.text.count("install\r\n") == 1
    assert image_tick(disk) == tick.parse_serial(guest.text)[-1]


def test_install_clears_what_was_on_the_disk(built: guests.Guests, disk: Path) -> None:
    """A volume that was cut from used extents: only its first 4096 bytes are zero."""
    size = built.disk.stat().st_size
    disk.write_bytes(bytes(4096) + b"old." * ((size - 4096) // 4))
    with qemu("pc", *install_options(built.iso, disk)) as guest:
        assert guest.ticks(1) == (1, 1)
        guest.kill()
    image_tick(disk)
    content = disk.read_bytes()
    assert len(content) == size
    assert content[: 7 * 512] == built.disk.read_bytes()[: 7 * 512]
    assert content[tick.SIZE :] == b"old." * ((size - tick.SIZE) // 4)


@both
def test_install_without_a_disk(machine: str, built: guests.Guests) -> None:
    with qemu(machine, *install_options(built.iso, None)) as guest:
        guest.wait("install\r\ninstall-error no disk\r\n")


def test_install_on_a_disk_too_small(built: guests.Guests, disk: Path) -> None:
    disk.write_bytes(bytes(tick.SIZE - 512))
    with qemu("pc", *install_options(built.iso, disk)) as guest:
        guest.wait("install\r\ninstall-error disk too small\r\n")
        guest.kill()
    assert disk.read_bytes() == bytes(tick.SIZE - 512)


def test_install_where_writing_fails(built: guests.Guests, disk: Path) -> None:
    disk.write_bytes(bytes(tick.SIZE))
    options = install_options(built.iso, None) + failing_disk_options(disk, 2000, once=False)
    with qemu("pc", *options) as guest:
        guest.wait("install\r\ninstall-error write failed\r\n")
