"""Taking and keeping locks on the nodes: one ssh session a node holds them, see pmc/lock_files.py."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import paramiko

from pmc import lock_files
from pmc.errors import CommandFailed, Fenced, InDoubt, NodeDown, PmcError, Refused
from pmc.lock_files import Holder, Refusal
from pmc.transport.connection import begin
from pmc.transport.node import WORKERS, Node, command_line
from pmc.view.output import note

MOST = 1 << 16  # bytes of an answer: a line
LETTING_GO = 5.0  # seconds

T = TypeVar("T")
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
            argv = lock_files.hold(holder, names, again).argv
            begin(self.channel, command_line(argv, sudo=node.connection.user != "root"), seconds)
            said = received(self.channel, seconds, until=b"\n")
            if not said:
                raise ValueError(self.channel.recv_stderr(4096).decode(errors="replace").strip() or "it said nothing")
            self.refusal = lock_files.parse(said.decode(errors="replace"))
            if self.refusal and self.refusal.name not in names:  # it would be told, in a command to paste
                raise ValueError("it tells of a lock that it was not asked for")
        except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
            self.close()
            raise CommandFailed(node.name, f"flock {lock_files.FOLDER}/{names[0]}.lock", 255, str(error)) from None
        if self.refusal:
            self.close()

    def close(self) -> None:
        """The node lets go, whenever it hears of it."""
        with suppress(paramiko.SSHException, OSError, EOFError):
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
            received(self.channel, LETTING_GO)
        self.close()


def received(channel: paramiko.Channel, seconds: float, until: bytes = b"") -> bytes:
    """What the node says up to `until` or its end. Raises OSError when that takes longer than `seconds`, or it says too
    much: a node that drips would hold pmc for ever."""
    deadline, said = time.monotonic() + seconds, b""
    while not (until and said.endswith(until)):
        channel.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            block = channel.recv(4096)
        except TimeoutError:
            raise OSError(f"no end of its answer within {seconds:g} s") from None
        if not block:
            break
        said += block
        if len(said) > MOST:
            raise OSError("it says too much")
    return said


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
                raise Refused(lock_files.twice(hold.node.name, hold.node.settings.source))
        return "; ".join(lock_files.told(hold.refusal, hold.node.name) for hold in in_the_way[:1] if hold.refusal)

    def _hold(self, node: Node) -> Hold | PmcError:
        try:
            return Hold(node, self.names, self.holder)
        except PmcError as error:
            return error

    def _beat(self) -> None:
        while not self._over.wait(lock_files.BEAT):
            for hold in list(self.holds.values()):
                hold.beat()

    @property
    def proofs(self) -> tuple[lock_files.Proof, ...]:
        """What a step that is done under it shows to its node; nothing once it is let go."""
        return () if self._over.is_set() else tuple((name, self.holder.token) for name in self.names)

    def ensure(self, node: Node) -> None:
        """Before each step: the node holds the locks still, as far as is known here (the step proves it there). A
        connection that was lost gave them away; they are taken again unless somebody else has them by now, or had them
        meanwhile. The command that the connection was lost with may run on: its end is waited for, or what one sees
        would not be what it leaves. Raises Fenced, InDoubt."""
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
                # Held by the session that was lost: the node is about to hear of it.
                mine = again.refusal.kind == "held" and again.refusal.token == self.holder.token != ""
                busy, line = again.refusal.kind == "busy", f"flock {self.names[0]}"
                if not (mine or busy):
                    raise Fenced(node.name, line, lock_files.told(again.refusal, node.name), again.refusal.token)
                if time.monotonic() > deadline:
                    raise InDoubt(node.name, line, lock_files.told(again.refusal, node.name))
                time.sleep(0.3)

    def lose(self, node: Node, error: Fenced) -> bool:
        """A step was told that the node has let go of these locks, which is not known here yet: they are taken again
        before the next step. False: they are not these, or somebody else had them since."""
        with self._one:
            if error.token != self.holder.token or not error.token or self._over.is_set():
                return False
            if (hold := self.holds.get(node.name)) is not None:
                hold.close()
            return True

    def release(self) -> None:
        if not self._over.is_set():
            self._over.set()
            self._let_go()

    def _let_go(self) -> None:
        """Also on the nodes that gave it later."""
        holds, self.holds = list(self.holds.values()), {}
        with ThreadPoolExecutor(max_workers=max(1, min(WORKERS, len(holds)))) as pool:
            list(pool.map(lambda hold: hold.release(), holds))


def proved(node: Node, held: Sequence[Lock], work: Callable[[], T]) -> T:
    """A step of these locks, which refuses to run where they are not ours. One that the node let go of while the link
    was cut, and that nobody had since, is taken again, once: nothing ran until then."""
    for each in held:
        each.ensure(node)
    try:
        return work()
    except Fenced as error:
        if not [each for each in held if each.lose(node, error)]:
            raise
    for each in held:
        each.ensure(node)
    return work()
