"""VCDIFF (RFC 3284), as much of it as a delta of a disk needs: copies from the same place of the base, and new bytes.
Runs on the nodes, as pmc/stream.py does."""

from __future__ import annotations

PAGE = 4 * 1024  # the smallest part that a delta copies or adds
WINDOW = 8 * 1024 * 1024  # xdelta3 3.0 takes 16 MiB at most
# Magic number, version 0, no secondary compression, no code table of our own.
MAGIC = b"\xd6\xc3\xc4\x00\x00"
VCD_SOURCE = 1
RUN, ADD, COPY = 0, 1, 19  # of the default code table: those whose size follows; COPY of mode 0, VCD_SELF


def varint(number: int) -> bytes:
    """RFC 3284, section 2: seven bits a byte, the highest first."""
    parts = [number & 127]
    while number := number >> 7:
        parts.append(number & 127 | 128)
    return bytes(reversed(parts))


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

    def encoded(self) -> bytes:
        self._end_copy()
        sections = (self.data, self.instructions, self.addresses)
        body = varint(self.size) + b"\0" + b"".join(varint(len(each)) for each in sections) + b"".join(sections)
        source = bytes([VCD_SOURCE]) + varint(self.old) + varint(self.start) if self.old else b"\0"
        return source + varint(len(body)) + body
