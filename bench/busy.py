"""The busy guest (busy.asm): a disk image of it that writes to so much memory at such a pace."""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("busy.asm")
PAGE = 4096
TICKS = 18.2065  # timer ticks a second (busy.asm)
NUMBERS = 496  # where the guest has its numbers


def build(path: Path, size: int, rate: int) -> None:
    """Writes the image. The guest writes to `size` bytes of memory, page by page in turn, to `rate` bytes of pages a
    second, at least one page each tick; 0: without a pause."""
    pace = max(1, round(rate / PAGE / TICKS)) if rate else 0
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder, "code")
        subprocess.run(["nasm", "-f", "bin", "-w+all", "-w+error", "-o", code, SOURCE], check=True)
        sector = bytearray(code.read_bytes())
    struct.pack_into("<II", sector, NUMBERS, size // PAGE, pace)
    path.write_bytes(sector)
    os.truncate(path, 4 << 20)
