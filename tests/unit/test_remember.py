# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's QEMU gives a guest a little more memory, without which an emulated one loses writes while it migrates."""

from __future__ import annotations

import re
import subprocess

import pytest

from bench.remember import QEMU, TOGETHER, WAYS, Way, together
from lab.recipe import ROOTFS

WRAPPER = ROOTFS / "usr/local/bin/qemu-system-x86_64"
MEMORY = '{"qom-type":"memory-backend-ram","id":"pc.ram","size":%d}'


def passed_on(*argv: str) -> list[str]:
    """What the wrapper would give QEMU."""
    script, count = re.subn(r"^exec \S+", r"printf '%s\\n'", WRAPPER.read_text(), flags=re.M)
    assert count == 1
    done = subprocess.run(["sh", "-c", script, "qemu", *argv], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_wrapper_adds_8_kib() -> None:
    assert passed_on("-S", "-m", "16", "-object", MEMORY % (16 << 20), "-smp", "1") == [
        *("-S", "-m", "16392k", "-object", MEMORY % ((16 << 20) + 8192), "-smp", "1"),
    ]


def test_the_wrapper_changes_nothing_else() -> None:
    for argv in (
        ["-name", "guest=a b*,debug-threads=on"],
        ["--version"],
        ["-smp", "16", "-device", ""],
    ):
        assert passed_on(*argv) == argv


@pytest.mark.parametrize("way", WAYS[1:], ids=lambda way: way.name)
def test_a_guest_keeps_its_memory(way: Way) -> None:
    tried, lost = together(way, 8, until_lost=True)
    assert (tried, lost) == (8 * TOGETHER, 0)


def test_without_either_it_does_not() -> None:
    version = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)\.", version)
    assert found, version
    if int(found[1]) >= 9:
        pytest.skip("QEMU 9.0 has fixed it")
    assert together(WAYS[0], 50, until_lost=True)[1]
