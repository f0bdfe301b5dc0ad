# SPDX-License-Identifier: GPL-3.0-or-later
"""Running a tool of the host to its end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.errors import LabError

PACKAGES = "qemu-system-x86 qemu-utils mmdebstrap cpio e2fsprogs openssh-client uidmap"


def missing(tool: str) -> LabError:
    return LabError(f"{tool} is missing; the lab needs these Debian packages: {PACKAGES}")


def run(argv: Sequence[str], log: Path | None = None, cwd: Path | None = None, stdin: str = "") -> None:
    """On failure say what it said last."""
    everywhere = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}  # mke2fs
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    try:
        done = subprocess.run(argv, input=stdin, stdout=pipe, stderr=both, text=True, cwd=cwd, env=everywhere)
    except FileNotFoundError as error:
        raise missing(argv[0]) from error
    if log:
        log.write_text(done.stdout)
    if done.returncode:
        last = " | ".join(done.stdout.strip().splitlines()[-3:]) or f"exit status {done.returncode}"
        raise LabError(f"{argv[0]} failed: {last}" + (f" (all of it: {log})" if log else ""))
