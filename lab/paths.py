# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things are: the cache (of all labs of a user), a lab's run folder and its disks (gone at `down`)."""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.errors import LabError
from lab.recipe import digest

LONGEST = 90  # a unix socket's path has at most 107 characters, and ours end in names like "pm-1.qmp"


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return folder(Path(base) / "pmc-lab")


def base() -> Path:
    """Parent of all run folders of this user."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return folder(Path(runtime) / "pmc-lab")
    return folder(Path("/tmp") / f"pmc-lab-{os.getuid()}")  # noqa: S108 (ours alone: `folder` makes sure)


def folder(path: Path) -> Path:
    """Make it for us alone; refuse one that is somebody else's, and one that QEMU could not name."""
    if "," in str(path):
        raise LabError(f"{path} has a comma in it, which ends a value in QEMU's options; use another folder")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise LabError(f"{path} is not a folder of yours; move it out of the way")
    path.chmod(0o700)
    return path


def name(given: str | None = None) -> str:
    chosen = given or os.environ.get("PMC_LAB") or "lab"
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,15}", chosen):
        raise LabError(f"PMC_LAB={chosen!r}: a lab's name is 1 to 16 of a-z, 0-9 and '-'")
    return chosen


def run(lab: str) -> Path:
    path = base() / lab
    if len(str(path)) > LONGEST:
        raise LabError(f"{path} is too long for unix sockets; set XDG_RUNTIME_DIR to something shorter")
    return path


def disks(lab: str) -> Path:
    """Not in the run folder: that is often a small tmpfs."""
    return cache() / "disks" / f"{lab}-{digest(run(lab))}"


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """One at a time. The kernel lets go of the lock when its holder dies, so it is never stale."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"  waiting for another process that {what} ...", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
