"""One look at a node: what is asked, and what the answers say. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pmc import drbd, lvm, virsh
from pmc.command import Query, command
from pmc.errors import CommandFailed
from pmc.model import NodeState
from pmc.settings import Settings


def state_queries(settings: Settings, allocating: bool = False) -> dict[str, Query[Any]]:
    """What one look asks each node, by the name under which a failure is reported. What only a new VM needs to know
    (`allocating`: the MAC addresses and ports in use) is not asked otherwise."""
    queries: dict[str, Query[Any]] = {
        "hostname": Query(command("uname", "-n"), str.strip),
        "memory": Query(command("cat", "/proc/meminfo"), parse_meminfo),
        "libvirt": virsh.domains(),
        "drbd version": drbd.version(),
        "drbd status": drbd.status(),
        "drbd two-primaries": drbd.open_resources(),
        "drbd files": drbd.files(),
        "volumes": lvm.volumes(settings.volume_group),
    }
    if allocating:
        queries["macs"] = virsh.macs()
        queries["ports"] = Query(command("ss", "-Hltn"), parse_ports)
    return queries


def parse_meminfo(text: str) -> tuple[int, int]:
    """(total, available) in bytes, of /proc/meminfo."""
    rows = {name: int(rest.split()[0]) * 1024 for name, _, rest in (row.partition(":") for row in text.splitlines())}
    return rows["MemTotal"], rows["MemAvailable"]


def parse_ports(text: str) -> frozenset[int]:
    """Of `ss -Hltn`: the fourth column is address:port."""
    return frozenset(int(row.split()[3].rpartition(":")[2]) for row in text.splitlines())


def node_state(name: str, settings: Settings, answers: Mapping[str, Any], beside: Iterable[str] = ()) -> NodeState:
    """Of the answers to `state_queries`, and to what was asked `beside`; a question that failed has its CommandFailed
    in their place."""
    failures = {what: said_by(error) for what, error in answers.items() if isinstance(error, CommandFailed)}
    good = {what: answer for what, answer in answers.items() if what not in failures}
    opened = good.get("drbd two-primaries", frozenset())
    memory, available = good.get("memory", (0, 0))
    (size, free), volumes = good.get("volumes", ((0, 0), {}))
    return NodeState(
        name,
        failures=failures,
        hostname=good.get("hostname", ""),
        drbd=good.get("drbd version", ""),
        memory=memory,
        memory_available=available,
        group_size=size,
        group_free=free,
        domains=good.get("libvirt", {}),
        resources={n: replace(r, two_primaries=n in opened) for n, r in good.get("drbd status", {}).items()},
        files=good.get("drbd files", {}),
        volumes=volumes,
        ports=good.get("ports", frozenset()),
        macs=good.get("macs", frozenset()),
        beside={what: good[what] for what in beside if what in good},
    )


def said_by(error: CommandFailed) -> str:
    return error.stderr.splitlines()[-1] if error.stderr else f"status {error.exit}"
