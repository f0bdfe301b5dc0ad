"""What commands do to domains, in the small world (fake.py)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pmc import guest_agent
from pmc.command import Command
from tests.sim.machine import need
from tests.unit.samples import SETTINGS

if TYPE_CHECKING:
    from tests.sim.fake import World


def define(world: World, at: str, command: Command, xml: str) -> None:
    name = re.search("<name>(.*)</name>", xml)
    assert name is not None
    world.nodes[at].domains.setdefault(name[1], "shut off")


def undefine(world: World, at: str, command: Command, name: str) -> None:
    need(world.nodes[at].domains.get(name) == "shut off", "not defined, or runs")
    del world.nodes[at].domains[name]
    world.nodes[at].saved.discard(name)


def discard_saved(world: World, at: str, command: Command, vm: str) -> None:
    world.nodes[at].saved.discard(vm)


def is_not_saved(world: World, at: str, command: Command, vm: str) -> None:
    need(vm not in world.nodes[at].saved, "")


def start(world: World, at: str, command: Command, name: str) -> None:
    machine = world.nodes[at]
    need(machine.domains.get(name) == "shut off", "not defined, or runs")
    machine.saved.discard(name)  # with --force-boot it goes before anything can fail
    need(machine.resources[name].role == "Primary", "Could not open '/dev/drbd': Wrong medium type")
    machine.domains[name] = "running"


def stop(world: World, at: str, command: Command, name: str) -> None:
    need(world.nodes[at].domains.get(name) == "running", "domain is not running")
    world.nodes[at].domains[name] = "shut off"


def has_domain(world: World, at: str, command: Command, name: str) -> None:
    need(name in world.nodes[at].domains, "failed to get domain")


def runs(world: World, at: str, command: Command, name: str) -> None:
    need(world.nodes[at].domains.get(name) == "running", "")


def node_of(address: str) -> str:
    return next(name for name, spec in SETTINGS.nodes.items() if spec.replication == address)


def migrate_to(world: World, at: str, command: Command, name: str, address: str) -> None:
    target = node_of(address)
    need(world.nodes[target].resources[name].role == "Primary", "Could not open the disk: Wrong medium type")
    stop(world, at, command, name)
    world.nodes[target].domains[name] = "running"


def frozen(world: World, at: str, command: Command, name: str, token: str) -> None:
    need(world.nodes[at].domains.get(name) == "running", "domain is not running")
    world.nodes[at].files[guest_agent.path(name)] = token


def thawed(world: World, at: str, command: Command, name: str) -> None:
    world.nodes[at].files.pop(guest_agent.path(name), None)
