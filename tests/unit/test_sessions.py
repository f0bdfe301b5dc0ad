"""A sshd that allows so many sessions on a connection (MaxSessions): against a real ssh server that counts them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest

from pmc.cluster import Cluster
from pmc.command import Query, command
from pmc.errors import CommandFailed, InDoubt, NodeDown, PmcError
from pmc.settings import parse
from pmc.transport import sessions
from pmc.transport.node import Node
from pmc.transport.sessions import MOST
from tests.unit import sshd

REFUSED = 2  # SSH_OPEN_CONNECT_FAILED (RFC 4254, 5.1), which OpenSSH's sshd answers past MaxSessions


class Counting(sshd.Open):
    """Of one connection; lets everybody in, and opens `most` sessions that nobody ever ends."""

    def __init__(self, most: int) -> None:
        self.most = most

    def check_channel_request(self, kind: str, chanid: int) -> int:
        self.most -= 1
        return paramiko.OPEN_SUCCEEDED if self.most >= 0 else REFUSED  # type: ignore[attr-defined]


class Host(sshd.Sshd):
    def __init__(self, folder: Path) -> None:
        self.most = 10
        super().__init__(folder, lambda: Counting(self.most))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.close()


@pytest.fixture
def node(host: Host, tmp_path: Path) -> Iterator[Node]:
    text = sshd.configured(tmp_path, host.port) + sshd.nodes([host.port])
    with Cluster(parse(text, "pmc.conf")) as cluster:
        yield cluster.nodes["pm-1"]


def test_more_sessions_than_a_connection_may_have_take_another_connection(host: Host, node: Node) -> None:
    opened = [node.channel() for _ in range(25)]
    assert [len(host.connections), len(opened)] == [3, 25]
    assert not any(channel.closed for channel in opened)


def test_so_they_do_from_many_threads_at_once(host: Host, node: Node) -> None:
    with ThreadPoolExecutor(max_workers=25) as pool:
        opened = list(pool.map(lambda _: node.channel(), range(25)))
    assert len({(id(channel.get_transport()), channel.get_id()) for channel in opened}) == 25
    assert 3 <= len(host.connections) <= 5  # one that is just opened may be full before its turn comes


def test_a_connection_that_is_lost_is_replaced(host: Host, node: Node) -> None:
    first = node.channel()
    host.connections[0].close()
    first.get_transport().join(60)
    assert node.channel().get_transport() is not first.get_transport()
    assert len(host.connections) == 2


def test_a_sshd_that_gives_no_session_at_all_is_told(host: Host, node: Node) -> None:
    host.most = 0
    with pytest.raises(CommandFailed, match=r"pm-1: .*sshd gives no session.*look at MaxSessions"):
        node.channel()
    assert len(host.connections) == MOST


def test_a_node_that_is_down_costs_its_deadline_once_until_it_is_closed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def silent(*_: object) -> None:
        tried.append("pm-1")
        raise NodeDown("pm-1: no ssh within 10 s")

    monkeypatch.setattr(sessions, "reach", silent)
    for number in (1, 2):
        assert not node.reach()
        for _ in range(2):
            with pytest.raises(NodeDown, match="no ssh within 10 s"):
                node.channel()
        assert len(tried) == number
        node.close()


def test_one_that_was_reached_and_not_used_is_closed(host: Host, node: Node) -> None:
    assert node.reach()
    node.close()
    deadline = time.monotonic() + 60
    while not host.connections and time.monotonic() < deadline:
        time.sleep(0.01)
    for each in host.connections:
        each.join(60)
    assert [each.is_active() for each in host.connections] == [False]


# -- a sshd that says what is no ssh --

REQUEST = paramiko.Message(b"\x50" + b"\0\0\0\2\xff\xfe" + b"\1")  # its name is no UTF-8 (RFC 4254, 4)
FAILURE = paramiko.Message(b"\x5c" + bytes(7) + b"\2" + b"\0\0\0\2\xff\xfe" + bytes(4))  # nor is its text (5.1)
KEYS = paramiko.Message(b"\x15")  # new keys that nobody asked for


class Odd(sshd.Open):
    """Says it just then, and waits until the connection is over."""

    def __init__(self, transport: paramiko.Transport, when: str, message: paramiko.Message) -> None:
        self.transport, self.when, self.message = transport, when, message

    def say(self, when: str) -> None:
        if when == self.when:
            self.transport._send_message(self.message)  # type: ignore[attr-defined]

    def check_auth_publickey(self, username: str, key: object) -> int:
        self.say("login")
        return paramiko.AUTH_SUCCESSFUL  # type: ignore[attr-defined, no-any-return]

    def check_channel_request(self, kind: str, chanid: int) -> int:
        self.say("session")
        return paramiko.OPEN_SUCCEEDED  # type: ignore[attr-defined, no-any-return]

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.say("command")
        return True


class OddHost(sshd.Sshd):
    when, message = "", KEYS

    def take(self, end: socket.socket) -> None:
        transport = paramiko.Transport(end)
        transport.add_server_key(paramiko.Ed25519Key(filename=str(self.folder / "host")))
        self.connections.append(transport)
        transport.start_server(event=threading.Event(), server=Odd(transport, self.when, self.message))


@pytest.mark.parametrize(
    ("when", "message", "kind"),
    [
        ("login", KEYS, NodeDown),
        ("session", FAILURE, CommandFailed),
        ("session", REQUEST, CommandFailed),
        ("session", KEYS, CommandFailed),
        ("command", REQUEST, InDoubt),
        ("command", KEYS, InDoubt),
    ],
)
def test_a_sshd_that_says_what_is_no_ssh_is_told(
    tmp_path: Path, when: str, message: paramiko.Message, kind: type[PmcError]
) -> None:
    """paramiko raises in the thread of who waits whatever its own stumbled over."""
    odd = OddHost(tmp_path, lambda: sshd.Open())
    odd.when, odd.message = when, message
    text = sshd.configured(tmp_path, odd.port) + sshd.nodes([odd.port])
    try:
        with Cluster(parse(text, "pmc.conf")) as cluster, pytest.raises(kind) as caught:
            cluster.nodes["pm-1"].ask(Query(command("true"), str))
    finally:
        odd.close()
    assert str(caught.value).startswith("pm-1: ")
    assert "\n" not in str(caught.value)
    assert "it says is not understood as ssh (" in str(caught.value)
