"""A real ssh server on this machine that lets everybody in, and a manager's configuration that reaches it: what tests
of connections have in common."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import paramiko

# What a server meets in a thread of its own once the client has left: sockets, paramiko and pipes each have their word.
LEFT = (OSError, EOFError, ValueError, paramiko.SSHException)


class Open(paramiko.ServerInterface):
    """Of one connection; what a session does is the test's."""

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: Any) -> int:
        return paramiko.AUTH_SUCCESSFUL  # type: ignore[attr-defined, no-any-return]

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED  # type: ignore[attr-defined, no-any-return]


def make_keys(folder: Path) -> None:
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)


def configured(folder: Path, *ports: int, name: str = "") -> str:
    """The line of pmc.conf that names the ssh configuration, which is written: it knows these ports' host key."""
    key = " ".join((folder / "host.pub").read_text().split()[:2])
    known, config = folder / f"known{name}", folder / f"config{name}"
    known.write_text("".join(f"[127.0.0.1]:{port} {key}\n" for port in ports))
    config.write_text(f"Host *\n  User root\n  IdentityFile {folder}/user\n  UserKnownHostsFile {known}\n")
    return f'ssh_config = "{config}"\n'


def nodes(ports: Sequence[int]) -> str:
    """Of pmc.conf: pm-1, pm-2, ... behind these ports."""
    rows = [(f"pm-{number}", f"10.0.0.{number}", port) for number, port in enumerate(ports, 1)]
    return "".join(f'[nodes.{name}]\nreplication = "{to}"\nhost = "127.0.0.1:{port}"\n' for name, to, port in rows)


def begin(end: socket.socket, folder: Path, server: paramiko.ServerInterface) -> paramiko.Transport:
    """In a thread of its own."""
    transport = paramiko.Transport(end)
    transport.add_server_key(paramiko.Ed25519Key(filename=str(folder / "host")))
    transport.start_server(event=threading.Event(), server=server)
    return transport


class Sshd:
    """Takes connections until it is closed; `server` makes what answers one."""

    def __init__(self, folder: Path, server: Callable[[], paramiko.ServerInterface]) -> None:
        if not (folder / "host").exists():
            make_keys(folder)
        self.folder, self.server = folder, server
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
            self.take(end)

    def take(self, end: socket.socket) -> None:
        self.connections.append(begin(end, self.folder, self.server()))

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for each in self.connections:
            each.close()
            each.join(60)
