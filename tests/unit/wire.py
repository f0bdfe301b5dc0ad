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


class Shell(paramiko.ServerInterface):
    """Of one connection; lets everybody in."""

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: Any) -> int:
        return paramiko.AUTH_SUCCESSFUL  # type: ignore[attr-defined, no-any-return]

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED  # type: ignore[attr-defined, no-any-return]

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=_run, args=(channel, command), daemon=True).start()
        return True


def _run(channel: paramiko.Channel, command: bytes) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(os.fsdecode(command), shell=True, stdin=pipe, stdout=pipe, stderr=pipe) as running:
        assert running.stdin is not None
        threads = [
            threading.Thread(target=_pass, args=(each, send), daemon=True)
            for each, send in ((running.stdout, channel.sendall), (running.stderr, channel.sendall_stderr))
        ]
        for each in threads:
            each.start()
        # What is on its way when the command ends is nobody's: its pipe is gone.
        feeder = threading.Thread(target=_feed, args=(channel, running.stdin), daemon=True)
        feeder.start()
        status = running.wait()
        for each in threads:
            each.join()
        with suppress(OSError, EOFError, paramiko.SSHException):
            channel.send_exit_status(status if status >= 0 else 128 - status)
            channel.shutdown_write()
            channel.close()
        feeder.join(10)


def _pass(source: Any, send: Any) -> None:
    with suppress(OSError, EOFError, ValueError):
        while block := source.read1(65536):
            send(block)


def _feed(channel: paramiko.Channel, target: Any) -> None:
    with suppress(OSError, EOFError, ValueError):
        while block := channel.recv(65536):
            target.write(block)
            target.flush()
    with suppress(OSError, ValueError):
        target.close()


class Here:
    """The node. `port` leads to it."""

    def __init__(self, folder: Path) -> None:
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        self.folder = folder
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.connections: list[paramiko.Transport] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                end, _ = self.listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(end)
            transport.add_server_key(paramiko.Ed25519Key(filename=str(self.folder / "host")))
            transport.start_server(event=threading.Event(), server=Shell())
            self.connections.append(transport)

    def settings(self, port: int, more: str = "") -> Settings:
        """Of a manager that reaches it by this port."""
        key = " ".join((self.folder / "host.pub").read_text().split()[:2])
        (self.folder / f"known-{port}").write_text(f"[127.0.0.1]:{port} {key}\n")
        (self.folder / f"config-{port}").write_text(
            f"Host *\n  User root\n  IdentityFile {self.folder}/user\n  UserKnownHostsFile {self.folder}/known-{port}\n"
        )
        text = f'ssh_config = "{self.folder}/config-{port}"\naudit_log = ""\n{more}\n'
        return parse(f'{text}[nodes.pm-1]\nreplication = "10.0.0.1"\nhost = "127.0.0.1:{port}"\n', "pmc.conf")

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for each in self.connections:
            each.close()
            each.join(60)


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
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
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
