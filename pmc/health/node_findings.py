"""Findings about nodes. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pmc import names
from pmc.capacity.memory import Guest, falling
from pmc.health import node_lvm as lvm_checks
from pmc.health import node_machine
from pmc.health.check import About
from pmc.health.cluster_facts import LIBVIRT, Facts
from pmc.health.finding import Finding
from pmc.plain import shown, then
from pmc.units import show_size


def answering(facts: Facts) -> Iterator[Finding]:
    for node in facts.state:
        if node.down:
            lost = [vm for vm in facts.vms if node.name in facts.homes[vm]]
            about = f"; not checked: its side of {', '.join(lost)}" if lost else "; nothing on it was checked"
            yield Finding(
                "NODE_DOWN", f"{node.down}{about}",
                then(
                    f"If it is dead: fab pm.evacuate {node.name} --failover. Otherwise bring it back",
                    f"fab pm.ready_drbd {node.name}",
                ),
                node.name,
            )  # fmt: skip
        failures = {**node.failures, **facts.answers(node).failures}
        for what, said in sorted(failures.items()):
            advice = f"fab pm.init {node.name}"
            yield Finding("NODE_TOOL", f"{what}: {said}; not checked: what it tells", advice, node.name)


_ALONE = "nothing: pmc leaves it alone"


def odd(facts: Facts) -> Iterator[Finding]:
    for node in facts.state:
        for each in node.odd:
            if each.named:
                yield Finding("NAME_FOREIGN", str(each), _ALONE, node.name)
                continue
            vm = "" if names.why_not(each.vm) else each.vm
            advice = then(
                "Correct the file; the command says where it is wrong", f"on {node.name}: drbdadm dump {vm}".rstrip()
            )
            text = f"{each}; the minors and ports in it count as taken, those that it should have may not"
            yield Finding("FILE_UNREAD", text, advice, node.name, vm)
        for name in sorted(node.foreign_resources):
            text = f"the DRBD resource {shown(name)} is not pmc's, or has a name that its commands do not take"
            yield Finding("NAME_FOREIGN", text, _ALONE, node.name)


def printing(facts: Facts) -> Iterator[Finding]:
    for node in facts.state:
        if node.prints:
            verdict = node_machine.prints(node.prints)
            yield Finding("LOGIN_PRINTS", verdict.text, verdict.advice, node.name)


def modules(facts: Facts) -> Iterator[Finding]:
    for node in facts.telling("drbd version"):
        if not node.drbd:
            advice = f"fab pm.ready_drbd {node.name}"
            yield Finding("DRBD_MODULE", "DRBD's module is not loaded, so nothing of DRBD is up", advice, node.name)


def filters(facts: Facts) -> Iterator[Finding]:
    for node in facts.state:
        if (found := facts.answers(node).filter) is not None:
            verdict = lvm_checks.judge_filter(found, About(node.name, facts.settings))
            if not verdict.ok:
                fix = f"fab pm.init {node.name} --fix" if verdict.steps else verdict.advice
                yield Finding("LVM_FILTER", verdict.text, fix, node.name)


def clocks(facts: Facts) -> Iterator[Finding]:
    for node in facts.state:
        extra = facts.answers(node)
        if extra.clock is not None:
            verdict = node_machine.judge_clock(extra.clock, About(node.name, facts.settings, extra.asked))
            if not verdict.ok:
                yield Finding("CLOCK_OFF", verdict.text, verdict.advice, node.name)


def memory(facts: Facts) -> Iterator[Finding]:
    """N+1: for each node that may be lost, what runs on it has to fit, together, on the nodes of the second copies."""
    for refuge, losses in falling(_running(facts)).items():
        for lost, vms in losses.items():
            total, there = sum(vms.values()), facts.state.nodes[refuge].memory_available
            if total > there:
                yield Finding(
                    "MEMORY_N1",
                    f"without {lost}, {', '.join(sorted(vms))} need {show_size(total)} here, and "
                    f"{show_size(there)} are available",
                    then(f"Move a VM away from {refuge}, or give {refuge} memory", "fab pm.balance"), refuge,
                )  # fmt: skip


def _running(facts: Facts) -> Iterator[Guest]:
    for node in facts.telling(LIBVIRT):
        for vm in facts.whole:
            domain = node.domains.get(vm)
            refuges = [home for home in facts.homes[vm] if home != node.name and facts.tells(home, "memory")]
            if domain and domain.active and refuges:
                yield Guest(vm, domain.memory, node.name, refuges[0])


CHECKS = (answering, printing, odd, modules, filters, clocks, memory)
