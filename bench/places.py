"""Where a benchmark runs a line of bash: on this machine, or on a node of the lab. Both time it in the same way."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.cluster import Lab
from lab.reach import ssh
from pmc import backup_pipeline
from pmc.command import Command

IDLE = shlex.join(backup_pipeline.IDLE)
# That of the system, as on a node; one of a virtual environment takes longer to start.
PYTHON = next(path for path in ("/usr/bin/python3", sys.executable) if Path(path).exists())

# Runs its first argument. It takes in the processes that bash does not wait for (prctl's PR_SET_CHILD_SUBREAPER), so
# that it can tell the seconds, the processor's seconds, the largest process's bytes, and how many bytes all have read.
TIMER = """import ctypes, json, os, resource, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
def read():
    with open("/proc/self/io") as file:
        return int(file.readline().split()[1])
before, began = read(), time.monotonic()
process = subprocess.Popen(["bash", "-eo", "pipefail", "-c", sys.argv[1]], stdout=subprocess.DEVNULL)
_, status = os.waitpid(process.pid, 0)
seconds = time.monotonic() - began
try:
    while True:
        os.wait()
except ChildProcessError:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
found = [seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, read() - before]
print(json.dumps([*found, os.waitstatus_to_exitcode(status)]))"""


@dataclass(frozen=True)
class Run:
    seconds: float
    processor: float  # seconds, of all processes
    memory: int  # bytes, of the largest process
    read: int  # bytes, by all processes together, also from pipes


@dataclass(frozen=True)
class Place:
    """`ssh` is the command line that reaches a node, empty for this machine; `folder` is for what is made there."""

    name: str
    folder: str
    ssh: tuple[str, ...] = ()
    volume: str = ""  # a block device to take for the disk

    @property
    def python(self) -> str:
        """That runs pmc's program."""
        return "python3" if self.ssh else PYTHON

    def run(self, script: str) -> Run:
        """Raises RuntimeError with what it said."""
        done = self._do(["python3", "-c", TIMER, self._here(script)])
        *found, status = json.loads(done.stdout.splitlines()[-1]) if done.stdout else (0, 0, 0, 0, done.returncode)
        if status:
            raise RuntimeError(f"{self.name}: {script[:300]}: {done.stderr[-600:]}")
        return Run(*found)

    def said(self, script: str) -> str:
        """Its stdout."""
        done = self._do(["bash", "-eo", "pipefail", "-c", self._here(script)])
        if done.returncode:
            raise RuntimeError(f"{self.name}: {script[:300]}: {done.stderr[-600:]}")
        return done.stdout

    def bring(self) -> None:
        """pmc's program for disks, as vm.backup brings it."""
        if self.ssh:
            bring = backup_pipeline.bring()
            self._do(list(bring.argv), bring.stdin or "")

    def _do(self, argv: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        line = [*self.ssh, shlex.join(argv)] if self.ssh else argv
        return subprocess.run(line, input=stdin, capture_output=True, text=True, check=False)

    def _here(self, script: str) -> str:
        """On this machine the program is this very one, and the priority that of all else: other jobs would take
        nearly all from one that is idle."""
        there = f"PYTHONPATH={backup_pipeline.FOLDER} python3"
        here = script.replace(there, f"PYTHONPATH={Path.cwd()} {PYTHON}").replace(f"{IDLE} ", "")
        return script if self.ssh else here


def line(command: Command) -> str:
    return shlex.join(command.argv)


@contextlib.contextmanager
def on_lab(node: str, size: int) -> Iterator[Place]:
    """A node of the running lab, with a volume of `size` MiB and a file system for what is made of it."""
    reach, folder = tuple(ssh(Lab().conf(), node)), "/run/bench"
    place = Place(f"{node} of the lab", folder, reach, "/dev/vg/bench")
    remove = f"umount {folder} 2>/dev/null || :; lvremove -qq -y vg/bench vg/bench.files 2>/dev/null || :"
    try:
        place.said(
            f"{remove}; lvcreate -qq -y -L {size}M -n bench vg; "
            f"lvcreate -qq -y -L {size * 4 + 256}M -n bench.files vg; "
            f"mkfs.ext4 -q /dev/vg/bench.files; mkdir -p {folder}; mount /dev/vg/bench.files {folder}"
        )
        yield place
    finally:
        place.said(remove)
