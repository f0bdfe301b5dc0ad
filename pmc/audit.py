"""The audit log on the manager: a line of JSON when a command begins to change something, and one at its end. It never
makes one fail."""

from __future__ import annotations

import errno
import json
import os
import platform
import pwd
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pmc.plain import escaped
from pmc.plan import Plan
from pmc.view.output import note


def who() -> str:
    """user@host, as the kernel has it: not what $LOGNAME says. Beside it who logged in, which the kernel keeps through
    sudo and su; where it does not, what sudo's variable says, as that: whoever starts pmc can set it."""
    user, behind = _name(os.getuid()), ""
    with suppress(OSError, ValueError):
        login = int(Path("/proc/self/loginuid").read_text())
        behind = _name(login) if login < _UNSET else ""
    said = os.environ.get("SUDO_USER", "")
    if not behind and said:
        behind = f"SUDO_USER={said[:40]!r}"
    return f"{user}{f' ({behind})' if behind and behind != user else ''}@{platform.node()}"


_UNSET = 2**32 - 1  # proc(5): nobody has logged in


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"  # no name for it in the password database


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


BEGUN = "begun"


def _cut(path: Path, handle: int) -> bool:
    """Whether the last record has no end, as a full disk leaves it: the next one is not to share its line."""
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode) or not about.st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _kept(handle: int) -> None:
    """On the disk before the first step: it is what a manager that loses power leaves. What is no file has no disk."""
    with suppress(OSError):
        os.fsync(handle)


class Record:
    """From the start of a command to its end. `time` and `pid` are the same in its two lines."""

    def __init__(self, path: str, what: str) -> None:
        self.path, self.what = path, what
        self.began, self._clock = now(), time.monotonic()
        self._begun = self._told = False

    def begin(self, plan: Plan) -> None:
        """Before the first step of the first plan: a manager that is killed writes no other line."""
        if not self._begun and plan.steps:
            self._begun = True
            self._append([plan], {"result": BEGUN})

    def write(self, plans: Sequence[Plan], error: BaseException | None) -> None:
        """`plans`: those that were applied, whatever became of them."""
        if any(plan.steps for plan in plans):
            result = "done" if error is None else (str(error) or type(error).__name__)
            self._append(plans, {"result": result, "seconds": round(time.monotonic() - self._clock, 1)})

    def _append(self, plans: Sequence[Plan], end: Mapping[str, object]) -> None:
        """Steps without their commands: those are the plan's to show, and hold the VM's whole definition."""
        if not self.path:
            return
        line = {
            "time": self.began,
            "who": who(),
            "pid": os.getpid(),
            "what": self.what,
            "plan": [f"{step.node}: {step.note}" for plan in plans for step in plan.steps],
            **end,
        }
        try:
            # Appended in one write, so that two commands' lines do not mix. Other users need not read it. A pipe that
            # nobody reads is no reason to wait.
            text = escaped(json.dumps(line, ensure_ascii=False)).encode() + b"\n"
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            path = Path(self.path).expanduser()
            handle = os.open(path, flags, 0o600)
            try:
                if _cut(path, handle):
                    text = b"\n" + text
                if os.write(handle, text) < len(text):
                    raise OSError(errno.ENOSPC, "it took a part of the record only; is its disk full?")
                if end["result"] == BEGUN:
                    _kept(handle)
            finally:
                os.close(handle)
        except (OSError, ValueError, RuntimeError) as failure:
            with suppress(Exception):
                said = getattr(failure, "strerror", None) or failure
                if not self._told:
                    note(f"the audit log {self.path} cannot be written ({said}); set audit_log in pmc.conf")
                self._told = True
