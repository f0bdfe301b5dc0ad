"""Whether there is room on a node: for a volume, a snapshot, a guest. Pure."""

from __future__ import annotations

from dataclasses import replace

from pmc.errors import Refused
from pmc.facts import lvm_attr, thin_pool
from pmc.model import NodeState, Volume
from pmc.settings import Settings
from pmc.units import show_size


def no_room(node: NodeState, size: int, settings: Settings) -> str:
    """Why the node cannot have a new volume of so many bytes, of the kind that pmc.conf asks for; empty when it can. A
    thin one may be larger than its pool, but that must not be near its end."""
    if (broken := lvm_attr.group(node.group_attributes, settings.volume_group)) and broken.stands:
        return f"cannot have it: {broken}; there: {broken.remedy}"
    if settings.volumes == "thin":
        return thin_pool.unfit(settings.thin_pool, node.volumes, settings)
    if node.group_free >= size:
        return ""
    return f"has {show_size(node.group_free)} free in {settings.volume_group}, {show_size(size)} are needed"


def no_growth(node: NodeState, volume: Volume, more: int, settings: Settings) -> str:
    """As `no_room`, for a volume that is there and grows."""
    if volume.thin:
        return thin_pool.unfit(volume.pool, node.volumes, settings)
    return no_room(node, more, replace(settings, volumes="classic"))


def snapshot_room(node: NodeState, volume: Volume, size: int) -> None:
    """For a snapshot of the volume of which `size` bytes will change."""
    if why := no_snapshot_room(node, volume, size):
        larger = f"vgextend {volume.group} DISK"
        if volume.thin:
            larger = f"lvextend --size +SIZE {volume.group}/{volume.pool}"
        raise Refused(
            f"{why}. Make room there, or remove old snapshots (lvs {volume.group} lists them)",
            next=f"on {node.name}: {larger}",
        )


def no_snapshot_room(node: NodeState, volume: Volume, size: int) -> str:
    """Why there is none; empty when there is."""
    if (broken := lvm_attr.group(node.group_attributes, volume.group)) and broken.stands:
        return f"{node.name}: {broken}"
    what, free = f"a snapshot of {volume.name} needs {show_size(size)}", node.group_free
    place = "volume group"
    if volume.thin:
        its = node.volumes.get(volume.pool)
        if its is None or thin_pool.broken(its):
            why = thin_pool.broken(its) if its else "is not there"
            return f"{node.name}: the thin pool {volume.group}/{volume.pool} of {volume.name} {why}"
        place, free = f"thin pool {volume.group}/{volume.pool}", thin_pool.free(its)
    return "" if free >= size else f"{node.name}: {what}, the {place} has {show_size(free)} free"


def memory(node: NodeState, vm: str, needed: int, advice: str = "") -> None:
    if node.memory_available < needed:
        raise Refused(
            f"{vm}: needs {show_size(needed)} of memory, {node.name} has {show_size(node.memory_available)} free"
            + (f". {advice}" if advice else "")
        )
