"""One process, from its start to its end: seconds, processor time, memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    seconds: float
    processor: float  # seconds of it and of its children, on all cores
    memory: int  # bytes: the largest it, or one of its children, became
    status: int


def run(argv: Sequence[str], environment: dict[str, str], fine: Sequence[int] = (0,)) -> Run:
    """Its output is thrown away; kept is only what it says when it fails (its status is not `fine`): RuntimeError."""
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        process = subprocess.Popen(
            argv, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
        )
        _, status, used = os.wait4(process.pid, 0)
        took = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in fine:
            said.seek(0)
            text = said.read()[-600:].decode(errors="replace")
            raise RuntimeError(f"{argv[0]} ended with {process.returncode}: {text}")
    return Run(took, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, process.returncode)
