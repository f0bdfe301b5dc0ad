"""What one look asks a node, and what becomes of the answers. No connection."""

from __future__ import annotations

from typing import Any

import pytest

from pmc.cluster import Cluster, parse_meminfo, parse_ports, state_queries
from pmc.command import Answer
from pmc.errors import CommandFailed, NodeDown
from pmc.model import NodeState
from pmc.node import Node
from pmc.units import KiB
from tests.unit.samples import SETTINGS, data

SAID = {
    "hostname": "pm-1\n",
    "memory": data("linux-6.1.0-meminfo.txt"),
    "libvirt": data("virsh-9.0.0-domstats.txt"),
    "macs": data("libvirt-9.0.0-macs.txt"),
    "drbd version": "8.4.11\n",
    "drbd status": data("drbdsetup-9.22.0-module-8.4.11-events2.txt"),
    "drbd two-primaries": data("drbdsetup-9-handwritten-show-filtered.txt"),
    "drbd files": data("drbd-8.4.11-resource-files.txt"),
    "volume group": data("vgs-2.03.16-json.txt"),
    "volumes": data("lvs-2.03.16-json.txt"),
    "ports": data("ss-6.1.0-listening.txt"),
}


class Told(Node):
    """A node whose answers are given: the one seam where effects leave."""

    def __init__(self, said: dict[str, Answer] | None) -> None:
        super().__init__(SETTINGS.nodes["pm-1"], SETTINGS, None)
        self.said = said

    def ask_each(self, *queries: Any, seconds: float | None = None) -> list[Any]:
        if self.said is None:
            raise NodeDown("pm-1: no ssh within 10 s")
        names = state_queries(SETTINGS, allocating=True)
        assert len(queries) == len(names)
        return [self._parsed(query, self.said[name]) for name, query in zip(names, queries, strict=True)]


def look(changed: dict[str, Answer] | None = None) -> NodeState:
    answers = {name: Answer(0, text, "") for name, text in SAID.items()}
    return Cluster(SETTINGS)._look(Told({**answers, **(changed or {})}), allocating=True)


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
    seen = Cluster(SETTINGS)._look(Told(None), allocating=False)
    assert (seen.name, seen.down) == ("pm-1", "no ssh within 10 s")
    assert seen.trouble


def test_volumes_of_other_groups_are_not_the_vms() -> None:
    other = SAID["volumes"].replace('"vg_name":"vg", "lv_name":"web2"', '"vg_name":"system", "lv_name":"web2"')
    assert list(look({"volumes": Answer(0, other, "")}).volumes) == ["web"]


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
