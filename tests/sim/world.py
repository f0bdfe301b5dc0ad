"""The fake world with all that outlasts a command: power, links, data (links.py), what guests have written, and what
the manager's questions are answered.

A write is acknowledged to the guest when it is on both connected sides, or on its own side when no other is connected.
What must never be, is noted in `broken`; a tool that only refuses raises Impossible, as in fake.py. What each command
does is in hands.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from pmc.actions import Action, Watch
from pmc.command import Command
from pmc.drbd_generations import Generation
from pmc.errors import NodeDown
from pmc.model import ClusterState, NodeState, Resource
from pmc.node_state import cluster_state
from pmc.units import GiB
from tests.sim import hands
from tests.sim.effects import carried_out
from tests.sim.links import Linked
from tests.sim.machine import Impossible, Machine
from tests.sim.metadata import Disk
from tests.unit.samples import SETTINGS


class Cloud(Linked):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], frozenset[int]] = {}  # what is on the snapshots of lost sides
        self.xml: dict[tuple[str, str], str] = {}
        self.acknowledged: dict[str, frozenset[int]] = {}
        self.written: dict[int, datetime] = {}
        self.removing = ""  # the VM that a person wants to be gone

    # -- guests --

    def running(self, vm: str) -> list[str]:
        return [name for name, machine in self.nodes.items() if machine.domains.get(vm) == "running"]

    def guests(self) -> list[tuple[str, str]]:
        return [(vm, at) for at, m in self.nodes.items() for vm, state in m.domains.items() if state == "running"]

    def guests_write(self, only: Collection[str] | None = None) -> None:
        """They never stop to; but one that a person wants to be gone writes nothing that counts."""
        for vm, at in self.guests():
            if at not in self.hung and vm != self.removing and (only is None or vm in only):
                self.write(vm, at)

    def write(self, vm: str, at: str) -> None:
        if self.nodes[at].resources[vm].held:
            return  # it waits, and acknowledges nothing
        number, other = self.next(), self.other(at, vm)
        sides = [side for side in (at, other) if side and (side, vm) not in self.detached]
        if not sides:
            return  # an error is what the guest gets
        for side in sides:
            self.disks[side, vm].write(number, alone=len(sides) == 1)
        self.written[number] = self.now
        self.acknowledged[vm] = self.acknowledged.get(vm, frozenset()) | {number}

    def lacking(self, at: str, vm: str) -> frozenset[int]:
        """The acknowledged writes that are not there."""
        disk = self.disks.get((at, vm), Disk())
        return self.acknowledged.get(vm, frozenset()) - disk.writes

    def has_all(self, at: str, vm: str) -> bool:
        return (at, vm) in self.disks and not self.lacking(at, vm)

    def sees_all(self, at: str, vm: str) -> bool:
        """Whatever a guest there reads; what its own side lacks comes from the other one, or is an error."""
        missing = (at, vm) in self.detached or self.disks[at, vm].state == "Inconsistent"
        side = self.other(at, vm) if missing else at
        return not side or (side, vm) in self.detached or self.has_all(side, vm)

    # -- what commands and questions see --

    def carry_out(self, name: str, action: Action, watch: Watch | None = None) -> None:
        if self.silent(name):
            raise NodeDown(f"{name}: no ssh within 10 s")
        super().carry_out(name, action, watch)

    def _effect(self, name: str, command: Command) -> None:
        before = {vm: self.running(vm) for vm in self.nodes[name].domains}
        try:
            if not carried_out(hands.EFFECTS, self, name, command):
                super()._effect(name, command)
        except KeyError as missing:
            raise Impossible(f"no such resource: {missing}") from None
        self.see_links()
        for vm, places in before.items():
            for place in set(self.running(vm)) - set(places):
                if not self.sees_all(place, vm):
                    self.broken.append(f"{vm} was started on {place}, which lacks acknowledged writes")

    def _say(self, name: str, command: Command) -> str:
        if "root@$1" in " ".join(command.argv):
            return self._say_of_peer(name, command.argv[-1])
        if "get-gi" in command.argv and (known := self.gi(name, command.argv[-1])):
            return (
                ":".join(f"{word:016X}" for word in (known.current, known.bitmap, *known.history)) + ":1:1:1:0:0:0:0\n"
            )
        try:
            return super()._say(name, command)
        except KeyError as missing:
            raise Impossible(f"no such resource: {missing}") from None

    def _say_of_peer(self, name: str, address: str) -> str:
        """What the survivor tells of a node that the manager does not reach: ssh, its clock, its kernel's log."""
        there = next(node for node, spec in SETTINGS.nodes.items() if spec.replication == address)
        ssh = "255 ssh: connect: Connection timed out" if self.silent(there, name) else "0 "
        log = "".join(f"kernel {line}\n" for line in self.journal.get(name, ()))
        since, clock = self.clocks(name)
        return f"ssh {ssh}\n{log}now {since} {clock}\n"

    def gi(self, name: str, vm: str) -> Generation | None:
        """As drbdadm get-gi."""
        disk = self.disks.get((name, vm))
        return Generation(disk.current, disk.bitmap, disk.history) if disk else None

    def state(self) -> ClusterState:
        down = {name: NodeState(name, down="no ssh", answers=False) for name in self.nodes if self.silent(name)}
        return cluster_state({
            name: down.get(name) or self._node_state(name, machine) for name, machine in self.nodes.items()
        })  # fmt: skip

    def _node_state(self, name: str, machine: Machine) -> NodeState:
        seen = super()._node_state(name, machine)
        macs = {
            mac for (at, _), xml in self.xml.items() if at == name for mac in re.findall('mac address="(.*?)"', xml)
        }
        return replace(
            seen,
            drbd="" if name in self.unloaded else seen.drbd,
            resources={vm: self._seen(name, vm, resource) for vm, resource in seen.resources.items()},
            volumes={n: replace(v, attributes=v.attributes or "-wi-a-----") for n, v in seen.volumes.items()},
            macs=frozenset(macs),
        )

    def _seen(self, name: str, vm: str, resource: Resource) -> Resource:
        kernel, bits = self.nodes[name].resources[vm], self.disks[name, vm].bits
        lacks = GiB if bits is None else 4096 * len(bits)
        if not self.other(name, vm):
            how = "StandAlone" if kernel.alone or len(kernel.hosts) == 1 else "Connecting"
            return replace(resource, connection=how, replication="Off", out_of_sync=lacks)
        pair = self.copying(vm)
        if pair is None:
            return resource
        return replace(
            resource,
            replication="SyncTarget" if self.disks[name, vm] is pair[1] else "SyncSource",
            out_of_sync=lacks or 4096,
        )
