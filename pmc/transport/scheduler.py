"""Many things to do, each of which keeps some places busy: side by side as far as these allow."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def run_limited(
    work: Callable[[T], R], things: Sequence[T], places: Callable[[T], Collection[str]], each: int, most: int
) -> list[R]:
    """`work` on all the things, at most `most` at the same time and `each` at any of its places; the first that may
    begin begins. Results in the order of the things."""
    waiting, busy, turn = list(enumerate(things)), Counter[str](), threading.Condition()
    results: dict[int, R] = {}

    def begun() -> tuple[int, T] | None:
        """The next one, its places taken; None when nothing is left."""
        with turn:
            while waiting:
                for number, thing in waiting:
                    if all(busy[place] < each for place in places(thing)):
                        waiting.remove((number, thing))
                        busy.update(places(thing))
                        return number, thing
                turn.wait()
            return None

    def run() -> None:
        while (next_ := begun()) is not None:
            number, thing = next_
            try:
                results[number] = work(thing)
            finally:
                with turn:
                    busy.subtract(places(thing))
                    turn.notify_all()

    count = max(1, min(most, len(things)))
    with ThreadPoolExecutor(max_workers=count) as pool:
        for done in [pool.submit(run) for _ in range(count)]:
            done.result()
    return [results[number] for number in range(len(things))]
