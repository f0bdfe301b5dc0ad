# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a frame on a bad way: lost, late, twice, before others, or with a wrong bit and a right checksum, as
bad memory of a switch or a network card makes them. Pure but for the chance that it is given."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

REPLICATION = range(7800, 8000)  # TCP ports of DRBD in the lab's pmc.conf


@dataclass(frozen=True)
class Weather:
    """Of one way. `delay` and `jitter` are seconds (a frame takes delay +- jitter, so jitter alone mixes their order);
    the others are shares of the frames, 0 to 1. `reorder` go without delay, before those that wait; `drbd` is the loss
    of DRBD's frames alone; `corrupt` counts those of them that carry data."""

    loss: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    dup: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    drbd: float = 0.0

    def arrivals(self, frame: bytes, chance: random.Random) -> list[tuple[float, bytes]]:
        """After how many seconds it comes, and how; nothing: it is lost."""
        if chance.random() < self.loss or (chance.random() < self.drbd and _segment(frame) >= 0):
            return []
        if chance.random() < self.corrupt:
            frame = corrupted(frame, chance)
        copies = 2 if chance.random() < self.dup else 1
        return [(self._after(chance), frame) for _ in range(copies)]

    def _after(self, chance: random.Random) -> float:
        if chance.random() < self.reorder:
            return 0.0
        return max(0.0, self.delay + chance.uniform(-self.jitter, self.jitter))

    def told(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if value}


CUT = Weather(loss=1.0)


def parse(numbers: Mapping[str, str]) -> Weather:
    """Of `loss=.1 delay=.05`; raises ValueError."""
    known = {each.name for each in fields(Weather)}
    if unknown := set(numbers) - known:
        raise ValueError(f"{', '.join(sorted(unknown))}: not one of {', '.join(sorted(known))}")
    weather = Weather(**{name: float(text) for name, text in numbers.items()})
    shares = (weather.loss, weather.dup, weather.reorder, weather.corrupt, weather.drbd)
    if not all(0 <= share <= 1 for share in shares) or not all(0 <= t <= 60 for t in (weather.delay, weather.jitter)):
        raise ValueError("shares are 0 to 1, delays 0 to 60 seconds")
    return weather


def corrupted(frame: bytes, chance: random.Random) -> bytes:
    """One bit of what DRBD sends is turned, in the second half of a TCP segment that is long enough to carry a sector
    behind DRBD's own words, and the checksum made to fit (RFC 1624). Other frames are left as they are."""
    tcp = _segment(frame)
    start = tcp + (frame[tcp + 12] >> 4) * 4 if tcp >= 0 else len(frame)
    length = len(frame) - start
    if length < 512:
        return frame
    at = start + length // 2 + chance.randrange(length // 2)
    word = at - (at - tcp) % 2  # the checksum adds 16-bit words, counted from the segment's start
    if word + 2 > len(frame):
        word -= 2
        at = word
    changed = bytearray(frame)
    changed[at] ^= 1 << chance.randrange(8)
    (sum_,) = struct.unpack_from("!H", frame, tcp + 16)
    (old,), (new,) = struct.unpack_from("!H", frame, word), struct.unpack_from("!H", changed, word)
    total = (~sum_ & 0xFFFF) + (~old & 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", changed, tcp + 16, ~total & 0xFFFF)
    return bytes(changed)


def _segment(frame: bytes) -> int:
    """Where a TCP segment of DRBD begins in an Ethernet frame with IPv4; -1: it is none."""
    if len(frame) < 54 or frame[12:14] != b"\x08\x00" or frame[14] >> 4 != 4 or frame[23] != 6:
        return -1
    tcp = 14 + (frame[14] & 15) * 4
    if len(frame) < tcp + 20 or not set(struct.unpack_from("!HH", frame, tcp)) & set(REPLICATION):
        return -1
    return tcp
