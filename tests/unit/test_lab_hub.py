# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's switch: where frames go, what a cut drops, and the sockets around it."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab.hub import Hub, Switch, ask, cut_from

A, B, C = (bytes([0x52, 0x54, 0, 0, 0, number]) for number in (1, 2, 3))
ALL = b"\xff" * 6


def frame(target: bytes, source: bytes, load: bytes = b"") -> bytes:
    return target + source + b"\x08\x00" + load


def goes(switch: Switch, source: int, data: bytes) -> list[int]:
    return [port for _, port, _ in switch.forward(source, data)]


def test_unknown_target_is_flooded_and_known_one_is_not() -> None:
    switch = Switch((1, 2, 3))
    assert goes(switch, 1, frame(B, A)) == [2, 3]
    assert goes(switch, 2, frame(A, B)) == [1]
    assert goes(switch, 1, frame(B, A)) == [2]


def test_broadcast_goes_to_all_others() -> None:
    assert goes(Switch((1, 2, 3)), 2, frame(ALL, B)) == [1, 3]


def test_an_address_that_moves_is_followed() -> None:
    """A live migration: the guest speaks from another node, and its frames go there at once."""
    switch = Switch((1, 2, 3))
    switch.forward(1, frame(ALL, C))
    switch.forward(2, frame(ALL, C))
    assert goes(switch, 3, frame(C, A)) == [2]


def test_group_address_is_not_learned() -> None:
    switch = Switch((1, 2))
    switch.forward(1, frame(B, ALL))
    assert not switch.places


def test_nothing_returns_to_where_it_came_from() -> None:
    switch = Switch((1, 2))
    switch.forward(1, frame(ALL, A))
    assert goes(switch, 1, frame(A, B)) == []


def test_runt_is_dropped() -> None:
    assert goes(Switch((1, 2)), 1, b"short") == []


def test_cut_drops_both_ways_and_only_between_these_two() -> None:
    switch = Switch((1, 2, 3))
    assert json.loads(switch.command("cut 1 2")) == {"1>2": {"loss": 1.0}, "2>1": {"loss": 1.0}}
    assert goes(switch, 1, frame(ALL, A)) == [3]
    assert goes(switch, 2, frame(A, B)) == []
    assert goes(switch, 3, frame(ALL, C)) == [1, 2]
    assert json.loads(switch.command("heal")) == {}
    assert goes(switch, 2, frame(A, B)) == [1]


def test_a_one_way_cut_drops_one_way() -> None:
    switch = Switch((1, 2))
    report = json.loads(switch.command("cut 1>2"))
    assert report == {"1>2": {"loss": 1.0}}
    assert goes(switch, 1, frame(B, A)) == []
    assert goes(switch, 2, frame(A, B)) == [1]
    assert (cut_from(report, 1), cut_from(report, 2), cut_from(report, 3)) == ([2], [1], [])


NONSENSE = [
    "",
    "cut",
    "cut 1",
    "cut 1 1",
    "cut 1>1",
    "cut one two",
    "cut 1 2 3",
    "heal 1",
    "stop",
    "link",
    "link 1 2 3",
]
BAD_WEATHER = ["loss", "loss=x", "loss=2", "loss=-1", "delay=61", "wind=1", "loss=nan", "seed=x"]


@pytest.mark.parametrize("text", [*NONSENSE, *(f"link 1 2 {each}" for each in BAD_WEATHER)])
def test_nonsense_is_refused(text: str) -> None:
    switch = Switch((1, 2))
    assert "error" in json.loads(switch.command(text))
    assert not switch.ways


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    hub = Hub(tmp_path, 3)
    thread = threading.Thread(target=hub.serve, daemon=True)
    thread.start()
    yield tmp_path
    hub.stop()
    thread.join(5)
    hub.close()


class Node:
    """What QEMU's end of the two sockets does."""

    def __init__(self, run: Path, number: int) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(60)
        self.path = run / f"node{number}"
        self.path.unlink(missing_ok=True)
        self.socket.bind(str(self.path))
        self.hub = str(run / f"hub{number}")

    def send(self, data: bytes) -> None:
        self.socket.sendto(data, self.hub)

    def take(self) -> bytes:
        return self.socket.recv(65536)


def test_frames_pass_and_a_burst_waits_for_a_slow_node(run: Path) -> None:
    """The kernel queues about ten datagrams; the rest waits in the hub and arrives in order."""
    one, two = Node(run, 1), Node(run, 2)
    with one.socket, two.socket:
        sent = [frame(B, A, bytes([number]) * 8000) for number in range(200)]
        for data in sent:
            one.send(data)
        assert [two.take() for _ in sent] == sent


def test_a_node_may_die_and_come_back(run: Path) -> None:
    one, two = Node(run, 1), Node(run, 2)
    with one.socket:
        one.send(frame(B, A, b"first"))
        assert two.take().endswith(b"first")
        two.socket.close()
        one.send(frame(B, A, b"lost"))
        assert ask(run, "show") == {}  # answered, so the hub has dealt with the frame
        two = Node(run, 2)
        with two.socket:
            one.send(frame(B, A, b"again"))
            assert two.take().endswith(b"again")


def test_cut_and_heal_over_the_control_socket(run: Path) -> None:
    one, two, three = Node(run, 1), Node(run, 2), Node(run, 3)
    with one.socket, two.socket, three.socket:
        assert set(ask(run, "cut 1 2")) == {"1>2", "2>1"}
        one.send(frame(B, A, b"cut"))
        # Not before the hub has dealt with it: the control socket could overtake it.
        assert three.take().endswith(b"cut")
        assert ask(run, "heal") == {}
        one.send(frame(B, A, b"healed"))
        assert two.take().endswith(b"healed")


def test_what_is_late_comes_when_it_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames under way are not forgotten when the link is healed, and those that are not delayed overtake them."""
    clock = [100.0]
    monkeypatch.setattr("lab.hub.time", SimpleNamespace(monotonic=lambda: clock[0]))
    hub = Hub(tmp_path, 2)
    one, two = Node(tmp_path, 1), Node(tmp_path, 2)
    with one.socket, two.socket:
        hub.switch.command("link 1 2 delay=.5")
        one.send(frame(B, A, b"late"))
        hub.receive(1)
        assert hub.patience() == 0.5
        hub.switch.command("heal")
        one.send(frame(B, A, b"soon"))
        hub.receive(1)
        assert two.take().endswith(b"soon")
        clock[0] += 0.4
        hub.deliver()
        assert hub.under_way
        clock[0] += 0.2
        assert hub.patience() == 0
        hub.deliver()
        assert two.take().endswith(b"late")
        assert hub.patience() is None
    hub.close()


def test_control_socket_refuses_nonsense(run: Path) -> None:
    with pytest.raises(ValueError, match="not understood"):
        ask(run, "cut everything")
