"""DRBD's online verify, which reads and compares both sides of a resource while it is in use. Pure.

A block that is being written can be reported although the sides are equal (LINBIT/drbd issue 68). So what one pass
finds is looked at by a second pass, and only what both found is an error: the kernel's log names each pass's ranges.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pmc.command import Command, Query, bash, command
from pmc.health.cluster_facts import Facts
from pmc.health.finding import Finding
from pmc.health.vm_replication import resync
from pmc.plain import then
from pmc.units import count, finite

Range = tuple[int, int]  # first sector, and the one after the last


@dataclass(frozen=True)
class Log:
    """What the kernel's log says of one pass: whether it came to its end there, and what differed."""

    ended: bool
    ranges: tuple[Range, ...]


@dataclass(frozen=True)
class Pass:
    """`marked`: bytes that DRBD holds for different after it."""

    log: Log
    marked: int


def candidates(facts: Facts, vm: str = "") -> dict[str, str]:
    """The VMs (or the one) that a verify can be run on, each with the node to run it on: both sides equal as far as
    DRBD knows, nothing else under way. The others have a finding already."""
    chosen = {}
    for name in (vm,) if vm else facts.whole:
        sides = facts.resources(name) if name in facts.whole else []
        idle = all(now.healthy and now.replication == "Established" and not now.suspended for _, now in sides)
        if len(sides) == 2 and idle:
            primary = [node.name for node, now in sides if now.primary]
            chosen[name] = (primary or [sides[0][0].name])[0]
    return chosen


def start(vm: str, version: str, peer: str) -> Command:
    """DRBD 9 wants the peer and the volume named."""
    return command("drbdadm", "verify", vm if version.startswith("8.") else f"{vm}:{peer}/0")


def done(vm: str, minor: int) -> Query[float]:
    """Percent of a pass that is under way: 8.4 tells it in /proc/drbd, 9 in events2. 0: it does not say."""
    script = (
        'grep -A 3 "^ *$1: " /proc/drbd 2>/dev/null | grep -Eo "verified: *[0-9.]+" || '
        'drbdsetup events2 --now --statistics "$2" | grep -Eo "done:[0-9.]+" || :'
    )
    return Query(bash(script, str(minor), vm), parse_done)


def parse_done(text: str) -> float:
    found = re.search(r"(?:verified: *|done:)(\d+(?:\.\d+)?)", text)
    return finite(found[1]) if found else 0.0


def newest() -> Query[float]:
    """The kernel log's clock at its last line, which is not quite that of /proc/uptime: they drift apart."""
    return Query(bash("dmesg | tail -n 1"), parse_newest)


def parse_newest(text: str) -> float:
    found = re.match(r"\[ *(\d+\.\d+)\]", text)
    return finite(found[1]) if found else 0.0


def log(minor: int, since: float) -> Query[Log]:
    """Of the device's pass that was started after the line of `since`. No line of it: the log is lost."""
    script = 'dmesg | { grep -E "drbd$1[: ].*(Out of sync: start=|Online verify +(done|found))" || :; }'
    return Query(bash(script, str(minor)), lambda text: parse_log(text, since))


_LINE = re.compile(r"^\[ *(\d+\.\d+)\] .*?(?:(Online verify) +(?:done|found)|Out of sync: start=(\d+), size=(\d+))")


def parse_log(text: str, since: float) -> Log:
    ended, ranges = False, set()
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None or finite(found[1]) <= since:
            continue
        if found[2]:
            ended = True
        else:
            ranges.add((count(found[3]), count(found[3]) + count(found[4])))
    return Log(ended, tuple(sorted(ranges)))


def common(first: tuple[Range, ...], second: tuple[Range, ...]) -> tuple[Range, ...]:
    """What lies in ranges of both, which are sorted; in one walk along them, for there may be very many."""
    found, ours, theirs = list[Range](), _joined(first), _joined(second)
    i = j = 0
    while i < len(ours) and j < len(theirs):
        (a, b), (c, d) = ours[i], theirs[j]
        if max(a, c) < min(b, d):
            found.append((max(a, c), min(b, d)))
        i, j = (i + 1, j) if b < d else (i, j + 1)
    return tuple(found)


def _joined(ranges: tuple[Range, ...]) -> list[Range]:
    """Those that overlap as one."""
    found = list[Range]()
    for begin, end in ranges:
        if found and begin < found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def clean(seen: Pass) -> bool:
    """A pass that was interrupted, or whose log is lost, has shown nothing."""
    return seen.log.ended and not seen.marked and not seen.log.ranges


def judged(vm: str, node: str, first: Pass, second: Pass, facts: Facts) -> Finding | None:
    """Of a VM whose first pass, run on `node`, was not clean."""
    fix = resync(facts, vm)
    if not (first.log.ended and second.log.ended):
        if not (first.marked or first.log.ranges):
            if clean(second):
                return None
            if not (second.marked or second.log.ranges):
                text = "the kernel's log does not say that either of two passes came to its end"
                return Finding(
                    "VERIFY_FAILED", text, then("Look why, then run it again", f"on {node}: journalctl -k"), node, vm
                )
        text = f"{second.marked} bytes are marked as different after two passes; blocks that were being written may be "
        return Finding("VERIFY_DIFFERS", f"{text}among them, for the kernel's log does not tell which", fix, vm=vm)
    if both := common(first.log.ranges, second.log.ranges):
        size = sum(end - begin for begin, end in both) * 512
        where = ", ".join(f"{begin}-{end - 1}" for begin, end in both[:3]) + (", ..." if len(both) > 3 else "")
        return Finding("VERIFY_DIFFERS", f"{size} bytes differ, found twice, in the sectors {where}", fix, vm=vm)
    text = (
        "blocks that were being written were found different once, and not again; while they are marked, vm.mv refuses"
    )
    return Finding("VERIFY_ONCE", text, then("This takes the mark away", resync(facts, vm)), vm=vm)
