"""Taking and keeping locks on the nodes: one ssh session a node holds them, see pmc/lock.py."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import paramiko

from pmc import lock
from pmc.errors import CommandFailed, InDoubt, NodeDown, PmcError, Refused
from pmc.lock import Holder, Refusal
from pmc.node import WORKERS, Node, command_line
from pmc.ssh import begin
from pmc.view import note

OnAll = Callable[[Callable[[Node], Any]], list[Any]]


class Hold:
    """The session that holds locks on one node."""

    def __init__(self, node: Node, names: Sequence[str], holder: Holder, again: bool = False) -> None:
        """Raises PmcError when the node cannot be asked. `refusal` says who has the lock, when it was not given.
        `again`: this command had it there, and lost it."""
        self.node = node
        self.channel = node.channel()
        self.refusal: Refusal | None = None
        seconds = node.settings.deadlines.command
        try:
            self.channel.settimeout(seconds)
            argv = lock.hold(holder, names, again).argv
            begin(self.channel, command_line(argv, sudo=node.connection.user != "root"), seconds)
            said = b""
            while not said.endswith(b"\n") and (block := self.channel.recv(4096)):
                said += block
            if not said:
                raise ValueError(self.channel.recv_stderr(4096).decode(errors="replace").strip() or "it said nothing")
            self.refusal = lock.parse(said.decode(errors="replace"))
        except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
            self.channel.close()
            raise CommandFailed(node.name, f"flock {lock.FOLDER}/{names[0]}.lock", 255, str(error)) from None
        if self.refusal:
            self.channel.close()

    @property
    def lost(self) -> bool:
        transport = self.channel.get_transport()
        return bool(self.channel.closed or self.channel.eof_received or transport is None or not transport.is_active())

    def beat(self) -> None:
        with suppress(paramiko.SSHException, OSError, EOFError):
            self.channel.sendall(b"\n")

    def release(self) -> None:
        """Returns when the node has let go, so that the next command finds it free."""
        with suppress(paramiko.SSHException, OSError, EOFError):
            self.channel.shutdown_write()
            self.channel.settimeout(5)
            while self.channel.recv(4096):
                pass
        self.channel.close()


class Lock:
    """Locks `names` on every node asked that answers. One that only answers later, or was not asked, gives them when it
    is first used."""

    def __init__(self, names: Sequence[str], holder: Holder) -> None:
        self.names, self.holder = tuple(names), holder
        self.holds: dict[str, Hold] = {}
        self._one = threading.Lock()
        self._over = threading.Event()

    @contextmanager
    def taken(self, on_all: OnAll, seconds: float) -> Iterator[Lock]:
        """Waits until they are free, at most `seconds`; says for whom. `on_all` goes to the nodes. All nodes or none:
        two managers that each have a half would wait for each other for ever. Raises Refused."""
        deadline = time.monotonic() + seconds
        said, tries = set[str](), 0
        while refused := self._try(on_all):
            if time.monotonic() > deadline:
                raise Refused(f"{refused}; gave up after {seconds:g} s, nothing was touched")
            if refused not in said:
                note(f"waiting, at most {seconds:g} s: {refused}")
                said.add(refused)
            # At random, so that two that meet do not meet again; and a try is work for the nodes, so who has waited for
            # long asks less often.
            tries += 1
            time.sleep(random.uniform(0.3, 1.2) * min(tries, 4))  # noqa: S311
        beating = threading.Thread(target=self._beat, daemon=True)
        beating.start()
        try:
            yield self
        finally:
            self.release()

    def _try(self, on_all: OnAll) -> str:
        """Who stands in the way; empty when all locks are taken."""
        found = on_all(self._hold)
        self.holds = {hold.node.name: hold for hold in found if isinstance(hold, Hold) and not hold.refusal}
        wrong = [each for each in found if isinstance(each, PmcError) and not isinstance(each, NodeDown)]
        in_the_way = [hold for hold in found if isinstance(hold, Hold) and hold.refusal]
        if wrong or in_the_way:
            self._let_go()
        if wrong:
            raise wrong[0]
        for hold in in_the_way:
            if hold.refusal and hold.refusal.holder == str(self.holder):
                raise Refused(lock.twice(hold.node.name, hold.node.settings.source))
        return "; ".join(lock.told(hold.refusal, hold.node.name) for hold in in_the_way[:1] if hold.refusal)

    def _hold(self, node: Node) -> Hold | PmcError:
        try:
            return Hold(node, self.names, self.holder)
        except PmcError as error:
            return error

    def _beat(self) -> None:
        while not self._over.wait(lock.BEAT):
            for hold in list(self.holds.values()):
                hold.beat()

    def ensure(self, node: Node) -> None:
        """Before each step: the node holds the locks still. A connection that was lost gave them away; they are taken
        again unless somebody else has them by now, or had them meanwhile. The command that the connection was lost with
        may run on: its end is waited for, or what one sees would not be what it leaves. Raises InDoubt."""
        deadline = time.monotonic() + node.settings.deadlines.command
        with self._one:
            while True:
                hold = self.holds.get(node.name)
                if self._over.is_set() or (hold is not None and not hold.lost):
                    return
                again = Hold(node, self.names, self.holder, again=hold is not None)
                if not again.refusal:
                    self.holds[node.name] = again
                    return
                if again.refusal.kind != "busy" or time.monotonic() > deadline:
                    told = lock.told(again.refusal, node.name)
                    raise InDoubt(node.name, f"flock {self.names[0]}", told)
                time.sleep(0.3)

    def release(self) -> None:
        if not self._over.is_set():
            self._over.set()
            self._let_go()

    def _let_go(self) -> None:
        """Also on the nodes that gave it later."""
        holds, self.holds = list(self.holds.values()), {}
        with ThreadPoolExecutor(max_workers=max(1, min(WORKERS, len(holds)))) as pool:
            list(pool.map(lambda hold: hold.release(), holds))
