"""Sizes as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmc.units import GiB, KiB, MiB, parse_size, show_seconds, show_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("50", 50 * GiB), ("50G", 50 * GiB), ("50g", 50 * GiB), ("50GiB", 50 * GiB), ("50GB", 50 * GiB),
        (" 50 G ", 50 * GiB),
        ("512M", 512 * MiB), ("4k", 4 * KiB), ("1.5T", 3 << 39), ("0.5", GiB // 2), ("1.125G", GiB + GiB // 8),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "G", "-1", "0", "0.0G", "1e3", "1,5G", "5P", "5GG", "nan", "inf", "0x10", "٣", "1_000", "5 G B", "1.2345G",
     "9" * 10, "5;id", "5G\n5G"],
)  # fmt: skip
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@given(st.text())
def test_any_text_is_a_size_or_is_refused_in_one_short_line(text: str) -> None:
    told = ""
    try:
        assert parse_size(text) > 0
    except ValueError as error:
        told = str(error)
    assert len(told) < 200


@given(st.integers(1, 999_999_999))
def test_a_plain_number_is_gib(number: int) -> None:
    assert parse_size(str(number)) == parse_size(f"{number}G") == number * GiB


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (KiB, "1 KiB"), (1536 * MiB, "1.5 GiB"), (64 * MiB, "64 MiB"), (50 * GiB, "50 GiB"),
     (3 << 39, "1.5 TiB"), (10 * GiB, "10 GiB"), (100 * GiB, "100 GiB")],
)  # fmt: skip
def test_sizes_as_shown(size: int, text: str) -> None:
    assert show_size(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0.2 s"), (12.4, "12 s"), (185, "3 min 5 s"), (60, "1 min 0 s")])
def test_seconds(seconds: float, text: str) -> None:
    assert show_seconds(seconds) == text
