"""Many nodes at the same time: those that are dead are waited for, together and beside the work on the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import nullcontext, suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

from pmc.transport.node import WORKERS, Node

# How many nodes are waited for until they speak, which takes no processor. Not all of ten thousand: a node hangs up on
# who does not log in soon after that (sshd's LoginGraceTime).
REACHED = 512

T = TypeVar("T")


def run_on_all(nodes: Sequence[Node], work: Callable[[Node], T]) -> list[T]:
    """`work` on each node, in turns: for so many at a time as are good for the processor (WORKERS), once it is known
    that somebody is there."""
    busy = threading.Semaphore(0)
    told = [Future[T]() for _ in nodes]
    left = SimpleQueue[tuple[Node, Future[T]]]()
    for turn in zip(nodes, told, strict=True):
        left.put(turn)

    def take_turns() -> None:
        with suppress(Empty):
            while True:
                _turn(*left.get_nowait(), work, busy)

    try:
        for _ in range(min(REACHED, len(nodes))):
            # No pool of concurrent.futures: Python waits for its threads before it ends.
            threading.Thread(target=take_turns, daemon=True).start()
        busy.release(WORKERS)  # once all are waited for: among busy threads another one is slow to begin
        wait(told)
    except KeyboardInterrupt:
        # Who is not reached yet is left alone. Whatever a thread at work waits for ends with its connection; else
        # Ctrl-C would wait for the deadlines, too.
        at_work = [each for each in told if not each.cancel()]
        for node in nodes:
            node.close()
        wait(at_work)
        raise
    return [each.result() for each in told]


def _turn(node: Node, told: Future[T], work: Callable[[Node], T], busy: threading.Semaphore) -> None:
    try:
        # Where nobody is, `work` is told so at once.
        with busy if node.reach() else nullcontext():
            if told.set_running_or_notify_cancel():
                told.set_result(work(node))
    except BaseException as error:
        with suppress(InvalidStateError):  # it is not waited for any more
            told.set_exception(error)
