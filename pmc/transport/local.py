"""Commands on the manager itself, for backups in a directory of it."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pmc.command import Command
from pmc.errors import CommandFailed, Interrupted, Refused

MANAGER = "manager"  # in place of a node's name
# Shell text: this very Python, which finds these modules, and (-P) none in the folder where somebody happens to be.
PYTHON = f"PYTHONPATH={shlex.quote(str(Path(__file__).resolve().parents[2]))} {shlex.quote(sys.executable)} -P"
# What reads a disk is brought to a node; here it is.
STREAM = f"{PYTHON} -m pmc.remote.stream"


def run(
    command: Command, stopped: Callable[[], bool] = lambda: False, on_stderr: Callable[[str], object] = str
) -> None:
    """To its end; Ctrl-C at the terminal does not reach it, but `stopped` ends it and all that it started. Raises
    CommandFailed with what it said, besides signs of progress."""
    said = ""
    try:
        process = subprocess.Popen(
            command.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            cwd="/",  # from the folder where somebody happens to be, `python -m` would take modules
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise Refused(f"{command.argv[0]}: {error.strerror} on this machine") from None
    with process:
        assert process.stderr is not None  # noqa: S101
        ended = False
        while True:
            if stopped() and not ended:
                ended = True
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
            if select.select([process.stderr], [], [], 0.1)[0]:
                if not (data := os.read(process.stderr.fileno(), 65536)):
                    break
                text = data.decode(errors="replace")
                on_stderr(text)
                said = (said + text)[-65536:]
    if ended and process.returncode:
        raise Interrupted
    if process.returncode:
        lines = [line for line in said.splitlines() if not re.match(r"\d+ bytes", line)]
        # The first of a pipeline often knows why, and the last only that nothing came.
        raise CommandFailed(MANAGER, str(command), process.returncode, "; ".join(lines[-3:]))


def need(*programs: str) -> None:
    """Raises Refused when one of them is not installed."""
    if missing := [each for each in programs if shutil.which(each) is None]:
        raise Refused(f"{' and '.join(missing)}: not installed on this machine; apt install {' '.join(missing)}")
