"""All that is known about a cluster when it is judged, and who knows it. Pure.

What a node could not be asked is unknown, not absent: each judgement begins with the nodes that answered its question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pmc.health.questions import Extra
from pmc.model import ClusterState, NodeState, Resource
from pmc.settings import Settings

# What the look calls them when they fail.
LIBVIRT, SAVED, STATUS, FILES, VOLUMES = "libvirt", "saved memory", "drbd status", "drbd files", "volumes"


@dataclass(frozen=True)
class Facts:
    """`later` is a second look at DRBD a few seconds after the first, by node; taken only while a resync runs."""

    state: ClusterState
    extras: Mapping[str, Extra]
    settings: Settings
    now: float = 0.0  # the manager's clock, seconds since 1970
    later: Mapping[str, Mapping[str, Resource]] = field(default_factory=dict)

    def answers(self, node: NodeState) -> Extra:
        return self.extras.get(node.name, Extra())

    def telling(self, *questions: str) -> Iterator[NodeState]:
        """The nodes that answered these questions of the look."""
        return (n for n in self.state if not n.down and not any(question in n.failures for question in questions))

    def tells(self, node: str, *questions: str) -> bool:
        return any(node == each.name for each in self.telling(*questions))

    @cached_property
    def vms(self) -> tuple[str, ...]:
        return tuple(self.state.vm_names())

    @cached_property
    def homes(self) -> Mapping[str, tuple[str, ...]]:
        """The nodes of each VM (see ClusterState.homes). Empty: there is no resource file of it."""
        filed = {vm for node in self.state for vm in node.files}
        return {vm: tuple(self.state.homes(vm)) if vm in filed else () for vm in self.vms}

    @cached_property
    def half_made(self) -> frozenset[str]:
        """VMs with a resource, or a file of one, and no domain on any node; known only when all nodes tell."""
        if not all(self.tells(node.name, LIBVIRT) for node in self.state):
            return frozenset()
        return frozenset(vm for vm in self.vms if not any(vm in node.domains for node in self.state))

    @cached_property
    def whole(self) -> tuple[str, ...]:
        """The VMs that have a resource file, whose files do not contradict each other, and that are not half made: the
        others are reported as what they are."""
        whole = (vm for vm in self.vms if self.homes[vm] and not self.state.contradicted(vm))
        return tuple(vm for vm in whole if vm not in self.half_made)

    def sides(self, vm: str, *questions: str) -> list[NodeState]:
        """The nodes of the VM that answered these questions."""
        return [node for node in self.telling(*questions) if node.name in self.homes[vm]]

    def resources(self, vm: str) -> list[tuple[NodeState, Resource]]:
        """The VM's resource as each of its nodes sees it, where it is up."""
        return [(node, node.resources[vm]) for node in self.sides(vm, STATUS) if vm in node.resources]
