"""Many nodes at the same time: those that are dead are waited for, together and beside the work on the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pmc.transport.node import WORKERS, Node

# How many nodes are waited for until they speak, which takes no processor. Not all of ten thousand: a node hangs up on
# who does not log in soon after that (sshd's LoginGraceTime).
REACHED = 512


def run_on_all(nodes: Sequence[Node], work: Callable[[Node], Any]) -> list[Any]:
    """`work` on each node, in turns: for so many at a time as are good for the processor (WORKERS), once it is known
    that somebody is there."""
    busy = threading.Semaphore(0)

    def turn(node: Node) -> Any:
        if not node.reach():
            return work(node)  # which is told so at once
        with busy:
            return work(node)

    with ThreadPoolExecutor(max_workers=max(1, min(REACHED, len(nodes)))) as pool:
        try:
            told = pool.map(turn, nodes)
        finally:  # once all are waited for: among busy threads another one is slow to begin
            busy.release(WORKERS)
        try:
            return list(told)
        except KeyboardInterrupt:
            # Whatever a thread waits for ends with its connection; else Ctrl-C would wait for the deadlines, too.
            pool.shutdown(wait=False, cancel_futures=True)
            for node in nodes:
                node.close()
            raise
