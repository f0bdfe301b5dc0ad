"""A migration while it runs: it ends when Ctrl-C, or DRBD's link, says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from pmc import drbd
from pmc.command import Command
from pmc.errors import CommandFailed, Interrupted, PmcError
from pmc.lock_files import Proof
from pmc.transport.node import Node


def run(
    node: Node,
    action: Command,
    vm: str,
    stopped: Callable[[], bool] = lambda: False,
    seconds: float | None = None,
    locks: Sequence[Proof] = (),
) -> None:
    """Ctrl-C and a lost link both end it as Ctrl-C at a terminal would: virsh aborts the job. When libvirt hangs,
    as it does for minutes while it logs in over a dead link, virsh is killed 20 s later."""
    with _linked(node, vm) as lost:
        try:
            node.run(action, stopped=lambda: stopped() or lost.is_set(), seconds=seconds, locks=locks)
        except Interrupted:
            if not lost.is_set() or stopped():
                raise
            said = "DRBD's two sides lost each other, so the migration was aborted; look at the link between the nodes"
            raise CommandFailed(node.name, str(action), 1, said) from None


@contextmanager
def _linked(node: Node, name: str) -> Iterator[threading.Event]:
    """An event that is set once DRBD on the node has lost its peer: a guest that went on to the other side then
    would leave its last writes behind."""
    lost, over = threading.Event(), threading.Event()

    def follow() -> None:
        while not over.wait(1):
            with suppress(PmcError):  # a node that cannot be asked shows in the command itself
                resource = node.ask(drbd.status(name))[0].get(name)
                if resource is None or not resource.connected:
                    lost.set()
                    return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        over.set()
        thread.join(5)
