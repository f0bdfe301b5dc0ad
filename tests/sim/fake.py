"""A small world that plans act on: nodes with volumes, files, DRBD and domains, in memory.

It knows each command that a plan may hold by its text and refuses what the real tools refuse (a volume in use cannot be
removed, a disk in use not demoted), so that an undo in the wrong order fails here too. A command that it does not
know is an error of the test. What no plan undoes and nothing depends on (folders, the contents of disks) is not kept.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from pmc import drbd, drbd_generations
from pmc.command import Command, command
from pmc.errors import CommandFailed, InDoubt, PmcError
from pmc.facts import dead_node
from pmc.model import ClusterState, Domain, NodeState, Resource, Volume
from pmc.plan import Action, Fetch, Plan, Wait, Watch, apply
from pmc.units import GiB
from tests.unit.samples import SETTINGS, node, parsed_files


@dataclass
class Kernel:
    """A DRBD resource that is up."""

    minor: int
    role: str = "Secondary"
    disk: str = "Inconsistent"
    two_primaries: bool = False
    alone: bool = False  # StandAlone
    discard: bool = False  # connects with --discard-my-data
    split: bool = False  # written without the other, as the other was without it
    hosts: tuple[str, ...] = ()  # what its resource file named when it was brought up
    marked: int = 0  # bytes that a verify found to differ
    holds: bool = False  # when it loses its peer, it holds its writes
    held: bool = False  # and does so now: suspended:fencing
    behind: bool = False  # its peer, when it was last seen, was known to lack writes (pdsk Outdated, Inconsistent)


@dataclass
class Machine:
    volumes: dict[str, Volume] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    resources: dict[str, Kernel] = field(default_factory=dict)
    domains: dict[str, str] = field(default_factory=dict)
    saved: set[str] = field(default_factory=set)  # the domains whose memory libvirt keeps here


class Impossible(Exception):
    """The tool refuses."""


class Unknown(BaseException):
    """An error of the test. Not an Exception: a plan's rollback goes on past those."""


def need(holds: object, said: str) -> None:
    if not holds:
        raise Impossible(said)


def says(text: str, words: tuple[str, ...]) -> bool:
    """As drbd.sees judges what events2 prints; `words` are its facts, flat."""
    for kind, pattern in zip(words[::2], words[1::2], strict=True):
        its = [line for line in text.splitlines() if line.startswith(f"exists {kind} ")]
        its = [line for line in its if " peer-client:yes" not in line]
        if not its or not all(re.search(f" ({pattern})( |$)", line) for line in its):
            return False
    return True


class World:
    def __init__(self) -> None:
        self.nodes = {name: Machine() for name in SETTINGS.nodes}
        self.log: list[tuple[str, str]] = []
        self.dead: set[str] = set()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, World) and self.nodes == other.nodes

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {machine}" for name, machine in self.nodes.items())

    def copy(self) -> World:
        return deepcopy(self)

    def carry_out(self, name: str, action: Action, watch: Watch | None = None) -> None:
        """As `Cluster.apply` would."""
        self.log.append((name, str(action)))
        assert name not in self.dead, f"a plan asks {name}, which is dead"
        try:
            if isinstance(action, Wait):
                need(self._holds(name, action.ask), action.otherwise)
                return
            if isinstance(action, Fetch):
                return  # the manager's disk is not in this world
            self._effect(name, action if isinstance(action, Command) else action.target)
        except Impossible as error:
            raise CommandFailed(name, str(action), 1, str(error)) from None

    def _effect(self, name: str, command: Command) -> None:
        line = shlex.join(command.argv)
        for pattern, effect in EFFECTS:
            if found := re.fullmatch(pattern, line, re.DOTALL):
                effect(self, name, command, *found.groups())
                return
        raise Unknown(f"the fake world does not know: {line}")

    def _holds(self, name: str, asked: Command) -> bool:
        """Whether what a Wait asks succeeds: as bash has it, see test_waits.py."""
        line, words = shlex.join(asked.argv), asked.argv[asked.argv.index("pmc") + 1 :]
        if "root@$1" in line:
            return not dead_node.parse_peer(self._say(name, asked)).life
        if "get-gi" in line:
            said = self._say(name, command("drbdadm", "get-gi", words[0]))
            return drbd_generations.parse_generation(said).bitmap != 0
        if "events2" in line:
            wanted = says(self._say(name, drbd.status(words[0]).command), words[1:])
            return not wanted if "! sees" in line else wanted
        return self.nodes[name].domains[words[0]] == ("running" if "domjobinfo" in line else "shut off")

    def _say(self, name: str, command: Command) -> str:
        """What the questions of plans would print."""
        machine, line = self.nodes[name], shlex.join(command.argv)
        vm = command.argv[-1]
        if "root@$1" in line:
            there = next(node for node, spec in SETTINGS.nodes.items() if spec.replication == command.argv[-1])
            return "ssh 255 ssh: connect: Connection timed out\n" if there in self.dead else "ssh 0 \n"
        if "events2" in line:
            asked = machine.resources if vm == "pmc" else {vm: machine.resources[vm]}  # the script's own name: all
            return "".join(self._status(name, vm, kernel) for vm, kernel in asked.items()) + "exists -\n"
        if "get-gi" in line:
            alone = machine.resources[vm].role == "Primary" and not self.peer(name, vm)
            return f"{2:016X}:{4 * alone:016X}:{0:016X}:{0:016X}:1:1:1:0:0:0:0\n"
        raise AssertionError(line)

    def _status(self, name: str, vm: str, kernel: Kernel) -> str:
        peer = self.peer(name, vm)
        return (
            f"exists resource name:{vm} role:{kernel.role}\n"
            f"exists connection name:{vm} connection:{'Connected' if peer else 'Connecting'}\n"
            f"exists device name:{vm} minor:{kernel.minor} disk:{kernel.disk} size:{GiB // 1024}\n"
            f"exists peer-device name:{vm} replication:Established peer-disk:{peer.disk if peer else 'DUnknown'} "
            f"out-of-sync:{kernel.marked // 1024}\n"
        )

    def peer(self, name: str, vm: str) -> Kernel | None:
        """The one that it is connected with: both sides must name each other."""
        mine = self.nodes[name].resources.get(vm)
        for other, machine in self.nodes.items():
            kernel = machine.resources.get(vm)
            if other == name or other in self.dead or not mine or not kernel or mine.alone or kernel.alone:
                continue
            if other in mine.hosts and set(kernel.hosts) == set(mine.hosts):
                return kernel
        return None

    def open(self, name: str, vm: str) -> bool:
        """A guest has the disk open."""
        return self.nodes[name].domains.get(vm) == "running"

    def state(self) -> ClusterState:
        return ClusterState({name: self._node_state(name, machine) for name, machine in self.nodes.items()})

    def _node_state(self, name: str, machine: Machine) -> NodeState:
        if name in self.dead:
            return NodeState(name, down="no ssh within 10 s", answers=False)
        resources = {}
        for vm, kernel in machine.resources.items():
            peer = self.peer(name, vm)
            others = [other for other, m in self.nodes.items() if other != name and vm in m.resources]
            waits = not kernel.alone and bool(others or self.dead)
            connection = "Connected" if peer else "Connecting" if waits else "StandAlone"
            resources[vm] = Resource(
                vm, kernel.minor, kernel.role, kernel.disk, connection, "Established",
                peer.role if peer else "Unknown", peer.disk if peer else "DUnknown", GiB,
                two_primaries=kernel.two_primaries or kernel.holds, out_of_sync=kernel.marked,
                suspended="fencing" if kernel.held else "",
            )  # fmt: skip
        texts = "".join(text for path, text in machine.files.items() if path.endswith(".res"))
        domains = {vm: Domain(vm, state, GiB, 1) for vm, state in machine.domains.items()}
        return node(
            name, volumes=dict(machine.volumes), resources=resources, files=parsed_files(texts), domains=domains,
            saved=frozenset(machine.saved),
        )  # fmt: skip


# -- what each command does: (world, node, command, parts of the text) --

Effect = Callable[..., None]


def marks(tags: str) -> tuple[str, ...]:
    return tuple(re.findall(r"--addtag (\S+)", tags))


def create(world: World, at: str, command: Command, tags: str, size: str, name: str) -> None:
    volumes = world.nodes[at].volumes
    need(name not in volumes, "already exists in volume group")
    volumes[name] = Volume(name, "vg", int(size), marks(tags))


def snapshot(world: World, at: str, command: Command, tags: str, size: str, name: str, origin: str) -> None:
    volumes = world.nodes[at].volumes
    need(origin in volumes and name not in volumes, "no origin, or it exists")
    volumes[name] = Volume(name, "vg", int(size), marks(tags), origin, "swi-a-s---", 0.0)


def create_thin(world: World, at: str, command: Command, tags: str, size: str, pool: str, name: str) -> None:
    volumes = world.nodes[at].volumes
    need(name not in volumes and pool in volumes, "it exists, or there is no pool")
    volumes[name] = Volume(name, "vg", int(size), marks(tags), "", "Vwi-a-tz--", 0.0, pool=pool)


def snapshot_thin(world: World, at: str, command: Command, tags: str, name: str, origin: str) -> None:
    volumes = world.nodes[at].volumes
    need(origin in volumes and volumes[origin].thin and name not in volumes, "no thin origin, or it exists")
    volumes[name] = replace(volumes[origin], name=name, tags=marks(tags), origin=origin, attributes="Vri-a-tz--")


def remove(world: World, at: str, command: Command, name: str) -> None:
    machine = world.nodes[at]
    need(name in machine.volumes, "Failed to find logical volume")
    need(name not in machine.resources or machine.resources[name].disk == "Diskless", "Logical volume in use")
    del machine.volumes[name]


def tagged(world: World, at: str, name: str) -> None:
    """A step that removes a snapshot looks again that it is pmc's."""
    volume = world.nodes[at].volumes.get(name)
    need(volume and "pmc" in volume.tags, "has not, or not any more, the tag of pmc")


def remove_snapshot(world: World, at: str, command: Command, name: str) -> None:
    tagged(world, at, name)
    remove(world, at, command, name)


def removable(world: World, at: str, name: str) -> None:
    """A step that removes a VM's disk looks again that it is pmc's, or the VM's, and nothing would go with it."""
    volumes = world.nodes[at].volumes
    need(name in volumes, "Failed to find logical volume")
    named = f"/dev/vg/{name}" in world.nodes[at].files.get(drbd.path(name), "")
    need(named or "pmc" in volumes[name].tags, "has not the tag of pmc")
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


def keep(world: World, at: str, command: Command, name: str, kept: str, tag: str) -> None:
    volumes = world.nodes[at].volumes
    need(name in volumes, "Failed to find logical volume")
    if kept in volumes:
        tagged(world, at, kept)
    volume = volumes.pop(name)
    volumes[kept] = replace(volume, name=kept, tags=(*volume.tags, tag))


def is_kept(world: World, at: str, command: Command, name: str, tag: str) -> None:
    volume = world.nodes[at].volumes.get(name)
    need(volume and volume.thin and tag in volume.tags, "is not the snapshot of this base")


def list_ranges(world: World, at: str, command: Command, name: str, older: str, path: str) -> None:
    volumes = world.nodes[at].volumes
    names = [each for each in (name, older.strip("'")) if each]
    need(all(each in volumes and volumes[each].thin for each in names), "is no thin volume")
    world.nodes[at].files[path] = "0 65536"


def grow(world: World, at: str, command: Command, more: str, name: str) -> None:
    volumes = world.nodes[at].volumes
    volumes[name] = replace(volumes[name], size=volumes[name].size + int(more))


def tag(world: World, at: str, command: Command, flag: str, tag: str, name: str) -> None:
    volumes = world.nodes[at].volumes
    others = tuple(each for each in volumes[name].tags if each != tag)
    volumes[name] = replace(volumes[name], tags=(*others, tag) if flag == "add" else others)


def write(world: World, at: str, command: Command, path: str) -> None:
    world.nodes[at].files[path] = command.stdin or ""


def delete(world: World, at: str, command: Command, paths: str) -> None:
    for path in shlex.split(paths):
        world.nodes[at].files.pop(path, None)


def has_file(world: World, at: str, command: Command, path: str) -> None:
    need(path in world.nodes[at].files, "")


def has_no_file(world: World, at: str, command: Command, path: str) -> None:
    need(path not in world.nodes[at].files, "")


def metadata(world: World, at: str, command: Command, vm: str) -> None:
    machine = world.nodes[at]
    need(drbd.path(vm) in machine.files and vm in machine.volumes, "no resource file, or no disk")
    need(vm not in machine.resources or machine.resources[vm].disk == "Diskless", "is configured!")


def up(world: World, at: str, command: Command, vm: str) -> None:
    machine = world.nodes[at]
    need(drbd.path(vm) in machine.files and vm in machine.volumes, "no resource file, or no disk")
    file = parsed_files(machine.files[drbd.path(vm)])[vm]
    machine.resources.setdefault(vm, Kernel(file.minor, hosts=file.hosts))


def switch_file(world: World, at: str, command: Command, path: str) -> None:
    files = world.nodes[at].files
    need(path in files, "no such file")
    files[f"{path}.old"], files[path] = files[path], command.stdin or ""


def switch(world: World, at: str, command: Command, path: str, vm: str) -> None:
    switch_file(world, at, command, path)
    adjust(world, at, command, vm)


def switch_back(world: World, at: str, command: Command, path: str, vm: str) -> None:
    files = world.nodes[at].files
    need(f"{path}.old" in files, "no such file")
    files[path] = files.pop(f"{path}.old")
    adjust(world, at, command, vm)


def forget_kept(world: World, at: str, command: Command, path: str) -> None:
    world.nodes[at].files.pop(f"{path}.old", None)


def names_host(world: World, at: str, command: Command, path: str, host: str) -> None:
    (file,) = parsed_files(world.nodes[at].files[path]).values()
    need(host in file.hosts, "")


def adjust(world: World, at: str, command: Command, vm: str) -> None:
    machine = world.nodes[at]
    machine.resources[vm].hosts = parsed_files(machine.files[drbd.path(vm)])[vm].hosts


def copied(world: World, at: str, command: Command, vm: str) -> None:
    peer = world.peer(at, vm)
    need(peer and world.nodes[at].resources[vm].disk == "UpToDate", "the peer is away")
    assert peer is not None
    peer.disk = "UpToDate"


def down(world: World, at: str, command: Command, vm: str) -> None:
    need(not world.open(at, vm), "Device is held open by someone")
    need(world.nodes[at].resources.pop(vm, None), "no such resource")


def is_up(world: World, at: str, command: Command, vm: str) -> None:
    need(vm in world.nodes[at].resources, "no such resource")


def is_primary(world: World, at: str, command: Command, vm: str) -> None:
    need(vm in world.nodes[at].resources and world.nodes[at].resources[vm].role == "Primary", "")


def promote(world: World, at: str, command: Command, force: str | None, vm: str) -> None:
    kernel, peer = world.nodes[at].resources[vm], world.peer(at, vm)
    both = kernel.two_primaries and peer and peer.two_primaries
    need(not peer or peer.role == "Secondary" or both, "Multiple primaries not allowed by config")
    need(force or kernel.disk == "UpToDate", "Need access to UpToDate data")
    kernel.role, kernel.disk = "Primary", "UpToDate"


def demote(world: World, at: str, command: Command, vm: str) -> None:
    need(not world.open(at, vm), "Device is held open by someone")
    world.nodes[at].resources[vm].role = "Secondary"


def declare_equal(world: World, at: str, command: Command, vm: str) -> None:
    kernel, peer = world.nodes[at].resources[vm], world.peer(at, vm)
    need(peer, "not connected")
    assert peer is not None
    kernel.disk = peer.disk = "UpToDate"


def allow_two(world: World, at: str, command: Command, answer: str, vm: str) -> None:
    kernel, peer = world.nodes[at].resources[vm], world.peer(at, vm)
    closing = kernel.two_primaries and answer == "no"
    need(not (closing and peer and kernel.role == peer.role == "Primary"), "Can not be changed: both are primary")
    kernel.two_primaries = kernel.holds = answer == "yes"


def resume(world: World, at: str, command: Command, vm: str) -> None:
    need(vm in world.nodes[at].resources, "no such resource")
    world.nodes[at].resources[vm].held = False


def disconnect(world: World, at: str, command: Command, vm: str) -> None:
    world.nodes[at].resources[vm].alone = True


def connect(world: World, at: str, command: Command, discard: str | None, vm: str) -> None:
    kernel = world.nodes[at].resources[vm]
    need(not (discard and kernel.role == "Primary"), "Can not discard data of a primary")
    kernel.alone, kernel.split = False, kernel.split and not discard
    if (peer := world.peer(at, vm)) and not (kernel.split and peer.split):
        kernel.split = peer.split = False
        if "Primary" in (kernel.role, peer.role):
            kernel.marked = peer.marked = 0
    elif peer:
        kernel.alone = True  # DRBD finds the split brain and drops the connection


def connect_again(world: World, at: str, command: Command, space: str, vm: str) -> None:
    if world.nodes[at].resources[vm].alone:
        connect(world, at, command, None, vm)


def attach(world: World, at: str, command: Command, vm: str) -> None:
    kernel, peer = world.nodes[at].resources[vm], world.peer(at, vm)
    need(vm in world.nodes[at].volumes and kernel.disk == "Diskless", "can not open backing device")
    kernel.disk = "UpToDate" if peer and peer.disk == "UpToDate" else "Consistent"


def detach(world: World, at: str, command: Command, vm: str) -> None:
    world.nodes[at].resources[vm].disk = "Diskless"


def is_attached(world: World, at: str, command: Command, vm: str) -> None:
    need(world.nodes[at].resources[vm].disk != "Diskless", "")


def define(world: World, at: str, command: Command) -> None:
    name = re.search("<name>(.*)</name>", command.stdin or "")
    assert name is not None
    world.nodes[at].domains.setdefault(name[1], "shut off")


def undefine(world: World, at: str, command: Command, vm: str) -> None:
    need(world.nodes[at].domains.get(vm) == "shut off", "not defined, or runs")
    del world.nodes[at].domains[vm]
    world.nodes[at].saved.discard(vm)


def discard_saved(world: World, at: str, command: Command, vm: str) -> None:
    world.nodes[at].saved.discard(vm)


def start(world: World, at: str, command: Command, vm: str) -> None:
    machine = world.nodes[at]
    need(machine.domains.get(vm) == "shut off", "not defined, or runs")
    machine.saved.discard(vm)  # with --force-boot it goes before anything can fail
    need(machine.resources[vm].role == "Primary", "Could not open '/dev/drbd': Wrong medium type")
    machine.domains[vm] = "running"


def stop(world: World, at: str, command: Command, vm: str) -> None:
    need(world.nodes[at].domains.get(vm) == "running", "domain is not running")
    world.nodes[at].domains[vm] = "shut off"


def has_domain(world: World, at: str, command: Command, vm: str) -> None:
    need(vm in world.nodes[at].domains, "failed to get domain")


def runs(world: World, at: str, command: Command, vm: str) -> None:
    need(world.nodes[at].domains.get(vm) == "running", "")


def migrate(world: World, at: str, command: Command, vm: str, address: str) -> None:
    target = next(name for name, spec in SETTINGS.nodes.items() if spec.replication == address)
    need(world.nodes[target].resources[vm].role == "Primary", "Could not open the disk: Wrong medium type")
    stop(world, at, command, vm)
    world.nodes[target].domains[vm] = "running"


def filled(world: World, at: str, command: Command, minor: str) -> None:
    """Something writes to the device, which only a primary lets it."""
    kernels = [k for k in world.nodes[at].resources.values() if k.minor == int(minor)]
    need(kernels and kernels[0].role == "Primary", "Read-only file system")


def put_back(world: World, at: str, command: Command, name: str, minor: str) -> None:
    tagged(world, at, name)
    filled(world, at, command, minor)
    del world.nodes[at].volumes[name]


def frozen(world: World, at: str, command: Command, path: str, token: str, vm: str) -> None:
    need(world.nodes[at].domains.get(vm) == "running", "domain is not running")
    world.nodes[at].files[path] = token


def thawed(world: World, at: str, command: Command, path: str, vm: str) -> None:
    world.nodes[at].files.pop(path, None)


def store(world: World, at: str, command: Command, path: str) -> None:
    need(path in world.nodes[at].files, "no such file")
    world.nodes[at].files[f"{path}.sums"] = "sum"


def store_thin(world: World, at: str, command: Command, path: str) -> None:
    files = world.nodes[at].files
    need(f"{path}.ranges" in files, "no such file")
    store(world, at, command, path)
    del files[f"{path}.ranges"]


def seal(world: World, at: str, command: Command, part: str, folder: str, file: str, id: str) -> None:
    files = world.nodes[at].files
    need({part, f"{part}.sums"} <= set(files), "not whole")
    for path in (part, f"{part}.sums"):
        del files[path]
    files[f"{folder}/{file}"] = "disk"
    files[f"{folder}/{id}.json"] = command.stdin or ""


def delete_unfinished(world: World, at: str, command: Command, folder: str, vm: str) -> None:
    files = world.nodes[at].files
    for path in [path for path in files if path.startswith(f"{folder}/.{vm}.") and ".part" in path]:
        del files[path]


def delete_backup(world: World, at: str, command: Command, folder: str, names: str) -> None:
    for name in shlex.split(names):
        world.nodes[at].files.pop(f"{folder}/{name}", None)


def nothing(world: World, at: str, command: Command, *parts: str) -> None:
    pass


VIRSH = "virsh --connect qemu:///system "
BASH = "bash -euo pipefail -c "
IDLE = "ionice -c 3 nice -n 19 "
FLUSHED = BASH + r"'at=[^']* sync [^']*' pmc /dev/vg/\S+ "
REMOVE_SNAPSHOT = BASH + r"'lvs\(\) .*?tags=[^|]*\|\| \{[^}]*\}; exec lvremove .*' pmc vg/(\S+)"
REMOVE_DISK = BASH + r"'lvs\(\) .*rows=.* depends on .* exec lvremove .*' pmc vg (\S+)"
EFFECTS: list[tuple[str, Effect]] = [
    (r"lvcreate --yes --wipesignatures n ((?:--addtag \S+ )+)--size (\d+)b --name (\S+) vg", create),
    (
        r"lvcreate --yes --type thin --wipesignatures n ((?:--addtag \S+ )+)--virtualsize (\d+)b --thinpool (\S+) "
        r"--name (\S+) vg",
        create_thin,
    ),
    (
        FLUSHED
        + r"lvcreate --yes --snapshot --setactivationskip n --permission r ((?:--addtag \S+ )+)--name (\S+) vg/(\S+)",
        snapshot_thin,
    ),
    (FLUSHED + r"lvcreate --yes --snapshot ((?:--addtag \S+ )+)--size (\d+)b --name (\S+) vg/(\S+)", snapshot),
    (r"blkdiscard .* /dev/vg/(\S+)", has_volume),
    (r"lvremove --yes vg/(\S+)", remove),
    (REMOVE_SNAPSHOT, remove_snapshot),
    (REMOVE_DISK, remove_disk),
    (BASH + r"'lvs .* lvremove .*' pmc vg/(\S+)", discard),
    (BASH + r"'\( lvs .* lvremove .* sync .*' pmc vg/(\S+) /dev/vg/\S+", discard),
    (BASH + r"'.* flock .* lvremove .*' pmc vg (\S+) (\S+) \S+", discard_marked),
    (BASH + r"'if said=.*Failed to find.*' pmc vg/(\S+)", has_no_volume),
    (BASH + r"'lvs\(\) .*well\(\) .*lvs .*' pmc vg (\S+)", has_volume),
    (BASH + r"'if lvs .*lvrename .*' pmc vg (\S+) (\S+) (\S+)", keep),
    (BASH + r"'lvs\(\) .*rows=.* \[\[ \$a = Vr.*' pmc vg (\S+) (\S+)", is_kept),
    (BASH + r"'say\(\) .*reserve_metadata_snap.* pmc vg \d+ (\S+) .* (\S+) (\S+)", list_ranges),
    (r"lvs --noheadings vg/(\S+)", has_volume),
    (r"lvextend --size \+(\d+)b vg/(\S+)", grow),
    (FLUSHED + r"lvchange --(add|del)tag (\S+) vg/(\S+)", tag),
    (BASH + r"'.* \|\| install -d .*' pmc \S+ 7..", nothing),
    (BASH + r".*; ln -T .*' pmc (\S+)", write),
    (r"install -m 600 /dev/null (\S+)", write),
    (r"rm -f (.+)", delete),
    (r"test -e (\S+)", has_file),
    (r"test '!' -e (\S+)", has_no_file),
    (r"true", nothing),
    (r"drbdadm create-md --force (\S+)", metadata),
    (r"drbdadm up (\S+)", up),
    (BASH + r".*drbdsetup down .* pmc (\S+) drbdadm up \S+", up),
    (BASH + r".*drbdsetup down .* pmc (\S+) bash .*drbdadm attach .*", up),
    (BASH + r"'drbdadm down .*' pmc (\S+)", down),
    (r"drbdadm role (\S+)", is_up),
    (r"bash .*drbdadm role .* = Primary\* .* pmc (\S+)", is_primary),
    (r"drbdadm primary (--force )?(\S+)", promote),
    (r"drbdadm secondary (\S+)", demote),
    (r"drbdadm new-current-uuid --clear-bitmap (\S+)", declare_equal),
    (BASH + r".*--allow-two-primaries=(yes|no) .*pmc (\S+) (?:disk|net)-options", allow_two),
    (r"drbdadm resume-io (\S+)", resume),
    (BASH + r"'.*StandAlone .* drbdadm disconnect .*' pmc (\S+)", disconnect),
    (r"drbdadm connect (--discard-my-data )?(\S+)", connect),
    (BASH + r"'.*StandAlone .* drbdadm connect .*'( )pmc (\S+)", connect_again),
    (r"drbdadm resume-sync (\S+)", nothing),
    (r"drbdadm attach (\S+)", attach),
    (r"drbdadm detach (\S+)", detach),
    (BASH + r"'.*drbdadm dstate .* pmc (\S+)", is_attached),
    (VIRSH + r"define /dev/stdin", define),
    (VIRSH + r"undefine (\S+) --nvram --managed-save --snapshots-metadata", undefine),
    (VIRSH + r"start --force-boot (\S+)", start),
    (BASH + r"'.* managedsave-remove .*' pmc (\S+) \S+", discard_saved),
    (VIRSH + r"(?:destroy|shutdown) (\S+)", stop),
    (VIRSH + r"dominfo (\S+)", has_domain),
    (BASH + r"'virsh .* list --name .*' pmc (\S+)", runs),
    (VIRSH + r"migrate .* (\S+) qemu\+ssh://root@(\S+)/system .*", migrate),
    (r"dd of=/dev/drbd(\d+) .*", filled),
    (BASH + r"'h=\$\(od .* qemu-img convert .*' pmc \S+ /dev/drbd(\d+) \S+ \d+ \d+", filled),
    (BASH + r"'(?:dd if=|\{ \[ -z ).* pmc /dev/drbd(\d+)", filled),
    (BASH + r"'\[ ! -d .*awk .*' pmc /run/pmc/stream-[0-9a-f]{12}", nothing),
    (BASH + r"'.* -m pmc\.remote\.stream put --size \d+ --expect .* --target .*' pmc /dev/drbd(\d+)", filled),
    (BASH + r"'lvs\(\) .*tags=.* put --size .* --compare; lvremove .*' pmc vg/(\S+) /dev/drbd(\d+)", put_back),
    (IDLE + BASH + r"'.* put --size \d+ --expect .*date .*' pmc \S+ \S+", nothing),
    (BASH + r"'umask 077; mkdir .* virsh --connect \S+ domfsfreeze .*' pmc \d+ (\S+) (\S+) (\S+) .*", frozen),
    (BASH + r"'virsh --connect \S+ domfsthaw \"\$2\"; rm -f \"\$1\"' pmc (\S+) (\S+)", thawed),
    (BASH + r"'late=; .* virsh --connect \S+ domfsthaw .*' pmc (\S+) (\S+) \S+", thawed),
    (BASH + r"'umask 077; trap .* pmc (\S+) 6..(?: \d+)?", write),
    (IDLE + BASH + r"'umask 077; .* qemu-img convert .*' pmc (\S+)", has_file),
    (IDLE + BASH + r"'umask 077; .* pmc\.remote\.stream (?:base|delta) .*--ranges .*' pmc (\S+)", store_thin),
    (IDLE + BASH + r"'umask 077; trap .*rm -f .* pmc (\S+)(?: .*)?", store),
    (BASH + r"'umask 077; .* pmc\.remote\.stream seal .*' pmc (\S+) (\S+) (\S+) (\S+)", seal),
    (BASH + r"'umask 077; cat >\"\$1.new\".* pmc (\S+) (\S+)", switch),
    (BASH + r"'\[ -e \"\$1.old\" .*invalidate-remote.* pmc (\S+) (\S+)", switch_back),
    (BASH + r"'rm -f \"\$1.old\" .* pmc (\S+)", forget_kept),
    (BASH + r"'grep -Fq -e \"on .* pmc (\S+) (\S+)", names_host),
    (r"drbdadm adjust (\S+)", adjust),
    (BASH + r".*stands still since.* pmc (\S+) \d+ \d+", copied),
    (BASH + r"'free=.*' pmc \S+ \d+", nothing),
    (BASH + r"'cd .* mv -- \"\$f\" \"\.\$f\.part\"; .*' pmc (\S+) (.+)", delete_backup),
    (BASH + r"'rm -f -- .*part\*' pmc (\S+) (\S+)(?: /.*)?", delete_unfinished),
]


# -- failures --


class Faulty:
    """Carries out in a world, but call number `at` goes wrong: it "fails" (without effect), or its end is not known: it
    was "lost before" or "lost after" its effect. Calls from number `stuck` on (undos) fail too."""

    def __init__(self, world: World, at: int, how: str, stuck: int | None = None) -> None:
        self.world, self.at, self.how, self.stuck = world, at, how, stuck
        self.calls = 0

    def __call__(self, node: str, action: Action, watch: Watch | None) -> None:
        number, self.calls = self.calls, self.calls + 1
        if number == self.at:
            if self.how == "lost after":
                self.world.carry_out(node, action, watch)
            raise self.error(node, action)
        if self.stuck is not None and number >= self.stuck:
            raise CommandFailed(node, str(action), 5, "the undo fails too")
        self.world.carry_out(node, action, watch)

    def error(self, node: str, action: Action) -> PmcError:
        if self.how == "fails":
            return CommandFailed(node, str(action), 1, "it fails")
        return InDoubt(node, str(action), "the connection was lost")


def done(world: World, plan: Plan) -> World:
    """The world after the whole plan."""
    after = world.copy()
    apply(plan, after.carry_out)
    return after


def watched(calls: list[Any]) -> Callable[[int, Plan], None]:
    return lambda number, plan: calls.append(number)
