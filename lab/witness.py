# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tick guest said and wrote, from outside: past pmc, as it said it and straight from the nodes' disks."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from lab import reach
from lab.cluster import Lab
from lab.ears import Word, check, ears
from lab.errors import LabError
from lab.tick import HEAD, Tick, TickError, read_head
from lab.tick import check as check_disk

BLOCK = 4096  # bytes

ROOT = Path(__file__).resolve().parent.parent


def environment(conf: Path) -> dict[str, str]:
    """Of `fab`: the pmc of this checkout, also where a venv is shared."""
    return {**os.environ, "PMC_CONF": str(conf), "PYTHONPATH": str(ROOT)}


def fab(lab: Lab, *argv: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Runs pmc's tasks as a person would: `fab vm.ls` in the repository, against this lab."""
    program = str(Path(sys.executable).parent / "fab")
    done = subprocess.run(
        [program, *argv], cwd=ROOT, env=environment(lab.conf().pmc), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=timeout,
    )  # fmt: skip
    ears(lab.run).listen()
    return done


# Writes what is not zero of the first argv[2] bytes of argv[1] to stdout, as blocks of 4096 bytes, each behind its
# number (4 bytes, big-endian). Past the node's page cache: DRBD writes below it.
READER = """
import mmap, os, sys
size, block, chunk = int(sys.argv[2]), 4096, 1 << 20
disk = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
memory, zeros = mmap.mmap(-1, chunk), bytes(chunk)
for start in range(0, size, chunk):
    os.lseek(disk, start, os.SEEK_SET)
    length = min(chunk, size - start)
    done = os.readv(disk, [memory])
    if done < length:
        sys.exit(f"{sys.argv[1]}: {done} bytes at {start}, not {length}")
    data = memory[:length]
    if data != zeros[:length]:
        for at in range(0, length, block):
            piece = data[at : at + block]
            if piece != zeros[: len(piece)]:
                sys.stdout.buffer.write(((start + at) // block).to_bytes(4, "big") + piece.ljust(block, bytes(1)))
"""


def unpacked(blocks: bytes, size: int) -> bytes:
    """The disk of so many bytes, of what READER wrote of it."""
    disk = bytearray(-(-size // BLOCK) * BLOCK)
    for at in range(0, len(blocks), 4 + BLOCK):
        number = int.from_bytes(blocks[at : at + 4], "big")
        disk[number * BLOCK : (number + 1) * BLOCK] = blocks[at + 4 : at + 4 + BLOCK]
    return bytes(disk[:size])


def differences(one: bytes, other: bytes) -> list[int]:
    """The blocks of 4096 bytes that differ, by number; also those that only one of them has."""
    if one == other:
        return []
    blocks = range(-(-max(len(one), len(other)) // BLOCK))
    return [n for n in blocks if one[n * BLOCK : (n + 1) * BLOCK] != other[n * BLOCK : (n + 1) * BLOCK]]


class Guest:
    """The tick guest in the VM `name`."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name = lab, name

    def facts(self) -> dict[str, object]:
        listed = fab(self.lab, "vm.ls", "--json")
        for row in json.loads(listed.stdout):
            if row["vm"] == self.name:
                return dict(row)
        raise LabError(f"{self.name} is not listed: {listed.stdout} {listed.stderr}")

    def read(self, node: str, command: str) -> bytes:
        conf = self.lab.conf()
        argv = reach.ssh(conf, node, command, reach.shared(conf))
        done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise LabError(f"{node}: {command}: {done.stderr.decode()}")
        return done.stdout

    def now(self) -> Tick:
        """The head sector of the live disk: below DRBD, so on any node that has it; one sector is never torn."""
        volume = f"/dev/vg/{self.name}"
        read = f"[ -e {volume} ] || exit 0; dd if={volume} bs=512 skip={HEAD} count=1 iflag=direct status=none"
        for machine in self.lab.machines():
            if machine.process() and (sector := self.read(machine.name, read)):
                return read_head(sector)
        raise LabError(f"no node has {volume}")

    def heard(self) -> list[Word]:
        """All that it said on its serial line, wherever it ran (lab/ears.py)."""
        return ears(self.lab.run).of(self.name)

    def restored(self) -> None:
        """It is off, and an older disk was put under it on purpose: what it said before does not count any more."""
        ears(self.lab.run).restored(self.name)

    def ticking(self, after: int = 0, boots: int = 1, seconds: float = 180) -> Tick:
        """Waits until the guest says that it has counted past `after`, in its start number `boots` or later; the last
        that it said. TickError when it ever goes on with a disk that lacks what it had said."""
        deadline = time.monotonic() + seconds
        while True:
            last = check(self.heard())
            if last and last.counter > after and last.boots >= boots:
                return last
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} does not count past {after} in start {boots}: {last}")
            time.sleep(0.1)

    def image(self, node: str, volume: str = "") -> bytes:
        """What the volume (the VM's own) holds on this node, so much of it as DRBD exposes; all of it while DRBD has
        it not. Past the node's cache."""
        size = (
            f"s=$(cat /sys/block/drbd$(drbdadm sh-minor {self.name} 2>/dev/null)/size 2>/dev/null); "
            f"[ ${{s:-0}} != 0 ] || s=$(blockdev --getsz /dev/vg/{self.name}); "
        )
        reader = f"python3 -c {shlex.quote(READER)} /dev/vg/{volume or self.name} $((s * 512))"
        answer = self.read(node, f"{size}echo $s; exec {reader}")
        sectors, _, blocks = answer.partition(b"\n")
        return unpacked(blocks, int(sectors) * 512)

    def checked(self, node: str) -> Tick:
        """The whole disk as it is on `node` at one moment (a snapshot of the volume): no write lost or torn."""
        kept = f"{self.name}.witness"
        snapshot = (
            f"case $(lvs --noheadings -o lv_attr vg/{self.name}) in *V*) s='-kn -K';; *) s=-L16M;; esac; "
            f"lvcreate -qq -y -s $s -n {kept} vg/{self.name} >/dev/null"
        )
        self.read(node, snapshot)
        try:
            return check_disk(self.image(node, kept))
        finally:
            self.read(node, f"lvremove -qq -y vg/{kept} >/dev/null")

    @contextmanager
    def still(self) -> Iterator[None]:
        """It does not run meanwhile, and all that it wrote is written: QEMU waits for that (vm_stop)."""
        runs = f"virsh domstate {self.name} 2>/dev/null | grep -qx running"
        suspend = f"if {runs}; then virsh -q suspend {self.name} && echo yes; fi"
        stopped = [one.name for one in self.lab.machines() if one.process() and self.read(one.name, suspend)]
        try:
            yield
        finally:
            for node in stopped:
                self.read(node, f"virsh -q resume {self.name}")

    def whole(self, *nodes: str) -> Tick | None:
        """Every byte that DRBD exposes is the same on these nodes, which say that they are UpToDate; none of the
        guest's writes is lost or torn, or is missing that it has said. What the disk says; None when it is no tick
        guest's (it never said anything)."""
        said = check(self.heard())
        with self.still(), ThreadPoolExecutor() as pool:
            images = list(pool.map(self.image, nodes))
        for node, image in zip(nodes[1:], images[1:], strict=True):
            if blocks := differences(images[0], image):
                first = ", ".join(str(number * BLOCK) for number in blocks[:8])
                raise TickError(
                    f"{self.name}: {nodes[0]} and {node} differ in {len(blocks)} blocks of {BLOCK} bytes, at {first}"
                )
        if said is None:
            return None
        found = check_disk(images[0])
        if found < said or found.counter < said.counter:
            raise TickError(f"{self.name}: has said {said}, and its disk on {', '.join(nodes)} has {found}")
        return found
