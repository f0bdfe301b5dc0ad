"""The fence command of a node: a program of the administrator's, run on the manager. Its line may hold a password, so
none of its words but the program's name is ever shown."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from contextlib import suppress
from typing import IO

from pmc.errors import PmcError
from pmc.settings import NodeSettings

MOST = 1 << 16  # bytes of what it says that are kept: the last ones
REST = 1.0  # seconds that what it said may take to come, once it has ended


class Said(threading.Thread):
    """Reads what a program says. A child that it leaves behind may keep that open for ever, or say things without end:
    so who waits must wait for the program, and for this not long."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self.pipe, self.last, self.over = pipe, b"", False
        self.start()

    def run(self) -> None:
        with suppress(OSError), self.pipe:
            while not self.over and (block := self.pipe.read(MOST)):
                self.last = (self.last + block)[-MOST:]

    def end(self) -> str:
        self.join(REST)
        self.over = True
        return self.last.decode(errors="replace").strip()


def program(node: NodeSettings) -> str:
    return os.path.basename(shlex.split(node.fence)[0])


def run(node: NodeSettings, seconds: float) -> None:
    """Takes the node's power away: exit status 0 is the proof of it. Raises PmcError with what the program said."""
    argv = shlex.split(node.fence)
    try:
        # A session of its own: Ctrl-C at the terminal must not end it midway, and its children end with it.
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            bufsize=0,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it cannot be run"
        raise _failed(node, why) from None
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    said = Said(process.stdout)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # one that the kernel holds ends when it lets go
            process.wait(REST)
        said.end()
        raise _failed(node, f"no end within {seconds:g} s") from None
    text = said.end()
    if status:
        text = masked(text, argv, node.name)
        raise _failed(node, f"status {status}: {text[-500:] or 'it said nothing'}")


def masked(text: str, argv: list[str], name: str) -> str:
    """Programs like to repeat how they were called; which of the words is a password only they know. It may follow its
    option in the same word: -pSECRET, --password=SECRET."""
    values = {word.partition("=")[2] if word.startswith("-") else word for word in argv[1:]}
    values |= {word[2:] for word in argv[1:] if word.startswith("-") and not word.startswith("--")}
    for value in sorted(values - {name}, key=len, reverse=True):
        if len(value) > 3:
            text = text.replace(value, "***")
    return text


def _failed(node: NodeSettings, why: str) -> PmcError:
    return PmcError(
        f"{node.name}: its fence command {program(node)} failed, so it is not known to be dead: {why}\n"
        f"  Take its power away by hand, then give --dead {node.name}"
    )
