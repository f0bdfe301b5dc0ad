"""The audit log on the manager: one line of JSON for each command that changed something. It never makes one fail."""

from __future__ import annotations

import getpass
import json
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pmc.plan import Plan
from pmc.view import note


def who() -> str:
    """user@host, and who stands behind sudo."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = f"uid {os.getuid()}"  # no name for it in the password database
    behind = os.environ.get("SUDO_USER")
    return f"{user}{f' ({behind})' if behind and behind != user else ''}@{platform.node()}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Record:
    """From the start of a command to its end."""

    def __init__(self, path: str, what: str) -> None:
        self.path, self.what = path, what
        self.began, self._clock = now(), time.monotonic()

    def write(self, plans: Sequence[Plan], error: BaseException | None) -> None:
        """`plans`: those that were applied, whatever became of them. Steps without their commands: those are the
        plan's to show, and hold the VM's whole definition."""
        if not self.path or not any(plan.steps for plan in plans):
            return
        line = {
            "time": self.began,
            "who": who(),
            "what": self.what,
            "plan": [f"{step.node}: {step.note}" for plan in plans for step in plan.steps],
            "result": "done" if error is None else (str(error) or type(error).__name__),
            "seconds": round(time.monotonic() - self._clock, 1),
        }
        try:
            # Appended in one write, so that two commands' lines do not mix. Other users need not read it.
            text = json.dumps(line, ensure_ascii=False).encode("utf-8", errors="replace") + b"\n"
            handle = os.open(Path(self.path).expanduser(), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, text)
            finally:
                os.close(handle)
        except (OSError, ValueError, RuntimeError) as failure:
            with suppress(Exception):
                said = getattr(failure, "strerror", None) or failure
                note(f"the audit log {self.path} cannot be written ({said}); set audit_log in pmc.conf")
