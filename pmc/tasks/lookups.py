"""Second looks: what one asks after the state is known, before the plan."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pmc import backup, drbd, guest_agent, virsh
from pmc import drbd_generations as sides_
from pmc.backup import Stored
from pmc.capacity import allocate
from pmc.cluster import Beside, Cluster
from pmc.command import Query
from pmc.drbd_generations import Generation, Past
from pmc.errors import PmcError, Refused
from pmc.facts import domain_disks, domain_xml
from pmc.model import ClusterState
from pmc.plans import other_disks, requirements
from pmc.plans.add import iso_path
from pmc.plans.backup import Source
from pmc.plans.repair_context import SideFacts
from pmc.plans.request import Add
from pmc.plans.vm_steps import Given
from pmc.settings import Settings
from pmc.tasks.paths import is_file, is_folder
from pmc.transport.local import MANAGER
from pmc.transport.node import Node
from pmc.units import MiB
from pmc.view.output import note


def given(state: ClusterState, settings: Settings, address: str) -> Given:
    """Minor, port and MAC address that no VM of the cluster has."""
    return Given(
        allocate.minor(state),
        allocate.port(state, settings),
        allocate.mac(state, settings, address, secrets.randbelow),
        new_secret(),
    )


def address_of(name: str, settings: Settings) -> str:
    """What DNS (or /etc/hosts of the manager) says; empty when it does not know the name, or does not answer. To be
    asked before a lock is taken: a resolver whose servers are silent takes half a minute, and has no deadline of its
    own, so it is left alone in a thread."""
    found: list[str] = []

    def ask() -> None:
        try:
            found.append(socket.gethostbyname(name))
        except OSError:
            found.append("")

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(settings.deadlines.connect)
    if not found:
        seconds = f"{settings.deadlines.connect:g} s"
        note(f"{name}: DNS does not say within {seconds} whether it has an address, so its MAC address is a random one")
    return (found or [""])[0]


def cpu_for(cluster: Cluster, nodes: Sequence[str]) -> str:
    """The <cpu> element that all these nodes can give a guest, so that it can migrate between them."""
    kind = cluster.settings.virt_type
    cpus = cluster.on_all(lambda node: node.ask(virsh.host_cpu(kind))[0], nodes)
    if not all(cpus):
        return ""
    baseline: str = cluster.ask(nodes[0], virsh.baseline(cpus, kind))[0]
    return baseline


def new_domain(cluster: Cluster, request: Add, given: Given) -> str:
    """The XML of the new VM's domain, from virt-install on the primary."""
    settings = cluster.settings
    boot = "hd,cdrom" if request.iso else "hd,network" if request.pxe else ""
    query = virsh.virt_install(
        name=request.name, memory=request.memory, cpus=request.cpus, bridge=settings.bridge, mac=given.mac,
        virt_type=settings.virt_type, boot=boot, extra=request.virt_install,
    )  # fmt: skip
    cpu = cpu_for(cluster, request.nodes)
    xml: str = cluster.ask(request.primary, query)[0]
    if domain_xml.name_of(xml) != request.name:
        raise Refused(f"--virt-install: virt-install did not answer with a domain {request.name}, but: {xml[:120]!r}")
    try:
        xml = domain_xml.with_disk(xml, given.device, iso_path(settings, request.name) if request.iso else "")
        return domain_xml.with_cpu(xml, cpu) if cpu else xml
    except ValueError as error:
        raise Refused(f"--virt-install: virt-install's answer cannot be used: {error}") from None


def size_for(cluster: Cluster, request: Add, state: ClusterState) -> int:
    """Bytes of the new disk: as asked for, or as large as the reused volume or the VM it is a clone of."""
    if request.reuse:
        volume = state.nodes[request.primary].volumes.get(request.name)
        return volume.size if volume else 0
    if not request.clone:
        return request.size
    size, xml = disk_of(cluster, request.clone, state)
    other_disks.whole(request.clone, "a clone", xml, state)
    if request.size and request.size < size:
        least = -(-size // MiB)
        raise Refused(f"--size: {request.clone}'s disk needs {least}M, a clone too; leave --size out, or give more")
    return max(size, request.size)


def disk_of(cluster: Cluster, name: str, state: ClusterState) -> tuple[int, str]:
    """Of an existing VM: the bytes that DRBD exposes (exactly: events2 rounds to KiB), and the domain's XML."""
    for home in requirements.defined_everywhere(state, name):
        resource = state.nodes[home].resources.get(name)
        if resource is not None and resource.size:
            return disk_at(cluster, name, home, state)
    raise Refused(f"{name}: its DRBD resource is not up", next="fab pm.ready_drbd")


def disk_at(cluster: Cluster, name: str, node: str, state: ClusterState) -> tuple[int, str]:
    """As `disk_of`, asked of one node: its other side may be away."""
    size, xml = cluster.ask(node, drbd.size_of(state.nodes[node].resources[name].minor), virsh.dumpxml(name))
    return size, xml


def agent(cluster: Cluster, name: str, source: Source, wanted: bool) -> Source:
    """With what the guest's agent says, if there is one. `wanted`: it may be used."""
    if not source.runs or not wanted:
        return source
    return replace(source, agent=bool(cluster.ask(source.runs, guest_agent.agent(name))[0]))


def domain_of(cluster: Cluster, name: str, node: str, other: str) -> tuple[str, bool | None]:
    """The domain's XML as `node` has it, and whether `other` can run it (None: libvirt cannot tell)."""
    xml: str = cluster.ask(node, virsh.dumpxml(name))[0]
    return xml, cluster.ask(other, virsh.can_run(xml, cluster.settings.virt_type))[0]


def new_secret() -> str:
    return secrets.token_hex(24)


def now() -> datetime:
    return datetime.now(UTC)


def backups(cluster: Cluster, vm: str = "") -> Beside:
    """What a look must ask besides, for `stored`: the backups of a VM, or of all."""
    return {"backups": lambda node: backup.listing(cluster.settings.backup_dir, node, vm)}


# What a look must ask besides where a VM's disks count: what is attached to a guest that runs.
RUNNING: Beside = {"running": lambda node: domain_disks.running()}


def stored(state: ClusterState, partly: bool = False) -> list[Stored]:
    """The backups over the nodes that answer, of a look that asked for `backups`. Raises PmcError when one of them
    cannot list its own; `partly`: those of the others, for who only shows them and says which node does not tell."""
    for node in state:
        if "backups" in node.failures and not partly:
            raise PmcError(
                f"{node.name}: its backups are not known: {node.failures['backups']}",
                next=f"fab pm.init {node.name}",
            )
    return backup.dated((each for node in state for each in node.backups or () if isinstance(each, Stored)), now())


def stored_on(cluster: Cluster, node: str, vm: str) -> list[Stored]:
    """The VM's backups on one node, now."""
    found: list[Stored] = cluster.ask(node, backup.listing(cluster.settings.backup_dir, node, vm))[0]
    return backup.dated(found, now())


LISTED = 60  # seconds that a directory of the manager's may take, which may lie on another machine


def kept(directory: str, vm: str = "") -> list[Stored]:
    """The backups in a directory of the manager, listed as on a node. Raises Refused."""
    if not (is_folder("--from", Path(directory)) and os.access(directory, os.R_OK | os.X_OK)):
        raise Refused(f"--from {directory[:200]!r}: no directory on this machine that you may read")
    for path in Path(directory).glob(f"{vm or '*'}.*.json"):
        if is_file("--from", path) and not os.access(path, os.R_OK):
            raise Refused(f"--from {directory[:200]!r}: you may not read {path.name}")
    query = backup.listing(directory, MANAGER, vm)
    try:
        done = subprocess.run(
            query.command.argv, capture_output=True, encoding="utf-8", errors="replace", timeout=LISTED
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"--from {directory[:200]!r}: no end of its listing within {LISTED} s; does it hang?") from None
    if done.returncode:
        raise Refused(f"--from {directory[:200]!r}: cannot be read: {done.stderr.strip()[:200]}")
    try:
        return backup.dated(query.parse(done.stdout), now())
    except ValueError as error:
        raise Refused(f"--from {directory[:200]!r}: cannot be listed: {error}") from None


def sides(cluster: Cluster, state: ClusterState, vm: str, homes: Sequence[str]) -> dict[str, SideFacts]:
    """What each side tells about its past. What cannot be read (metadata on a dead disk) is not known, no error."""
    return dict(zip(homes, cluster.on_all(lambda node: _side(node, state, vm), homes), strict=True))


def _side(node: Node, state: ClusterState, vm: str) -> SideFacts:
    here = state.nodes[node.name]
    queries: list[Query[object]] = [sides_.generation(vm), sides_.past(vm, here.files[vm].minor)]
    if vm in here.domains:
        queries.append(virsh.dumpxml(vm))
    generation, past, *xml = node.ask_each(*queries)
    return SideFacts(
        generation if isinstance(generation, Generation) else None,
        past if isinstance(past, Past) else Past(),
        _known(xml[0]) if xml else "",
    )


def _known(answer: object) -> str:
    if isinstance(answer, PmcError):
        raise answer
    return str(answer)
