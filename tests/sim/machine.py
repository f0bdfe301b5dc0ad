"""A node of the small world (fake.py): what it has, and how its tools refuse."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pmc.model import Volume


@dataclass
class Kernel:
    """A DRBD resource that is up."""

    minor: int
    role: str = "Secondary"
    disk: str = "Inconsistent"
    two_primaries: bool = False
    alone: bool = False  # StandAlone
    discard: bool = False  # connects with --discard-my-data
    split: bool = False  # written without the other, as the other was without it
    hosts: tuple[str, ...] = ()  # what its resource file named when it was brought up
    marked: int = 0  # bytes that a verify found to differ
    holds: bool = False  # when it loses its peer, it holds its writes
    held: bool = False  # and does so now: suspended:fencing
    behind: bool = False  # its peer, when it was last seen, was known to lack writes (pdsk Outdated, Inconsistent)


@dataclass
class Machine:
    volumes: dict[str, Volume] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    resources: dict[str, Kernel] = field(default_factory=dict)
    domains: dict[str, str] = field(default_factory=dict)
    saved: set[str] = field(default_factory=set)  # the domains whose memory libvirt keeps here


class Impossible(Exception):
    """The tool refuses."""


class Unknown(BaseException):
    """An error of the test. Not an Exception: a plan's rollback goes on past those."""


def need(holds: object, said: str) -> None:
    if not holds:
        raise Impossible(said)


def says(text: str, words: tuple[str, ...]) -> bool:
    """As drbd.sees judges what events2 prints; `words` are its facts, flat."""
    for kind, pattern in zip(words[::2], words[1::2], strict=True):
        its = [line for line in text.splitlines() if line.startswith(f"exists {kind} ")]
        its = [line for line in its if " peer-client:yes" not in line]
        if not its or not all(re.search(f" ({pattern})( |$)", line) for line in its):
            return False
    return True
