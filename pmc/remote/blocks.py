"""A disk as blocks, their checksums, and how they are written. Runs on the nodes, as pmc/remote/stream.py does."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Protocol

from pmc.remote.vcdiff import MAGIC, Window, packed

BLOCK = 64 * 1024  # of which the checksums are
CHUNK = 4 * 1024 * 1024  # read at once
ZERO = bytes(BLOCK)
ZEROS = bytes(CHUNK)
ZSTD = ("zstd", "-q", "-3", "-T2", "-c")  # two threads: it is the slowest part, and nodes have more than one core
ZERO_SUM = hashlib.sha256(ZERO).digest()
ZERO_SUMS = [ZERO_SUM] * (CHUNK // BLOCK)
SUM = 32  # bytes
Write = Callable[[bytes], None]


class Readable(Protocol):
    def read(self, count: int, /) -> bytes: ...


class Failure(Exception):
    """Told in one line; status 1."""


def block_sum(block: bytes) -> bytes:
    return ZERO_SUM if block == ZERO else hashlib.sha256(block).digest()


def block_sums(chunk: bytes) -> list[bytes]:
    if chunk == ZEROS:
        return ZERO_SUMS
    return [block_sum(chunk[at : at + BLOCK]) for at in range(0, len(chunk), BLOCK)]


def full(source: Readable, size: int) -> bytes:
    """As much as asked for, unless it ends before."""
    data = source.read(size)
    while 0 < len(data) < size and (more := source.read(size - len(data))):
        data += more
    return data


class Pace:
    """No more than `limit` bytes read a second (0: as fast as it goes), and a sign of progress a second, as dd gives
    it. `done` is the place on the disk, `read` what was read of it: less, where it is known what is there."""

    def __init__(
        self, limit: int, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self.limit, self.clock, self.sleep, self.done, self.read = limit, clock, sleep, 0, 0
        self.began = self.told = clock()

    def add(self, count: int, read: int | None = None) -> None:
        self.done += count
        self.read += count if read is None else read
        now = self.clock()
        if self.limit and (early := self.began + self.read / self.limit - now) > 0:
            self.sleep(early)
        if now - self.told >= 1:
            self.told = now
            self.tell()

    def tell(self) -> None:
        sys.stderr.write(f"{self.done} bytes\n")
        sys.stderr.flush()


def chunks(source: Readable, size: int, pace: Pace, unit: int = CHUNK) -> Iterator[bytes]:
    """All `size` bytes; Failure when there are fewer."""
    left = size
    while left:
        chunk = full(source, min(unit, left))
        if not chunk:
            raise Failure(f"the disk ends after {size - left} bytes of {size}")
        left -= len(chunk)
        pace.add(len(chunk), source.taken() if isinstance(source, Holes) else None)
        yield chunk


def ahead(items: Iterator[bytes]) -> Iterator[bytes]:
    """The same, the next one read beside the work on this one."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def summed(data: Iterable[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Each chunk with its block sums, computed beside the reading (hashlib lets other threads run)."""
    waiting: deque[tuple[bytes, Future[list[bytes]] | None]] = deque()  # None: empty, as most of most disks
    with ThreadPoolExecutor(2) as pool:
        for chunk in data:
            waiting.append((chunk, None if chunk is ZEROS else pool.submit(block_sums, chunk)))
            if len(waiting) > 3:
                done, future = waiting.popleft()
                yield done, future.result() if future else ZERO_SUMS
        for done, future in waiting:
            yield done, future.result() if future else ZERO_SUMS


class Windows:
    """A delta's windows, compressed beside the reading, written in their order."""

    def __init__(self, write: Write) -> None:
        self.write, self.first, self.pool = write, True, ThreadPoolExecutor(2)
        self.waiting: deque[tuple[Window, Future[bytes]]] = deque()
        write(MAGIC)

    def add(self, window: Window) -> None:
        self.waiting.append((window, self.pool.submit(packed, bytes(window.data))))
        if len(self.waiting) > 3:
            self._next()

    def _next(self) -> None:
        window, future = self.waiting.popleft()
        data = future.result()
        self.write(window.encoded(data, self.first))
        self.first = self.first and not data

    def end(self) -> None:
        while self.waiting:
            self._next()
        self.pool.shutdown()


class Sparse:
    """Writes a file or a device in order, and leaves out blocks of zeros (what is there is zeros already), or with
    `compare` what is there already."""

    def __init__(self, file: BinaryIO, compare: bool = False) -> None:
        self.out, self.fd, self.compare, self.at = file, file.fileno(), compare, 0

    def write(self, chunk: bytes) -> None:
        if chunk == ZEROS and not self.compare:
            self.at += len(chunk)
            return
        for start in range(0, len(chunk), BLOCK):
            block = chunk[start : start + BLOCK]
            there = os.pread(self.fd, len(block), self.at) if self.compare else ZERO[: len(block)]
            if block != there:
                view = memoryview(block)
                while view:
                    count = os.pwrite(self.fd, view, self.at)
                    self.at += count
                    view = view[count:]
            else:
                self.at += len(block)

    def end(self, size: int) -> None:
        if stat.S_ISREG(os.fstat(self.fd).st_mode):
            os.ftruncate(self.fd, size)


class Frames:
    """Compressed by zstd; but not what is empty: a chunk of zeros is a frame made once, so that the time follows what
    the disk has and not its size. (zstd -d takes frames that follow each other for one file.)"""

    def __init__(self, out: BinaryIO) -> None:
        self.out = out
        self.zstd: subprocess.Popen[bytes] | None = None
        self.zeros = subprocess.run(ZSTD, input=ZEROS, stdout=subprocess.PIPE, check=True).stdout

    def write(self, chunk: bytes) -> None:
        if chunk == ZEROS:
            self._finish()
            self.out.write(self.zeros)
            return
        if not self.zstd:
            self.out.flush()
            self.zstd = subprocess.Popen(ZSTD, stdin=subprocess.PIPE, stdout=self.out)
        if self.zstd.stdin:
            self.zstd.stdin.write(chunk)

    def _finish(self) -> None:
        if self.zstd:
            self.zstd.communicate()
            if self.zstd.returncode:
                raise Failure("zstd has failed")
            self.zstd = None

    def end(self, size: int) -> None:
        self._finish()
        self.out.flush()


def behind(out: BinaryIO) -> None:
    """What was written to a file so far goes to the disk while more is read (posix_fadvise(2) has it begun), so that
    little is left to wait for at the end; what is there leaves the node's cache to others."""
    if is_file(out):
        os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def is_file(out: BinaryIO) -> bool:
    return stat.S_ISREG(os.fstat(out.fileno()).st_mode)


class Reader:
    """A disk from its begin to its end. What is empty costs one copy into the same buffer and one comparison: no memory
    is taken for it anew, which would cost as much as the copy."""

    def __init__(self, source: BinaryIO, path: str) -> None:
        self.fd, self.path, self.buffer, self.at = source.fileno(), path, bytearray(CHUNK), 0

    def read(self, count: int) -> bytes:
        try:
            if count > CHUNK:  # for a delta, of which all is looked at anyway
                data = os.read(self.fd, count)
                self.at += len(data)
                return data
            got = os.readv(self.fd, [memoryview(self.buffer)[:count]])
        except OSError as error:
            raise Failure(f"{self.path} cannot be read at byte {self.at}: {error.strerror}") from None
        self.at += got
        return ZEROS if got == CHUNK and self.buffer == ZEROS else bytes(memoryview(self.buffer)[:got])


class Holes:
    """The disk as a stream, of which only the ranges are read."""

    def __init__(self, source: BinaryIO, size: int, ranges: list[tuple[int, int]]) -> None:
        self.fd, self.size, self.ranges, self.at, self.new = source.fileno(), size, deque(ranges), 0, 0

    def read(self, count: int) -> bytes:
        count = min(count, self.size - self.at)
        while self.ranges and sum(self.ranges[0]) <= self.at:
            self.ranges.popleft()
        first, length = self.ranges[0] if self.ranges else (self.size, 0)
        if first > self.at:
            count = min(count, first - self.at)
            data = ZEROS if count == CHUNK else bytes(count)
        else:
            data = os.pread(self.fd, min(count, first + length - self.at), self.at)
            self.new += len(data)
        self.at += len(data)
        return data

    def taken(self) -> int:
        """Bytes that were read since it was asked last."""
        new, self.new = self.new, 0
        return new


def in_blocks(lines: Iterable[str], size: int) -> list[tuple[int, int]]:
    """Lines START LENGTH in bytes as ranges of whole blocks, in order, none touching another."""
    found: list[tuple[int, int]] = []
    for line in sorted(lines, key=lambda line: int(line.split()[0])):
        start, length = map(int, line.split())
        first, last = start // BLOCK * BLOCK, min(-(-(start + length) // BLOCK) * BLOCK, size)
        if found and first <= sum(found[-1]):
            first, last = found[-1][0], max(last, sum(found.pop()))
        if last > first:
            found.append((first, last - first))
    return found
