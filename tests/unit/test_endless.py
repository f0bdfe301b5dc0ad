"""Nodes that never come to an end: what they say is bounded, in bytes and in time, and Ctrl-C ends the wait. Against a
real ssh server whose answer to every command is the test's."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import paramiko
import pytest

from pmc import lock_files
from pmc.cluster import Cluster
from pmc.command import Query, command
from pmc.errors import CommandFailed, NodeDown
from pmc.lock_files import Holder
from pmc.settings import Settings, parse
from pmc.transport import lock as locks
from pmc.transport import node
from pmc.transport.lock import Hold
from tests.unit import sshd

MiB = 1 << 20
HOLDER = Holder("ann@m1", 11, "2026-01-02T03:04:05+00:00", "vm.mv web", "a1")
SECONDS = 3  # deadline of a short command
SLACK = 30  # for a machine that is busy with other things; what is told apart is an end and none
Answer = Callable[[paramiko.Channel, threading.Event], None]


def endless(channel: paramiko.Channel, over: threading.Event) -> None:
    while not over.is_set():
        channel.sendall(b"x" * 30_000)


def endless_stderr(channel: paramiko.Channel, over: threading.Event) -> None:
    while not over.is_set():
        channel.sendall_stderr(b"x" * 30_000)


def drips(channel: paramiko.Channel, over: threading.Event) -> None:
    while not over.wait(0.2):
        channel.sendall(b"x")


def locked_then_endless(channel: paramiko.Channel, over: threading.Event) -> None:
    channel.sendall(b"locked\n")
    over.wait(2)  # the answer is a line, and not what comes with it
    endless(channel, over)


def locked_then_drips(channel: paramiko.Channel, over: threading.Event) -> None:
    channel.sendall(b"locked\n")
    drips(channel, over)


class Server(sshd.Open):
    def __init__(self, site: Site) -> None:
        self.site = site

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.site.asked.set()

        def say() -> None:
            with suppress(*sshd.LEFT):
                if mark := re.search(rb"echo (pmc-[0-9a-f]+);", command):  # what its login shell does
                    channel.sendall(b"\n" + mark[1] + b"\n")
                self.site.answer(channel, self.site.over)

        threading.Thread(target=say, daemon=True).start()
        return True


class Site(sshd.Sshd):
    """One node; `answer` is what it says to every command. `banner`: it is no ssh server and says that, for ever."""

    def __init__(self, folder: Path, answer: Answer, banner: bytes = b"") -> None:
        self.answer, self.banner, self.over = answer, banner, threading.Event()
        self.asked = threading.Event()
        self.said = 0  # bytes of the banner that somebody took
        super().__init__(folder, lambda: Server(self))

    def take(self, end: socket.socket) -> None:
        if self.banner:
            threading.Thread(target=self._greet, args=(end,), daemon=True).start()
        else:
            super().take(end)

    def _greet(self, end: socket.socket) -> None:
        with end, suppress(OSError):
            while not self.over.is_set():
                self.said += end.send(self.banner)

    @property
    def conf(self) -> Path:
        path = self.folder / "pmc.conf"
        path.write_text(
            f'{sshd.configured(self.folder, self.port)}audit_log = ""\n[deadlines]\nconnect = {SECONDS}\n'
            f"command = {SECONDS}\n{sshd.nodes([self.port])}"
        )
        return path

    @property
    def settings(self) -> Settings:
        return parse(self.conf.read_text(), "pmc.conf")

    def close(self) -> None:
        self.over.set()
        super().close()


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def site(answer: Answer, banner: bytes = b"") -> Site:
        made.append(Site(tmp_path, answer, banner))
        return made[-1]

    yield site
    for each in made:
        each.close()


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """Whatever has no end here fails the test in place of holding up the run."""

    def late(*_: object) -> None:
        raise AssertionError("it has no end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60 + 2 * SLACK)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("answer", "says"), [(endless, "it says too much"), (drips, f"no end of its answer within {SECONDS} s")]
)
def test_a_lock_is_asked_for_no_longer_than_the_deadline(sites: Callable[..., Site], answer: Answer, says: str) -> None:
    with Cluster(sites(answer).settings) as cluster, pytest.raises(CommandFailed, match=says):
        Hold(cluster.nodes["pm-1"], ["web"], HOLDER)


@pytest.mark.parametrize("answer", [locked_then_endless, locked_then_drips])
def test_a_lock_is_let_go_whatever_the_node_says_then(
    sites: Callable[..., Site], answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LETTING_GO", 1)
    with Cluster(sites(answer).settings) as cluster:
        hold = Hold(cluster.nodes["pm-1"], ["web"], HOLDER)
        assert hold.refusal is None
        began = time.monotonic()
        hold.release()
        assert time.monotonic() - began < SLACK
        assert hold.channel.closed


def test_an_answer_that_is_kept_in_memory_is_bounded(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "MOST", MiB)
    with Cluster(sites(endless).settings) as cluster:
        for ask in (
            lambda: cluster.nodes["pm-1"].ask(Query(command("true"), str)),
            lambda: cluster.nodes["pm-1"].run(command("true"), seconds=3600),
        ):
            with pytest.raises(CommandFailed, match=r"pm-1: .*it says too much: more than 1 MiB"):
                ask()
        took = 0

        def sink(block: bytes) -> None:
            nonlocal took
            took += len(block)
            if took > 3 * MiB:
                raise CommandFailed("pm-1", "true", 1, "enough")

        with pytest.raises(CommandFailed, match="enough"):  # what is not kept may be any length
            cluster.nodes["pm-1"].run(command("true"), sink=sink)


def test_what_is_said_on_stderr_is_bounded_and_the_deadline_holds(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cluster(sites(endless_stderr).settings) as cluster:
        pm_1 = cluster.nodes["pm-1"]
        pm_1.connection.open()
        monkeypatch.setattr("pmc.transport.node.GRACE", 0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(Exception, match=f"no end after {SECONDS} s"):
            pm_1.run(command("true"))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024, "KiB"


@pytest.mark.parametrize("banner", [b"x" * 30_000, b"x\n" * 15_000])
def test_a_greeting_without_an_end_is_a_node_that_is_down(sites: Callable[..., Site], banner: bytes) -> None:
    """And nobody goes on to read it."""
    site = sites(drips, banner=banner)
    with Cluster(site.settings) as cluster:
        with pytest.raises(NodeDown):
            cluster.nodes["pm-1"].run(command("true"))
        deadline, said = time.monotonic() + SLACK, -1
        while said != site.said:
            assert time.monotonic() < deadline, "it is read on and on"
            said = site.said
            time.sleep(1)


@pytest.mark.parametrize("task", [["vm.ls"], ["vm.stop", "web"]])
def test_ctrl_c_ends_the_wait_for_a_node_that_drips(
    sites: Callable[..., Site], tmp_path: Path, task: list[str]
) -> None:
    """Long before the deadlines."""
    site = sites(drips)
    conf = site.conf
    conf.write_text(conf.read_text().replace(f"command = {SECONDS}", "command = 3000"))
    pmc = [sys.executable, "-c", "from pmc.main import main; main()"]
    with subprocess.Popen(
        [*pmc, *task, "--conf", str(conf)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:  # fmt: skip
        try:
            assert site.asked.wait(2 * SLACK)
            assert running.poll() is None
            os.kill(running.pid, signal.SIGINT)
            _, said = running.communicate(timeout=SLACK)
        finally:
            running.kill()
    assert running.returncode not in (0, -signal.SIGKILL)
    assert "Traceback" not in said


def test_the_bounds_are_above_what_is_right() -> None:
    assert len(lock_files.to_line(HOLDER)) + 2000 < locks.MOST
    assert 64 * MiB == node.MOST
