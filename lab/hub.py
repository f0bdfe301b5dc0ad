# SPDX-License-Identifier: GPL-3.0-or-later
"""The nodes' private network: a switch over unix datagram sockets, `python -m lab.hub RUN PORTS`.

QEMU (-netdev dgram) binds RUN/node1 and sends every Ethernet frame as one datagram to RUN/hub1, and so on.
The hub learns behind which port a MAC address lives, and floods what it does not know. Because it is ours it
can make the way from one port to another as bad as wanted (lab/weather.py), and nothing else changes.

RUN/hub takes one command a connection and answers, as JSON, how each way is that is not well:

    cut 1 2                        nothing passes between these two;  cut 1>2: from 1 to 2 only
    link 1 2 loss=.1 delay=.05     weather both ways;  link 1>2 ...: one way;  seed=N: other misfortunes (1)
    heal                           all is well again
    show
"""

from __future__ import annotations

import heapq
import json
import random
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from lab.weather import CUT, Weather, parse

Way: TypeAlias = tuple[int, int]  # from a port to another
Report: TypeAlias = dict[str, dict[str, float]]  # "1>2": what is not well there

LARGEST = 65536  # bytes of a frame
BURST = 64  # frames taken from one port before the others get their turn
QUEUE = 1024  # frames that wait for a node that is slow to take them; a real switch drops too


@dataclass
class Switch:
    """Where a frame goes and when; knows nothing of sockets."""

    ports: tuple[int, ...]
    ways: dict[Way, Weather] = field(default_factory=dict)
    places: dict[bytes, int] = field(default_factory=dict)
    chance: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311 - misfortunes, to be repeated

    def forward(self, source: int, frame: bytes) -> list[tuple[float, int, bytes]]:
        """What arrives of this frame: after how many seconds, at which port, and the frame as it is then."""
        if len(frame) < 14:
            return []
        target, sender = frame[:6], frame[6:12]
        if not sender[0] & 1:  # the lowest bit of the first byte marks a group, which sends nothing
            self.places[sender] = source
        known = None if target[0] & 1 else self.places.get(target)
        wanted = self.ports if known is None else (known,)
        arriving = []
        for port in wanted:
            weather = self.ways.get((source, port))
            if port != source:
                came = weather.arrivals(frame, self.chance) if weather else [(0.0, frame)]
                arriving += [(after, port, each) for after, each in came]
        return arriving

    def command(self, text: str) -> str:
        try:
            self._do(text.split())
        except ValueError as error:
            return json.dumps({"error": f"not understood: {text} ({error})"})
        return json.dumps({f"{one}>{other}": its.told() for (one, other), its in sorted(self.ways.items())})

    def _do(self, words: list[str]) -> None:
        match words:
            case ["cut", *ends]:
                self._set(ends, CUT)
            case ["link", *rest]:
                ends, settings = ([w for w in rest if ("=" in w) is given] for given in (False, True))
                numbers = dict(each.split("=", 1) for each in settings)
                seed = int(numbers.pop("seed", "1"))
                self._set(ends, parse(numbers))
                self.chance.seed(seed)
            case ["heal"]:
                self.ways.clear()
            case ["show"]:
                pass
            case _:
                raise ValueError("no such command")

    def _set(self, ends: list[str], weather: Weather) -> None:
        both = len(ends) == 2
        one, other = map(int, ends if both else " ".join(ends).split(">"))
        if one == other:
            raise ValueError("a port has no way to itself")
        self.ways |= {way: weather for way in (((one, other), (other, one)) if both else ((one, other),))}


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
        self.under_way: list[tuple[float, int, int, bytes]] = []  # a heap: when, in which order, to which port, what
        self.taken = 0
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
            for key, events in self.selector.select(self.patience()):
                if key.fileobj is self.control:
                    self.answer()
                elif events & selectors.EVENT_WRITE:
                    self.send(key.data)
                else:
                    self.receive(key.data)
            self.deliver()

    def patience(self) -> float | None:
        """Seconds until the next frame is due; None when none is under way."""
        return max(0.0, self.under_way[0][0] - time.monotonic()) if self.under_way else None

    def deliver(self) -> None:
        """What is due."""
        touched: set[int] = set()
        while self.under_way and self.under_way[0][0] <= time.monotonic():
            _, _, target, frame = heapq.heappop(self.under_way)
            self.ports[target].queue.append(frame)
            touched.add(target)
        for target in touched:
            self.send(target)

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
            for after, target, arriving in self.switch.forward(source, frame):
                if after > 0:
                    self.taken += 1
                    heapq.heappush(self.under_way, (time.monotonic() + after, self.taken, target, arriving))
                else:
                    self.ports[target].queue.append(arriving)
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


def ask(run: Path, text: str) -> Report:
    """Send one command to the hub of RUN; how the ways are that are not well. OSError when there is no hub."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(run / "hub"))
        connection.sendall(text.encode())
        answer = json.loads(connection.recv(LARGEST))
    if "error" in answer:
        raise ValueError(answer["error"])
    report: Report = answer
    return report


def cut_from(report: Mapping[str, Mapping[str, float]], port: int) -> list[int]:
    """The ports that cannot reach this one, or cannot be reached by it."""
    ways = [tuple(map(int, way.split(">"))) for way, its in report.items() if its.get("loss") == 1]
    return sorted({end for way in ways if port in way for end in way} - {port})


if __name__ == "__main__":
    Hub(Path(sys.argv[1]), int(sys.argv[2])).serve()
