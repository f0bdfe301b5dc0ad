"""One look at a node: what is asked, and what the answers say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pmc import drbd, lvm, names, virsh
from pmc.command import Query, command
from pmc.errors import CommandFailed
from pmc.facts import lvm_report, managed_save
from pmc.facts.drbd_files import Files
from pmc.facts.lvm_report import Group
from pmc.model import ClusterState, Domain, NodeState, Odd, Resource, ResourceFile, Volume
from pmc.plain import shown
from pmc.settings import HOSTNAME, Settings
from pmc.units import count


def state_queries(settings: Settings, allocating: bool = False) -> dict[str, Query[object]]:
    """What one look asks each node, by the name under which a failure is reported. What only a new VM needs to know
    (`allocating`: the MAC addresses and ports in use) is not asked otherwise."""
    queries: dict[str, Query[object]] = {
        "hostname": Query(command("uname", "-n"), lambda text: shown(text.strip())),
        "memory": Query(command("cat", "/proc/meminfo"), parse_meminfo),
        "libvirt": virsh.domains(),
        "saved memory": managed_save.query(),
        "drbd version": drbd.version(),
        "drbd status": drbd.status(),
        "drbd two-primaries": drbd.open_resources(),
        "drbd files": drbd.files(),
        "volumes": lvm_report.volumes(settings.volume_group),
    }
    if allocating:
        queries["macs"] = virsh.macs()
        queries["ports"] = Query(command("ss", "-Hltn"), parse_ports)
    return queries


def parse_meminfo(text: str) -> tuple[int, int]:
    """(total, available) in bytes, of /proc/meminfo."""
    rows = {name: count(rest.split()[0]) * 1024 for name, _, rest in (row.partition(":") for row in text.splitlines())}
    return rows["MemTotal"], rows["MemAvailable"]


def parse_ports(text: str) -> frozenset[int]:
    """Of `ss -Hltn`: the fourth column is address:port."""
    return frozenset(count(row.split()[3].rpartition(":")[2]) for row in text.splitlines())


def node_state(name: str, settings: Settings, answers: Mapping[str, Any]) -> NodeState:
    """Of the answers to `state_queries`, and to what was asked besides (`running`, `backups`); a question that failed
    has its CommandFailed in their place."""
    failures = {what: said_by(error) for what, error in answers.items() if isinstance(error, CommandFailed)}
    good = {what: answer for what, answer in answers.items() if what not in failures}
    opened = good.get("drbd two-primaries", frozenset())
    memory, available = good.get("memory", (0, 0))
    group, volumes = good.get("volumes", (Group(), {}))
    found = _Found.of(good.get("libvirt", {}), good.get("drbd status", {}), good.get("drbd files", Files()), volumes)
    return NodeState(
        name,
        failures=failures,
        hostname=good.get("hostname", ""),
        drbd=good.get("drbd version", ""),
        memory=memory,
        memory_available=available,
        group_size=group.size,
        group_free=group.free,
        group_attributes=group.attributes,
        domains=found.domains,
        saved=frozenset(vm for vm in good.get("saved memory", ()) if not names.why_not(vm)),
        resources={n: replace(r, two_primaries=n in opened) for n, r in found.resources.items()},
        files=found.files,
        volumes=found.volumes,
        ports=good.get("ports", frozenset()),
        macs=good.get("macs", frozenset()),
        odd=tuple(found.odd),
        foreign=found.foreign,
        foreign_resources=found.foreign_resources,
        minors=frozenset(found.minors),
        file_ports=frozenset(found.ports),
        running=good.get("running"),
        backups=good.get("backups"),
    )


def cluster_state(nodes: Mapping[str, NodeState]) -> ClusterState:
    """What all nodes told, together: only now it is known which domains are somebody else's. pmc writes the file
    of a VM first and removes it last. So a domain of that name is none of pmc's where there is no file, no resource
    and no volume of pmc's, and where no file on any node says that the VM lives. It is `foreign` then."""
    named: dict[str, set[str]] = {}
    for node in nodes.values():
        for vm, file in node.files.items():
            named.setdefault(vm, set()).update(file.hosts)
    unread = {odd.vm for node in nodes.values() for odd in node.odd}
    return ClusterState({name: _apart(node, named, unread) for name, node in nodes.items()})


def _apart(node: NodeState, named: Mapping[str, set[str]], unread: set[str]) -> NodeState:
    """`named`: the hosts that each VM's files name. `unread`: the VMs of which some file cannot be read."""
    if node.down or not {"drbd files", "drbd status", "volumes"}.isdisjoint(node.failures):
        return node  # unknown, not absent
    ours = {*node.files, *node.resources, *(name for name, its in node.volumes.items() if lvm.TAG in its.tags), *unread}
    others = {
        vm: domain
        for vm, domain in node.domains.items()
        if vm not in ours and named.get(vm, set()).isdisjoint((node.name, node.hostname))
    }
    if not others:
        return node
    return replace(
        node,
        domains={vm: domain for vm, domain in node.domains.items() if vm not in others},
        foreign={**node.foreign, **others},
        saved=node.saved - set(others),
    )


@dataclass
class _Found:
    """What a node told, sorted: names are input. What no command takes is kept apart here, in one place, and so never
    reaches a command, a path or a lock on any node."""

    domains: dict[str, Domain] = field(default_factory=dict)
    resources: dict[str, Resource] = field(default_factory=dict)
    files: dict[str, ResourceFile] = field(default_factory=dict)
    volumes: dict[str, Volume] = field(default_factory=dict)
    foreign: dict[str, Domain] = field(default_factory=dict)
    foreign_resources: dict[str, Resource] = field(default_factory=dict)
    odd: list[Odd] = field(default_factory=list)
    minors: set[int] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        domains: Mapping[str, Domain],
        resources: Mapping[str, Resource],
        files: Files,
        volumes: Mapping[str, Volume],
    ) -> _Found:
        found = cls(odd=list(files.odd), minors=set(files.minors), ports=set(files.ports))
        for name, domain in domains.items():
            (found.foreign if names.why_not(name) else found.domains)[name] = domain
        for name, resource in resources.items():
            # One whose file lies elsewhere is another tool's, unless it is a domain's disk.
            if not names.why_not(name) and (name not in files.elsewhere or name in domains):
                found.resources[name] = resource
                continue
            found.foreign_resources[name] = resource
            found.minors |= {resource.minor, *resource.more_minors}
        for name, file in files.resources.items():
            if why := _unfit(file):
                found.odd.append(Odd(f"the resource file of {shown(name)}", why, name, named=bool(names.why_not(name))))
                found.minors |= {file.minor, *file.more_minors}
                found.ports |= set(file.ports)
            else:
                found.files[name] = file
        for name, volume in volumes.items():
            if names.VOLUME.fullmatch(name):
                found.volumes[name] = volume
            else:
                found.odd.append(Odd(f"the volume {shown(name)}", "LVM has no such names", named=True))
        return found


def _unfit(file: ResourceFile) -> str:
    if why := names.why_not(file.name):
        return f"pmc leaves it alone: {why}"
    for host in file.hosts:
        if not HOSTNAME.fullmatch(host):
            return f"it names a host {shown(host)}, which no host is called"
    for disk in (file.disk, *(disk for _, disk in (*file.own_disks, *file.more_disks))):
        if disk not in ("", "none") and not names.DISK.fullmatch(disk):
            return f"its disk {shown(disk)} is no path"
    return ""


def said_by(error: CommandFailed) -> str:
    return error.said or f"status {error.exit}"
