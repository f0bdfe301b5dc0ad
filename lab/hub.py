# SPDX-License-Identifier: GPL-3.0-or-later
"""The nodes' private network: a switch over unix datagram sockets, `python -m lab.hub RUN PORTS`.

QEMU (-netdev dgram) binds RUN/node1 and sends every Ethernet frame as one datagram to RUN/hub1, and so on.
The hub learns behind which port a MAC address lives, and floods what it does not know. Because it is ours it
can cut the link between two ports: their frames to each other are then dropped, and nothing else changes.

RUN/hub takes one command a connection, `cut 1 2`, `heal` or `show`, and answers with the cuts, as JSON.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

Link: TypeAlias = frozenset[int]

LARGEST = 65536  # bytes of a frame
BURST = 64  # frames taken from one port before the others get their turn
QUEUE = 1024  # frames that wait for a node that is slow to take them; a real switch drops too


@dataclass
class Switch:
    """Where a frame goes; knows nothing of sockets."""

    ports: tuple[int, ...]
    cuts: set[Link] = field(default_factory=set)
    places: dict[bytes, int] = field(default_factory=dict)

    def forward(self, source: int, frame: bytes) -> list[int]:
        """The ports that shall get this frame."""
        if len(frame) < 14:
            return []
        target, sender = frame[:6], frame[6:12]
        if not sender[0] & 1:  # the lowest bit of the first byte marks a group, which sends nothing
            self.places[sender] = source
        known = None if target[0] & 1 else self.places.get(target)
        wanted = self.ports if known is None else (known,)
        return [port for port in wanted if port != source and frozenset((source, port)) not in self.cuts]

    def command(self, text: str) -> str:
        match text.split():
            case ["cut", one, other] if one.isdigit() and other.isdigit() and one != other:
                self.cuts.add(frozenset((int(one), int(other))))
            case ["heal"]:
                self.cuts.clear()
            case ["show"]:
                pass
            case _:
                return json.dumps({"error": f"not understood: {text}"})
        return json.dumps({"cuts": sorted(sorted(link) for link in self.cuts)})


class Port:
    """One node's pair of sockets, and what waits to be sent to it."""

    def __init__(self, run: Path, number: int) -> None:
        self.node = str(run / f"node{number}")
        path = run / f"hub{number}"
        path.unlink(missing_ok=True)
        self.receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.receiver.setblocking(False)
        self.receiver.bind(str(path))
        self.sender: socket.socket | None = None
        self.queue: deque[bytes] = deque(maxlen=QUEUE)

    def connect(self) -> bool:
        """A connected socket "can be written" when the other has room (the kernel's queue holds ten)."""
        if self.sender is None:
            sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sender.setblocking(False)
            try:
                sender.connect(self.node)
            except OSError:  # the node is not there (yet)
                sender.close()
                return False
            self.sender = sender
        return True

    def disconnect(self) -> None:
        if self.sender is not None:
            self.sender.close()
        self.sender = None
        self.queue.clear()

    def flush(self) -> bool:
        """Send what waits; True if some of it has to wait on."""
        while self.queue:
            if not self.connect() or self.sender is None:
                self.queue.clear()
                return False
            try:
                self.sender.send(self.queue[0])
            except BlockingIOError:
                return True
            except OSError:  # power loss: the frames are lost with the node. A restarted one is a new socket.
                self.disconnect()
                return False
            self.queue.popleft()
        return False


class Hub:
    def __init__(self, run: Path, count: int) -> None:
        self.run, self.stopped = run, False
        self.ports = {number: Port(run, number) for number in range(1, count + 1)}
        self.switch = Switch(tuple(self.ports))
        self.selector = selectors.DefaultSelector()
        self.waiting: dict[int, socket.socket] = {}
        for number, port in self.ports.items():
            self.selector.register(port.receiver, selectors.EVENT_READ, number)
        path = run / "hub"
        path.unlink(missing_ok=True)
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.control.bind(str(path))
        self.control.listen()
        self.selector.register(self.control, selectors.EVENT_READ, 0)

    def serve(self) -> None:
        """Until `stop`."""
        while not self.stopped:
            for key, events in self.selector.select():
                if key.fileobj is self.control:
                    self.answer()
                elif events & selectors.EVENT_WRITE:
                    self.send(key.data)
                else:
                    self.receive(key.data)

    def stop(self) -> None:
        """From another thread; every event wakes `serve`, an unfinished question too."""
        self.stopped = True
        with suppress(OSError, ValueError):
            ask(self.run, "show")

    def close(self) -> None:
        for port in self.ports.values():
            port.receiver.close()
            port.disconnect()
        self.control.close()
        self.selector.close()

    def receive(self, source: int) -> None:
        touched: set[int] = set()
        for _ in range(BURST):
            try:
                frame = self.ports[source].receiver.recv(LARGEST)
            except BlockingIOError:
                break
            for target in self.switch.forward(source, frame):
                self.ports[target].queue.append(frame)
                touched.add(target)
        for target in touched:
            self.send(target)

    def send(self, number: int) -> None:
        """Send now, and what the node does not take as soon as it does."""
        port = self.ports[number]
        waits = port.flush()
        if waits and number not in self.waiting and port.sender is not None:
            self.waiting[number] = port.sender
            self.selector.register(port.sender, selectors.EVENT_WRITE, number)
        elif not waits and number in self.waiting:
            self.selector.unregister(self.waiting.pop(number))  # also when flush closed it: the node is gone

    def answer(self) -> None:
        connection, _ = self.control.accept()
        with connection:
            connection.settimeout(1)
            try:
                text = connection.recv(200).decode(errors="replace")
                connection.sendall(self.switch.command(text).encode())
            except OSError:  # who asked has left
                pass


def ask(run: Path, text: str) -> list[list[int]]:
    """Send one command to the hub of RUN; the links that are cut. OSError when there is no hub."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(run / "hub"))
        connection.sendall(text.encode())
        answer = json.loads(connection.recv(LARGEST))
    if "error" in answer:
        raise ValueError(answer["error"])
    cuts: list[list[int]] = answer["cuts"]
    return cuts


if __name__ == "__main__":
    Hub(Path(sys.argv[1]), int(sys.argv[2])).serve()
