"""libvirt-python, the eyes: what is watched while it happens. Changes are commands and never come from here.

libvirt's protocol is carried over the node's own ssh connection, so that one login, one host-key policy and one jump
host serve both: a unix socket in a private folder, joined to a channel that runs virt-ssh-helper on the node.
"""

from __future__ import annotations

import select
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import paramiko

from pmc import virsh
from pmc.errors import PmcError
from pmc.transport.connection import begin
from pmc.transport.node import Node, command_line
from pmc.view.output import Progress

try:
    import libvirt
except ImportError:  # a manager without a compiler for it: `virsh domjobinfo` tells the same, a process each time
    libvirt = None

# Older libvirt (before 6.8) has no virt-ssh-helper; netcat reaches the same socket.
HELPER = (
    "command -v virt-ssh-helper >/dev/null && exec virt-ssh-helper qemu:///system; "
    "exec nc -U /var/run/libvirt/libvirt-sock"
)
if libvirt:  # or it prints each error on stderr besides raising it
    libvirt.registerErrorHandler(lambda context, error: None, None)


@contextmanager
def opened(node: Node) -> Iterator[Any]:
    """A libvirt connection to the node, read by whoever asked and closed at the end. Raises libvirt.libvirtError,
    PmcError."""
    channel = node.channel()
    with tempfile.TemporaryDirectory(prefix="pmc-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = str(Path(folder, "libvirt"))
        listener.bind(path)
        listener.listen(1)
        line = command_line(("sh", "-c", HELPER), sudo=node.connection.user != "root")
        begin(channel, line, node.settings.deadlines.command)
        threading.Thread(target=_join, args=(listener, channel), daemon=True).start()
        try:
            connection = libvirt.open(f"qemu+unix:///system?socket={path}")
            try:
                yield connection
            finally:
                connection.close()
        finally:
            channel.close()


def _join(listener: socket.socket, channel: paramiko.Channel) -> None:
    """Moves bytes both ways until one side ends."""
    with suppress(OSError, EOFError):
        end, _ = listener.accept()
        with end:
            while True:
                both: list[Any] = [end, channel]
                ready = select.select(both, [], [])[0]
                if end in ready:
                    if not (block := end.recv(65536)):
                        return
                    channel.sendall(block)
                if channel in ready:
                    if not (block := channel.recv(65536)):
                        return
                    end.sendall(block)


@contextmanager
def watch(node: Node, domain: str, progress: Progress) -> Iterator[None]:
    """Shows how far the migration of `domain` away from `node` is. Watching never makes a migration fail."""
    over = threading.Event()
    follow = _follow if libvirt else _ask
    thread = threading.Thread(target=follow, args=(node, domain, progress, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5)


def _follow(node: Node, domain: str, progress: Progress, over: threading.Event) -> None:
    with suppress(libvirt.libvirtError, PmcError, paramiko.SSHException, OSError, EOFError), opened(node) as connection:
        running = connection.lookupByName(domain)
        with progress.bytes(None, 0) as bar:
            bar.subject = domain
            while not over.wait(0.5):
                done, total = job(running)
                bar.at(done, total)


def _ask(node: Node, domain: str, progress: Progress, over: threading.Event) -> None:
    with suppress(PmcError), progress.bytes(None, 0) as bar:
        bar.subject = domain
        while not over.wait(2):
            bar.at(*node.ask(virsh.job(domain))[0])


def job(domain: Any) -> tuple[int, int]:
    """(bytes moved, bytes in all) of the domain's running job; (0, 0) when there is none."""
    stats = domain.jobStats()
    return int(stats.get("data_processed", 0)), int(stats.get("data_total", 0))
