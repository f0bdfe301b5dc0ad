# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the tick guest (tick.asm): its disk image, and a CD that installs it. Needs nasm and xorriso.

The same sources and tools give the same bytes.
"""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from lab import tick
from lab.errors import LabError

DISK_SIZE = 4 << 20  # bytes

_SOURCES = Path(__file__).resolve().parent
_CODE = 2 * tick.SECTOR  # bytes: what tick.asm gives
_EPOCH = "1577836800"  # seconds: the CD's date, any fixed one


class GuestError(LabError):
    """A guest could not be built."""


class Guests(NamedTuple):
    """The files that ``build`` made."""

    disk: Path
    """A raw image, installed and never started. A template: machines get copies."""
    iso: Path
    """A CD that installs the same onto the first hard disk and restarts the machine."""


def build(folder: Path) -> Guests:
    """Make tick.img and tick.iso in the folder, which is made too; files of these names are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    guests = Guests(folder / "tick.img", folder / "tick.iso")
    build_disk(guests.disk)
    build_iso(guests.iso)
    return guests


def build_disk(path: Path, size: int = DISK_SIZE, stride: int = 0) -> None:
    """Write a raw disk image of so many bytes: the guest's program, a head with zeros, no data.

    With a stride the guest keeps to the first 2048 * stride sectors of its disk; with 0 it uses all of it."""
    if size < tick.SIZE or size % tick.SECTOR:
        raise GuestError(f"{path}: {size} bytes; must be whole sectors of 512 and at least {tick.SIZE} bytes")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tick-") as name:
        image = Path(name) / "image"
        image.write_bytes(_payload(Path(name), stride))
        os.truncate(image, size)
        image.replace(path)


def build_iso(path: Path) -> None:
    """Write the CD that installs the guest."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tick-") as name:
        work = Path(name)
        # The installer clears what the guest uses, which is little with this stride.
        (work / "payload.bin").write_bytes(_payload(work, stride=1))
        code = _assemble("tick_install.asm", work)
        content = work / "content"
        content.mkdir()
        (content / "install.bin").write_bytes(code)
        for file in (content / "install.bin", content):
            os.utime(file, (int(_EPOCH), int(_EPOCH)))
        boot = ["-b", "install.bin", "-c", "boot.cat", "-no-emul-boot"]
        boot += ["-boot-load-size", str(-(-len(code) // tick.SECTOR))]
        # -r for the owner and modes: those of the builder would differ from machine to machine.
        command = ["xorriso", "-as", "mkisofs", "-quiet", "-r", "-V", "TICK", "-o", "iso", *boot, "content"]
        _run(command, work)
        (work / "iso").replace(path)


def _payload(work: Path, stride: int) -> bytes:
    """The first 8 sectors of the disk: the program and the head."""
    code = _assemble("tick.asm", work)
    if len(code) != _CODE:
        raise GuestError(f"tick.asm: gave {len(code)} bytes, not {_CODE}")
    return code.ljust(tick.HEAD * tick.SECTOR, b"\0") + tick.head_sector(0, 0, stride)


def _assemble(source: str, work: Path) -> bytes:
    """Assemble one of our sources; files that it includes are in the work folder."""
    _run(["nasm", "-f", "bin", "-w+all", "-w+error", "-o", "code", str(_SOURCES / source)], work)
    return (work / "code").read_bytes()


def _run(command: list[str], work: Path) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": _EPOCH, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=work, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except FileNotFoundError:
        raise GuestError(f"{command[0]} is not installed; it builds the tick guest") from None
    if done.returncode:
        raise GuestError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
