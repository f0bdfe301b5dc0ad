# SPDX-License-Identifier: GPL-3.0-or-later
"""The checker of the tick guest (tick.asm): sees lost, torn and disordered writes in an image of its disk.

The disk, in sectors of 512 bytes, all numbers 32 bits, little-endian:

======= ========================================================================================
0..6    the guest's program, not looked at
7       head: 32 times the record ``TCK2``, stride, boots, counter
8..     data: slot s is sector 8 + (s * 977 mod 2048) * stride and holds 128 times the largest
        counter v with v mod 2048 = s; zero where none was yet (counters start at 1)
======= ========================================================================================

So the writes jump to and fro over the whole disk, of which the guest takes the stride when it first starts; in an
image that was never started it is 0. (An image may come with a stride, and then the guest keeps to its beginning.)

The guest writes the data of a counter, then the head, and then prints ``tick <boots> <counter>``.
An image taken at any moment has thus all data up to the head's counter and at most the one after it.

A disk that fell back to an older state as a whole (a failover to stale data) looks right in its image.
Only what the guest said before tells: ``check_serial``.

``python -m lab.tick FILE`` checks an image or a block device.
"""

import re
import struct
import sys
from collections.abc import Iterable
from typing import NamedTuple

SECTOR = 512  # bytes
HEAD = 7  # sector
DATA = 8  # first sector
SLOTS = 2048  # sectors of data
JUMP = 977  # between two writes, in slots; odd, so that all are met
SIZE = (DATA + SLOTS) * SECTOR  # bytes: the smallest disk
MAGIC = b"TCK2"

_LINE = re.compile(r"tick (\d+) (\d+)\r?\n")


class Tick(NamedTuple):
    """How often the guest has started, and the last counter whose head is on the disk."""

    boots: int
    counter: int


class TickError(Exception):
    """The image, or the serial output, is not what a guest without lost writes leaves."""


class Head(NamedTuple):
    """What the head says; the stride in sectors, 0 before the first start."""

    stride: int
    boots: int
    counter: int


def head_sector(boots: int, counter: int, stride: int = 0) -> bytes:
    """The head as the guest writes it, 512 bytes."""
    return struct.pack("<4sIII", MAGIC, stride, boots, counter) * (SECTOR // 16)


def data_sector(counter: int) -> bytes:
    """The data of one counter as the guest writes it, 512 bytes."""
    return struct.pack("<I", counter) * (SECTOR // 4)


def place(counter: int, stride: int) -> int:
    """The sector in which the guest writes this counter."""
    return DATA + counter * JUMP % SLOTS * stride


def check(disk: bytes) -> Tick:
    """Check an image of the disk, from its first byte; what no slot is in is ignored.

    TickError names the sector and what is wrong with it.
    """
    head = _head(_sector(disk, HEAD))
    needed = (DATA + (SLOTS - 1) * head.stride + 1) * SECTOR
    if len(disk) < needed:
        raise TickError(f"image too short: {len(disk)} bytes, the tick guest uses {needed}")
    for slot in range(SLOTS if head.stride else 0):
        sector = place(slot, head.stride)
        _slot(slot, sector, _sector(disk, sector), head.counter)
    return Tick(head.boots, head.counter)


def _sector(image: bytes, number: int) -> bytes:
    return image[number * SECTOR : (number + 1) * SECTOR]


def read_head(sector: bytes) -> Tick:
    """What the head sector says, if it is whole."""
    head = _head(sector)
    return Tick(head.boots, head.counter)


def _head(sector: bytes) -> Head:
    if len(sector) != SECTOR:
        raise TickError(f"head (sector {HEAD}): {len(sector)} bytes, not {SECTOR}")
    magic, stride, boots, counter = struct.unpack_from("<4sIII", sector)
    if not any(sector):
        raise TickError(f"head (sector {HEAD}): empty, no tick guest was installed or its head was lost")
    if magic != MAGIC:
        raise TickError(f"head (sector {HEAD}): begins with {magic!r}, not {MAGIC!r}")
    expected = head_sector(boots, counter, stride)
    if sector != expected:
        at = _first_difference(sector, expected) // 16 * 16
        record = sector[at : at + 16].hex()
        begin = f"boots {boots} counter {counter}"
        raise TickError(f"head (sector {HEAD}): torn, begins with {begin}, at byte {at} has {record}")
    if (counter and not boots) or (boots and not stride):
        raise TickError(f"head (sector {HEAD}): counter {counter} with {boots} boots and stride {stride}")
    return Head(stride, boots, counter)


def _slot(slot: int, number: int, sector: bytes, head: int) -> None:
    """Check the slot's sector, which has this number, for the head's counter."""
    (found,) = struct.unpack_from("<I", sector)
    where = f"slot {slot} (sector {number})"
    if sector != data_sector(found):
        at = _first_difference(sector, data_sector(found)) // 4 * 4
        (other,) = struct.unpack_from("<I", sector, at)
        raise TickError(f"{where}: torn, begins with {found}, at byte {at} has {other}")
    # The largest value up to the head's that belongs here; below zero if the guest did not get here yet.
    expected = max(0, head - (head - slot) % SLOTS)
    if found == expected or (found == head + 1 and found % SLOTS == slot):
        return
    if found and found % SLOTS != slot:
        problem = "misplaced write"
    elif found > head:
        problem = "stale head or disordered write"
    else:
        problem = "lost write"
    raise TickError(f"{where}: {problem}, has {found}, expected {expected} as the head's counter is {head}")


def _first_difference(one: bytes, other: bytes) -> int:
    return next(at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)


def parse_serial(text: str) -> list[Tick]:
    """The ticks that the guest printed, in order; only those whose line is complete.

    A guest that was killed within a line leaves a beginning to which the next line is glued; so a tick
    is taken wherever in a line it stands, as long as it ends it.
    """
    return [Tick(int(boots), int(counter)) for boots, counter in _LINE.findall(text)]


def check_serial(ticks: Iterable[Tick]) -> None:
    """Raise TickError if the disk went back between two ticks: each was on the disk when it was printed.

    Missing ticks are no error, a serial line may lose output while nobody reads it.
    """
    before: Tick | None = None
    for tick in ticks:
        if before and (tick.counter <= before.counter or tick.boots < before.boots):
            raise TickError(
                f"the disk went back: tick boots {tick.boots} counter {tick.counter}"
                f" came after boots {before.boots} counter {before.counter}"
            )
        before = tick


def main(arguments: list[str]) -> int:
    """The command line: 0 and a line on stdout for a good image, 1 and the error on stderr otherwise."""
    if len(arguments) != 1:
        print("usage: python -m lab.tick FILE", file=sys.stderr)
        return 2
    try:
        with open(arguments[0], "rb") as file:
            tick = check(file.read())
    except (OSError, TickError) as error:
        print(f"{arguments[0]}: {error}" if isinstance(error, TickError) else error, file=sys.stderr)
        return 1
    print(f"boots={tick.boots} counter={tick.counter} ok")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
