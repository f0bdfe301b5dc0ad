"""What a fleet shall be like: how many nodes and VMs, and which of the nodes are ill. Pure."""

from __future__ import annotations

from dataclasses import dataclass

ILLS = ("dead", "mute", "hung", "slow", "garbage")


@dataclass(frozen=True)
class VM:
    """It runs on the first of its nodes (numbered from 0). In a fleet of one node VMs have no second copy."""

    name: str
    number: int
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Spec:
    """`vms` run on each node, and as many have their second copy there. Of the ill nodes, so many: `dead` (its packets
    are lost), `mute` (takes the connection, and no sshd speaks), `hung` (lets one in, and its tools never end), `slow`
    (each look takes `delay` seconds more), `garbage` (its tools print something else)."""

    nodes: int
    vms: int
    dead: int = 0
    mute: int = 0
    hung: int = 0
    slow: int = 0
    garbage: int = 0
    delay: float = 1.0
    connect: float = 10  # the deadlines of the fleet's pmc.conf
    command: float = 60

    def name(self, node: int) -> str:
        return f"pm-{node + 1}"

    def address(self, node: int) -> str:
        """From 127.0.1.1 on, 250 in each network."""
        return f"127.0.{1 + node // 250}.{1 + node % 250}"

    def replication(self, node: int) -> str:
        return f"10.77.{1 + node // 250}.{1 + node % 250}"

    def ills(self) -> dict[int, str]:
        """The ill nodes, spread over the fleet, so that none has all of them in one row of waiting."""
        wanted = [ill for ill in ILLS for _ in range(getattr(self, ill))]
        if len(wanted) > self.nodes:
            raise ValueError(f"{len(wanted)} ill nodes of {self.nodes}")
        return {place * self.nodes // len(wanted): ill for place, ill in enumerate(wanted)}

    def machines(self) -> list[VM]:
        """All VMs. The second copies of a node's VMs are spread over the nodes that follow it."""
        found = []
        for node in range(self.nodes):
            for k in range(self.vms):
                other = (node + 1 + k % max(1, self.nodes - 1)) % self.nodes
                homes = (node,) if self.nodes == 1 else (node, other)
                found.append(VM(f"vm{node + 1}-{k + 1}", node * self.vms + k, homes))
        return found
