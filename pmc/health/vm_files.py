"""Findings about VMs as their resource files describe them. Pure."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Container, Iterator

from pmc import drbd
from pmc.errors import Refused
from pmc.health.cluster_facts import FILES, Facts
from pmc.health.drbd_options import authenticated, dangerous, right, shown
from pmc.health.finding import Finding
from pmc.plain import then
from pmc.plans import remove_steps, requirements


def half_made(facts: Facts) -> Iterator[Finding]:
    for vm in sorted(facts.half_made):
        nodes = [node.name for node in facts.state.knowing(vm)]
        up = [node.name for node in facts.state if vm in node.resources]
        text = "has a DRBD resource or its file, and no domain on any node: half made, or its definitions are lost"
        lost = "If they are lost, define it again by the XML of a backup: fab doc repair. If it is half made"
        advice = then(f"{lost} and nothing else uses it, this removes what is left, its disk too", f"fab vm.rm {vm}")
        if up and all(facts.tells(node.name, FILES) and vm not in node.files for node in facts.state):
            text = "has a DRBD resource that is up, and neither a domain nor a resource file on any node"
            lost = (
                "pmc removes the file last, so it was lost. Write it again: fab doc repair. Only of a VM that is to go"
            )
            advice = then(f"{lost}: fab vm.rm {vm}", f"on {up[0]}: drbdsetup show {vm}")
        yield Finding("VM_HALF_MADE", text, advice, ",".join(nodes), vm)


def contradicted(facts: Facts) -> Iterator[Finding]:
    for vm in facts.vms:
        if facts.state.contradicted(vm):
            said = {node.name: " and ".join(node.files[vm].hosts) for node in facts.state if vm in node.files}
            text = f"its resource files name different nodes: {'; '.join(f'{n}: {its}' for n, its in said.items())}"
            yield Finding("VM_CONTRADICTED", text, requirements.which_is_old(vm), ",".join(said), vm)


def unknown_nodes(facts: Facts) -> Iterator[Finding]:
    for vm in facts.whole:
        for home in facts.homes[vm]:
            if home not in facts.state.nodes:
                text = f"lives on {home}, which is not in pmc.conf, so it was not asked"
                yield Finding("VM_NODE_UNKNOWN", text, f"add [nodes.{home}] to {facts.settings.source}", home, vm)


def stale_copies(facts: Facts) -> Iterator[Finding]:
    for vm in facts.whole:
        for node in facts.state:
            if node.name in facts.homes[vm] or not node.knows(vm):
                continue
            kinds: dict[str, Container[str]] = {
                "domain": node.domains, "resource": node.resources, "file": node.files, "volume": node.volumes,
                "saved memory": node.saved,
            }  # fmt: skip
            there = [kind for kind, found in kinds.items() if vm in found]
            if there == ["saved memory"]:
                continue  # told of as such
            yield Finding(
                "VM_STRAY", f"has its {', '.join(there)} here, and lives on {' and '.join(facts.homes[vm])}",
                _removal(facts, vm, node.name), node.name, vm,
            )  # fmt: skip


def _removal(facts: Facts, vm: str, node: str) -> str:
    """What removes a stale copy, or what keeps it from doing so: it looks that the VM is whole without that copy."""
    remedy = f"fab vm.peer {vm} --cleanup"
    try:
        plan = remove_steps.cleanup(vm, facts.state, facts.settings)
    except Refused as why:
        return f"{remedy} removes it, but not yet: {why}"
    if not any(step.node == node for step in plan.steps):
        look = "Look which of the copies is the newest: fab vm.peer --cleanup would not remove this one"
        return then(look, f"on each node: cat {drbd.path(vm)}")
    return remedy


def modes(facts: Facts) -> Iterator[Finding]:
    for node in facts.state:
        for vm, file in sorted(facts.answers(node).files.items()):
            if file.mode != "600":
                text = f"{drbd.path(vm)} has mode {file.mode}; it holds the secret that lets a peer in"
                yield Finding("FILE_MODE", text, f"on {node.name}: chmod 600 {drbd.path(vm)}", node.name, vm)


def differing(facts: Facts) -> Iterator[Finding]:
    for vm in facts.whole:
        hashes = {
            node.name: facts.answers(node).files[vm].hash
            for node in facts.sides(vm, FILES) if vm in facts.answers(node).files
        }  # fmt: skip
        if len(set(hashes.values())) > 1:
            advice = then(
                f"See which is right, copy it to the other node, then there: drbdadm adjust {vm}",
                f"on both nodes: cat {drbd.path(vm)}",
            )
            yield Finding("FILE_DIFFERS", f"{drbd.path(vm)} differs between {' and '.join(hashes)}", advice, vm=vm)


def options(facts: Facts) -> Iterator[Finding]:
    for node in facts.state:
        for vm, file in sorted(facts.answers(node).files.items()):
            if bad := dangerous(file.said):
                yield Finding(
                    "FILE_OPTIONS", f"{drbd.path(vm)} says {shown(file.said, *bad)}",
                    then(f"Write {right(*bad)} there", f"on {node.name}: drbdadm adjust {vm}"), node.name, vm,
                )  # fmt: skip


def common_options(facts: Facts) -> Iterator[Finding]:
    """Of the section that holds for all resources: only where one of them does not say otherwise itself."""
    for node in facts.state:
        answers = facts.answers(node)
        bad = [key for key in dangerous(answers.common) if any(key not in each.said for each in answers.files.values())]
        if bad:
            held = sum(any(key not in each.said for key in bad) for each in answers.files.values())
            yield Finding(
                "FILE_OPTIONS", f"DRBD's common section says {shown(answers.common, *bad)}, for {held} VMs here",
                then(f"Write {right(*bad)} in /etc/drbd.d/global_common.conf", f"on {node.name}: drbdadm adjust all"),
                node.name,
            )  # fmt: skip


def secrets(facts: Facts) -> Iterator[Finding]:
    for node in facts.state:
        answers = facts.answers(node)
        if "common" in answers.failures:
            continue
        for vm, file in sorted(answers.files.items()):
            if not authenticated({**answers.common, **file.said}):
                yield Finding(
                    "FILE_NO_SECRET", f"{drbd.path(vm)} has no cram-hmac-alg with a shared-secret",
                    then(
                        "Write both into its net section, the same on both nodes; the file has mode 600",
                        f"on both nodes: drbdadm adjust {vm}",
                    ),
                    node.name, vm,
                )  # fmt: skip


def addresses(facts: Facts) -> Iterator[Finding]:
    for node in facts.state:
        for vm, file in sorted(facts.answers(node).files.items()):
            for host, address in file.addresses.items():
                spec = facts.settings.nodes.get(host)
                if spec and _address(address) != _address(spec.replication):
                    yield Finding(
                        "FILE_ADDRESS", f"{drbd.path(vm)} has {address} for {host}, pmc.conf has {spec.replication}",
                        then("Correct the one that is wrong, the file on both nodes", f"on both: drbdadm adjust {vm}"),
                        node.name, vm,
                    )  # fmt: skip


def _address(text: str) -> object:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return text


def minors(facts: Facts) -> Iterator[Finding]:
    owners = defaultdict[int, set[str]](set)
    for node in facts.state:
        for file in node.files.values():
            owners[file.minor].add(file.name)
        for resource in node.resources.values():
            if resource.minor >= 0:
                owners[resource.minor].add(resource.name)
    # Its domain names the device: changed in the file alone, the VM would have the other one's disk.
    both = "in its resource file on each of its nodes, and in its domain there (/dev/drbdN; virsh edit {vm})"
    yield from _shared(owners, "DUPLICATE_MINOR", "minor", both)


def ports(facts: Facts) -> Iterator[Finding]:
    owners = defaultdict[int, set[str]](set)
    for node in facts.state:
        for file in node.files.values():
            for port in file.ports:
                owners[port].add(file.name)
    yield from _shared(owners, "DUPLICATE_PORT", "port", "in its resource file on each of its nodes")


def _shared(owners: dict[int, set[str]], code: str, what: str, where: str) -> Iterator[Finding]:
    """`where` it is to be changed; {vm} in it is the VM."""
    for number, vms in sorted(owners.items()):
        if len(vms) > 1:
            names = sorted(vms)
            advice = then(
                f"Stop {names[-1]}, and give it a free {what} {where.format(vm=names[-1])}",
                f"on each: drbdadm down {names[-1]} && drbdadm up {names[-1]}",
            )
            yield Finding(code, f"{' and '.join(names)} have the {what} {number}", advice, vm=names[-1])


CHECKS = (
    half_made, contradicted, unknown_nodes, stale_copies, modes, differing, options, common_options, secrets, addresses,
    minors, ports,
)  # fmt: skip
