"""Making things go wrong on a lab: tools that are killed or held up on a node, managers that die."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab import witness

from .conftest import Pmc

DEADLINE = 300.0
BACKUPS = "/var/lib/pmc/backups"


@contextmanager
def instead(lab: Pmc, node: str, tool: str, word: str, act: str) -> Iterator[None]:
    """On the node, when `tool` is called with `word` in its arguments, the shell text `act` runs in its place, in which
    "$real" "$@" is the tool itself. (A script in /usr/local/sbin, which comes first in PATH.)"""
    path = f"/usr/local/sbin/{tool}"
    real = lab.ssh(node, f"command -v {tool}").strip()
    script = f'#!/bin/bash\nreal={real}\ncase " $* " in *"{word}"*) {act};; esac\nexec "$real" "$@"\n'
    lab.ssh(node, f"cat >{path} <<'EOF'\n{script}EOF\nchmod 755 {path}")
    try:
        yield
    finally:
        lab.ssh(node, f"rm -f {path}")


# The ssh session that a command runs in ends, as when the network goes: sshd is the nearest parent of that name.
HANG_UP = 'p=$$; until [ "$(cat /proc/$p/comm)" = sshd ]; do p=$(cut -d" " -f4 /proc/$p/stat); done; kill -9 $p'


@contextmanager
def started(lab: Pmc, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """A manager at work: `fab` as a process of its own, ended at the latest when the block ends."""
    program = str(Path(sys.executable).parent / "fab")
    with subprocess.Popen(
        [program, *argv], cwd=witness.ROOT, env=witness.environment(lab.conf),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """What it says up to the line with `word`, or to its end."""
    seen = ""
    assert process.stderr is not None
    for line in process.stderr:
        seen += line
        if word in line:
            break
    return seen


def die_at(lab: Pmc, word: str, *argv: str) -> bool:
    """A manager that is killed with -9 when it says `word`. False: it never did, and has come to its end."""
    with started(lab, *argv) as process:
        said = read_until(process, word)
        if word not in said:
            process.wait(DEADLINE)
            return False
        process.kill()
        process.wait(60)
        return True


def until(holds: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.3)


def whole_backups(lab: Pmc) -> list[dict[str, Any]]:
    """Those that vm.backups lists, each read back and found right; and no file lies beside them that is not theirs,
    neither under a final name nor under that of an unfinished one."""
    rows: list[dict[str, Any]] = json.loads(lab.ok("vm.backups", "--json"))
    assert not [row for row in rows if row["broken"]], rows
    for node in ("pm-1", "pm-2"):
        names = lab.ssh(node, f"ls -A {BACKUPS}").split()
        whole = {row["id"] for row in rows if row["node"] == node}
        assert {name for name in names if ".".join(name.split(".")[:3]) not in whole} == set()
    if rows:
        lab.ok("vm.verify_backup", "--all")
    return rows


# Of what a command says when it failed: something may be half done.
LEFT = (
    "NOT undone", "NOT closed", "Past the point of no return", "nothing to undo", "and may still allow two primaries",
    "is suspended there",
)  # fmt: skip


def failed(status: int | None, said: str) -> bool:
    """It ended with 3 if it says that something may be half done, else with 1. What a move left is done when it says
    that it was closed after all."""
    closed = re.search("two primaries closed$", said, re.M)
    return status == (3 if any(word in said for word in LEFT) and not closed else 1)
