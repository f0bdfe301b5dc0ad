"""One pass over a disk. This file runs on the nodes (Python 3.9 or newer, only its own library): a disk is a device of
the node or comes on stdin, an image or a delta goes to stdout, checksums into files beside it.

The checksum of a disk is a tree of two levels: SHA-256 of each block of 64 KiB, and SHA-256 of all of those one after
the other. So that of a disk of which little changed can be told from the old block sums (the `index`) and the changed
blocks. By hand: split -b 65536 --filter='sha256sum | cut -c1-64' DISK | xxd -r -p | sha256sum

A delta is VCDIFF (RFC 3284), for `xdelta3 -d -s BASE DELTA`. xdelta3's own encoder reads the whole base and searches
it for each block; the blocks of a disk stay where they are, so here the same place is compared, and that is all.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import sys
from typing import BinaryIO

from pmc.remote.blocks import (  # fmt: skip
    BLOCK,
    CHUNK,
    SUM,
    ZEROS,
    Failure,
    Frames,
    Holes,
    Pace,
    Readable,
    Reader,
    Sparse,
    Windows,
    Write,
    ahead,
    behind,
    block_sum,
    chunks,
    full,
    in_blocks,
    is_file,
    summed,
)
from pmc.remote.device import opened
from pmc.remote.manifest import DAMAGED, manifest_sum
from pmc.remote.vcdiff import WINDOW, Window


def base(size: int, index: str, pace: Pace, to: Frames | Sparse, source: Readable) -> str:
    """The whole disk to `to`, its block sums to `index`. Returns the disk's sum."""
    whole, disk = hashlib.sha256(), chunks(source, size, pace)
    # A limit sleeps: in this thread, where a signal ends it.
    with open(index, "wb") as sums:
        for chunk, digests in summed(disk if pace.limit else ahead(disk)):
            joined = b"".join(digests)
            whole.update(joined)
            sums.write(joined)
            to.write(chunk)
            if chunk is not ZEROS:
                behind(to.out)
        os.fsync(sums.fileno())
    to.end(size)
    pace.tell()
    return whole.hexdigest()


def put(
    size: int, expected: str, target: str | None, compare: bool, pace: Pace, source: BinaryIO, out: BinaryIO | None
) -> None:
    """The disk that comes on stdin to `target` (see `opened`), or on to `out`, or nowhere; Failure unless its
    sum is the expected one (empty: not looked at)."""
    whole = hashlib.sha256()
    file = opened(target, compare) if target else None
    sparse = Sparse(file, compare) if file else None
    for chunk, digests in summed(chunks(source, size, pace)):
        whole.update(b"".join(digests))
        if sparse:
            sparse.write(chunk)
        elif out:
            out.write(chunk)
    if source.read(1):
        raise Failure(f"the image is longer than {size} bytes")
    if expected and whole.hexdigest() != expected:
        raise Failure(f"the image has the checksum {whole.hexdigest()}, its manifest says {expected}")
    if file and sparse:
        sparse.end(size)
        os.fsync(file.fileno())
        file.close()
    if out:
        out.flush()
    pace.tell()


class Index:
    """The base's block sums, read along; at the end it is known whether they are those of the base."""

    def __init__(self, path: str, expected: str) -> None:
        try:
            self.file, self.expected, self.whole = open(path, "rb"), expected, hashlib.sha256()  # noqa: SIM115
        except FileNotFoundError:
            raise Failure(f"the block sums of the base ({path}) are missing; make a new base") from None

    def next(self, blocks: int) -> list[bytes]:
        data = full(self.file, blocks * SUM)
        self.whole.update(data)
        if len(data) != blocks * SUM:
            self.check()
            raise Failure("the base has fewer blocks than its disk; make a new base")
        return [data[at : at + SUM] for at in range(0, len(data), SUM)]

    def check(self) -> None:
        while data := self.file.read(CHUNK):
            self.whole.update(data)
        if self.whole.hexdigest() != self.expected:
            raise Failure("the block sums of the base are damaged; make a new base")


def delta(size: int, base_size: int, index: Index, pace: Pace, write: Write, source: Readable, old: BinaryIO) -> str:
    """All of the disk compared with all of the base (`old`, a file or a pipe)."""
    whole, out, at = hashlib.sha256(), Windows(write), 0
    olds = ahead(full(old, min(WINDOW, max(base_size - start, 0))) for start in range(0, size, WINDOW))
    for new in ahead(chunks(source, size, pace, WINDOW)):
        before = next(olds)
        if len(before) < min(len(new), max(base_size - at, 0)):
            raise Failure("the base is damaged: it ends too early; make a new base")
        window, sums = Window(at, len(before)), index.next(-(-len(before) // BLOCK))
        old_blocks = memoryview(before)
        for start in range(0, len(new), BLOCK):
            was, length = old_blocks[start : start + BLOCK], min(BLOCK, len(new) - start)
            if len(was) == length and new.startswith(was, start):  # compares in place: == would need copies
                window.copy(length)
            else:
                now = new[start : start + BLOCK]
                window.compare(bytes(was), now)
                sums[start // BLOCK : start // BLOCK + 1] = [block_sum(now)]  # or one more: the disk has grown
        whole.update(b"".join(sums[: -(-len(new) // BLOCK)]))
        out.add(window)
        at += len(new)
    index.check()
    out.end()
    pace.tell()
    return whole.hexdigest()


def thin_delta(
    size: int, index: Index, pace: Pace, write: Write, source: BinaryIO, old: BinaryIO, ranges: list[tuple[int, int]]
) -> str:
    """Only the changed `ranges` (start, length, in order) are read, of the disk and of the base as the pool kept it; of
    which each block that is read must be what the base's sums say."""
    whole, out, number = hashlib.sha256(), Windows(write), 0
    for at in range(0, size, WINDOW):
        length = min(WINDOW, size - at)
        window, sums, place, read = Window(at, length), index.next(-(-length // BLOCK)), at, 0
        while number < len(ranges) and ranges[number][0] < at + length:
            first = max(ranges[number][0], place)
            last = min(sum(ranges[number]), at + length)
            if first > place:
                window.copy(first - place)
            for begin in range(first, last, BLOCK):
                count = min(BLOCK, last - begin)
                was, now = os.pread(old.fileno(), count, begin), os.pread(source.fileno(), count, begin)
                if len(was) != count or len(now) != count:  # what is before a bad sector comes without an error
                    raise Failure(f"the disk, or its snapshot that was kept, cannot be read at byte {begin}")
                if block_sum(was) != sums[(begin - at) // BLOCK]:
                    raise Failure("the snapshot that was kept does not fit the block sums of the base; make a new base")
                window.compare(was, now)
                sums[(begin - at) // BLOCK] = block_sum(now)
            read += max(last - first, 0)
            place = max(last, place)
            if sum(ranges[number]) > at + length:
                break  # it goes on in the next window
            number += 1
        window.copy(at + length - place)
        pace.add(length, read)
        whole.update(b"".join(sums))
        out.add(window)
    index.check()
    out.end()
    pace.tell()
    return whole.hexdigest()


def thin_base(
    size: int, index: str, pace: Pace, to: Frames | Sparse, source: BinaryIO, ranges: list[tuple[int, int]]
) -> str:
    """As `base`, but only the `ranges` that the thin volume has are read; the rest of it is zeros."""
    return base(size, index, pace, to, Holes(source, size, ranges))


def seal(target: str, manifest: str, sums: str) -> None:
    """The manifest (on stdin) with what was found out while reading, and with a sum over itself, as `manifest`."""
    try:
        table = json.load(sys.stdin)
    except ValueError:  # a manager that dies ends it early
        raise Failure("the manifest did not come whole") from None
    with open(sums) as file:
        table.update(json.load(file))
    table["stored"] = os.stat(target).st_size
    table["manifest_sha256"] = manifest_sum(table)
    with open(manifest, "w") as file:
        file.write(json.dumps(table, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    with open(target, "rb") as data:
        os.fsync(data.fileno())


def widen(pipe: int) -> None:
    """A wider pipe saves half of the system calls."""
    with contextlib.suppress(OSError):  # it is none
        fcntl.fcntl(pipe, 1031, 1 << 20)  # F_SETPIPE_SZ, fcntl(2); Python has its name since 3.10


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("base", "delta", "put", "seal"))
    for name in ("index", "base-sum", "sums", "old", "source", "ranges", "expect", "target", "manifest"):
        parser.add_argument(f"--{name}", default="")
    for name in ("size", "base-size", "limit"):
        parser.add_argument(f"--{name}", type=int, default=0)
    for name in ("compare", "pass-on", "zstd"):
        parser.add_argument(f"--{name}", action="store_true")
    a = parser.parse_args(argv)
    out, stdin, written = sys.stdout.buffer, sys.stdin.buffer, hashlib.sha256()

    def write(data: bytes) -> None:
        written.update(data)
        out.write(data)

    widen(0)
    try:
        if a.what == "seal":
            seal(a.target, a.manifest, a.sums)
            return 0
        if a.what == "put":
            put(a.size, a.expect, a.target or None, a.compare, Pace(a.limit), stdin, out if a.pass_on else None)
            return 0
        source = open(a.source, "rb", buffering=0) if a.source else stdin  # noqa: SIM115
        disk: Readable = Reader(source, a.source) if a.source else source
        to, ranges, pace = Frames(out) if a.zstd else Sparse(out), [], Pace(a.limit)
        if a.ranges:
            with open(a.ranges) as file:
                ranges = in_blocks(file, a.size)
        if a.what == "base" and a.ranges:
            found = thin_base(a.size, a.index, pace, to, source, ranges)
        elif a.what == "base":
            found = base(a.size, a.index, pace, to, disk)
        elif a.ranges:
            with open(a.old, "rb", buffering=0) as kept:
                found = thin_delta(a.size, Index(a.index, a.base_sum), pace, write, source, kept, ranges)
        else:
            with open(a.old, "rb") as old:
                widen(old.fileno())
                found = delta(a.size, a.base_size, Index(a.index, a.base_sum), pace, write, disk, old)
        out.flush()
        if is_file(out):
            os.fsync(out.fileno())
        with open(a.sums, "w") as file:
            file_sum = written.hexdigest() if a.what == "delta" else ""
            json.dump({"image_sha256": found, "file_sha256": file_sum, "read": pace.read}, file)
    except (Failure, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return DAMAGED if a.what == "put" and isinstance(error, Failure) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
