"""What is true on the nodes, as frozen data: one look gives one `ClusterState`. Sizes are in bytes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pmc.resource import Resource, ResourceFile

__all__ = [
    "ClusterState", "Disk", "Domain", "NodeState", "Odd", "Resource", "ResourceFile", "Running", "Volume",
]  # fmt: skip


@dataclass(frozen=True)
class Domain:
    """A libvirt domain as one node knows it."""

    name: str
    state: str  # libvirt's words: running, paused, shut off, ...
    memory: int
    cpus: int

    @property
    def active(self) -> bool:
        return self.state != "shut off"


@dataclass(frozen=True)
class Disk:
    """One that the guest can write to. `target`: as the guest has it, vda; `source`: a path, or libvirt's words for
    what has none. `network`: every node that may reach it has the same one."""

    target: str
    source: str
    network: bool = False

    def __str__(self) -> str:
        return f"{self.target} ({self.source})"


@dataclass(frozen=True)
class Running:
    """A domain as it runs. `kind` is what it runs on: kvm, or qemu, which emulates its processor; `disks` are those
    that it can write to. `moves`: libvirt brings it here (in), or away (out), and is not done with it."""

    kind: str
    disks: tuple[Disk, ...] = ()
    moves: str = ""


@dataclass(frozen=True)
class Odd:
    """What pmc leaves alone, since it cannot tell what it is: a file, or a name. `what` and `said` are fit to be shown;
    `vm`, as found, is the VM that it is about, if any."""

    what: str
    said: str
    vm: str = ""
    named: bool = False  # it is only the name: whoever it belongs to may want it so

    def __str__(self) -> str:
        return f"{self.what}: {self.said}"


@dataclass(frozen=True)
class Volume:
    """A logical volume. `attributes` is its lv_attr (lvs(8)); `pool` names a thin one's pool."""

    name: str
    group: str
    size: int
    tags: tuple[str, ...] = ()
    origin: str = ""
    attributes: str = ""
    data_percent: float | None = None  # of a snapshot or a pool: how full; of a thin volume: how much of it has data
    metadata_percent: float | None = None
    pool: str = ""

    @property
    def thin(self) -> bool:
        return self.attributes[:1] == "V"

    @property
    def classic_snapshot(self) -> bool:
        """S: one that is being merged into its origin."""
        return self.attributes[:1] in ("s", "S")

    @property
    def is_pool(self) -> bool:
        return self.attributes[:1] == "t"

    @property
    def used(self) -> int:
        """Bytes that `data_percent` stands for."""
        return int(self.size * (self.data_percent or 0) / 100)


@dataclass(frozen=True)
class NodeState:
    """One node. `down` says why it could not be asked; `failures` names each question whose tool failed, with what it
    said: what such a question asks about is then unknown, not absent."""

    name: str
    down: str = ""
    answers: bool = True  # false: only silence came back, so it may be dead
    failures: Mapping[str, str] = field(default_factory=dict)
    hostname: str = ""
    drbd: str = ""  # version of the loaded kernel module
    memory: int = 0
    memory_available: int = 0
    group_size: int = 0
    group_free: int = 0
    group_attributes: str = ""  # of the volume group: its vg_attr (vgs(8))
    domains: Mapping[str, Domain] = field(default_factory=dict)
    saved: frozenset[str] = frozenset()  # domains whose memory libvirt keeps here, for their next start
    resources: Mapping[str, Resource] = field(default_factory=dict)
    files: Mapping[str, ResourceFile] = field(default_factory=dict)
    volumes: Mapping[str, Volume] = field(default_factory=dict)
    ports: frozenset[int] = frozenset()  # TCP ports listened on
    macs: frozenset[str] = frozenset()  # of all defined domains, lower case
    running: Mapping[str, Running] | None = None  # None: not asked, or it did not tell
    backups: Sequence[object] | None = None  # likewise; pmc.backup.Stored
    odd: tuple[Odd, ...] = ()
    prints: str = ""  # what a login script there prints, fit to be shown
    prints_to: str = "root"  # the user whose login it was
    # Not pmc's (node_state.cluster_state), or with a name that its commands do not take: listed, never acted upon.
    foreign: Mapping[str, Domain] = field(default_factory=dict)
    foreign_resources: Mapping[str, Resource] = field(default_factory=dict)
    minors: frozenset[int] = frozenset()  # taken besides those of `resources` and `files`
    file_ports: frozenset[int] = frozenset()  # likewise

    @property
    def trouble(self) -> str:
        """Why this node cannot be relied on now; empty when it can."""
        return self.down or "; ".join(f"{what}: {said}" for what, said in sorted(self.failures.items()))

    def knows(self, vm: str) -> bool:
        return vm in self.names

    def up(self, vm: str) -> Resource | None:
        """The VM's resource; None when it is not up here: the kernel does not know it, or only its name."""
        found = self.resources.get(vm)
        return found if found and found.minor >= 0 else None

    @property
    def names(self) -> set[str]:
        """Of all that a VM of that name would have here."""
        return {*self.domains, *self.saved, *self.files, *self.resources, *self.volumes}


@dataclass(frozen=True)
class ClusterState:
    nodes: Mapping[str, NodeState]

    def __iter__(self) -> Iterator[NodeState]:
        return iter(self.nodes.values())

    @property
    def answering(self) -> list[NodeState]:
        return [node for node in self if not node.down]

    @cached_property
    def _knowing(self) -> Mapping[str, Sequence[NodeState]]:
        found: dict[str, list[NodeState]] = {}
        for node in self:
            for name in node.names:
                found.setdefault(name, []).append(node)
        return found

    def knowing(self, vm: str) -> Sequence[NodeState]:
        """The nodes that know the VM, in the order of the configuration. Found by name, not by going through all nodes:
        a listing asks for each VM, and that would be VMs times nodes."""
        return self._knowing.get(vm, ())

    @cached_property
    def _saved(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = {}
        for node in self:
            for name in node.saved:
                found.setdefault(name, []).append(node.name)
        return found

    def saved_on(self, vm: str) -> Sequence[str]:
        """The nodes where libvirt keeps memory of it: of its past, which does not fit to what its disk has since."""
        return self._saved.get(vm, ())

    def vm_names(self) -> list[str]:
        """Every VM: a domain, or a DRBD resource, on any node. (A bare volume is no VM.)"""
        return sorted({name for node in self for name in (*node.domains, *node.files, *node.resources)})

    def foreign(self) -> ClusterState:
        """What is listed and never acted upon, as if it were VMs."""
        return ClusterState({
            node.name: NodeState(
                node.name, node.down, node.answers, domains=node.foreign, resources=node.foreign_resources
            )
            for node in self
        })  # fmt: skip

    def homes(self, vm: str) -> list[str]:
        """The nodes a VM lives on: those its resource files name, first the one it was made on. When files contradict
        each other and nothing decides between them, all that they name (see `contradicted`). Without any file, the
        nodes that know a domain or a resource of that name (half-made, half-removed)."""
        named = list(dict.fromkeys(host for claim in self._claims(vm) for host in claim))
        return named or [node.name for node in self.knowing(vm) if vm in node.domains or vm in node.resources]

    def contradicted(self, vm: str) -> bool:
        """Its resource files name different nodes and it cannot be told which are right: nothing may be started."""
        return len(self._claims(vm)) > 1

    def stale_copies(self, vm: str) -> list[str]:
        """The nodes that know the VM but that it does not live on: what is there is old, or half made."""
        homes = self.homes(vm)
        return [node.name for node in self.knowing(vm) if node.name not in homes]

    def about(self, vm: str) -> list[str]:
        """All that a change of the VM is about: where it lives, and any other node that knows it."""
        return [*self.homes(vm), *self.stale_copies(vm)]

    def _claims(self, vm: str) -> list[tuple[str, ...]]:
        """Where the VM lives by its resource files. They differ when the VM got another secondary while a node was
        away, which then comes back with its old file. That one is known by what the other nodes say: a node that it
        names has a file that names others. Of those left the one that most of its nodes agree on counts, then the one
        where the VM runs or is primary. More than one: nothing decides."""
        said = {node.name: node.files[vm].hosts for node in self.knowing(vm) if vm in node.files}
        claims = {frozenset(hosts): hosts for hosts in said.values()}
        if len(claims) < 2:
            return list(claims.values())
        busy = {*self.active_on(vm), *self.primaries(vm)}

        def weight(hosts: frozenset[str]) -> tuple[bool, int, bool]:
            agreeing = {host for host in hosts if host in said and frozenset(said[host]) == hosts}
            denied = any(host in said and host not in agreeing for host in hosts)
            return not denied, len(agreeing), bool(busy & agreeing)

        best = max(map(weight, claims), default=None)
        return [hosts for key, hosts in claims.items() if weight(key) == best]

    def active_on(self, vm: str) -> list[str]:
        """The nodes where the domain runs (or is paused): one at most, when all is well."""
        return [node.name for node in self.knowing(vm) if vm in node.domains and node.domains[vm].active]

    def twice(self, vm: str) -> bool:
        """Two guests of it run. Of two of which one stands still, a migration left the other half."""
        return len([node for node in self.active_on(vm) if self.nodes[node].domains[vm].state != "paused"]) > 1

    def resources(self, vm: str) -> dict[str, Resource]:
        """The VM's resource as each node that knows it sees it, by node."""
        return {node.name: node.resources[vm] for node in self.knowing(vm) if vm in node.resources}

    def primaries(self, vm: str) -> list[str]:
        return [node for node, its in self.resources(vm).items() if its.primary]

    def two_allowed(self, vm: str) -> list[str]:
        """The nodes on which two primaries are allowed: a migration goes on, or was interrupted."""
        return [node for node, its in self.resources(vm).items() if its.two_primaries]

    def differs(self, vm: str) -> int:
        """Bytes that are known to differ between its sides, which call themselves up to date."""
        return max((its.differs for its in self.resources(vm).values()), default=0)
