"""A small world that plans act on: nodes with volumes, files, DRBD and domains, in memory.

It knows each command that a plan may hold by what it is (effects.py) and refuses what the real tools refuse (a volume
in use cannot be removed, a disk in use not demoted), so that an undo in the wrong order fails here too. A command that
it does not know is an error of the test. What no plan undoes and nothing depends on (folders, the contents of disks) is
not kept.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from pmc import drbd, drbd_generations, virsh
from pmc.actions import Action, Fetch, Wait, Watch
from pmc.command import Command, command
from pmc.errors import CommandFailed, InDoubt, PmcError
from pmc.facts import dead_node, drbd_files
from pmc.model import ClusterState, Domain, NodeState, Resource
from pmc.node_state import cluster_state
from pmc.plan import Plan, apply
from pmc.units import GiB
from tests.sim.effects import EFFECTS, carried_out
from tests.sim.machine import Impossible, Kernel, Machine, Unknown, need, says
from tests.unit.samples import SETTINGS, framed, node


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
        if not carried_out(EFFECTS, self, name, command):
            raise Unknown(f"the fake world does not know: {command}")

    def _holds(self, name: str, asked: Command) -> bool:
        """Whether what a Wait asks succeeds: as bash has it, see test_waits.py."""
        assert asked.op is not None, asked
        make, given = asked.op.make, asked.op.given
        if make is dead_node.silent:
            return not dead_node.parse_peer(self._say(name, asked)).life
        if make is drbd_generations.went_on:
            said = self._say(name, command("drbdadm", "get-gi", given["name"]))
            return drbd_generations.parse_generation(said).bitmap != 0
        if make in (drbd.sees, drbd.sees_not):
            words = tuple(word for fact in given["facts"] for word in fact)
            seen = says(self._say(name, drbd.status(given["name"]).command), words)
            return seen if make is drbd.sees else not seen
        return self.nodes[name].domains[given["name"]] == {virsh.goes_on: "running", virsh.is_off: "shut off"}[make]

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
        return cluster_state({name: self._node_state(name, machine) for name, machine in self.nodes.items()})

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
        res = {path: text for path, text in machine.files.items() if path.endswith(".res")}
        files = drbd_files.parse("".join(framed(f"{text}\n", path.rpartition("/")[2]) for path, text in res.items()))
        assert files.odd == ()
        domains = {vm: Domain(vm, state, GiB, 1) for vm, state in machine.domains.items()}
        return node(
            name, volumes=dict(machine.volumes), resources=resources, files=files.resources, domains=domains,
            saved=frozenset(machine.saved),
        )  # fmt: skip


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
