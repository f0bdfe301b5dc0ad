# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab's switch does to frames on a bad way."""

import random
import struct

import pytest

from lab.hub import Switch
from lab.weather import CUT, Weather, corrupted

A, B = (bytes([0x52, 0x54, 0, 0, 0, number]) for number in (1, 2))
MANY = 2000


def sum16(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of words that sum up to it."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def segment(load: bytes, port: int = 7801, options: bytes = b"") -> bytes:
    """An Ethernet frame with a TCP segment whose checksum is right."""
    addresses = bytes([10, 77, 0, 1, 10, 77, 0, 2])
    header = struct.pack("!HHIIBBHHH", 40000, port, 1, 2, (5 + len(options) // 4) << 4, 0x18, 500, 0, 0) + options
    pseudo = addresses + struct.pack("!BBH", 0, 6, len(header) + len(load))
    total = sum16(pseudo + header + load)
    tcp = header[:16] + struct.pack("!H", total) + header[18:] + load
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + addresses
    return B + A + b"\x08\x00" + ip + tcp


def accepted(frame: bytes) -> bool:
    """As the kernel of the node that gets it decides."""
    tcp = frame[34:]
    return sum16(frame[26:34] + struct.pack("!BBH", 0, 6, len(tcp)) + tcp) == 0


@pytest.mark.parametrize("length", [512, 552, 553, 999, 4096, 8192])
@pytest.mark.parametrize("options", [b"", b"\1" * 12])
def test_one_bit_of_the_data_is_wrong_and_the_checksum_right(length: int, options: bytes) -> None:
    chance = random.Random(length)
    load = chance.randbytes(length)
    good = segment(load, options=options)
    assert accepted(good)
    for _ in range(200):
        bad = corrupted(good, chance)
        start = 54 + len(options)
        turned = [one ^ other for one, other in zip(load, bad[start:], strict=True)]
        assert sum(each.bit_count() for each in turned) == 1
        assert turned.index(max(turned)) >= length // 2 - 1, "DRBD's own words stand before the data"
        assert accepted(bad)
        assert (bad[:50], bad[52:start]) == (good[:50], good[52:start])


@pytest.mark.parametrize("port", [22, 49152])
def test_only_drbd_is_spoiled(port: int) -> None:
    good = segment(bytes(1000), port)
    assert corrupted(good, random.Random(1)) == good


def test_only_drbds_frames_are_lost() -> None:
    """The short ones, too: acknowledgements, and the pings by which it knows that its peer is there."""
    chance, weather = random.Random(1), Weather(drbd=1.0)
    for lost in (segment(b""), segment(bytes(8)), segment(bytes(1000))):
        assert weather.arrivals(lost, chance) == []
    for other in (segment(bytes(1000), 49152), segment(b"", 22), b"short", bytes(2000)):
        assert weather.arrivals(other, chance) == [(0.0, other)]


@pytest.mark.parametrize("frame", [b"", b"x" * 13, segment(bytes(100)), segment(bytes(600))[:50], bytes(2000)])
def test_what_carries_no_sector_is_left_alone(frame: bytes) -> None:
    assert corrupted(frame, random.Random(1)) == frame


def counts(weather: Weather) -> list[list[tuple[float, bytes]]]:
    chance = random.Random(7)
    return [weather.arrivals(b"frame", chance) for _ in range(MANY)]


def test_shares_are_as_asked() -> None:
    lost = counts(Weather(loss=0.25))
    assert 0.2 * MANY < sum(not each for each in lost) < 0.3 * MANY
    double = counts(Weather(dup=0.1))
    assert 0.07 * MANY < sum(len(each) == 2 for each in double) < 0.13 * MANY
    assert not any(counts(CUT))
    assert counts(Weather()) == [[(0.0, b"frame")]] * MANY


def test_jitter_mixes_and_reorder_overtakes() -> None:
    times = [after for [(after, _)] in counts(Weather(delay=0.2, jitter=0.1, reorder=0.05))]
    late = [each for each in times if each]
    assert 0.03 * MANY < len(times) - len(late) < 0.07 * MANY
    assert 0.1 <= min(late) < 0.12 < 0.28 < max(late) <= 0.3
    assert all(after >= 0 for [(after, _)] in counts(Weather(delay=0.01, jitter=0.1)))


def test_the_same_seed_has_the_same_misfortunes() -> None:
    def come(seed: int) -> list[list[tuple[float, int, bytes]]]:
        switch = Switch((1, 2))
        switch.command(f"link 1 2 loss=.5 jitter=.1 seed={seed}")
        return [switch.forward(1, B + A + b"\x08\x00") for _ in range(50)]

    assert come(1) == come(1) != come(2)
