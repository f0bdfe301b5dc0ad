"""The fence command of a node: a program of the administrator's, run on the manager. Its line may hold a password, so
none of its words but the program's name is ever shown."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from contextlib import suppress

from pmc.errors import PmcError
from pmc.settings import NodeSettings


def program(node: NodeSettings) -> str:
    return os.path.basename(shlex.split(node.fence)[0])


def run(node: NodeSettings, seconds: float) -> None:
    """Takes the node's power away: exit status 0 is the proof of it. Raises PmcError with what the program said."""
    argv = shlex.split(node.fence)
    try:
        # A session of its own: Ctrl-C at the terminal must not end it midway, and its children end with it.
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it cannot be run"
        raise _failed(node, why) from None
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise _failed(node, f"no end within {seconds:g} s") from None
    if process.returncode:
        text = masked(said.decode(errors="replace").strip(), argv, node.name)
        raise _failed(node, f"status {process.returncode}: {text[-500:] or 'it said nothing'}")


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
