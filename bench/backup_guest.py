"""How many writes a second a guest does while its VM is backed up, against none: windows that take turns, on a lab.

The guest writes at a pace of its own, 4.5 a second at most (lab/tick.asm), so this shows a guest that is held up, not
how much less a busy one would do.
"""

from __future__ import annotations

import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.disk import CONTENT
from lab import guests
from lab.cluster import Lab
from lab.tick import SIZE
from lab.witness import Guest, fab

NAME = "bench"

# Files of /usr over an image of argv[2] MiB, behind what the guest uses.
FILL = """from itertools import islice
with open(sys.argv[1], "r+b") as disk:
    disk.seek(int(sys.argv[3]))
    for piece in islice(pieces(1 << 20), int(sys.argv[2]) - (int(sys.argv[3]) >> 20) - 1):
        disk.write(piece)
    disk.truncate(int(sys.argv[2]) << 20)"""


def measured(size: int, rounds: int) -> dict[str, Any]:
    """On a lab that is up, the VM's disk of so many MiB; the VM and its backups are removed."""
    lab = Lab()
    do(lab, "pm.init", "pm-1,pm-2", "--fix")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        image = Path(folder, "tick.img")
        guests.build_disk(image, stride=1)
        subprocess.run([sys.executable, "-c", CONTENT + FILL, image, str(size), str(SIZE)], check=True)
        do(lab, "vm.add", NAME, "--primary", "pm-1", "--secondary", "pm-2", "--memory", "16M", "--image", str(image))
    try:
        return {"size": size, **windows(lab, rounds)}
    finally:
        do(lab, "vm.stop", NAME, "--force", "vm.rm", NAME, "--yes", "--backups")


def windows(lab: Lab, rounds: int) -> dict[str, Any]:
    """Writes a second of each window, and the median of the ratios of pairs."""
    guest = Guest(lab, NAME)
    guest.ticking()
    found = list[tuple[float, float]]()
    for _ in range(rounds):
        with_, seconds = writes(guest, lambda: do(lab, "vm.backup", NAME, "--base"))
        found.append((with_, writes(guest, partial(time.sleep, seconds))[0]))
        print(f"{found[-1]} writes a second, {seconds:.0f} s", file=sys.stderr)
    role = "standby" if "standby" in do(lab, "vm.backups", NAME) else "primary"
    ratio = statistics.median(with_ / without for with_, without in found)
    return {"rounds": rounds, "read on": role, "seconds": seconds, "pairs": found, "ratio": ratio}


def writes(guest: Guest, while_: Callable[[], object]) -> tuple[float, float]:
    """A second; and how many seconds it was looked at."""
    began, first = time.monotonic(), guest.now().counter
    while_()
    last, seconds = guest.now().counter, time.monotonic() - began
    return (last - first) / seconds, seconds


def do(lab: Lab, *argv: str) -> str:
    done = fab(lab, *argv, timeout=1800)
    if done.returncode:
        raise RuntimeError(f"fab {shlex.join(argv)}: {done.stderr}{done.stdout}")
    return done.stdout
