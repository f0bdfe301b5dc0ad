# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that forgets: what was written since the last flush may be gone after a power loss, whole or in part.

A real disk's cache does that. The file here always has the latest, and beside it is kept, for each write since the last
flush, what was there before. A power loss takes all these back, and does again a random subset of them, some only in
part (a sector of 512 bytes is whole or not at all). What was flushed, or written with FUA, is never touched.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass

SECTOR = 512  # bytes
CACHE = 32 << 20  # bytes: beyond that the disk writes the oldest by itself, as real ones do
SHARES = (0.0, 0.2, 0.5, 0.8, 1.0)  # of the writes, kept at a loss: one of these
# LVM writes what it knows of a volume group to the first MiB of its disk, and flushes it never: a power loss of its own
# could take the whole group (seen: "Checksum error"). That is no fault of what is tried here.
LVM_METADATA = 1 << 20  # bytes
TORN = 0.25  # of the writes that are longer than a sector


@dataclass(frozen=True)
class Write:
    """One that is not flushed yet."""

    offset: int
    old: bytes
    new: bytes  # as long as `old`

    @property
    def end(self) -> int:
        return self.offset + len(self.new)

    def outside(self, start: int, end: int) -> Iterator[Write]:
        """What of it lies before and behind this range."""
        for first, last in ((self.offset, min(self.end, start)), (max(self.offset, end), self.end)):
            if first < last:
                part = slice(first - self.offset, last - self.offset)
                yield Write(first, self.old[part], self.new[part])


@dataclass(frozen=True)
class Loss:
    """What a power loss did to the writes that were not flushed."""

    unflushed: int
    kept: int
    torn: int  # of the kept ones


class Disk:
    """The file `fd`, of `size` bytes; offsets and lengths are within it (the caller has looked). Writes that begin in
    the first `settled` bytes are never lost."""

    def __init__(self, fd: int, size: int, settled: int = 0) -> None:
        self.fd, self.size, self.settled = fd, size, settled
        self.writes: list[Write] = []  # oldest first
        self.held = 0  # bytes of their data

    def read(self, offset: int, length: int) -> bytes:
        data = os.pread(self.fd, length, offset)
        return data + bytes(length - len(data))  # the file may be shorter than the disk

    def write(self, offset: int, data: bytes, fua: bool = False) -> None:
        old = self.read(offset, len(data))
        if fua or offset < self.settled:
            end = offset + len(data)
            self.writes = [part for write in self.writes for part in write.outside(offset, end)]
            self.held = sum(len(write.new) for write in self.writes)
        elif old != data:
            self.writes.append(Write(offset, old, data))
            self.held += len(data)
            while self.held > CACHE:
                self.held -= len(self.writes.pop(0).new)
        if old != data:  # or zeroing would fill a sparse file
            self._put(offset, data)

    def flush(self) -> None:
        self.writes, self.held = [], 0

    def lose_power(self, chance: random.Random) -> Loss:
        """Between none and all of the writes since the last flush are kept. A later write that was lost does not take
        an earlier one to the same place with it."""
        for write in reversed(self.writes):
            self._put(write.offset, write.old)
        share, kept, torn = chance.choice(SHARES), 0, 0
        for write in self.writes:
            if chance.random() >= share:
                continue
            kept += 1
            sectors = range(0, len(write.new), SECTOR)
            if len(sectors) > 1 and chance.random() < TORN:
                torn += 1
                sectors_kept = set(chance.sample(sectors, chance.randrange(1, len(sectors))))
                for at in sorted(sectors_kept):
                    self._put(write.offset + at, write.new[at : at + SECTOR])
            else:
                self._put(write.offset, write.new)
        loss = Loss(len(self.writes), kept, torn)
        self.flush()
        return loss

    def _put(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self.fd, view, offset)
            view, offset = view[done:], offset + done
