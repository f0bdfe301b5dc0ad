"""pm.init --fix and pm.ready_drbd. Findings or state in, plans out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pmc import drbd, lvm
from pmc.actions import Relay
from pmc.facts import backing
from pmc.health.node_checks import Finding
from pmc.model import ClusterState, NodeState, Resource, ResourceFile
from pmc.plan import Plan, Step, plan
from pmc.plans.close_migration import forbid_two_primaries
from pmc.settings import Settings

READY_COLUMNS = ("node", "resource", "role", "connection", "disks", "in sync", "note")


def init(findings: Iterable[Finding]) -> Plan:
    """The safe fixes, each once: both nodes of a pair report what is wrong between them. All nodes at the same time:
    a step is in the first group in which its nodes are free, behind those that its finding has before it."""
    groups: list[list[Step]] = []
    busy: list[set[str]] = []  # the nodes of each group
    place: dict[Step, int] = {}
    for finding in findings:
        first = 0
        for step in finding.verdict.steps:
            if step not in place:
                nodes = {step.node, step.do.source} if isinstance(step.do, Relay) else {step.node}
                place[step] = next((n for n in range(first, len(groups)) if not nodes & busy[n]), len(groups))
                if place[step] == len(groups):
                    groups.append([])
                    busy.append(set())
                groups[place[step]].append(replace(step, beside=bool(groups[place[step]])))
                busy[place[step]] |= nodes
            first = max(first, place[step] + 1)
    return plan("pm.init --fix", *groups)


def unknown(node: NodeState) -> str:
    """Why nothing can be said about the node's DRBD. Its libvirt may still be starting: no matter."""
    needed = ("drbd version", "drbd status", "drbd files", "volumes")
    return node.down or "; ".join(f"{what}: {node.failures[what]}" for what in needed if what in node.failures)


def ready(node: NodeState, settings: Settings, state: ClusterState, only: Collection[str] | None = None) -> list[Plan]:
    """What brings the node's resources up (`only` these), but never a stale copy. A plan for each resource and nothing
    to undo: one that fails must not keep the others down."""
    if unknown(node):
        return []
    mine = [file for _, file in sorted(node.files.items()) if node.hostname in file.hosts]
    files = [
        file for file in mine if node.name not in state.stale_copies(file.name) and (only is None or file.name in only)
    ]
    ground = []
    if not node.drbd:
        ground.append(Step(node.name, "load DRBD's module", drbd.load_module()))
    if any(_inactive(node, file) for file in files):
        group = settings.volume_group
        ground.append(Step(node.name, f"activate the volumes of {group}", lvm.activate(group)))
    title = f"pm.ready_drbd {node.name}"
    plans = [plan(title, ground), *(plan(f"{title}: {file.name}", _up(node, file)) for file in files)]
    return [each for each in plans if each.steps]


@dataclass(frozen=True)
class Ready:
    """What brings nodes up: first all of `closing`, then the nodes side by side."""

    closing: tuple[Plan, ...]
    nodes: tuple[tuple[Plan, ...], ...]  # one after the other, of each node

    @property
    def plans(self) -> tuple[Plan, ...]:
        return (*self.closing, *(each for plans in self.nodes for each in plans))


def ready_all(
    names: Sequence[str], state: ClusterState, settings: Settings, only: Collection[str] | None = None
) -> Ready:
    """What brings up all that is down on the nodes `names` (`only` of these VMs). First what a migration left open when
    its other node died is closed: DRBD does not connect two sides of which only one allows two primaries."""
    sleeping = sorted({vm for name in names for vm in asleep(state.nodes[name]) if only is None or vm in only})
    opened = {vm: state.two_allowed(vm) for vm in sleeping}
    closing = [
        plan(f"pm.ready_drbd: close {vm}", forbid_two_primaries(where, vm, state))
        for vm, where in opened.items()
        if where
    ]
    return Ready(tuple(closing), tuple(tuple(ready(state.nodes[name], settings, state, only)) for name in names))


def asleep(node: NodeState) -> list[str]:
    """The VMs whose resource something may be done about."""
    return [] if unknown(node) else [file.name for file in node.files.values() if _up(node, file)]


def _inactive(node: NodeState, file: ResourceFile) -> bool:
    """lvs(8): the fifth attribute is the state."""
    volume = backing.of(node, file.name)
    return volume is not None and volume.attributes[4:5] != "a"


def _up(node: NodeState, file: ResourceFile) -> list[Step]:
    now, alone = node.up(file.name), len(file.hosts) == 1
    # Without disk and peer: brought up before its volume was there, as drbd.service does when LVM is late.
    if now is None or (now.disk == "Diskless" and now.standalone and not alone):
        return [Step(node.name, f"bring up {file.name}", drbd.up(file.name, alone))]
    # One that has a peer was detached, after an I/O error or by hand: vm.repair attaches it, when the peer is whole.
    if now.disk == "Diskless" and alone:
        return [Step(node.name, f"attach the disk of {file.name}", drbd.attach(file.name))]
    return []


@dataclass(frozen=True)
class Side:
    """A resource on one node. `waiting`: it may become well by itself. `note` says what is wrong with it."""

    node: str
    resource: str
    now: Resource | None
    alone: bool = False  # it has no other side
    waiting: bool = False
    note: str = ""

    @property
    def syncing(self) -> bool:
        """It waits for the end of a resync."""
        return self.waiting and _syncing(self.now)

    def json(self) -> dict[str, object]:
        row: dict[str, object] = {"node": self.node, "resource": self.resource, "note": self.note}
        if (now := self.now) is None:
            return row
        return row | {
            "role": now.role, "connection": "no peer" if self.alone else now.connection, "disk": now.disk,
            "peer_disk": now.peer_disk, "replication": now.replication, "sync_percent": round(now.percent, 1),
            "out_of_sync": now.out_of_sync,
        }  # fmt: skip

    def cells(self) -> dict[str, object]:
        now, row = self.now, self.json() | {"note": self.note.partition(";")[0]}
        if now is None:
            return row
        disks = now.disk if self.alone else f"{now.disk}/{now.peer_disk}"
        return row | {"disks": disks, "in sync": "" if self.alone else f"{now.percent:.1f} %"}


def sides(state: ClusterState, names: Sequence[str]) -> list[Side]:
    """What there is on the nodes `names`; a node that cannot be asked is a side without a resource."""
    found = []
    for node in (state.nodes[name] for name in names):
        if why := unknown(node):
            found.append(Side(node.name, "", None, note=f"down: {why}" if node.down else why))
            continue
        ours = {name for name, file in node.files.items() if node.hostname in file.hosts}
        found += [_side(node, name, state) for name in sorted(ours | set(node.resources))]
    return found


def _side(node: NodeState, name: str, state: ClusterState) -> Side:
    now, file = node.up(name), node.files.get(name)
    alone = file is not None and len(file.hosts) == 1
    if node.name in state.stale_copies(name):
        return Side(node.name, name, now, alone, note=f"a stale copy, no part of it now; fab vm.peer {name} --cleanup")
    if now is None:
        return Side(node.name, name, None, alone, note="not up")
    if now.healthy or (alone and now.good):
        return Side(node.name, name, now, alone)
    if alone:
        return Side(node.name, name, now, alone, note="its own disk is not usable")
    if now.diskless:
        return Side(node.name, name, now, note=f"its own disk is not usable; journalctl -k, then fab vm.repair {name}")
    if now.standalone:
        return Side(node.name, name, now, note=f"split brain, or disconnected by hand; fab vm.repair {name} tells")
    peers = [host for host in (file.hosts if file else ()) if host != node.hostname]
    if not now.connected and (why := _absent(peers, name, state)):
        return Side(node.name, name, now, note=why)
    return Side(
        node.name, name, now, waiting=True, note="syncing" if _syncing(now) else f"waits for {', '.join(peers)}"
    )


def _syncing(now: Resource | None) -> bool:
    return now is not None and now.connected and bool(now.out_of_sync)


def _absent(peers: Sequence[str], name: str, state: ClusterState) -> str:
    """Why the peer cannot come by itself, as far as it is known."""
    for peer in (state.nodes[peer] for peer in peers if peer in state.nodes):
        if peer.down:
            return f"{peer.name} is down"
        if not unknown(peer) and peer.up(name) is None:
            return f"not up on {peer.name}: fab pm.ready_drbd {peer.name}"
        if name in peer.resources and peer.resources[name].standalone:
            return f"StandAlone on {peer.name}"
    return ""


@dataclass(frozen=True)
class Best:
    """The best that was seen of sides that are waited for: how few of them wait without syncing (None: not seen yet),
    and how few bytes each that syncs had to copy. What a guest writes, or a link that comes and goes, makes it no
    better; so it can get better only so often."""

    waits: int | None = None
    left: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def after(self, found: Iterable[Side]) -> tuple[Best, bool]:
        """With what was seen now, and whether anything got better by it. What begins to sync has done nothing yet."""
        waiting = [side for side in found if side.waiting]
        waits = sum(not side.syncing for side in waiting)
        left = {(side.node, side.resource): side.now.out_of_sync for side in waiting if side.syncing and side.now}
        before = waits if self.waits is None else self.waits
        better = waits < before or any(size < self.left.get(side, size) for side, size in left.items())
        lowest = {side: min(size, self.left.get(side, size)) for side, size in left.items()}
        return Best(min(waits, before), {**self.left, **lowest}), better


def late(side: Side, seconds: float) -> str:
    """What is to be said of a side that was waited for in vain."""
    if not side.waiting:
        return ""
    return f" ({'no progress for' if side.syncing else 'after'} {seconds:g} s; does the link between the nodes work?)"
