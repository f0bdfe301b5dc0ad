"""What one look asks a node, and what becomes of the answers. No connection."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from pmc import virsh
from pmc.cluster import Cluster
from pmc.command import Answer
from pmc.errors import CommandFailed, Interrupted, NodeDown, PmcError
from pmc.model import NodeState, Resource
from pmc.node_state import parse_meminfo, parse_ports, state_queries
from pmc.settings import parse
from pmc.transport import migration
from pmc.transport.fanout import run_on_all
from pmc.transport.node import Node
from pmc.units import KiB
from tests.unit.samples import SETTINGS, data, framed

SAID = {
    "hostname": "pm-1\n",
    "memory": data("linux-6.1.0-meminfo.txt"),
    "libvirt": data("virsh-9.0.0-domstats.txt"),
    "saved memory": ".\n..\nweb.save\n",
    "macs": data("libvirt-9.0.0-macs.txt"),
    "drbd version": "8.4.11\n",
    "drbd status": data("drbdsetup-9.22.0-module-8.4.11-events2.txt"),
    "drbd two-primaries": data("drbdsetup-9-handwritten-show-filtered.txt"),
    "drbd files": framed(data("drbd-8.4.11-resource-files.txt")),
    "volumes": data("lvm-2.03.16-fullreport-json.txt"),
    "ports": data("ss-6.1.0-listening.txt"),
}


class Told(Node):
    """A node whose answers are given: the one seam where effects leave."""

    def __init__(self, said: dict[str, Answer] | None) -> None:
        super().__init__(SETTINGS.nodes["pm-1"], SETTINGS, None)
        self.said = said
        self.failure: PmcError = NodeDown("pm-1: no ssh within 10 s")

    def ask_each(self, *queries: Any, seconds: float | None = None) -> list[Any]:
        if self.said is None:
            raise self.failure
        names = state_queries(SETTINGS, allocating=True)
        assert len(queries) == len(names)
        return [self._parsed(query, self.said[name]) for name, query in zip(names, queries, strict=True)]


@pytest.mark.parametrize(("hard", "says"), [(4096, "1264"), (1000, "300 nodes need 1264 open files")])
def test_many_connections_are_allowed_or_it_is_said(hard: int, says: str) -> None:
    """In a process of its own: what is lowered cannot be raised again."""
    code = (
        "import resource as r; from pmc.transport.connection import allow_connections; from pmc.errors import Refused\n"
        f"r.setrlimit(r.RLIMIT_NOFILE, (256, {hard}))\n"
        "try: allow_connections(300); print(r.getrlimit(r.RLIMIT_NOFILE)[0])\n"
        "except Refused as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(says)


def look(changed: dict[str, Answer] | None = None) -> NodeState:
    answers = {name: Answer(0, text, "") for name, text in SAID.items()}
    return Cluster(SETTINGS)._look(Told({**answers, **(changed or {})}), allocating=True, beside={})


def test_one_look() -> None:
    seen = look()
    assert seen.trouble == ""
    assert (seen.hostname, seen.drbd) == ("pm-1", "8.4.11")
    assert (seen.group_size, seen.group_free) == (8585740288, 8438939648)
    assert (
        sorted(seen.domains) == sorted(seen.resources) == sorted(seen.files) == sorted(seen.volumes) == ["web", "web2"]
    )
    assert seen.resources["web"].two_primaries
    assert not seen.resources["web2"].two_primaries
    assert seen.ports == {22, 5900}
    assert (set(seen.saved), seen.group_attributes) == ({"web"}, "wz--n-")


@pytest.mark.parametrize("what", SAID)
def test_a_tool_that_fails_is_trouble_by_name_and_hides_nothing_else(what: str) -> None:
    seen = look({what: Answer(127, "", "timeout: failed to run command: No such file or directory\n")})
    assert list(seen.failures) == [what]
    assert "No such file" in seen.trouble
    assert seen.down == ""
    assert what == "libvirt" or seen.domains


@pytest.mark.parametrize("what", sorted(set(SAID) - {"hostname", "macs", "drbd version"}))
def test_an_answer_that_is_none_is_trouble(what: str) -> None:
    assert list(look({what: Answer(0, "Segmentation fault\n", "")}).failures) == [what]


def test_a_node_that_does_not_answer_is_in_the_state_as_such() -> None:
    seen = Cluster(SETTINGS)._look(Told(None), allocating=False, beside={})
    assert (seen.name, seen.down, seen.answers) == ("pm-1", "no ssh within 10 s", False)
    assert seen.trouble


def test_a_node_that_turns_one_away_is_not_silent() -> None:
    told = Told(None)
    for error in (NodeDown("pm-1: ssh login refused", answered=True), CommandFailed("pm-1", "sh", 124, "no answer")):
        told.failure = error
        assert Cluster(SETTINGS)._look(told, allocating=False, beside={}).answers


def test_volumes_of_other_groups_are_not_the_vms() -> None:
    assert state_queries(replace(SETTINGS, volume_group="fast"))["volumes"].command.argv[-1] == "fast"


def test_memory() -> None:
    total, available = parse_meminfo(SAID["memory"])
    assert 0 < available < total
    assert total % KiB == 0
    for broken in ("", "MemTotal: 1 kB\n", "garbage", "MemTotal:\n"):
        with pytest.raises((ValueError, KeyError, IndexError)):
            parse_meminfo(broken)


def test_ports() -> None:
    addresses = ("0.0.0.0:22", "*:80", "[::]:7800", "127.0.0.53%lo:53", "[fe80::1%eth0]:22")
    assert parse_ports("".join(f"LISTEN 0 128 {each} 0.0.0.0:*\n" for each in addresses)) == {22, 80, 7800, 53}
    for broken in ("ss: error\n", "LISTEN 0 128 nothing 0.0.0.0:*\n"):
        with pytest.raises((ValueError, IndexError)):
            parse_ports(broken)


def test_a_failure_is_raised_by_ask_and_returned_by_ask_each() -> None:
    query = state_queries(SETTINGS)["memory"]
    told = Told({})
    failed = told._parsed(query, Answer(1, "", "one\ntwo\n"))
    assert isinstance(failed, CommandFailed)
    assert (failed.node, failed.exit, failed.stderr) == ("pm-1", 1, "one\ntwo")
    told.ask_each = lambda *queries, seconds=None: [failed]  # type: ignore[method-assign]
    with pytest.raises(CommandFailed, match="pm-1: 'cat /proc/meminfo' ended with status 1: two"):
        told.ask(query)


class Migrating(Node):
    """A node whose migration ends only when it is told to; DRBD there is as `seen`, one answer after the other."""

    def __init__(self, *seen: str) -> None:
        super().__init__(SETTINGS.nodes["pm-1"], SETTINGS, None)
        self.seen = list(seen)

    def ask(self, *queries: Any, seconds: float | None = None) -> list[Any]:
        state = self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]
        if state == "no answer":
            raise NodeDown("pm-1: no ssh")
        return [{"web": Resource("web", connection=state)} if state else {}]

    def run(self, command: Any, *, stopped: Any = None, **more: Any) -> str:
        for _ in range(50):
            if stopped():
                raise Interrupted()
            time.sleep(0.1)
        return ""


def migrate(node: Node, stopped: bool = False) -> None:
    migration.run(node, virsh.migrate("web", "pm-2", "10.0.0.2"), "web", lambda: stopped)


@pytest.mark.parametrize("seen", [("Connecting",), ("Connected", "WFConnection"), ("no answer", "StandAlone"), ("",)])
def test_a_migration_is_aborted_when_drbd_loses_its_peer(seen: tuple[str, ...]) -> None:
    with pytest.raises(CommandFailed, match="DRBD's two sides lost each other, so the migration was aborted"):
        migrate(Migrating(*seen))


def test_a_migration_goes_on_while_the_link_holds_or_is_not_known() -> None:
    migrate(Migrating("Connected", "no answer", "Connected"))


def test_ctrl_c_stays_what_it_is() -> None:
    with pytest.raises(Interrupted):
        migrate(Migrating("Connected"), stopped=True)


def test_nodes_that_are_waited_for_keep_no_other_from_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three are dead, which shows only when all others have been asked, two at a time."""
    monkeypatch.setattr("pmc.transport.fanout.WORKERS", 2)
    working, most, done, over, one = set[str](), set[int](), set[str](), threading.Event(), threading.Lock()
    settings = parse("".join(f'[nodes.pm-{n}]\nreplication = "10.0.0.{n}"\n' for n in range(1, 10)), "pmc.conf")
    monkeypatch.setattr(Node, "reach", lambda node: node.name > "pm-3" or not over.wait(10))

    def work(node: Node) -> str:
        if node.name > "pm-3":
            with one:
                working.add(node.name)
                most.add(len(working))
            time.sleep(0.02)
            with one:
                working.remove(node.name)
                done.add(node.name)
            if len(done) == 6:
                over.set()
        return f"{node.name} {over.is_set()}"

    with Cluster(settings) as cluster:
        told = cluster.on_all(work)
    assert [each.split()[0] for each in told] == list(settings.nodes)
    assert told[:3] == ["pm-1 True", "pm-2 True", "pm-3 True"]
    assert max(most) == 2


def test_ctrl_c_waits_for_no_node_that_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    reached, waits, over, closed = list[str](), threading.Event(), threading.Event(), list[str]()

    def reach(node: Node) -> bool:
        if node.name == "pm-1":
            waits.set()
            over.wait(20)
            reached.append(node.name)
        return True

    def work(node: Node) -> None:
        waits.wait(60)
        os.kill(os.getpid(), signal.SIGINT)  # the main thread gets it

    monkeypatch.setattr(Node, "reach", reach)
    monkeypatch.setattr(Node, "close", lambda node: closed.append(node.name))
    nodes = Cluster(SETTINGS).nodes
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell has it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            run_on_all([nodes["pm-1"], nodes["pm-2"]], work)
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached == []
    assert closed == ["pm-1", "pm-2"]
    over.set()


def test_closing_reaches_for_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Node, "reach", lambda node: pytest.fail("it is over"))
    with Cluster(SETTINGS):
        pass


def test_work_at_once_keeps_the_order_and_the_limit() -> None:
    now, most = [0], [0]
    lock = threading.Lock()

    def work(number: int) -> int:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        return -number

    assert Cluster(SETTINGS).at_once(work, range(9), 3) == [-number for number in range(9)]
    assert most[0] == 3
