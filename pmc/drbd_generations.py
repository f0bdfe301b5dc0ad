"""What each side of a DRBD resource tells about its past, and the commands that bring the two together again. Pure.

Sources: the LINBIT user's guides on generation identifiers and on recovery from a split brain; drbdadm(8).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pmc.command import Command, Query, bash, command, operation
from pmc.units import count, finite

# The lowest bit of an identifier says that the side was primary, and is no part of it.
_FLAG = 1
_NONE, _JUST_CREATED = 0, 4


@dataclass(frozen=True)
class Generation:
    """The identifiers of one side's data. `current` is a new one whenever the side begins to write without its peer;
    `bitmap` is then the one that both had; `history` the two before."""

    current: int
    bitmap: int = _NONE
    history: tuple[int, ...] = ()


@dataclass(frozen=True)
class Past:
    """What the kernel's log still knows, as Unix times of this node's clock. None: not in the log. `now` is that clock
    when it was asked; `stepped`: it was set back between two of these lines."""

    lost: float | None = None  # it lost its peer
    alone: float | None = None  # its first write without the peer, or its promotion, after that
    demoted: float | None = None  # it was made secondary, and could not write any more
    split: float | None = None  # it found out that there are two histories
    resync: int | None = None  # bytes that the last resync set out to copy
    now: float | None = None
    stepped: bool = False


def generation(name: str) -> Query[Generation]:
    """From the kernel while the resource is up with its disk, else from the metadata."""
    return Query(command("drbdadm", "get-gi", name), parse_generation)


def parse_generation(text: str) -> Generation:
    found = re.search(r"^((?:[0-9A-F]{16}:){4})", text, re.M)
    if found is None:
        raise ValueError("not generation identifiers")
    current, bitmap, *history = (int(word, 16) & ~_FLAG for word in found[1].strip(":").split(":"))
    return Generation(current, bitmap, tuple(history))


@operation
def went_on(name: str, peer: str, version: str) -> Command:
    """Succeeds when this side has begun a new generation, which its peer has not yet (the second identifier, its lowest
    bit aside, is not zero); ends 1 when not, 2 when it cannot be asked. DRBD 9 wants peer and volume named."""
    of = name if version.startswith("8.") else f"{name}:{peer}/0"
    script = (
        'said=$(drbdadm get-gi "$1") || exit 2; '
        "[[ $said =~ (^|$'\\n')[0-9A-F]{16}:([0-9A-F]{16}): ]] || { echo 'not generation identifiers' >&2; exit 2; }; "
        "[[ ! ${BASH_REMATCH[2]} =~ ^0{15}[01]$ ]]"
    )
    return bash(script, of)


def compare(one: Generation, other: Generation) -> str:
    """equal: the same data, or DRBD knows what is missing. ahead: `one` was written on, `other` was not, and DRBD
    copies what is missing by itself; behind: the reverse. split: both were written on. unrelated: nothing in common.

    The kernel decides the same way (drbd_uuid_compare in drbd_receiver.c) when two sides meet."""
    if one.current == other.current:
        return "equal"
    if one.current in (_NONE, _JUST_CREATED) or one.current in (other.bitmap, *other.history):
        return "behind"
    if other.current in (_NONE, _JUST_CREATED) or other.current in (one.bitmap, *one.history):
        return "ahead"
    if ({one.bitmap, *one.history} & {other.bitmap, *other.history}) - {_NONE}:
        return "split"
    return "unrelated"


def past(name: str, minor: int) -> Query[Past]:
    """DRBD does not keep when a side was last written; the kernel's log says between which times it could be."""
    script = (
        "journalctl --quiet --no-pager --output short-unix _TRANSPORT=kernel "
        '| { grep -E "drbd $1[:/ ]|block drbd$2:" || :; } | tail -n 400; echo "now $(date +%s)"'
    )
    return Query(bash(script, name, str(minor)), parse_past)


def parse_past(text: str) -> Past:
    """Lines of 8.4 and 9, oldest first."""
    now: dict[str, float | int | None] = {}
    before = 0.0
    for line in text.splitlines():
        if clock := re.fullmatch(r"now (\d{1,18})", line, re.ASCII):
            now["now"] = finite(clock[1])
        found = re.match(r"(\d+\.\d+) \S+ kernel: (.*)", line)
        if found is None:
            continue
        time, said = finite(found[1]), found[2]
        if time < before - 1:
            now["stepped"] = True
        before = time
        if re.search(r"conn\( (Connected|Sync\w+|Paused\w+|Verify\w) -> (?!Connected|Sync|Paused|Verify)", said):
            now |= {"lost": time, "alone": None, "split": None}
        elif "new current UUID" in said:
            now["alone"] = time
        elif re.search(r"role\( Primary -> Secondary \)", said):
            now["demoted"] = time
        elif "Split-Brain detected" in said:
            now["split"] = time
        elif amount := re.search(r"Began resync as \w+ \(will sync (\d+) KB", said):
            now["resync"] = count(amount[1]) * 1024
    return Past(**now)  # type: ignore[arg-type]


# drbdadm cannot disconnect what is StandAlone, nor connect what is not: an error each.
_ALONE = 'drbdsetup events2 --now "$1" | grep connection:StandAlone >/dev/null'


@operation
def disconnect(name: str) -> Command:
    """Harmless when it is disconnected already."""
    return bash(f'{_ALONE} || drbdadm disconnect "$1"', name)


@operation
def connect(name: str) -> Command:
    return command("drbdadm", "connect", name)


@operation
def connect_as_loser(name: str) -> Command:
    """What this side wrote since the two parted is overwritten with the peer's data, and nothing else is copied."""
    return command("drbdadm", "connect", "--discard-my-data", name)


@operation
def resume(name: str) -> Command:
    return command("drbdadm", "resume-sync", name)


@operation
def connect_if_alone(name: str) -> Command:
    """One that still looks for its peer is told nothing."""
    return bash(f'{{ ! {_ALONE}; }} || drbdadm connect "$1"', name)


@operation
def detach(name: str) -> Command:
    return command("drbdadm", "detach", name)


@operation
def is_attached(name: str) -> Command:
    """Ends 124, which is neither yes nor no, when drbdadm itself fails."""
    return bash('disk=$(drbdadm dstate "$1") || exit 124; [[ $disk != Diskless* && $disk != Unconfigured ]]', name)
