"""What can go wrong, and the exit status that says so.

    PmcError (an invoke.Exit: its message is printed on stderr, without a traceback)
    ├── Refused            2  bad input or a wrong state of the cluster; nothing was touched (1 when something was)
    │   ├── SettingsError  2  the configuration file
    │   └── NodeDown       2  a node that is needed does not answer
    ├── CommandFailed      1  a command ran on a node and failed
    ├── InDoubt            1  it is not known whether a command ran to its end
    ├── Fenced             1  a step came to its node too late: another command may have the lock; nothing ran
    ├── Interrupted        1  Ctrl-C or SIGTERM
    └── StepFailed         1  a step of a plan failed and all before it was undone; 3 when something may be half done

What a command comes to is decided in one place, at its end: see `at_the_end`. Every message says what is true; `next`
is the one command that helps.
"""

from __future__ import annotations

import sys
from types import FrameType

from invoke.exceptions import Exit

from pmc.plain import advice, one_line, plain, then


class PmcError(Exit):
    """Base of all; `status` (invoke's `code`) is the exit status of the program. `rule` tells errors apart without
    reading their words, which may change: the module and the function that made it, such as `requirements.healthy`."""

    status = 1

    def __init__(self, message: str, next: str = "") -> None:
        """`next`: the command that a person pastes after reading it."""
        self.rule = _rule(self, sys._getframe(1))
        # Here, since invoke prints it: what nodes and tools say is in it.
        super().__init__(advice(plain(then(message, next) if next else message)))

    def __str__(self) -> str:
        return str(self.message)

    @property
    def code(self) -> int:
        return self.status


class Refused(PmcError):
    status = 2


class SettingsError(Refused):
    pass


class NodeDown(Refused):
    """`answered`: something was there and spoke, though it could not be used; silence alone may be death."""

    def __init__(self, message: str, answered: bool = False, next: str = "") -> None:
        super().__init__(message, next)
        self.answered = answered


class CommandFailed(PmcError):
    """`node`, `line` (the command as one could paste it), `exit`, the tool's own `stderr`, and of that the last line,
    fit to be shown (`said`), empty when it said nothing."""

    def __init__(self, node: str, line: str, exit: int, stderr: str) -> None:
        self.node, self.line, self.exit, self.stderr = node, line, exit, stderr.strip()
        self.said = one_line(self.stderr.split("\n")[-1])
        super().__init__(f"{node}: '{_first(line)}' ended with status {exit}: {self.said or 'it said nothing'}")


class InDoubt(PmcError):
    """The connection or the deadline was lost while a command ran: it may or may not have taken effect."""

    def __init__(self, node: str, line: str, why: str) -> None:
        self.node, self.line, self.why = node, line, why
        super().__init__(f"{node}: '{_first(line)}': {one_line(why)}; it may or may not have run")


class Fenced(PmcError):
    """Nothing ran. `token` is of the latest lock that the node knows."""

    def __init__(self, node: str, line: str, why: str, token: str = "") -> None:
        self.node, self.line, self.why, self.token = node, line, why, token
        super().__init__(f"{node}: '{_first(line)}': {one_line(why)}")


class Interrupted(PmcError):
    def __init__(self, message: str = "interrupted") -> None:
        super().__init__(message)


class StepFailed(PmcError):
    """`half`: not all of it was undone, or it is not known whether; a person must look."""

    def __init__(self, message: str, half: bool = False) -> None:
        super().__init__(message)
        self.half = half
        self.status = 3 if half else 1


def at_the_end(error: PmcError, touched: bool, half: bool) -> None:
    """Gives the error the exit status of the command that it ends. `touched`: a step was applied to a node, whatever
    became of it; `half`: something may be half done, in this plan or another of the command."""
    if half:
        error.status = 3
    elif touched and error.status == Refused.status:
        error.status = PmcError.status
        stays = "What was done before stays. When that is put right, run the same command again."
        error.message = f"{error.message}\n  {stays}"


def _rule(error: PmcError, made: FrameType | None) -> str:
    while made and made.f_code.co_name == "__init__" and made.f_locals.get("self") is error:
        made = made.f_back  # of the error's own class
    if made is None:
        return ""
    module = str(made.f_globals.get("__name__", "")).rpartition(".")[2]
    function = made.f_code.co_qualname.partition(".<locals>")[0]
    return ".".join(part.lstrip("_") for part in (module, *function.split(".")))


def _first(line: str) -> str:
    line = one_line(line.partition("\n")[0])
    return line if len(line) <= 120 else line[:117] + "..."
