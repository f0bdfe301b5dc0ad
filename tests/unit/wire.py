"""A node that is this machine, by a real ssh connection: its ssh server runs what it is told in a shell. And a wire
before it that stands still when a test says so, as a link that is cut does: nothing passes, and no end says so."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import paramiko

from pmc.settings import Settings, parse
from tests.unit import sshd


class Shell(sshd.Open):
    """Of one connection; lets everybody in. It runs what is asked in a login shell, as sshd does: each bash that sees
    SSH_CLIENT, and no shell above it, reads ~/.bashrc first, which is `bashrc`."""

    def __init__(self, bashrc: Path | None = None) -> None:
        self.environment = dict(os.environ)
        if bashrc:
            self.environment.pop("SHLVL", None)
            self.environment |= {"HOME": str(bashrc.parent), "SSH_CLIENT": "127.0.0.1 1 22"}

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=_run, args=(channel, command, self.environment), daemon=True).start()
        return True


def _run(channel: paramiko.Channel, line: bytes, env: dict[str, str]) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(["bash", "-c", line], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, env=env) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        threads = [
            threading.Thread(target=_pass, args=(each.read, send), daemon=True)
            for each, send in ((running.stdout, channel.sendall), (running.stderr, channel.sendall_stderr))
        ]
        for each in threads:
            each.start()
        # What is on its way when the command ends is nobody's: its pipe is gone.
        feeder = threading.Thread(target=_feed, args=(channel, running.stdin), daemon=True)
        feeder.start()
        while any(each.is_alive() for each in threads):
            for each in threads:
                each.join(0.1)
            if channel.closed:  # nobody hears what it has still to say
                running.kill()
        status = running.wait()
        with suppress(*sshd.LEFT):
            channel.send_exit_status(status if status >= 0 else 128 - status)
            channel.shutdown_write()
            channel.close()
        feeder.join(10)


def _pass(read: Any, write: Any) -> None:
    with suppress(*sshd.LEFT):
        while block := read(65536):
            write(block)


def _feed(channel: paramiko.Channel, target: Any) -> None:
    _pass(channel.recv, target.write)
    with suppress(*sshd.LEFT):
        target.close()


class Here(sshd.Sshd):
    """The node. `port` leads to it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Shell)

    def settings(self, port: int, more: str = "") -> Settings:
        """Of a manager that reaches it by this port."""
        text = f'{sshd.configured(self.folder, port, name=f"-{port}")}audit_log = ""\n{more}\n'
        return parse(text + sshd.nodes([port]), "pmc.conf")


class Wire:
    """From `port` to another port of this machine. What is sent while it stands still arrives when it goes on."""

    def __init__(self, to: int) -> None:
        self.to, self.goes = to, threading.Event()
        self.goes.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.ends: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        self.goes.clear()

    def heal(self) -> None:
        self.goes.set()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                near.close()
                return
            self.ends += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(65536):
                self.goes.wait()
                target.sendall(block)
        self.goes.wait()
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.heal()
        self.listener.shutdown(socket.SHUT_RDWR)
        for each in (self.listener, *self.ends):
            each.close()
