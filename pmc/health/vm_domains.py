"""Findings about libvirt's domains. Pure."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator

from pmc.health.cluster_facts import FILES, LIBVIRT, SAVED, STATUS, VOLUMES, Facts
from pmc.health.finding import Finding
from pmc.plain import shown, then
from pmc.plans import other_disks, requirements, saved_memory


def twice(facts: Facts) -> Iterator[Finding]:
    for vm in facts.vms:
        active = facts.state.active_on(vm)
        if len(active) > 1:
            text = f"runs on {' and '.join(active)}, unless it moves at this moment"
            advice = requirements.stop_one(vm) if facts.state.twice(vm) else f"fab vm.mv {vm} --cleanup"
            yield Finding("DOMAIN_TWICE", text, advice, vm=vm)


def one_side(facts: Facts) -> Iterator[Finding]:
    for vm in facts.whole:
        sides = facts.sides(vm, LIBVIRT)
        having = [node.name for node in sides if vm in node.domains]
        for node in sides:
            if having and vm not in node.domains:
                yield Finding(
                    "DOMAIN_ONE_SIDE", f"is defined on {having[0]} and not here, so it cannot move or be started here",
                    f"fab vm.repair {vm}", node.name, vm,
                )  # fmt: skip


def differing(facts: Facts) -> Iterator[Finding]:
    for vm in facts.whole:
        hashes = {
            node.name: facts.answers(node).domains[vm].hash
            for node in facts.sides(vm, LIBVIRT) if vm in facts.answers(node).domains
        }  # fmt: skip
        if len(set(hashes.values())) > 1:
            where = " and ".join(hashes)
            yield Finding("DOMAIN_DIFFERS", f"its XML differs between {where}", f"fab vm.repair {vm}", vm=vm)


def saved(facts: Facts) -> Iterator[Finding]:
    for vm in facts.whole:
        there = [node.name for node in facts.telling(SAVED) if vm in node.saved]
        if there and facts.state.active_on(vm):
            text = (
                f"old memory of it is saved on {' and '.join(there)}, while it runs; a start there would go on from it"
            )
            yield Finding("DOMAIN_SAVED", text, saved_memory.remedy(vm, there, facts.state), ",".join(there), vm)
        elif there:
            text = "its memory is saved; virsh start there goes on from it, whatever is on the disk by then"
            advice = then("This throws that memory away, and boots the VM", f"fab vm.start {vm} {saved_memory.FLAG}")
            yield Finding("DOMAIN_SAVED", text, advice, ",".join(there), vm)


def beside_drbd(facts: Facts) -> Iterator[Finding]:
    """What pmc refuses to back up and to copy because of it."""
    for vm in facts.whole:
        several = other_disks.volumes(vm, facts.state)
        if several:
            text = f"its DRBD resource has several volumes ({', '.join(several)}), and a backup is of one disk"
            home = facts.homes[vm][0]
            advice = then("Back it up by other means; pmc backs up no part of a VM", f"on {home}: drbdadm dump {vm}")
            yield Finding("DOMAIN_DISK", text, advice, vm=vm)
        for node in facts.sides(vm, FILES):
            domain = facts.answers(node).domains.get(vm)
            found = dict.fromkeys((*(domain.disks if domain else ()), *other_disks.attached(vm, node)))
            rest = other_disks.outside(vm, list(found), facts.state)
            if rest:
                text = f"{', '.join(map(str, rest))} is not on its DRBD resource: vm.backup, vm.mv and others refuse it"
                advice = then(
                    "Take it off the VM, or back it up by other means", f"on {node.name}: virsh domblklist {vm}"
                )
                yield Finding("DOMAIN_DISK", text, advice, node.name, vm)
                break


def without_drbd(facts: Facts) -> Iterator[Finding]:
    """Known only when all nodes tell: the file may lie on one that does not."""
    if not all(facts.tells(node.name, STATUS, FILES, VOLUMES) for node in facts.state):
        return
    for vm in facts.vms:
        if any(vm in node.files or vm in node.resources for node in facts.state):
            continue
        nodes = [node.name for node in facts.state if vm in node.domains]
        text = "is a domain with a volume of pmc's, and without a DRBD resource or its file, which pmc removes last"
        lost = f"The file was lost: write it again (fab doc repair). Only of a VM that is to go: fab vm.rm {vm}"
        advice = then(lost, f"on {nodes[0]}: virsh dumpxml {vm}; lvs -o +tags")
        yield Finding("DOMAIN_NO_DRBD", text, advice, ",".join(nodes), vm)
    for node in facts.state:
        for name in sorted(node.foreign):
            text, advice = (
                f"the domain {shown(name)} is not pmc's, or has a name that its commands do not take",
                "leave it",
            )
            if name in facts.vms:
                text = f"the domain {name} is not pmc's: the VM of that name lives elsewhere and has nothing here"
                rename = f"on {node.name}: virsh domrename {name} NEW"
                advice = then(
                    f"Leave it, or give it another name: until then vm.peer does not bring {name} here", rename
                )
            yield Finding("DOMAIN_NO_DRBD", text, advice, node.name)


def autostart(facts: Facts) -> Iterator[Finding]:
    for node in facts.state:
        for vm, file in sorted(facts.answers(node).domains.items()):
            if file.autostart and vm in facts.whole and vm not in node.foreign:
                yield Finding(
                    "DOMAIN_AUTOSTART", "libvirt starts it when the node boots, while it may run on the other node",
                    f"on {node.name}: virsh autostart --disable {vm}", node.name, vm,
                )  # fmt: skip


def macs(facts: Facts) -> Iterator[Finding]:
    owners = defaultdict[str, set[str]](set)
    for node in facts.state:
        for vm, file in facts.answers(node).domains.items():
            for mac in file.macs:
                owners[mac].add(vm)
    for mac, vms in sorted(owners.items()):
        if len(vms) > 1:
            names = sorted(vms)
            edit = f"on each of its nodes: virsh edit {shlex.quote(names[-1])}"
            yield Finding(
                "DUPLICATE_MAC", f"{' and '.join(map(shown, names))} have the MAC address {mac}",
                then("Give one of them another one", edit), vm=names[-1],
            )  # fmt: skip


CHECKS = (twice, one_side, differing, saved, beside_drbd, without_drbd, autostart, macs)
