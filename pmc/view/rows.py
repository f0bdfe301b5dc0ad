"""Rows of the listings: one dict a line, as JSON (bytes, numbers) or as text for a table. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pmc.backup import Stored
from pmc.facts import lvm_attr
from pmc.model import ClusterState, NodeState, Resource, shown
from pmc.plans import suspended_io
from pmc.units import show_size

VM_COLUMNS = ("vm", "state", "on", "secondary", "drbd", "size", "memory", "minor")
PM_COLUMNS = ("node", "state", "running", "defined", "memory used", "memory", "vg free", "drbd")


def vm_rows(state: ClusterState, text: bool) -> list[dict[str, Any]]:
    """Also what is not pmc's."""
    rows = [_vm_row(each, name, text) for each in (state, state.foreign()) for name in each.vm_names()]
    return sorted(rows, key=lambda row: str(row["vm"]))


def _vm_row(state: ClusterState, name: str, text: bool) -> dict[str, Any]:
    homes = state.homes(name)
    active = state.active_on(name)
    place = active or state.primaries(name) or [home for home in homes if _answers(state, home)] or homes
    unseen = [home for home in homes if not _answers(state, home)]
    if active or (primaries := state.primaries(name)):
        others = [home for home in homes if home not in (active or primaries)]
    else:  # both sides are; where it may run on a node that is down, the one that is left
        others = [home for home in homes if home not in unseen]
    domains = [node.domains[name] for node in state.knowing(name) if name in node.domains]
    domain = next((d for d in domains if d.active), domains[0] if domains else None)
    resource = next(
        (
            state.nodes[n].resources[name]
            for n in [*place, *homes]
            if n in state.nodes and name in state.nodes[n].resources
        ),
        None,
    )
    files = [node.files[name] for node in state.knowing(name) if name in node.files]
    minor = resource.minor if resource else files[0].minor if files else -1
    if state.twice(name):
        now = "RUNS TWICE"
    elif len(active) > 1:
        now = "MOVING"
    elif not active and unseen:
        now = f"unknown ({unseen[0]} is down)"
    elif not active and (untold := [home for home in homes if "libvirt" in state.nodes[home].failures]):
        now = f"unknown (libvirt on {untold[0]} gave no answer)"
    else:
        now = domain.state if domain else "not defined"
    saved = list(state.saved_on(name))
    if saved and now == "shut off":
        now = f"saved on {','.join(saved)}" if text else "saved"
    size = resource.size if resource else 0
    if state.contradicted(name):
        now = "CONTRADICTED"
    stale_copies = state.stale_copies(name)
    row = {
        "vm": shown(name, 200), "state": now, "on": ",".join(active), "secondary": ",".join(others),
        "size": size, "memory": domain.memory if domain else 0, "minor": minor,
    }  # fmt: skip
    stands = _standing(state, name)
    if text:
        old = f" (old memory saved on {','.join(saved)})" if saved and active else ""
        return {
            **row,
            "state": now + old,
            "drbd": drbd_text(resource, len(homes) == 1) + "".join(f"; {node}: {why}" for node, why in stands.items()),
            "size": show_size(size) if size else "",
            "memory": show_size(domain.memory) if domain else "",
            "minor": minor if minor >= 0 else "",
            "secondary": ",".join(others) + "".join(f" (stale copy: {each})" for each in stale_copies),
        }
    facts = resource or Resource(name)
    return {
        **row, "nodes": homes, "stale_copies": stale_copies, "saved": saved, "suspended": facts.suspended,
        "unwell": stands, "cpus": domain.cpus if domain else 0, "connection": facts.connection, "disk": facts.disk,
        "peer_disk": facts.peer_disk, "sync_percent": round(facts.percent, 1), "two_primaries": facts.two_primaries,
    }  # fmt: skip


def _standing(state: ClusterState, name: str) -> dict[str, str]:
    """By node: why its volume there stands still, or is not whole."""
    found = {}
    for node in state.knowing(name):
        if its := suspended_io.volume(name, node):
            found[node.name] = str(its)
    return found


def _answers(state: ClusterState, node: str) -> bool:
    return node in state.nodes and not state.nodes[node].down


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


def pm_rows(state: ClusterState, text: bool) -> list[dict[str, Any]]:
    return [_pm_row(node, text) for node in state]


def _pm_row(node: NodeState, text: bool) -> dict[str, Any]:
    if node.down:
        return {
            "node": node.name,
            "state": f"down: {node.down}" if text else "down",
            **({} if text else {"why": node.down}),
        }
    used = node.memory - node.memory_available
    kinds = Counter(drbd_text(resource, single=False) for resource in node.resources.values())
    row = {
        "node": node.name, "state": "up" if not node.failures else f"trouble: {node.trouble}",
        "running": sum(domain.active for domain in (*node.domains.values(), *node.foreign.values())),
        "defined": len(node.domains) + len(node.foreign),
    }  # fmt: skip
    if text:
        return {
            **row, "memory used": show_size(used), "memory": show_size(node.memory),
            "vg free": ", ".join((show_size(node.group_free), *_group(node), *_pools(node))),
            "drbd": ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none",
        }  # fmt: skip
    return {
        **row, "memory_used": used, "memory": node.memory, "vg_size": node.group_size, "vg_free": node.group_free,
        "vg_attr": node.group_attributes,
        "drbd": dict(kinds), "drbd_version": node.drbd,
        "thin_pools": {v.name: {"size": v.size, "data_percent": v.data_percent, "metadata_percent": v.metadata_percent}
                       for v in node.volumes.values() if v.is_pool},
    }  # fmt: skip


def _group(node: NodeState) -> list[str]:
    """Its volume group, in a few words, when it is not as it should be."""
    its = lvm_attr.group(node.group_attributes, "")
    return [its.why.partition(",")[0].partition(":")[0].removeprefix("is ").upper()] if its else []


def _pools(node: NodeState) -> list[str]:
    return [f"{v.name} {v.data_percent or 0:.0f} % full" for v in node.volumes.values() if v.is_pool]


BACKUP_COLUMNS = ("id", "kind", "time", "disk", "stored", "base", "node", "source", "consistency", "verified")


def backup_rows(stored: Sequence[Stored], text: bool) -> list[dict[str, Any]]:
    return [_backup_row(each, text) for each in sorted(stored, key=lambda s: (s.id.split(".")[:2], s.node))]


def _backup_row(each: Stored, text: bool) -> dict[str, Any]:
    made = each.backup
    row: dict[str, Any] = {
        "id": each.id,
        "node": each.node,
        "kind": made.kind if made else "",
        "stored": each.stored,
    }
    row |= {
        "time": made.time if made else "",
        "disk": made.size if made else 0,
        "read": made.read if made else 0,
        "base": made.base if made else "",
        "consistency": made.consistency if made else "",
        "verified": each.verified,
    }
    if text:
        return {**row, "kind": f"BROKEN: {each.broken}" if each.broken else _kind(each),
                "stored": show_size(each.stored), "disk": show_size(row["disk"]),
                "source": f"{made.source} ({made.role})" if made else "",
                "time": row["time"].replace("+00:00", "Z"),
                "verified": f"DAMAGED, {each.damaged}" if each.damaged else each.verified or "never"}  # fmt: skip
    return {
        **row,
        "vm": made.vm if made else "",
        "broken": each.broken,
        "damaged": each.damaged,
        "ahead": each.ahead,
        "sha256": made.image_sha256 if made else "",
        "source": made.source if made else "",
        "role": made.role if made else "",
    }


def _kind(each: Stored) -> str:
    kind = each.backup.kind if each.backup else ""
    return f"{kind}, but its time is in the future" if each.ahead else kind
