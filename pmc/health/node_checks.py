"""What a node must have to serve, as data: each check is a question, the judgement of its answer, and the fix. Pure.

A fix that is safe is steps (`pm.init --fix` carries them out); one that is not (a volume group, a bridge, another host
name) is advice with the commands. Node-to-node ssh, which takes two nodes, is in pmc/plans/node_keys.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pmc.command import Query
from pmc.errors import CommandFailed
from pmc.health import node_drbd, node_libvirt, node_lvm, node_machine, node_network, node_saving
from pmc.health.check import About, Check, Finding, Seen, Verdict, bad, good
from pmc.plain import one_line, then

_NO_UTILS = "Debian: apt install drbd-utils"
_NO_LIBVIRT = "systemctl status libvirtd tells why (Debian: apt install libvirt-daemon-system libvirt-clients)"


CHECKS = (
    Check("hostname", node_machine.query_hostname, node_machine.judge_hostname),
    Check("login shell", node_machine.query_shell, node_machine.judge_shell),
    Check("drbd", node_drbd.query_module, node_drbd.judge_module),
    Check("drbd at boot", node_drbd.query_at_boot, node_drbd.judge_at_boot),
    Check("drbd utils", node_drbd.query_utils, node_drbd.judge_utils, _NO_UTILS),
    Check("volume group", node_lvm.query_group, node_lvm.judge_group,
          "make it on a free disk or partition: pvcreate DISK && vgcreate {group} DISK (Debian: apt install lvm2)"),
    Check("thin pool", node_lvm.query_pool, node_lvm.judge_pool,
          "make it: lvcreate --type thin-pool --zero y --extents 90%FREE --name {pool} {group}"),
    Check("global_filter", node_lvm.query_filter, node_lvm.judge_filter, "Debian: apt install lvm2"),
    Check("libvirt", node_libvirt.query_libvirt, node_libvirt.judge_libvirt, _NO_LIBVIRT),
    Check("libvirt at boot", node_libvirt.query_libvirt_boot, node_libvirt.judge_libvirt_boot),
    Check("saved memory", node_saving.query, node_saving.judge, _NO_LIBVIRT),
    Check("migration", node_libvirt.query_transport, node_libvirt.judge_transport),
    Check("bridge", node_network.query_bridge, node_network.judge_bridge),
    Check("xdelta3", node_machine.query_xdelta3, node_machine.judge_xdelta3),
    node_machine.has("virt-install", "virt-install"),
    node_machine.has("tools", "timeout", "base64", "sha256sum", "ssh", "ssh-keygen", "blkdiscard", "qemu-img", "ss",
                "python3", "zstd", "ionice", "awk", "prlimit", "setpriv"),
    Check("backup directory", node_machine.query_folder, node_machine.judge_folder),
    Check("replication address", node_network.query_replication, node_network.judge_replication,
          "Debian: apt install iproute2"),
    Check("ports", node_network.query_ports, node_network.judge_ports, "Debian: apt install iproute2"),
    Check("kvm", node_machine.query_kvm, node_machine.judge_kvm),
    Check("clock", node_machine.query_clock, node_machine.judge_clock),
)  # fmt: skip


def questions(about: About) -> list[Query[object]]:
    return [check.query(about) for check in CHECKS]


def judged(seen: Seen) -> list[Finding]:
    node = seen.about.node
    if seen.down:
        return [Finding(node, "answers", bad(seen.down, ""))]
    return [
        Finding(node, check.name, judge(check, answer, seen.about))
        for check, answer in zip(CHECKS, seen.answers, strict=True)
    ] + [Finding(node, "login script", node_machine.prints(seen.prints))]


def judge(check: Check, answer: Any, about: About) -> Verdict:
    if isinstance(answer, CommandFailed):
        said = " ".join(answer.stderr.split())
        return bad(
            said[:200] or f"status {answer.exit}",
            check.missing.format(group=about.settings.volume_group, pool=about.settings.thin_pool),
        )
    try:
        return check.judge(answer, about)
    except Exception as error:  # understood by itself, and yet nothing that can be: it costs this check alone
        return bad(f"its answer makes no sense ({type(error).__name__})", "")


def findings(seen: Iterable[Seen]) -> list[Finding]:
    """Of all nodes asked, and what shows only when they are compared."""
    seen = list(seen)
    modules = {node: answer[1] for node, answer in _answers(seen, node_drbd.query_module).items()}
    compared = node_drbd.mixed_versions(modules) + node_libvirt.mixed_versions(
        _answers(seen, node_libvirt.query_libvirt)
    )
    return [finding for one in seen for finding in judged(one)] + compared


def _answers(seen: Iterable[Seen], query: Callable[[About], Query[object]]) -> dict[str, Any]:
    """By node, of those that have one."""
    number = next(number for number, check in enumerate(CHECKS) if check.query is query)
    answers = {one.about.node: one.answers[number] for one in seen if not one.down}
    return {node: answer for node, answer in answers.items() if not isinstance(answer, CommandFailed)}


def line(finding: Finding) -> str:
    verdict = finding.verdict
    text = "; ".join(filter(None, (verdict.text, verdict.advice)))
    if verdict.steps:
        text = f"{text}; --fix does a part of it" if verdict.partly else text
        text = then(text, f"fab pm.init {finding.node} --fix")
    return one_line(f"{finding.node}  {'✓' if verdict.ok else '✗'} {finding.check}: {text}")


__all__ = [
    "CHECKS",
    "About",
    "Check",
    "Finding",
    "Seen",
    "Verdict",
    "bad",
    "findings",
    "good",
    "judge",
    "judged",
    "line",
    "questions",
]
