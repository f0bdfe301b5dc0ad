"""Which running VMs change to their other node so that memory is used evenly. Pure.

As Ganeti's hbal: always the best single move next, until none is left that is worth it. Of hbal's moves only the
migration between a VM's two nodes is taken, for which no disk is copied; docs/placement.md tells what else differs.
What a move is worth depends on its two nodes alone, so after each only the VMs of these two are weighed again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass

from pmc.capacity.memory import Guest, Memory

# The target, with the VM, must stay by this share of memory below what the source was: else much memory would be moved
# for little.
LEAST = 0.02

# By how much a move changes what N+1 lacks, then the squares of the spread (less is better); the name breaks ties.
Worth = tuple[int, float, str]


@dataclass(frozen=True)
class Solution:
    """`moves`: in this order, each VM as it is before it moves. `weighed`: how many moves were looked at."""

    moves: tuple[Guest, ...]
    after: Memory
    weighed: int


def solve(memory: Memory, movable: Iterable[Guest]) -> Solution:
    ahead = deepcopy(memory)
    guests = {guest.name: guest for guest in movable}
    living: dict[str, list[str]] = defaultdict(list)
    for guest in guests.values():
        living[guest.on].append(guest.name)
        living[guest.refuge].append(guest.name)
    good: dict[str, Worth] = {}
    moves: list[Guest] = []
    again, weighed = list(guests), 0
    while True:
        for name in again:
            weighed += 1
            if worth := weigh(ahead, guests[name]):
                good[name] = worth
            else:
                good.pop(name, None)
        if not good:
            return Solution(_straight(memory, moves), ahead, weighed)
        best = guests[min(good.values())[-1]]
        ahead.move(best)
        moves.append(best)
        guests[best.name] = best.moved
        again = list(dict.fromkeys((*living[best.on], *living[best.refuge])))


def weigh(memory: Memory, guest: Guest) -> Worth | None:
    """None: it is not worth it, or it must not be."""
    source, target, size = guest.on, guest.refuge, guest.memory
    lacking = memory.lacking(source)
    full, after = memory.share(source), memory.share(target, size)
    if not lacking and full - after < LEAST:
        return None
    level, before, emptied = memory.level, memory.share(target), memory.share(source, -size)
    uneven = (emptied - level) ** 2 + (after - level) ** 2 - (full - level) ** 2 - (before - level) ** 2
    relief = memory.lacking(source, size, besides=target) - memory.lacking(source, besides=target) if lacking else 0
    if relief < 0 or (uneven < 0 and full - after >= LEAST):
        return (relief, uneven, guest.name) if fits(memory, guest) else None
    return None


def fits(memory: Memory, guest: Guest) -> bool:
    """On its other node, together with what may fall on that from any third one. What the two nodes lack for each other
    stays the same: as much less, or more, may fall as is free."""
    return guest.memory + memory.worst(guest.refuge, besides=guest.on) <= memory.free[guest.refuge]


def _straight(memory: Memory, moves: Sequence[Guest]) -> tuple[Guest, ...]:
    """Without the VMs that come back later to where they were, if the others need not wait for that."""
    for name, times in Counter(guest.name for guest in moves).items():
        turns = [number for number, guest in enumerate(moves) if guest.name == name]
        rest = [guest for number, guest in enumerate(moves) if number not in turns[times % 2 :]]
        if times > 1 and _possible(deepcopy(memory), rest):
            moves = rest
    return tuple(moves)


def _possible(memory: Memory, moves: Iterable[Guest]) -> bool:
    for guest in moves:
        if not fits(memory, guest):
            return False
        memory.move(guest)
    return True
