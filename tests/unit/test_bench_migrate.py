"""What the benchmark of migrations reads and builds; the migrations themselves run on the lab, by hand."""

from __future__ import annotations

import struct
from pathlib import Path

from bench import busy
from bench.migrate import Moved, parsed, summed
from tests.unit.samples import data


def test_what_libvirt_says_of_a_migration() -> None:
    found = parsed(data("virsh-handwritten-domjobinfo-completed.txt"), 9.5)
    assert found == Moved(seconds=2.513, still=0.087, moved=20.342, whole=9.5)


def test_medians_are_of_those_that_did_not_fail() -> None:
    found = summed([Moved(1, 0.1, 10, 2), "error: no", Moved(3, 0.3, 30, 4), Moved(2, 0.2, 20, 3), "error: no"])
    assert (found["seconds"], found["still"], found["of"], found["failed"]) == (2, 0.2, 3, ["error: no"])
    assert summed(["error: no"]) == {"of": 0, "failed": ["error: no"]}


def test_the_busy_guest_knows_what_to_write(tmp_path: Path) -> None:
    busy.build(tmp_path / "disk", 32 << 20, 16 << 20)
    image = (tmp_path / "disk").read_bytes()
    assert image[510:512] == b"\x55\xaa"
    assert struct.unpack_from("<II", image, busy.NUMBERS) == (8192, 225)
    assert not any(image[512:])
