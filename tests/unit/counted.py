"""A cluster of many nodes in memory that counts what each of them is asked: the tasks run on it as they are."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pmc.backup import Stored
from pmc.cluster import Beside, Cluster
from pmc.command import Command, Query
from pmc.errors import CommandFailed, NodeDown
from pmc.health.node_machine import Folder
from pmc.lock_files import Holder
from pmc.model import Disk, NodeState, Running
from pmc.settings import Settings, parse
from pmc.tasks import base
from pmc.transport import lock
from pmc.transport.node import Node
from pmc.units import GiB
from tests.sim.fake import World
from tests.sim.machine import Machine, Unknown
from tests.unit.samples import XML
from tests.unit.stories import stored_in

MANY = 100
CPU = '<cpu mode="custom"/>'
# What second looks are told, by a word of the question.
TOLD: Mapping[str, Any] = {
    "domjobinfo": 0.2, "/sys/block/drbd": GiB, "dumpxml": XML, "domcapabilities": CPU, "hypervisor-cpu-baseline": CPU,
    "hypervisor-cpu-compare": True, "virt-install": XML.replace("web", "new"), "guest-ping": False,
    "lost+found": Folder("none"),
}  # fmt: skip


def settings() -> Settings:
    nodes = "".join(f'[nodes.pm-{n}]\nreplication = "10.0.0.{n}"\n' for n in range(1, MANY + 1))
    return parse(f'audit_log = ""\nmac_prefix = "52:54:00:77"\n{nodes}', "pmc.conf")


def widened(world: World) -> World:
    """The same world among many nodes."""
    for number in range(1, MANY + 1):
        world.nodes.setdefault(f"pm-{number}", Machine())
    return world


# What runs under no lock, since nothing that another command may do at the same time is harmed: the program that reads
# disks, under a name of its version, and a backup that is read back (tasks/verify_backup.py); DRBD's own comparison,
# which writes nothing (pm.verify --deep).
BESIDE = ("pmc /run/pmc/stream-", ".verified", "drbdadm verify")


class Counted(Cluster):
    """`asked` counts, for each node, its looks, locks, questions and commands: each of them is a round trip. `tokens`:
    the locks that each node gave. A command that does not prove that it has some there is an error of the test, and so
    is one that names a VM and proves only that it has others."""

    def __init__(self, settings: Settings, world: World) -> None:
        super().__init__(settings)
        self.world = world
        self.asked: dict[str, Counter[str]] = {name: Counter() for name in self.nodes}
        self.tokens: dict[str, dict[str, str]] = {name: {} for name in self.nodes}
        self.nodes = {name: CountedNode(self, node) for name, node in self.nodes.items()}
        self.kinds: dict[str, str] = {}  # what a running VM runs on, if not on KVM
        self.attached: dict[str, tuple[Disk, ...]] = {}  # what it has now

    def _look(self, node: Node, allocating: bool, beside: Beside) -> NodeState:
        self.asked[node.name]["look"] += 1
        seen = self.world._node_state(node.name, self.world.nodes[node.name])
        active = {
            name: replace(volume, attributes=volume.attributes or "-wi-a-----") for name, volume in seen.volumes.items()
        }
        runs = {
            name: Running(self.kinds.get(name, "kvm"), self.attached.get(name, ()))
            for name, its in seen.domains.items()
            if its.active
        }
        return replace(
            seen, volumes=active, running=runs if "running" in beside else None,
            backups=self.backups(node.name) if "backups" in beside else None,
        )  # fmt: skip

    def named(self, line: str) -> set[str]:
        """The VMs that a command is about."""
        known = {vm for m in self.world.nodes.values() for vm in (*m.domains, *m.resources, *m.volumes)}
        return {vm for vm in known if re.search(rf"(?<![\w-]){vm}(?![\w-])", line)}

    def backups(self, node: str) -> list[Stored]:
        return [each for each in stored_in(self.world) if each.node == node]


class Line:
    """In place of a connection: it opens, and nobody listens."""

    def open(self) -> None:
        pass

    @property
    def client(self) -> Any:
        raise OSError("nobody listens here")


class CountedNode(Node):
    def __init__(self, cluster: Counted, node: Node) -> None:
        super().__init__(node.spec, node.settings, None)
        self.cluster = cluster

    def ask_each(self, *queries: Query[Any], seconds: float | None = None) -> list[Any]:
        self.cluster.asked[self.name]["ask"] += 1
        if self.name in self.cluster.world.dead:
            raise NodeDown(f"{self.name}: no ssh")
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query[Any]) -> Any:
        line = shlex.join(query.command.argv)
        if query.command.argv[0] == "bash" and query.parse is str:  # what a Wait asks
            return "" if self.cluster.world._holds(self.name, query.command) else CommandFailed(self.name, line, 1, "")
        if "dumpxml" in line and (up := self.cluster.world.nodes[self.name].resources.get(query.command.argv[-1])):
            return XML.replace("web", query.command.argv[-1]).replace("/dev/drbd1", f"/dev/drbd{up.minor}")
        if told := [value for word, value in TOLD.items() if word in line]:
            return told[0]
        if "base64 -w0" in line:
            return self.cluster.backups(self.name)
        try:
            return query.parse(self.cluster.world._say(self.name, query.command))
        except AssertionError:
            return CommandFailed(self.name, line, 1, "the world does not know")

    def run(self, command: Command, **how: Any) -> str:
        self.cluster.asked[self.name]["run"] += 1
        self.see_locked(str(command), dict(how.get("locks", ())))
        if not how.get("sink"):  # what is fetched is not in this world
            self.cluster.world.carry_out(self.name, command)
        return ""

    def see_locked(self, line: str, proofs: Mapping[str, str]) -> None:
        given = self.cluster.tokens[self.name]
        if wrong := [name for name, token in proofs.items() if given.get(name) != token]:
            raise Unknown(f"{self.name} has given no lock of {wrong} to: {line}")
        if not proofs and not any(word in line for word in BESIDE):
            raise Unknown(f"{self.name}: without a lock: {line}")
        named = self.cluster.named(line)
        if proofs and named and not named & set(proofs):
            raise Unknown(f"{self.name}: under the lock of {list(proofs)}: {line}")

    def reach(self) -> bool:
        return self.name not in self.cluster.world.dead

    @property
    def connection(self) -> Any:
        return Line()

    def close(self) -> None:
        pass


class Held:
    """In place of locks.Hold: always given."""

    refusal = None
    lost = False

    def __init__(self, node: CountedNode, names: Sequence[str], holder: Holder, again: bool = False) -> None:
        self.node, self.names = node, names
        if node.name in node.cluster.world.dead:
            raise NodeDown(f"{node.name}: no ssh")
        node.cluster.asked[node.name]["lock"] += 1
        node.cluster.tokens[node.name] |= dict.fromkeys(names, holder.token)

    def beat(self) -> None:
        pass

    def close(self) -> None:
        pass

    def release(self) -> None:
        for name in self.names:
            self.node.cluster.tokens[self.node.name].pop(name, None)


def counted(monkeypatch: pytest.MonkeyPatch, world: World) -> Counted:
    """The cluster that tasks find from now on."""
    cluster = Counted(settings(), widened(world))
    monkeypatch.setattr("pmc.settings.load", lambda conf: cluster.settings)
    monkeypatch.setattr(base, "Cluster", lambda settings: cluster)
    monkeypatch.setattr(lock, "Hold", Held)
    return cluster
