"""Things done side by side, as far as the places that each keeps busy allow."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import pytest

from pmc.transport.scheduler import run_limited

Thing = tuple[int, frozenset[str]]


class Watched:
    """Work that sees how much of it is done at the same time: the most ever, at each place and "in all"."""

    def __init__(self) -> None:
        self.now, self.most, self.lock = Counter[str](), Counter[str](), threading.Lock()

    def __call__(self, thing: Thing) -> int:
        number, places = thing
        with self.lock:
            self.now.update([*places, "in all"])
            self.most |= self.now
        time.sleep(0.002)
        with self.lock:
            self.now.subtract([*places, "in all"])
        return number


@pytest.mark.parametrize(("each", "most"), [(1, 8), (2, 8), (3, 4), (8, 1)])
def test_no_place_and_not_the_whole_is_ever_crowded(each: int, most: int) -> None:
    chance, work = random.Random(1), Watched()
    things = [(number, frozenset(chance.choices("abcdef", k=2))) for number in range(60)]
    assert run_limited(work, things, lambda thing: thing[1], each, most) == list(range(60))
    assert work.most.pop("in all") <= most
    assert max(work.most.values()) <= each


def test_what_is_free_begins_though_one_before_it_waits() -> None:
    """b waits for a, c does not; a ends only when c has begun."""
    begun, order = threading.Event(), list[str]()

    def work(name: str) -> None:
        if name == "c":
            begun.set()
        if name == "a":
            assert begun.wait(10)
        order.append(name)

    run_limited(work, ["a", "b", "c"], lambda name: "x" if name in "ab" else "y", 1, 8)
    assert order == ["c", "a", "b"]


def test_as_many_as_may_are_done_at_once() -> None:
    all_there = threading.Barrier(4)
    run_limited(lambda number: all_there.wait(10), range(4), lambda number: ["x"], 4, 4)


def test_one_that_fails_leaves_its_place_to_the_next() -> None:
    done = []

    def work(number: int) -> None:
        done.append(number)
        assert number

    with pytest.raises(AssertionError):
        run_limited(work, range(3), lambda number: ["x"], 1, 2)
    assert done == [0, 1, 2]


def test_nothing_to_do() -> None:
    assert run_limited(str, [], lambda thing: ["x"], 1, 8) == []
