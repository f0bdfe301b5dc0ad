"""Nodes that hang: whatever a node does not do, pmc goes on after a deadline and says so. Against real sockets, and a
real ssh server that stops answering at the moment that a test names."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest

from bench.fleet import deaf
from lab.ports import free_ports
from pmc.cluster import Cluster
from pmc.command import command
from pmc.errors import InDoubt, NodeDown
from pmc.settings import Settings, parse
from pmc.transport import login, sessions
from pmc.transport.connection import Pulse, _close
from pmc.transport.node import Node
from tests.unit import sshd
from tests.unit.samples import SETTINGS

CONNECT, COMMAND = 3, 2
# For a machine that is busy with other things; what is told apart is some seconds against many.
SLACK = 10


class Server(sshd.Open):
    """Lets everybody in. `hangs`: where it stops for good (exec: before it answers that a command runs; run: while it
    runs; pulse: then, and it does not answer its connection either), and with `lost` it goes away there."""

    def __init__(self, hangs: str, over: threading.Event, gone: threading.Event) -> None:
        self.hangs, self.over, self.gone = hangs, over, gone

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        if self.hangs == "exec":
            self.over.wait(60)
        if self.hangs == "lost":
            self.gone.set()
        elif mark := re.search(rb"echo (pmc-[0-9a-f]+);", command):  # its login shell has begun
            with suppress(*sshd.LEFT):  # it gave up meanwhile
                channel.sendall(b"\n" + mark[1] + b"\n")
        return True

    def check_global_request(self, kind: str, msg: paramiko.Message) -> bool:
        if self.hangs == "pulse":
            self.over.wait(60)
        return False


class Nodes:
    """Sockets on this machine in place of nodes, and the configuration that reaches them."""

    def __init__(self, folder: Path, over: threading.Event) -> None:
        self.folder, self.over = folder, over
        self.ports: list[int] = []
        self.open: list[socket.socket] = []
        self.servers: list[threading.Thread] = []
        sshd.make_keys(folder)

    def add(self, hangs: str = "") -> Nodes:
        """One more; `hangs` is where its ssh server does, silence: it takes connections and says nothing, dead: it does
        not even take them, greeted: it says what it is and no more."""
        if hangs == "dead":
            self.ports += free_ports(1, "127.0.0.1")
            self.open += deaf.dead("127.0.0.1", self.ports[-1])
            return self
        listener = socket.create_server(("127.0.0.1", 0))
        self.ports.append(listener.getsockname()[1])
        if hangs not in ("silence", "greeted"):
            self.servers.append(threading.Thread(target=self._serve, args=(listener, hangs), daemon=True))
            self.servers[-1].start()
        self.open.append(listener)
        if hangs == "greeted":
            self.servers.append(threading.Thread(target=self._greet, args=(listener,), daemon=True))
            self.servers[-1].start()
        return self

    def _greet(self, listener: socket.socket) -> None:
        with suppress(*sshd.LEFT):
            end, _ = listener.accept()
            self.open.append(end)
            end.sendall(b"SSH-2.0-greeted\r\n")

    def _serve(self, listener: socket.socket, hangs: str) -> None:
        try:
            end, _ = listener.accept()
        except OSError:  # the test ended before anybody came
            return
        self.open.append(end)
        gone = threading.Event() if hangs == "lost" else self.over
        transport = sshd.begin(end, self.folder, Server(hangs, self.over, gone))
        gone.wait(60)
        transport.close()

    def conf(self) -> str:
        text = sshd.configured(self.folder, *self.ports)
        return f"{text}[deadlines]\nconnect = {CONNECT}\ncommand = {COMMAND}\n{sshd.nodes(self.ports)}"

    @property
    def settings(self) -> Settings:
        return parse(self.conf(), "pmc.conf")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    over = threading.Event()
    made = Nodes(tmp_path, over)
    yield made
    over.set()
    for each in made.open:
        with suppress(OSError):  # a connection's may be closed already
            if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # who waits for one is woken up
                each.shutdown(socket.SHUT_RDWR)
    for server in made.servers:  # each closes its connection itself, before its socket is taken away
        server.join(60)
    for each in made.open:
        each.close()


@contextmanager
def within(low: float, high: float) -> Iterator[None]:
    began = time.perf_counter()
    yield
    assert low <= time.perf_counter() - began < high


@pytest.mark.parametrize(
    ("hangs", "says"),
    [
        ("silence", f"no ssh: it took the connection and then said nothing for {CONNECT} s; does it hang?"),
        ("dead", f"no ssh: no answer within {CONNECT} s; is it up?"),
    ],
)
def test_nodes_that_do_not_answer_are_waited_for_together_and_once(
    nodes: Nodes, hangs: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one after the other, nor for each question, nor for each 32 of them."""
    many, waiting, waited = 140, threading.Barrier(140), list[int]()
    real = login._spoken_to

    def spoken_to(host: str, port: int, seconds: float) -> socket.socket:
        waited.append(port)
        if len(waited) <= many:
            waiting.wait(60)  # broken unless all of them come to it
        return real(host, port, seconds)

    monkeypatch.setattr(login, "_spoken_to", spoken_to)
    for _ in range(many):
        nodes.add(hangs)
    with Cluster(nodes.settings) as cluster:
        monkeypatch.setattr(sessions, "time", SimpleNamespace(monotonic=lambda: 0.0))  # both looks within the deadline
        state = cluster.state()
        cluster.state()
        assert len(waited) == many
        assert {node.down.partition(" try: ssh -F ")[0] for node in state} == {says}
        assert all(re.fullmatch(r".* try: ssh -F \S+/config -p \d+ 127\.0\.0\.1 true", node.down) for node in state)


def test_what_was_reached_and_not_used_is_closed(nodes: Nodes) -> None:
    with Cluster(nodes.add("greeted").settings) as cluster:
        node = cluster.nodes["pm-1"]
        assert node.reach()
        assert node._sessions._reached is not None
        end = node._sessions._reached.connect_kwargs["sock"]
        assert node.reach()
        assert node._sessions._reached.connect_kwargs["sock"] is end, "it is reached once"
        assert end.fileno() > 0
    assert end.fileno() == -1


def test_an_address_that_refuses_is_passed_over_and_a_silent_one_is_not(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As paramiko does it: a silent one costs the deadline, and so may the next."""
    (refusing,) = free_ports(1, "127.0.0.1")
    silent, speaking = nodes.add("dead").add("greeted").ports
    places: list[int] = []
    monkeypatch.setattr(
        "pmc.transport.login.socket.getaddrinfo",
        lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in places],
    )
    places[:] = [refusing, speaking]
    with login._connected("node", 22, 0.5) as end:
        assert end.getpeername()[1] == speaking
    places[:] = [refusing, silent, speaking]
    with pytest.raises(TimeoutError):
        login._connected("node", 22, 0.5)
    places[:] = [refusing]
    with pytest.raises(ConnectionRefusedError):
        login._connected("node", 22, 0.5)


def test_a_connection_that_was_closed_is_tried_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a fence command nothing counts that was seen before it, not even silence."""
    tried: list[str] = []

    def connect(spec: Any, *_: Any) -> Any:
        tried.append(spec.name)
        raise NodeDown(f"{spec.name}: no ssh")

    monkeypatch.setattr("pmc.transport.sessions.reach", connect)
    node = Node(SETTINGS.nodes["pm-1"], SETTINGS, None)
    for times in (1, 1):
        with pytest.raises(NodeDown):
            node.run(command("true"))
        assert len(tried) == times
    node.close()
    with pytest.raises(NodeDown):
        node.run(command("true"))
    assert len(tried) == 2


def test_a_node_that_hangs_is_a_line_and_no_traceback(nodes: Nodes, tmp_path: Path) -> None:
    """In a process of its own, where nothing catches what Python prints by itself."""
    (tmp_path / "pmc.conf").write_text(nodes.add("silence").conf())
    pmc = Path(sys.executable).with_name("pmc")
    done = subprocess.run([str(pmc), "pm.ls", "--conf", str(tmp_path / "pmc.conf")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "down: no ssh" in done.stdout
    assert done.stderr.startswith("pm-1: no ssh: it took the connection and then said nothing for 3 s")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("hangs", ["exec", "lost"])
def test_a_command_on_a_node_that_hangs_or_goes_is_in_doubt(nodes: Nodes, hangs: str) -> None:
    with Cluster(nodes.add(hangs).settings) as cluster:
        node = cluster.nodes["pm-1"]
        with (
            within(0, COMMAND + 3 * SLACK),
            pytest.raises(InDoubt, match="pm-1: 'drbdadm up web': the connection was lost"),
        ):
            node.run(command("drbdadm", "up", "web"))


def test_a_command_that_has_no_end_is_given_up(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """timeout(1) on the node ends it; when that does not either, pmc waits no longer than half a minute more."""
    real, began = time.monotonic, threading.Event()
    monkeypatch.setattr("pmc.transport.node.time.monotonic", lambda: real() + 29 * began.is_set())
    with Cluster(nodes.add("run").settings) as cluster:
        node = cluster.nodes["pm-1"]
        node.connection.open()
        threading.Timer(0.5, began.set).start()
        with within(COMMAND, COMMAND + SLACK), pytest.raises(InDoubt, match=f"no end after {COMMAND + 30} s"):
            node.run(command("drbdadm", "up", "web"))


def test_a_long_command_on_a_node_that_says_nothing_at_all_is_given_up_sooner(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmc.transport.connection.SILENCE", 2)
    with (
        Cluster(nodes.add("pulse").settings) as cluster,
        within(2, 2 + SLACK),
        pytest.raises(InDoubt, match="no sign of life"),
    ):
        cluster.nodes["pm-1"].run(command("drbdadm", "up", "web"))


def test_a_node_that_answers_its_connection_lives(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmc.transport.connection.SILENCE", 2)
    with Cluster(nodes.add("run").settings) as cluster:
        pulse = Pulse(cluster.nodes["pm-1"].connection.client.get_transport())
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert not pulse.lost()
            time.sleep(0.05)


def test_a_manager_that_was_stopped_for_long_does_not_take_the_node_for_lost(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-Z, or a terminal that stands still."""
    real, gone = time.monotonic, [0]
    monkeypatch.setattr("pmc.transport.connection.time.monotonic", lambda: real() + gone[-1])
    with Cluster(nodes.add("run").settings) as cluster:
        pulse = Pulse(cluster.nodes["pm-1"].connection.client.get_transport())
        assert not pulse.lost()
        began = pulse.last  # before it asks: the answer can be there at once
        gone.append(300)
        assert not pulse.lost()
        end = time.monotonic() + SLACK
        while pulse.last == began and time.monotonic() < end:
            assert not pulse.lost()
            time.sleep(0.05)
        assert pulse.last > began
        gone.append(600)
        assert not pulse.lost()


def test_a_connection_whose_other_end_lost_power_is_given_up_by_the_kernel(nodes: Nodes) -> None:
    with Cluster(nodes.add("run").settings) as cluster:
        sock = cluster.nodes["pm-1"].connection.client.get_transport().sock
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


def test_a_channel_is_given_up_in_silence_when_its_connection_is_gone() -> None:
    """It happens in a thread of its own, whose exception Python would print."""

    class Gone:
        def close(self) -> None:
            raise EOFError

    _close(Gone())  # type: ignore[arg-type]
