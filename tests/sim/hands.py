"""What each command does in the world with power and links (world.py) besides, or in place of, what it does in fake.py.
Commands that fake.py refuses are refused here too."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pmc import drbd, drbd_generations, drbd_new_peer, lvm, virsh
from pmc.command import Command
from pmc.plans import interrupted_migration
from tests.sim import effects, guests, resources, volumes
from tests.sim.effects import Effect
from tests.sim.machine import need
from tests.sim.metadata import Disk

if TYPE_CHECKING:
    from tests.sim.world import Cloud


# -- disks --


def guarded(world: Cloud, at: str, name: str, what: str) -> None:
    """A disk that may be the only one with acknowledged writes is destroyed only for a person who wants it gone."""
    others = [side for (side, vm) in world.disks if vm == name and side != at and world.has_all(side, name)]
    if name != world.removing and world.acknowledged.get(name) and (at, name) in world.disks and not others:
        world.broken.append(f"{what} on {at} destroys the last whole copy of {name}")


def zero(world: Cloud, at: str, command: Command, name: str) -> None:
    volumes.has_volume(world, at, command, name)
    guarded(world, at, name, "blkdiscard")


def remove(world: Cloud, at: str, command: Command, name: str) -> None:
    need(not any(v.origin == name for v in world.nodes[at].volumes.values()), "it has a snapshot")
    volumes.remove(world, at, command, name)
    guarded(world, at, name, "lvremove")
    world.disks.pop((at, name), None)
    world.kept.pop((at, name), None)


def remove_snapshot(world: Cloud, at: str, command: Command, name: str) -> None:
    volumes.tagged(world, at, name)
    remove(world, at, command, name)


def remove_disk(world: Cloud, at: str, command: Command, name: str) -> None:
    volumes.removable(world, at, name)
    remove(world, at, command, name)


def snapshot(world: Cloud, at: str, command: Command, name: str, of: str, size: int, tags: Sequence[str]) -> None:
    volumes.snapshot(world, at, command, name, of, size, tags)
    if ".lost-" in name:
        world.kept[at, name] = world.disks[at, of].writes
    elif not world.has_all(at, of):
        world.broken.append(f"{name} is taken of a side that lacks acknowledged writes")


# -- DRBD --


def metadata(world: Cloud, at: str, command: Command, name: str) -> None:
    resources.metadata(world, at, command, name)
    guarded(world, at, name, "create-md")
    world.disks[at, name] = Disk()


def up(world: Cloud, at: str, command: Command, name: str) -> None:
    need(at not in world.unloaded, "Could not connect to 'drbd' generic netlink family")
    need((at, name) in world.disks, "No valid meta data found")
    resources.up(world, at, command, name)
    world.show(name)


def promote(world: Cloud, at: str, command: Command, name: str, force: bool = False) -> None:
    kernel, disk = world.nodes[at].resources[name], world.disks[at, name]
    before = kernel.role
    # drbd_state.c, is_valid_state: SS_PRIMARY_NOP
    lone = kernel.holds and not kernel.behind and before != "Primary" and not world.other(at, name)
    need(force or not lone, "Refusing to be Primary while peer is not outdated")
    resources.promote(world, at, command, name, force)
    if force:
        if not disk.new:
            world.broken.append(f"{name}: data that is not new was declared the truth on {at}")
        disk.current, disk.state = world.generation(), "UpToDate"
        if other := world.other(at, name):
            del world.linked[name]  # they compare once more
            world.meet(at, other, name)
    elif before != "Primary" and not world.other(at, name):
        disk.lose_peer(world.generation())


def promote_by_force(world: Cloud, at: str, command: Command, name: str) -> None:
    promote(world, at, command, name, force=True)


def declare_equal(world: Cloud, at: str, command: Command, name: str) -> None:
    resources.declare_equal(world, at, command, name)
    one, two = world.disks[at, name], world.disks[world.other(at, name), name]
    if one.writes != two.writes or not (one.new and two.new):
        world.broken.append(f"{name}: sides that hold data were declared equal")
    one.state = two.state = "UpToDate"
    one.current = two.current = world.generation()


def allow_two(world: Cloud, at: str, command: Command, name: str, allowed: bool) -> None:
    kernel = world.nodes[at].resources[name]
    need(not (kernel.alone and allowed), "net conf missing, try connect")
    resources.allow_two(world, at, command, name, allowed)


def resume(world: Cloud, at: str, command: Command, name: str) -> None:
    kernel = world.nodes[at].resources[name]
    if kernel.held and kernel.role == "Primary" and not world.other(at, name):
        world.disks[at, name].lose_peer(world.generation())
    resources.resume(world, at, command, name)


def leave(world: Cloud, at: str, name: str, primary: bool) -> None:
    """Two connected sides part in order: a primary with a fencing policy lets its peer go as Outdated only, whichever
    of the two disconnects (drbd_state.c, is_valid_state: SS_PRIMARY_NOP; conn_try_disconnect asks again so).
    `primary`: whether this side is, when it leaves."""
    other = world.other(at, name)
    if not other:
        return
    mine, theirs = (world.nodes[side].resources[name] for side in (at, other))
    roles = {at: primary, other: theirs.role == "Primary"}
    for stays, goes, kernel in ((at, other, mine), (other, at, theirs)):
        if roles[stays] and kernel.holds and (stays, name) not in world.detached:
            need(not roles[goes], "State change failed: Need access to UpToDate data")
            if world.disks[goes, name].state == "UpToDate":
                world.disks[goes, name].state = "Outdated"
    world.show(name)


def disconnect(world: Cloud, at: str, command: Command, name: str) -> None:
    kernel = world.nodes[at].resources[name]
    leave(world, at, name, kernel.role == "Primary")
    kernel.alone, kernel.two_primaries, kernel.discard = True, False, False


def connect(world: Cloud, at: str, command: Command, name: str, discard: bool = False) -> None:
    kernel = world.nodes[at].resources[name]
    need(kernel.alone, "Device has a net-config (use disconnect first)")
    need(not (discard and kernel.role == "Primary"), "Can not discard data of a primary")
    kernel.alone, kernel.discard = False, discard


def connect_if_alone(world: Cloud, at: str, command: Command, name: str) -> None:
    if world.nodes[at].resources[name].alone:
        connect(world, at, command, name)


def take_back(world: Cloud, at: str, command: Command, name: str) -> None:
    """interrupted_migration.generation_back."""
    disk, kernel = world.disks[at, name], world.nodes[at].resources[name]
    need((at, name) not in world.detached, "no disk")
    need(kernel.role == "Secondary" and disk.state == "UpToDate" and not disk.bits, "not any more")
    if not world.other(at, name):
        disk.take_back()
        kernel.alone = kernel.two_primaries = kernel.discard = False


def detach(world: Cloud, at: str, command: Command, name: str) -> None:
    need((at, name) not in world.detached, "no disk")
    world.detach(at, name)


def attach(world: Cloud, at: str, command: Command, name: str) -> None:
    need((at, name) in world.detached and name in world.nodes[at].volumes, "can not open backing device")
    world.attach(at, name)


def down(world: Cloud, at: str, command: Command, name: str) -> None:
    need(not world.open(at, name), "Device is held open by someone")
    leave(world, at, name, primary=False)  # it is demoted first
    resources.down(world, at, command, name)
    world.detached.discard((at, name))


def connect_as_loser(world: Cloud, at: str, command: Command, name: str) -> None:
    connect(world, at, command, name, discard=True)


# -- another peer (pmc/drbd_new_peer.py) --


def adjust(world: Cloud, at: str, command: Command, name: str) -> None:
    """The kernel's peer is the one of the file; from another one it disconnects first, by itself."""
    kernel, hosts = world.nodes[at].resources[name], world.nodes[at].resources[name].hosts
    resources.adjust(world, at, command, name)
    if set(kernel.hosts) != set(hosts):
        disconnect(world, at, command, name)
        world.see_links()
    kernel.alone = False


def switch(world: Cloud, at: str, command: Command, name: str) -> None:
    resources.switch_file(world, at, command, name)
    adjust(world, at, command, name)


def switch_back(world: Cloud, at: str, command: Command, name: str) -> None:
    """A former peer is let in only after `invalidate-remote`, which sets all bits."""
    hosts = set(world.nodes[at].resources[name].hosts)
    resources.switch_back(world, at, command, name)
    if set(world.nodes[at].resources[name].hosts) != hosts:
        disconnect(world, at, command, name)
        world.see_links()
        world.disks[at, name].bits = None
        world.nodes[at].resources[name].alone = False


def copied(world: Cloud, at: str, command: Command, name: str) -> None:
    need(world.other(at, name) and world.disks[at, name].state == "UpToDate", "the peer is away")
    world.resync(name)


# -- guests --


def define(world: Cloud, at: str, command: Command, xml: str) -> None:
    guests.define(world, at, command, xml)
    for name in re.findall("<name>(.*)</name>", xml):
        world.xml.setdefault((at, name), xml)


def undefine(world: Cloud, at: str, command: Command, name: str) -> None:
    guests.undefine(world, at, command, name)
    world.xml.pop((at, name), None)


def migrate(world: Cloud, at: str, command: Command, name: str, address: str) -> None:
    target = guests.node_of(address)
    need(not world.silent(target, at), "unable to connect to server")
    need(world.nodes[target].domains.get(name) == "shut off", "domain is already active")
    guests.migrate_to(world, at, command, name, address)


# -- files and the node --


def write_new(world: Cloud, at: str, command: Command, name: str) -> None:
    need(drbd.path(name) not in world.nodes[at].files, "cannot overwrite existing file")
    resources.write_resource(world, at, command, name)


def load(world: Cloud, at: str, command: Command) -> None:
    world.unloaded.discard(at)


EFFECTS: dict[Callable[..., Any], Effect] = {
    drbd.load_module: load,
    lvm.activate: effects.nothing,
    lvm.zero: zero,
    lvm.remove: remove,
    lvm.remove_snapshot: remove_snapshot,
    lvm.remove_disk: remove_disk,
    lvm.snapshot: snapshot,
    drbd.write_file: write_new,
    drbd.create_metadata: metadata,
    drbd.up: up,
    drbd.up_or_down: up,
    drbd.down: down,
    drbd.attach: attach,
    drbd.primary: promote,
    drbd.primary_by_force: promote_by_force,
    drbd.skip_initial_sync: declare_equal,
    drbd.two_primaries: allow_two,
    drbd.resume_io: resume,
    drbd_generations.detach: detach,
    drbd_generations.disconnect: disconnect,
    drbd_generations.connect: connect,
    drbd_generations.connect_as_loser: connect_as_loser,
    drbd_generations.connect_if_alone: connect_if_alone,
    interrupted_migration.generation_back: take_back,
    drbd_new_peer.switch: switch,
    drbd_new_peer.switch_back: switch_back,
    drbd_new_peer.adjust: adjust,
    drbd_new_peer.copied: copied,
    virsh.define: define,
    virsh.undefine: undefine,
    virsh.migrate: migrate,
}
