"""Findings about thin pools. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pmc import lvm
from pmc.facts import thin_pool
from pmc.health.cluster_facts import VOLUMES, Facts
from pmc.health.finding import Finding
from pmc.model import NodeState, Volume


def missing(facts: Facts) -> Iterator[Finding]:
    settings = facts.settings
    for node in facts.telling(VOLUMES) if settings.volumes == "thin" else ():
        found = node.volumes.get(settings.thin_pool)
        if found is None or not found.is_pool:
            text = f"there is no thin pool {settings.volume_group}/{settings.thin_pool}, so no VM can be made here"
            yield Finding("POOL_MISSING", text, f"fab pm.init {node.name}", node.name)


def broken(facts: Facts) -> Iterator[Finding]:
    """One that nothing of pmc's is in may be off on purpose."""
    for node in facts.telling(VOLUMES):
        for each in _pools(node):
            inside = sorted(v.name for v in node.volumes.values() if v.pool == each.name and lvm.TAG in v.tags)
            if inside and (why := thin_pool.broken(each)):
                text = f"the thin pool {each.group}/{each.name} {why}; in it: {', '.join(inside)}"
                yield Finding("POOL_BROKEN", text, f"on {node.name}: {thin_pool.remedy(each)}", node.name)


def full(facts: Facts) -> Iterator[Finding]:
    for node in facts.telling(VOLUMES):
        for each in _pools(node):
            for over in thin_pool.over(each, facts.settings):
                remedy = f"on {node.name}: {over.remedy} (vgextend {each.group} DISK first when it has no room)"
                if over.what == "data":
                    remedy += "; or free some: fstrim in the guests, old snapshots, move VMs away"
                yield Finding(
                    f"POOL_{over.what.upper()}_FULL",
                    f"of the thin pool {over.path} the {over}; {_STOPS}",
                    remedy,
                    node.name,
                )


_STOPS = "when it is full, every disk in the pool stops"


def _pools(node: NodeState) -> list[Volume]:
    return sorted((volume for volume in node.volumes.values() if volume.is_pool), key=lambda each: each.name)


CHECKS = (missing, broken, full)
