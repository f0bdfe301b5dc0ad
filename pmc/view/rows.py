"""Rows of the listings of VMs, nodes and backups (pmc/view/output.py: Row). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pmc.backup import Stored
from pmc.facts import lvm_attr
from pmc.model import ClusterState, Domain, NodeState, Resource
from pmc.plain import shown
from pmc.plans import suspended_io
from pmc.units import show_size

VM_COLUMNS = ("vm", "state", "on", "secondary", "drbd", "size", "memory", "minor")
PM_COLUMNS = ("node", "state", "running", "defined", "memory used", "memory", "vg free", "drbd")

Fields = dict[str, object]


def vm_rows(state: ClusterState) -> list[VmRow]:
    """Also what is not pmc's."""
    rows = [vm_row(each, name) for each in (state, state.foreign()) for name in each.vm_names()]
    return sorted(rows, key=lambda row: row.vm)


@dataclass(frozen=True)
class VmRow:
    """`state` is libvirt's word (running, paused, shut off, ...) or one of pmc's: runs twice, moving, saved, not
    defined, contradicted (its resource files name different nodes), unknown. `why` it is so, where that needs words.
    Bytes; `minor` is -1 where there is none."""

    vm: str
    state: str
    why: str
    on: Sequence[str]
    secondary: Sequence[str]
    nodes: Sequence[str]
    stale_copies: Sequence[str]
    saved: Sequence[str]
    unwell: Mapping[str, str]  # by node: why its volume there stands still, or is not whole
    memory: int
    cpus: int
    minor: int
    resource: Resource | None

    def json(self) -> Fields:
        facts = self.resource or Resource(self.vm)
        return {
            "vm": self.vm, "state": self.state, "why": self.why, "on": ",".join(self.on),
            "secondary": ",".join(self.secondary), "size": facts.size, "memory": self.memory, "minor": self.minor,
            "nodes": list(self.nodes), "stale_copies": list(self.stale_copies), "saved": list(self.saved),
            "suspended": facts.suspended, "unwell": dict(self.unwell), "cpus": self.cpus,
            "connection": facts.connection, "disk": facts.disk, "peer_disk": facts.peer_disk,
            "sync_percent": round(facts.percent, 1), "two_primaries": facts.two_primaries,
        }  # fmt: skip

    def cells(self) -> Fields:
        size = self.resource.size if self.resource else 0
        saved = f" on {','.join(self.saved)}" if self.state == "saved" else ""
        old = f" (old memory saved on {','.join(self.saved)})" if self.saved and self.on else ""
        now = self.state.upper() if self.state in ALARMING else self.state
        return {
            "vm": self.vm, "state": now + saved + (f" ({self.why})" if self.why else "") + old,
            "on": ",".join(self.on),
            "secondary": ",".join(self.secondary) + "".join(f" (stale copy: {each})" for each in self.stale_copies),
            "drbd": drbd_text(self.resource, len(self.nodes) == 1)
            + "".join(f"; {node}: {why}" for node, why in self.unwell.items()),
            "size": show_size(size) if size else "", "memory": show_size(self.memory) if self.memory else "",
            "minor": self.minor if self.minor >= 0 else "",
        }  # fmt: skip


ALARMING = ("runs twice", "moving", "contradicted")


def vm_row(state: ClusterState, name: str) -> VmRow:
    homes, active, primaries = state.homes(name), state.active_on(name), state.primaries(name)
    answering = [home for home in homes if home in state.nodes and not state.nodes[home].down]
    used = active or primaries
    # Where it is off both sides are; where it may run on a node that is down, the one that is left.
    others = [home for home in homes if home not in used] if used else answering
    domains = [node.domains[name] for node in state.knowing(name) if name in node.domains]
    domain = next((each for each in domains if each.active), domains[0] if domains else None)
    places = [*(used or answering), *homes]
    resources = [state.nodes[node].resources.get(name) for node in places if node in state.nodes]
    resource = next(filter(None, resources), None)
    files = [node.files[name] for node in state.knowing(name) if name in node.files]
    now, why = vm_state(state, name, domain)
    return VmRow(
        shown(name, 200), now, why, active, others, homes, state.stale_copies(name), state.saved_on(name),
        _standing(state, name), domain.memory if domain else 0, domain.cpus if domain else 0,
        resource.minor if resource else files[0].minor if files else -1, resource,
    )  # fmt: skip


def vm_state(state: ClusterState, name: str, domain: Domain | None) -> tuple[str, str]:
    """And why, where that needs words."""
    active, homes = state.active_on(name), state.homes(name)
    if state.contradicted(name):
        return "contradicted", ""
    if len(active) > 1:
        return ("runs twice" if state.twice(name) else "moving"), ""
    if not active:
        for home in homes:
            if home not in state.nodes or state.nodes[home].down:
                return "unknown", f"{home} is down"
        for home in homes:
            if "libvirt" in state.nodes[home].failures:
                return "unknown", f"libvirt on {home} gave no answer"
    now = domain.state if domain else "not defined"
    return ("saved" if state.saved_on(name) and now == "shut off" else now), ""


def _standing(state: ClusterState, name: str) -> dict[str, str]:
    """By node: why its volume there stands still, or is not whole."""
    found = {}
    for node in state.knowing(name):
        if its := suspended_io.volume(name, node):
            found[node.name] = str(its)
    return found


def drbd_text(resource: Resource | None, single: bool) -> str:
    """Connection and both disk states, always: UpToDate alone would hide a split brain."""
    if resource is None:
        return "not up"
    still = f" I/O SUSPENDED ({resource.suspended})" if resource.suspended else ""
    if single:
        return f"no peer {resource.disk}{still}"
    percent = "" if resource.out_of_sync == 0 else f" {resource.percent:.1f} %"
    opened = " TWO PRIMARIES ALLOWED" if resource.two_primaries else ""
    return f"{resource.connection} {resource.disk}/{resource.peer_disk}{percent}{opened}{still}"


def pm_rows(state: ClusterState) -> list[NodeRow]:
    return [NodeRow(node) for node in state]


@dataclass(frozen=True)
class NodeRow:
    """Of a node that is down only that is known."""

    node: NodeState

    def _now(self) -> tuple[str, str]:
        """Its state, and why it is so."""
        node = self.node
        return ("down", node.down) if node.down else ("trouble", node.trouble) if node.failures else ("up", "")

    def _counts(self) -> Fields:
        every = (*self.node.domains.values(), *self.node.foreign.values())
        return {"running": sum(domain.active for domain in every), "defined": len(every)}

    def _drbd(self) -> Counter[str]:
        return Counter(drbd_text(resource, single=False) for resource in self.node.resources.values())

    def json(self) -> Fields:
        (now, why), node = self._now(), self.node
        row: Fields = {"node": node.name, "state": now, "why": why}
        if node.down:
            return row
        return row | self._counts() | {
            "memory_used": node.memory - node.memory_available, "memory": node.memory, "vg_size": node.group_size,
            "vg_free": node.group_free, "vg_attr": node.group_attributes, "drbd": dict(self._drbd()),
            "drbd_version": node.drbd,
            "thin_pools": {
                v.name: {"size": v.size, "data_percent": v.data_percent, "metadata_percent": v.metadata_percent}
                for v in node.volumes.values() if v.is_pool
            },
        }  # fmt: skip

    def cells(self) -> Fields:
        (now, why), node = self._now(), self.node
        row: Fields = {"node": node.name, "state": f"{now}: {why}" if why else now}
        if node.down:
            return row
        return row | self._counts() | {
            "memory used": show_size(node.memory - node.memory_available), "memory": show_size(node.memory),
            "vg free": ", ".join((show_size(node.group_free), *_group(node), *_pools(node))),
            "drbd": ", ".join(f"{count} {kind}" for kind, count in sorted(self._drbd().items())) or "none",
        }  # fmt: skip


def _group(node: NodeState) -> list[str]:
    """Its volume group, in a few words, when it is not as it should be."""
    its = lvm_attr.group(node.group_attributes, "")
    return [its.why.partition(",")[0].partition(":")[0].removeprefix("is ").upper()] if its else []


def _pools(node: NodeState) -> list[str]:
    return [f"{v.name} {v.data_percent or 0:.0f} % full" for v in node.volumes.values() if v.is_pool]


BACKUP_COLUMNS = ("id", "kind", "time", "disk", "stored", "base", "node", "source", "consistency", "verified")


def backup_rows(stored: Sequence[Stored]) -> list[BackupRow]:
    return [BackupRow(each) for each in sorted(stored, key=lambda s: (s.id.split(".")[:2], s.node))]


@dataclass(frozen=True)
class BackupRow:
    stored: Stored

    def json(self) -> Fields:
        each, made = self.stored, self.stored.backup
        return {
            "id": each.id, "node": each.node, "vm": made.vm if made else "", "kind": made.kind if made else "",
            "time": made.time if made else "", "disk": made.size if made else 0, "stored": each.stored,
            "read": made.read if made else 0, "base": made.base if made else "",
            "consistency": made.consistency if made else "", "verified": each.verified, "broken": each.broken,
            "damaged": each.damaged, "ahead": each.ahead, "sha256": made.image_sha256 if made else "",
            "source": made.source if made else "", "role": made.role if made else "",
        }  # fmt: skip

    def cells(self) -> Fields:
        each, made = self.stored, self.stored.backup
        return {
            "id": each.id, "node": each.node, "kind": f"BROKEN: {each.broken}" if each.broken else _kind(each),
            "time": made.time.replace("+00:00", "Z") if made else "", "disk": show_size(made.size if made else 0),
            "stored": show_size(each.stored), "base": made.base if made else "",
            "consistency": made.consistency if made else "", "source": f"{made.source} ({made.role})" if made else "",
            "verified": f"DAMAGED, {each.damaged}" if each.damaged else each.verified or "never",
        }  # fmt: skip


def _kind(each: Stored) -> str:
    kind = each.backup.kind if each.backup else ""
    return f"{kind}, but its time is in the future" if each.ahead else kind
