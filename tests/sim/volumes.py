"""What commands do to volumes, in the small world (fake.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pmc import drbd, lvm
from pmc.command import Command
from pmc.model import Volume
from tests.sim.machine import need

if TYPE_CHECKING:
    from tests.sim.fake import World


def marks(tags: Sequence[str]) -> tuple[str, ...]:
    return (lvm.TAG, *tags)


def create(world: World, at: str, command: Command, name: str, size: int, tags: Sequence[str]) -> None:
    volumes = world.nodes[at].volumes
    need(name not in volumes, "already exists in volume group")
    volumes[name] = Volume(name, "vg", size, marks(tags))


def snapshot(world: World, at: str, command: Command, name: str, of: str, size: int, tags: Sequence[str]) -> None:
    volumes = world.nodes[at].volumes
    need(of in volumes and name not in volumes, "no origin, or it exists")
    volumes[name] = Volume(name, "vg", size, marks(tags), of, "swi-a-s---", 0.0)


def create_thin(world: World, at: str, command: Command, name: str, size: int, pool: str, tags: Sequence[str]) -> None:
    volumes = world.nodes[at].volumes
    need(name not in volumes and pool in volumes, "it exists, or there is no pool")
    volumes[name] = Volume(name, "vg", size, marks(tags), "", "Vwi-a-tz--", 0.0, pool=pool)


def snapshot_thin(world: World, at: str, command: Command, name: str, of: str, tags: Sequence[str]) -> None:
    volumes = world.nodes[at].volumes
    need(of in volumes and volumes[of].thin and name not in volumes, "no thin origin, or it exists")
    volumes[name] = replace(volumes[of], name=name, tags=marks(tags), origin=of, attributes="Vri-a-tz--")


def remove(world: World, at: str, command: Command, name: str) -> None:
    machine = world.nodes[at]
    need(name in machine.volumes, "Failed to find logical volume")
    need(name not in machine.resources or machine.resources[name].disk == "Diskless", "Logical volume in use")
    del machine.volumes[name]


def tagged(world: World, at: str, name: str) -> None:
    """A step that removes a snapshot looks again that it is pmc's."""
    volume = world.nodes[at].volumes.get(name)
    need(volume and lvm.TAG in volume.tags, "has not, or not any more, the tag of pmc")


def remove_snapshot(world: World, at: str, command: Command, name: str) -> None:
    tagged(world, at, name)
    remove(world, at, command, name)


def removable(world: World, at: str, name: str) -> None:
    """A step that removes a VM's disk looks again that it is pmc's, or the VM's, and nothing would go with it."""
    volumes = world.nodes[at].volumes
    need(name in volumes, "Failed to find logical volume")
    named = f"/dev/vg/{name}" in world.nodes[at].files.get(drbd.path(name), "")
    need(named or lvm.TAG in volumes[name].tags, "has not the tag of pmc")
    need(lvm.REUSED not in volumes[name].tags, "was there before the VM")
    hanging = [v for v in volumes.values() if v.origin == name and not (v.pool and v.pool == volumes[name].pool)]
    need(not hanging, "depends on it")


def remove_disk(world: World, at: str, command: Command, name: str) -> None:
    removable(world, at, name)
    remove(world, at, command, name)


def discard(world: World, at: str, command: Command, name: str) -> None:
    if name in world.nodes[at].volumes:
        tagged(world, at, name)
        del world.nodes[at].volumes[name]


def discard_marked(world: World, at: str, command: Command, name: str, tag: str) -> None:
    if (volume := world.nodes[at].volumes.get(name)) and tag in volume.tags:
        discard(world, at, command, name)


def has_volume(world: World, at: str, command: Command, name: str) -> None:
    need(name in world.nodes[at].volumes, "Failed to find logical volume")


def has_no_volume(world: World, at: str, command: Command, name: str) -> None:
    need(name not in world.nodes[at].volumes, "")


def keep(world: World, at: str, command: Command, name: str, kept: str, id: str) -> None:
    volumes = world.nodes[at].volumes
    need(name in volumes, "Failed to find logical volume")
    if kept in volumes:
        tagged(world, at, kept)
    volume = volumes.pop(name)
    volumes[kept] = replace(volume, name=kept, tags=(*volume.tags, f"{lvm.OF}{id}"))


def is_kept(world: World, at: str, command: Command, kept: str, id: str) -> None:
    volume = world.nodes[at].volumes.get(kept)
    need(volume and volume.thin and f"{lvm.OF}{id}" in volume.tags, "is not the snapshot of this base")


def list_mapped(world: World, at: str, command: Command, name: str, to: str) -> None:
    _list_ranges(world, at, to, name)


def list_changed(world: World, at: str, command: Command, old: str, new: str, to: str) -> None:
    _list_ranges(world, at, to, old, new)


def _list_ranges(world: World, at: str, to: str, *names: str) -> None:
    volumes = world.nodes[at].volumes
    need(all(each in volumes and volumes[each].thin for each in names), "is no thin volume")
    world.nodes[at].files[to] = "0 65536"


def grow(world: World, at: str, command: Command, name: str, more: int) -> None:
    volumes = world.nodes[at].volumes
    volumes[name] = replace(volumes[name], size=volumes[name].size + more)


def mark(world: World, at: str, command: Command, name: str, on: bool, tag: str) -> None:
    volumes = world.nodes[at].volumes
    others = tuple(each for each in volumes[name].tags if each != tag)
    volumes[name] = replace(volumes[name], tags=(*others, tag) if on else others)


def has_no_mark(world: World, at: str, command: Command, name: str, tag: str) -> None:
    volume = world.nodes[at].volumes.get(name)
    need(volume and tag not in volume.tags, "")


def let_go(world: World, at: str, command: Command, name: str) -> None:
    for tag in (lvm.TAG, lvm.REUSED):
        mark(world, at, command, name, False, tag)
