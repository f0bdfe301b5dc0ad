"""Addresses where nobody answers, each in its own way."""

from __future__ import annotations

import socket
from contextlib import suppress


def mute(address: str, port: int) -> list[socket.socket]:
    """Connections are taken, and nothing is ever said on them."""
    listener = socket.create_server((address, port), backlog=4096)
    return [listener]


def dead(address: str, port: int) -> list[socket.socket]:
    """As if every packet were lost: the queue of the listener is full, so that the kernel drops who knocks."""
    listener = socket.create_server((address, port), backlog=0)
    sockets = [listener]
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        with suppress(BlockingIOError):
            filler.connect((address, port))
        sockets.append(filler)
    return sockets
