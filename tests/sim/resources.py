"""What commands do to DRBD's resources and their files, in the small world (fake.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmc import drbd
from pmc.command import Command
from tests.sim.machine import Kernel, need
from tests.unit.samples import parsed_files

if TYPE_CHECKING:
    from tests.sim.fake import World


def write_resource(world: World, at: str, command: Command, name: str) -> None:
    world.nodes[at].files[drbd.path(name)] = command.stdin or ""


def delete_resource(world: World, at: str, command: Command, name: str) -> None:
    for end in ("", ".old", ".new"):
        world.nodes[at].files.pop(drbd.path(name) + end, None)


def metadata(world: World, at: str, command: Command, name: str) -> None:
    machine = world.nodes[at]
    need(drbd.path(name) in machine.files and name in machine.volumes, "no resource file, or no disk")
    need(name not in machine.resources or machine.resources[name].disk == "Diskless", "is configured!")


def up(world: World, at: str, command: Command, name: str) -> None:
    machine = world.nodes[at]
    need(drbd.path(name) in machine.files and name in machine.volumes, "no resource file, or no disk")
    file = parsed_files(machine.files[drbd.path(name)])[name]
    machine.resources.setdefault(name, Kernel(file.minor, hosts=file.hosts))


def switch_file(world: World, at: str, command: Command, name: str) -> None:
    files, path = world.nodes[at].files, drbd.path(name)
    need(path in files, "no such file")
    files[f"{path}.old"], files[path] = files[path], command.stdin or ""


def switch(world: World, at: str, command: Command, name: str) -> None:
    switch_file(world, at, command, name)
    adjust(world, at, command, name)


def switch_back(world: World, at: str, command: Command, name: str) -> None:
    files, path = world.nodes[at].files, drbd.path(name)
    need(f"{path}.old" in files, "no such file")
    files[path] = files.pop(f"{path}.old")
    adjust(world, at, command, name)


def forget_kept(world: World, at: str, command: Command, name: str) -> None:
    world.nodes[at].files.pop(f"{drbd.path(name)}.old", None)


def names_host(world: World, at: str, command: Command, name: str, host: str) -> None:
    (file,) = parsed_files(world.nodes[at].files[drbd.path(name)]).values()
    need(host in file.hosts, "")


def adjust(world: World, at: str, command: Command, name: str) -> None:
    machine = world.nodes[at]
    machine.resources[name].hosts = parsed_files(machine.files[drbd.path(name)])[name].hosts


def copied(world: World, at: str, command: Command, name: str) -> None:
    peer = world.peer(at, name)
    need(peer and world.nodes[at].resources[name].disk == "UpToDate", "the peer is away")
    assert peer is not None
    peer.disk = "UpToDate"


def down(world: World, at: str, command: Command, name: str) -> None:
    need(not world.open(at, name), "Device is held open by someone")
    need(world.nodes[at].resources.pop(name, None), "no such resource")


def is_up(world: World, at: str, command: Command, name: str) -> None:
    need(name in world.nodes[at].resources, "no such resource")


def is_primary(world: World, at: str, command: Command, name: str) -> None:
    need(name in world.nodes[at].resources and world.nodes[at].resources[name].role == "Primary", "")


def promote(world: World, at: str, command: Command, name: str, force: bool = False) -> None:
    kernel, peer = world.nodes[at].resources[name], world.peer(at, name)
    both = kernel.two_primaries and peer and peer.two_primaries
    need(not peer or peer.role == "Secondary" or both, "Multiple primaries not allowed by config")
    need(force or kernel.disk == "UpToDate", "Need access to UpToDate data")
    kernel.role, kernel.disk = "Primary", "UpToDate"


def promote_by_force(world: World, at: str, command: Command, name: str) -> None:
    promote(world, at, command, name, force=True)


def demote(world: World, at: str, command: Command, name: str) -> None:
    need(not world.open(at, name), "Device is held open by someone")
    world.nodes[at].resources[name].role = "Secondary"


def declare_equal(world: World, at: str, command: Command, name: str) -> None:
    kernel, peer = world.nodes[at].resources[name], world.peer(at, name)
    need(peer, "not connected")
    assert peer is not None
    kernel.disk = peer.disk = "UpToDate"


def allow_two(world: World, at: str, command: Command, name: str, allowed: bool) -> None:
    kernel, peer = world.nodes[at].resources[name], world.peer(at, name)
    closing = kernel.two_primaries and not allowed
    need(not (closing and peer and kernel.role == peer.role == "Primary"), "Can not be changed: both are primary")
    kernel.two_primaries = kernel.holds = allowed


def resume(world: World, at: str, command: Command, name: str) -> None:
    need(name in world.nodes[at].resources, "no such resource")
    world.nodes[at].resources[name].held = False


def disconnect(world: World, at: str, command: Command, name: str) -> None:
    world.nodes[at].resources[name].alone = True


def connect(world: World, at: str, command: Command, name: str, discard: bool = False) -> None:
    kernel = world.nodes[at].resources[name]
    need(not (discard and kernel.role == "Primary"), "Can not discard data of a primary")
    kernel.alone, kernel.split = False, kernel.split and not discard
    if (peer := world.peer(at, name)) and not (kernel.split and peer.split):
        kernel.split = peer.split = False
        if "Primary" in (kernel.role, peer.role):
            kernel.marked = peer.marked = 0
    elif peer:
        kernel.alone = True  # DRBD finds the split brain and drops the connection


def connect_as_loser(world: World, at: str, command: Command, name: str) -> None:
    connect(world, at, command, name, discard=True)


def connect_if_alone(world: World, at: str, command: Command, name: str) -> None:
    if world.nodes[at].resources[name].alone:
        connect(world, at, command, name)


def attach(world: World, at: str, command: Command, name: str) -> None:
    kernel, peer = world.nodes[at].resources[name], world.peer(at, name)
    need(name in world.nodes[at].volumes and kernel.disk == "Diskless", "can not open backing device")
    kernel.disk = "UpToDate" if peer and peer.disk == "UpToDate" else "Consistent"


def detach(world: World, at: str, command: Command, name: str) -> None:
    world.nodes[at].resources[name].disk = "Diskless"


def is_attached(world: World, at: str, command: Command, name: str) -> None:
    need(world.nodes[at].resources[name].disk != "Diskless", "")
