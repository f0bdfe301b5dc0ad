"""VCDIFF (RFC 3284), as much of it as a delta of a disk needs: copies from the same place of the base, and new bytes.
Runs on the nodes, as pmc/remote/stream.py does."""

from __future__ import annotations

import lzma
import zlib

PAGE = 4 * 1024  # the smallest part that a delta copies or adds
WINDOW = 8 * 1024 * 1024  # xdelta3 3.0 takes 16 MiB at most
# Magic number, version 0, secondary compression (VCD_SECONDARY) of xdelta3's kind 2, lzma; no code table of our own.
MAGIC = b"\xd6\xc3\xc4\x00\x01\x02"
VCD_SOURCE = VCD_DATACOMP = 1
RUN, ADD, COPY = 0, 1, 19  # of the default code table: those whose size follows; COPY of mode 0, VCD_SELF


def varint(number: int) -> bytes:
    """RFC 3284, section 2: seven bits a byte, the highest first."""
    parts = [number & 127]
    while number := number >> 7:
        parts.append(number & 127 | 128)
    return bytes(reversed(parts))


# xdelta3 takes the compressed data of all windows together for one .xz stream of one block, without an end. In it may
# follow each other LZMA2 chunks that do not look back: so those of each window are made by themselves.
_LZMA2 = [{"id": lzma.FILTER_LZMA2, "preset": 0}]
LZMA_HEAD = lzma.compress(b"x", check=lzma.CHECK_NONE, filters=_LZMA2)[:24]


def packed(data: bytes) -> bytes:
    """Compressed; empty when that would hardly be smaller: of one page in eight this is soon known, and lzma is slow
    with such data."""
    sample = b"".join(data[at : at + PAGE] for at in range(0, len(data), 8 * PAGE))
    if len(zlib.compress(sample, 1)) > 0.95 * len(sample):
        return b""
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=_LZMA2)[:-1]  # without the mark of the end


class Window:
    """One window of a delta: `old` bytes of the base from `start`, as instructions that make the new ones of them."""

    def __init__(self, start: int, old: int) -> None:
        self.start, self.old, self.size = start, old, 0
        self.data, self.instructions, self.addresses = bytearray(), bytearray(), bytearray()
        self.copied = 0  # bytes of a COPY that may still grow

    def copy(self, count: int) -> None:
        self.copied += count
        self.size += count

    def add(self, new: bytes) -> None:
        self._end_copy()
        if new.count(0) == len(new):
            self.instructions += bytes([RUN]) + varint(len(new))
            self.data += b"\0"
        else:
            self.instructions += bytes([ADD]) + varint(len(new))
            self.data += new
        self.size += len(new)

    def _end_copy(self) -> None:
        if self.copied:
            self.instructions += bytes([COPY]) + varint(self.copied)
            self.addresses += varint(self.size - self.copied)
            self.copied = 0

    def compare(self, old: bytes, new: bytes) -> None:
        """The parts of `new` that differ from `old`, by pages; what follows each other is one instruction."""
        begin = at = 0
        differs = False
        for at in range(0, len(new), PAGE):
            other = new[at : at + PAGE] != old[at : at + PAGE]
            if other != differs and at > begin:
                self._part(differs, new[begin:at])
                begin = at
            differs = other
        self._part(differs, new[begin:])

    def _part(self, differs: bool, new: bytes) -> None:
        if differs:
            self.add(new)
        else:
            self.copy(len(new))

    def encoded(self, packed: bytes = b"", first: bool = True) -> bytes:
        """With its data `packed`; the first that is has the head of the .xz stream."""
        self._end_copy()
        data: bytes = varint(len(self.data)) + (LZMA_HEAD if first else b"") + packed if packed else bytes(self.data)
        sections = (data, self.instructions, self.addresses)
        how = bytes([VCD_DATACOMP if packed else 0])
        body = varint(self.size) + how + b"".join(varint(len(each)) for each in sections) + b"".join(sections)
        source = bytes([VCD_SOURCE]) + varint(self.old) + varint(self.start) if self.old else b"\0"
        return source + varint(len(body)) + body
