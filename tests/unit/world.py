"""The fake world with power, links and data: what faults do to nodes, and what guests have written.

Each side of a DRBD resource has a `Disk` that outlives its node's power: the guest's writes, and the generation of the
data as DRBD's metadata keep it. Two sides that meet again compare generations as DRBD 8.4 does (user's guide,
"Generation identifiers"): one followed the other, and is copied; or both went on alone, which is a split brain. pmc
sets every after-sb policy to disconnect, so then both stand alone until a person decides.

A write is acknowledged to the guest when it is on both connected sides, or on its own side when no other is connected.
What must never be, is noted in `broken`; a tool that only refuses raises Impossible, as in fake.py.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

from pmc import drbd
from pmc.command import Command
from pmc.errors import NodeDown
from pmc.model import ClusterState, NodeState, Resource
from pmc.plan import Action, Watch
from pmc.units import GiB
from tests.unit import fake
from tests.unit.fake import BASH, Impossible, Kernel, World, need
from tests.unit.samples import SETTINGS

Link = frozenset[str]


@dataclass
class Disk:
    """`older`: the generations that this one followed. `alone`: a generation was begun without the other side."""

    writes: frozenset[int] = frozenset()
    state: str = "Inconsistent"
    generation: int = 0  # 0: the metadata are new
    older: frozenset[int] = frozenset()
    alone: bool = False


class Cloud(World):
    def __init__(self) -> None:
        super().__init__()
        self.off: set[str] = set()
        self.unloaded: set[str] = set()  # booted, DRBD's module not loaded yet
        self.cut: set[Link] = set()
        self.disks: dict[tuple[str, str], Disk] = {}
        self.standalone: set[tuple[str, str]] = set()
        self.xml: dict[tuple[str, str], str] = {}
        self.acknowledged: dict[str, frozenset[int]] = {}
        self.removing = ""  # the VM that a person wants to be gone
        self.broken: list[str] = []
        self._number = 0

    def next(self) -> int:
        self._number += 1
        return self._number

    # -- nodes and links --

    def power_off(self, node: str) -> None:
        """What is in memory is gone; volumes, files and definitions stay."""
        machine = self.nodes[node]
        self.off.add(node)
        self.unloaded.add(node)
        self.standalone = {(at, vm) for at, vm in self.standalone if at != node}
        machine.resources.clear()
        machine.domains = dict.fromkeys(machine.domains, "shut off")

    def boot(self, node: str) -> None:
        self.off.discard(node)

    def heal(self, link: Link) -> None:
        self.cut.discard(link)
        for vm in sorted({vm for _, vm in self.disks}):
            self.meet(vm)

    # -- DRBD --

    def sides(self, vm: str) -> list[str]:
        """The nodes where it is up."""
        return [name for name, machine in self.nodes.items() if vm in machine.resources]

    def peer(self, name: str, vm: str) -> Kernel | None:
        other = self.other(name, vm)
        return self.nodes[other].resources[vm] if other else None

    def other(self, name: str, vm: str) -> str:
        """The node that this side is connected to."""
        if vm not in self.nodes[name].resources or (name, vm) in self.standalone:
            return ""
        free = [
            each for each in self.sides(vm)
            if each != name and (each, vm) not in self.standalone and frozenset((name, each)) not in self.cut
        ]  # fmt: skip
        return free[0] if free else ""

    def meet(self, vm: str) -> None:
        """The two sides have found each other; they compare their data."""
        one = next((side for side in self.sides(vm) if self.other(side, vm)), "")
        if not one:
            return
        two = self.other(one, vm)
        kernels = [self.nodes[side].resources[vm] for side in (one, two)]
        behind = self.behind(one, two, vm)
        both = all(kernel.role == "Primary" for kernel in kernels)
        if behind == "?" or (both and not all(kernel.two_primaries for kernel in kernels)):
            self.part(vm)
        elif behind:
            if self.nodes[behind].resources[vm].role == "Primary":
                self.part(vm)
            else:
                self.mark(behind, vm, "Inconsistent")

    def behind(self, one: str, two: str, vm: str) -> str:
        """The side that the other one is copied to; empty when they are equal, `?` when both went on alone."""
        a, b = self.disks[one, vm], self.disks[two, vm]
        if a.generation == b.generation:
            if a.generation and a.writes != b.writes:
                self.broken.append(f"{vm}: of one generation, but {one} and {two} differ")
            return ""
        if a.generation == 0 or a.generation in b.older:
            return one
        return two if b.generation == 0 or b.generation in a.older else "?"

    def part(self, vm: str) -> None:
        """Both stand alone; the connection's options are gone with it."""
        for side in self.sides(vm):
            self.standalone.add((side, vm))
            self.nodes[side].resources[vm].two_primaries = False

    def mark(self, node: str, vm: str, state: str) -> None:
        self.disks[node, vm].state = state
        if vm in self.nodes[node].resources:
            self.nodes[node].resources[vm].disk = state

    def resync(self, vm: str) -> None:
        """A copy that is under way comes to its end."""
        for side in self.sides(vm):
            source = self.other(side, vm)
            if source and self.disks[source, vm].state == "UpToDate" and self.disks[side, vm].state == "Inconsistent":
                self.disks[source, vm].alone = False
                self.disks[side, vm] = replace(self.disks[source, vm])
                self.mark(side, vm, "UpToDate")

    # -- guests --

    def running(self, vm: str) -> list[str]:
        return [name for name, machine in self.nodes.items() if machine.domains.get(vm) == "running"]

    def write(self, vm: str, at: str) -> None:
        number, here, other = self.next(), self.disks[at, vm], self.other(at, vm)
        here.writes |= {number}
        if other:
            self.disks[other, vm].writes |= {number}
        elif not here.alone:
            here.older |= {here.generation}
            here.generation, here.alone = self.next(), True
        self.acknowledged[vm] = self.acknowledged.get(vm, frozenset()) | {number}

    def has_all(self, at: str, vm: str) -> bool:
        return (at, vm) in self.disks and self.acknowledged.get(vm, frozenset()) <= self.disks[at, vm].writes

    # -- what commands and questions see --

    def carry_out(self, name: str, action: Action, watch: Watch | None = None) -> None:
        if name in self.off:
            raise NodeDown(f"{name}: no ssh within 10 s")
        super().carry_out(name, action, watch)

    def _effect(self, name: str, command: Command) -> None:
        before = {vm: self.running(vm) for vm in self.nodes[name].domains}
        try:
            self._one(name, command)
        except KeyError as missing:
            raise Impossible(f"no such resource: {missing}") from None
        for vm, places in before.items():
            for place in set(self.running(vm)) - set(places):
                if not self.has_all(place, vm):
                    self.broken.append(f"{vm} was started on {place}, which lacks acknowledged writes")

    def _one(self, name: str, command: Command) -> None:
        line = shlex.join(command.argv)
        for pattern, effect in EFFECTS:
            if found := re.fullmatch(pattern, line, re.DOTALL):
                effect(self, name, command, *found.groups())
                return
        super()._effect(name, command)

    def _say(self, name: str, command: Command) -> str:
        try:
            return super()._say(name, command)
        except KeyError as missing:
            raise Impossible(f"no such resource: {missing}") from None

    def state(self) -> ClusterState:
        return ClusterState({
            name: NodeState(name, down="no ssh within 10 s") if name in self.off else self._node_state(name, machine)
            for name, machine in self.nodes.items()
        })  # fmt: skip

    def _node_state(self, name: str, machine: fake.Machine) -> NodeState:
        seen = super()._node_state(name, machine)
        macs = {
            mac for (at, _), xml in self.xml.items() if at == name for mac in re.findall('mac address="(.*?)"', xml)
        }
        return replace(
            seen,
            drbd="" if name in self.unloaded else seen.drbd,
            resources={vm: self._seen(name, vm, resource) for vm, resource in seen.resources.items()},
            volumes={n: replace(v, attributes="-wi-a-----") for n, v in seen.volumes.items()},
            macs=frozenset(macs),
        )

    def _seen(self, name: str, vm: str, resource: Resource) -> Resource:
        other = self.other(name, vm)
        if not other:
            hosts = drbd.parse_files(self.nodes[name].files.get(drbd.path(vm), "")).get(vm)
            alone = (name, vm) in self.standalone or (hosts is not None and len(hosts.hosts) == 1)
            return replace(resource, connection="StandAlone" if alone else "Connecting", replication="Off")
        behind = self.behind(name, other, vm)
        if not behind:
            return resource
        return replace(resource, replication="SyncTarget" if behind == name else "SyncSource", out_of_sync=GiB // 2)


# -- what each command does besides, or in place of, what it does in fake.py --


def guarded(world: Cloud, at: str, vm: str, what: str) -> None:
    """A disk that may be the only one with acknowledged writes is destroyed only for a person who wants it gone."""
    others = [side for (side, name) in world.disks if name == vm and side != at and world.has_all(side, vm)]
    if vm != world.removing and world.acknowledged.get(vm) and (at, vm) in world.disks and not others:
        world.broken.append(f"{what} on {at} destroys the last whole copy of {vm}")


def zero(world: Cloud, at: str, command: Command, vm: str) -> None:
    fake.has_volume(world, at, command, vm)
    guarded(world, at, vm, "blkdiscard")


def metadata(world: Cloud, at: str, command: Command, vm: str) -> None:
    fake.metadata(world, at, command, vm)
    guarded(world, at, vm, "create-md")
    world.disks[at, vm] = Disk()


def up(world: Cloud, at: str, command: Command, vm: str) -> None:
    need(at not in world.unloaded, "Could not connect to 'drbd' generic netlink family")
    need((at, vm) in world.disks, "No valid meta data found")
    there = vm in world.nodes[at].resources
    fake.up(world, at, command, vm)
    if not there:
        world.nodes[at].resources[vm].disk = world.disks[at, vm].state
        world.meet(vm)


def down(world: Cloud, at: str, command: Command, vm: str) -> None:
    fake.down(world, at, command, vm)
    world.standalone.discard((at, vm))


def promote(world: Cloud, at: str, command: Command, force: str | None, vm: str) -> None:
    disk = world.disks[at, vm]
    fake.promote(world, at, command, force, vm)
    if force:
        if disk.generation:
            world.broken.append(f"{vm}: data that is not new was declared the truth on {at}")
        disk.generation = world.next()
        world.mark(at, vm, "UpToDate")
        world.meet(vm)


def declare_equal(world: Cloud, at: str, command: Command, vm: str) -> None:
    fake.declare_equal(world, at, command, vm)
    one, two = world.disks[at, vm], world.disks[world.other(at, vm), vm]
    if one.writes != two.writes or one.generation or two.generation:
        world.broken.append(f"{vm}: sides that hold data were declared equal")
    one.state = two.state = "UpToDate"
    one.generation = two.generation = world.next()


def allow_two(world: Cloud, at: str, command: Command, answer: str, vm: str) -> None:
    need((at, vm) not in world.standalone, "net conf missing, try connect")
    fake.allow_two(world, at, command, answer, vm)


def remove(world: Cloud, at: str, command: Command, name: str) -> None:
    need(not any(v.origin == name for v in world.nodes[at].volumes.values()), "it has a snapshot")
    fake.remove(world, at, command, name)
    guarded(world, at, name, "lvremove")
    world.disks.pop((at, name), None)


def snapshot(world: Cloud, at: str, command: Command, tags: str, size: str, name: str, origin: str) -> None:
    fake.snapshot(world, at, command, tags, size, name, origin)
    if not world.has_all(at, origin):
        world.broken.append(f"{name} is taken of a side that lacks acknowledged writes")


def define(world: Cloud, at: str, command: Command) -> None:
    fake.define(world, at, command)
    for name in re.findall("<name>(.*)</name>", command.stdin or ""):
        world.xml.setdefault((at, name), command.stdin or "")


def undefine(world: Cloud, at: str, command: Command, vm: str) -> None:
    fake.undefine(world, at, command, vm)
    world.xml.pop((at, vm), None)


def migrate(world: Cloud, at: str, command: Command, vm: str, address: str) -> None:
    target = next(name for name, spec in SETTINGS.nodes.items() if spec.replication == address)
    need(target not in world.off and frozenset((at, target)) not in world.cut, "unable to connect to server")
    need(world.nodes[target].domains.get(vm) == "shut off", "domain is already active")
    fake.migrate(world, at, command, vm, address)


def write_new(world: Cloud, at: str, command: Command, path: str) -> None:
    need(path not in world.nodes[at].files, "cannot overwrite existing file")
    fake.write(world, at, command, path)


def load(world: Cloud, at: str, command: Command) -> None:
    world.unloaded.discard(at)


EFFECTS: list[tuple[str, Callable[..., None]]] = [
    (r"modprobe drbd", load),
    (r"vgchange .*", fake.nothing),
    (r"blkdiscard .* /dev/vg/(\S+)", zero),
    (r"lvremove --yes vg/(\S+)", remove),
    (r"lvcreate --yes --snapshot ((?:--addtag \S+ )+)--size (\d+)b --name (\S+) vg/(\S+)", snapshot),
    (BASH + r".*; ln -T .*' pmc (\S+)", write_new),
    (r"drbdadm create-md --force (\S+)", metadata),
    (r"drbdadm up (\S+)", up),
    (BASH + r".*drbdsetup down .* pmc (\S+) drbdadm up \S+", up),
    (BASH + r".*drbdsetup down .* pmc (\S+) bash .*drbdadm attach .*", up),
    (BASH + r"'drbdadm role .*drbdadm attach .*' pmc (\S+)", up),
    (BASH + r"'drbdadm down .*' pmc (\S+)", down),
    (r"drbdadm primary (--force )?(\S+)", promote),
    (r"drbdadm new-current-uuid --clear-bitmap (\S+)", declare_equal),
    (r"drbdadm net-options --protocol=C --allow-two-primaries=(yes|no) (\S+)", allow_two),
    (fake.VIRSH + r"define /dev/stdin", define),
    (fake.VIRSH + r"undefine (\S+) --nvram --managed-save --snapshots-metadata", undefine),
    (fake.VIRSH + r"migrate .* (\S+) qemu\+ssh://root@(\S+)/system .*", migrate),
]


LINKS = [frozenset(pair) for pair in combinations(SETTINGS.nodes, 2)]
