# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that outlive us: started in a session of their own, found again by what was recorded of them.

A pid alone proves nothing, since the kernel reuses it. A process is ours when its start time is the recorded
one and its command line contains the lab's run folder; only then is it sent a signal.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.errors import LabError
from lab.run import missing


@dataclass(frozen=True)
class Process:
    pid: int
    started: int  # field 22 of /proc/PID/stat: clock ticks after boot, proc(5)
    boot: str  # ticks count from boot, so they only mean something together with it


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(stat: str) -> int:
    """Field 22, counted from the last ")", because the program's name (field 2) may contain anything."""
    return int(stat.rpartition(")")[2].split()[19])


def spawn(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Process:
    """Start argv detached, with its output in `log`.

    posix_spawn and not Popen: a Popen object complains when it is forgotten while its process runs.
    """
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    try:
        pid = os.posix_spawnp(argv[0], list(argv), dict(env or os.environ), file_actions=files, setsid=True)
    except OSError as error:
        raise missing(argv[0]) from error
    started = Process(pid, start_time(Path(f"/proc/{pid}/stat").read_text()), boot_id())
    settle(started)
    return started


def settle(process: Process, deadline: float = 5) -> None:
    """Wait for its command line. exec lets the parent go on a moment before the kernel has filled that in
    (fs/exec.c: vfork is released in exec_mmap, arg_end comes later), and it would look like a zombie's."""
    end = time.monotonic() + deadline
    while arguments(process) == [] and time.monotonic() < end:
        if state(process) == "Z":
            return
        time.sleep(0.001)


def state(process: Process) -> str:
    """R, S, D, Z ... (field 3); empty when it is not there."""
    try:
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def save(process: Process, file: Path) -> None:
    file.write_text(json.dumps(asdict(process)))


def load(file: Path) -> Process | None:
    """The process that `file` records; None if there is no record, or none that makes sense."""
    try:
        return Process(**json.loads(file.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def ours(process: Process, mark: str) -> bool:
    """True while exactly this process runs, with the folder `mark` or a path in it in its command line."""
    argv = arguments(process)
    return argv is not None and any(one == mark or f"{mark}/" in one for one in argv)


def arguments(process: Process) -> list[str] | None:
    """Its command line, empty once it ends (a zombie); None when this very process is not there."""
    folder = Path(f"/proc/{process.pid}")
    try:
        argv = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        started = start_time((folder / "stat").read_text())
    except (OSError, ValueError, IndexError):
        return None
    same = started == process.started and boot_id() == process.boot
    return [one for one in argv if one] if same else None


def kill(process: Process, mark: str, deadline: float = 10) -> bool:
    """SIGKILL it if it is ours, and wait until it is gone. False if it was not ours or not there."""
    try:
        handle = os.pidfd_open(process.pid)  # holds on to this very process while we look at it
    except OSError:
        return False
    try:
        alive = ours(process, mark)
        if alive:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        if alive or arguments(process) == []:
            wait(process, handle, deadline)
    finally:
        os.close(handle)
    return alive


def ended(process: Process, deadline: float) -> bool:
    """Wait until it has ended by itself; False when it has not by then."""
    end = time.monotonic() + deadline
    while arguments(process) and time.monotonic() < end:
        time.sleep(0.02)
    with suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return not arguments(process)


def wait(process: Process, handle: int, deadline: float) -> None:
    """Until it has ended (its pidfd can then be read, pidfd_open(2)); if it is a child of ours, reap it."""
    if not select.select([handle], [], [], deadline)[0]:
        raise LabError(f"process {process.pid} does not end; see /proc/{process.pid}/stack")
    with suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)


def memory(process: Process) -> int:
    """Resident bytes; 0 when gone."""
    try:
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    except (OSError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def spawn_module(module: str, *arguments: str, log: Path) -> Process:
    """`python -m module`, from whatever directory we are in."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return spawn([sys.executable, "-m", module, *arguments], log, {**os.environ, "PYTHONPATH": path})
