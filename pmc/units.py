"""Sizes as people write and read them. Pure."""

from __future__ import annotations

import re
from contextlib import suppress

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
_FACTORS = {"k": KiB, "m": MiB, "g": GiB, "t": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes of '50', '50G', '50GiB' (a plain number is GiB), '512M', '1.5T'. Raises ValueError otherwise."""
    match = re.fullmatch(
        r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*(?:([kmgt])(?:i?b)?)?", text.strip(), re.IGNORECASE | re.ASCII
    )
    if not match:
        raise ValueError(f"{text[:40]!r:.60} is not a size: write 50G, 512M or 1.5T (a plain number is GiB)")
    size = int(float(match[1]) * _FACTORS[(match[2] or "g").lower()])
    if size <= 0:
        raise ValueError(f"{text[:40]!r:.60} is no size: it must be more than zero")
    return size


def parse_rate(text: str) -> int:
    """Bytes a second of '50M' or '512k'; 0 of nothing. A plain number has no sensible unit. Raises ValueError."""
    if not text:
        return 0
    if not text[-1].isdigit():
        with suppress(ValueError):
            if (rate := parse_size(text)) <= 1 << 40:  # what virsh takes ends somewhere
                return rate
    raise ValueError(f"{text[:40]!r:.60}: bytes a second with a unit, such as 50M; 1T at most")


def count(text: str) -> int:
    """A number as a tool prints it, of bytes, blocks, a minor, a port: under 10^19. Raises ValueError for all else,
    also for what int() takes: a sign, 1_000, digits of other scripts, and so many that nothing can be made of them."""
    if not re.fullmatch(r"[0-9]{1,19}", text := text.strip(" \t\n"), re.ASCII):
        raise ValueError(f"{text[:40]!r:.60} is not a number of that kind")
    return int(text)


def finite(text: str) -> float:
    """As `count`, for percents and seconds: with a sign and digits after the point, not nan and not for ever."""
    if not re.fullmatch(r"-?[0-9]{1,19}(?:\.[0-9]{1,19})?", text := text.strip(" \t\n"), re.ASCII):
        raise ValueError(f"{text[:40]!r:.60} is not a number of that kind")
    return float(text)


def bounded(text: str, most: int) -> str:
    """The text itself: what is made of one takes many times its room. Raises ValueError."""
    if len(text) > most:
        raise ValueError(f"longer than {show_size(most)}, which is too long for what it is")
    return text


def show_size(size: int) -> str:
    """'50 GiB', '1.5 GiB', '64 MiB': one digit at most after the point."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", GiB), ("MiB", MiB), ("KiB", KiB)):
        if size >= factor:
            return f"{size / factor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size} B"


def show_seconds(seconds: float) -> str:
    """'0.2 s', '12 s', '3 min 5 s'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
