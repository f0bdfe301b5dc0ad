"""What many tests begin with: captured output, settings, and the state of a small cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pmc import drbd
from pmc.command import Answer
from pmc.facts import drbd_files
from pmc.model import ClusterState, Domain, NodeState, Resource, ResourceFile, Volume
from pmc.node_state import cluster_state
from pmc.settings import Settings, parse
from pmc.units import GiB
from pmc.view.output import Line, Row

DATA = Path(__file__).parent.parent / "data"

CLOSE = str(drbd.two_primaries("web", False, "8.4.11"))  # what closes two primaries, as a line

SETTINGS: Settings = parse(
    """
    mac_prefix = "52:54:00:77"
    ports = "7800-7809"
    [nodes.pm-1]
    replication = "10.0.0.1"
    [nodes.pm-2]
    replication = "10.0.0.2"
    [nodes.pm-3]
    replication = "10.0.0.3"
    """,
    "pmc.conf",
)

XML = """\
<domain type="qemu">
  <name>web</name>
  <uuid>00000000-0000-4000-8000-000000000001</uuid>
  <memory unit="KiB">1048576</memory>
  <devices>
    <disk type="block" device="disk"><source dev="/dev/drbd1"/><target dev="vda"/></disk>
    <interface type="bridge"><mac address="52:54:00:77:00:01"/></interface>
  </devices>
</domain>
"""


def cells(rows: Sequence[Line], columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What a table shows of them, of these columns (all)."""
    return [{name: cell for name, cell in row.cells().items() if not columns or name in columns} for row in rows]


def documents(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What --json shows of them."""
    return [row.json() for row in rows]


def data(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


def framed(text: str, name: str = "web.res") -> str:
    """As the files come from a node."""
    return f"==\n{name}\n{text}"


def parsed_files(text: str) -> dict[str, ResourceFile]:
    """Of a text in which nothing may be odd."""
    found = drbd_files.parse(framed(text))
    assert found.odd == ()
    return found.resources


def answer(stdout: str, exit: int = 0) -> Answer:
    return Answer(exit, stdout, "")


def node(name: str, **changes: Any) -> NodeState:
    """A node without a VM."""
    empty = NodeState(
        name, hostname=name, drbd="8.4.11", memory=16 * GiB, memory_available=8 * GiB, group_size=100 * GiB,
        group_free=90 * GiB, ports=frozenset({22}),
    )  # fmt: skip
    return replace(empty, **changes)


def cluster(*nodes: NodeState) -> ClusterState:
    """The nodes given, and the rest of SETTINGS' nodes without a VM."""
    given = {each.name: each for each in nodes}
    return cluster_state({name: given.get(name) or node(name) for name in SETTINGS.nodes})


def home(name: str, *, active: bool, primary: bool, single: bool = False, **changes: Any) -> NodeState:
    """A node that holds one side of the VM web: 10 GiB, minor 1, port 7800."""
    hosts = (name,) if single else ("pm-1", "pm-2")
    resource = Resource("web", 1, "Primary" if primary else "Secondary", "UpToDate", size=10 * GiB)
    if not single:
        resource = replace(resource, connection="Connected", replication="Established", peer_disk="UpToDate")
    usual = {
        "domains": {"web": Domain("web", "running" if active else "shut off", GiB, 1)},
        "resources": {"web": resource},
        "files": {"web": ResourceFile("web", 1, "/dev/vg/web", hosts, (7800,))},
        "volumes": {"web": Volume("web", "vg", 10 * GiB + 8 * (1 << 20), ("pmc",))},
        "macs": frozenset({"52:54:00:77:00:01"}),
        "ports": frozenset({22, 7800}),
    }
    return node(name, **{**usual, **changes})


def running() -> ClusterState:
    """web runs on pm-1; its second copy is on pm-2."""
    return cluster(home("pm-1", active=True, primary=True), home("pm-2", active=False, primary=False))


def stopped() -> ClusterState:
    return cluster(home("pm-1", active=False, primary=False), home("pm-2", active=False, primary=False))


def alone(active: bool) -> ClusterState:
    """web has no second copy."""
    return cluster(home("pm-1", active=active, primary=active, single=True))


def changed(state: ClusterState, name: str, **changes: Any) -> ClusterState:
    return cluster_state({**state.nodes, name: replace(state.nodes[name], **changes)})


def with_resource(state: ClusterState, name: str, **changes: Any) -> ClusterState:
    """The same, but this node's view of web's DRBD resource differs."""
    return changed(state, name, resources={"web": replace(state.nodes[name].resources["web"], **changes)})
