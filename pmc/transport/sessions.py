"""The ssh connections to one node, and the sessions (channels) on them in which commands run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import paramiko

from pmc.errors import CommandFailed, NodeDown, PmcError
from pmc.paste import Way
from pmc.settings import NodeSettings, Settings
from pmc.transport.connection import Connection, told
from pmc.transport.login import by_hand, log_in, reach, unused

# Of connections to one node: each takes MaxSessions (sshd_config(5), 10 by default) sessions, and a VM that moves has
# about four at once. A sshd that gives a new connection no session either is set up so, and a bound ends the trying.
MOST = 20


class Sessions:
    def __init__(self, spec: NodeSettings, settings: Settings, config: Any) -> None:
        self.spec, self.settings, self.config = spec, settings, config
        self._connections: list[Connection] = []
        self._reached: Connection | None = None  # not logged in yet
        self._down: tuple[float, NodeDown] | None = None
        self._lock = threading.Lock()

    @property
    def connection(self) -> Connection:
        """Fabric's Connection, opened when first needed. Raises NodeDown."""
        return self._nth(0)

    def open(self) -> paramiko.Channel:
        """A session of its own. Nothing has run yet when this fails, so it is a plain failure and not a doubt: raises
        CommandFailed, NodeDown. A connection that has all the sessions that sshd allows is no reason to fail: there may
        be another one."""
        for number in range(MOST):
            try:
                transport = self._nth(number).client.get_transport()
                assert transport is not None  # noqa: S101 - `log_in` saw it
                channel: paramiko.Channel = transport.open_session(timeout=self.settings.deadlines.connect)
                return channel
            except PmcError:
                raise
            except Exception as error:
                if not _refused(error):
                    said = f"the connection was lost ({told(error)})"
                    raise CommandFailed(self.spec.name, "ssh", 255, said) from None
                why = str(error)
        said = f"sshd gives no session, on {MOST} connections ({why}); look at MaxSessions in its sshd_config"
        raise CommandFailed(self.spec.name, "ssh", 255, said)

    def by_hand(self) -> Way:
        """How a person's shell gets there. Nothing is connected."""
        return by_hand(self.spec, self.settings, self.config)

    def reach(self) -> bool:
        """The part of connecting in which one only waits. False: nobody is there, and `connection` says so at once."""
        with self._lock, suppress(NodeDown):
            self._live()
            if not self._connections:
                self._reached = self._reached or self._reach()
            return True
        return False

    def _nth(self, number: int) -> Connection:
        """Of the connections that live, or one more. Eight threads that each open one make eight logins: hence the
        lock."""
        with self._lock:
            self._live()
            if number >= len(self._connections):
                made, self._reached = self._reached or self._reach(), None
                with self._remembered():
                    log_in(made, self.spec, self.settings)
                self._connections.append(made)
                return made
            return self._connections[number]

    def _live(self) -> None:
        self._connections = [each for each in self._connections if each.is_connected]

    def _reach(self) -> Connection:
        # A dead node costs a command its deadline once, not once for each question.
        if self._down and time.monotonic() - self._down[0] < self.settings.deadlines.connect:
            raise self._down[1]
        with self._remembered():
            return reach(self.spec, self.settings, self.config)

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except NodeDown as error:
            self._down = (time.monotonic(), error)
            raise

    def close(self) -> None:
        self._down = None
        if self._reached is not None:
            unused(self._reached)
            self._reached = None
        for connection in self._connections:
            for each in connection.way():
                each.close()


def _refused(error: Exception) -> bool:
    """It is sshd's answer. paramiko keeps what was refused for the whole connection and gives it to one thread; others
    that are refused at the same moment get no more than this text."""
    return isinstance(error, paramiko.ChannelException) or str(error) == "Unable to open channel."
