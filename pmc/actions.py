"""What a step of a plan may be: a command, bytes that go from one machine to another, a wait. Values. Pure."""

from __future__ import annotations

import math
import os
import shlex
from dataclasses import dataclass

from pmc.command import Command

# Of a file, as fstat(2) tells: device, inode, size, and the times of its last change in nanoseconds (ctime among them,
# which nobody can set back).
Identity = tuple[int, ...]


def identity(about: os.stat_result) -> Identity:
    return (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@dataclass(frozen=True)
class Transfer:
    """A file of the manager given to a command on the node, as its stdin. `file`, when not empty, is what `identity`
    said of it when it was checked: another file in its place, or a change, is an error."""

    source: str
    size: int
    target: Command
    file: Identity = ()

    def __str__(self) -> str:
        return f"{self.target} < {self.source}"


@dataclass(frozen=True)
class Fetch:
    """What a command on the node prints, kept as a file of the manager (mode 600); `size` bytes. 0 when that is not
    known, and then no more than `most`: a node must not fill the manager's disk."""

    source: Command
    target: str
    size: int
    most: int = 0

    def __post_init__(self) -> None:
        if not (self.size or self.most):
            raise ValueError(f"{self.target}: nobody says how large it may be")

    def __str__(self) -> str:
        return f"{self.source} > {shlex.quote(self.target)}"


@dataclass(frozen=True)
class Wait:
    """Run `ask`, which changes nothing, until it succeeds, at most `seconds` long. Its status 1 says: not yet; any
    other is an error. `otherwise` is said when it never succeeded."""

    ask: Command
    seconds: float
    otherwise: str

    def __str__(self) -> str:
        return self.line(str(self.ask))

    def line(self, asked: str) -> str:
        """Shell text (bash) that waits for the same; `asked` is how that shell runs `ask`."""
        return (
            f"(SECONDS=0; until {asked}; do s=$?; [ $s = 1 ] || exit $s; [ $SECONDS -lt {math.ceil(self.seconds)} ] || "
            f"{{ echo {shlex.quote(self.otherwise)} >&2; exit 1; }}; sleep 1; done)"
        )


@dataclass(frozen=True)
class Relay:
    """What `reader` prints on the node `source`, given to `target` as its stdin: what only an earlier step makes."""

    source: str
    reader: Command
    target: Command

    def __str__(self) -> str:
        return f"ssh {self.source} {shlex.quote(str(self.reader))} | {self.target}"


Action = Command | Transfer | Fetch | Wait | Relay


@dataclass(frozen=True)
class Watch:
    """What to show while a long step runs: bytes that the command reports on stderr as dd does ("123 bytes ..."), of
    `total`; or the migration of the domain `subject`."""

    kind: str  # bytes, migration
    subject: str
    total: int = 0


def long(action: Action) -> bool:
    """Whether what it does on its node may take more than the moment that most commands take."""
    if isinstance(action, Wait):
        return False
    if isinstance(action, Fetch):
        return action.source.long
    return action.long if isinstance(action, Command) else action.target.long
