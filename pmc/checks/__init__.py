"""What a node must have to serve, as data: each check is a question, the judgement of its answer, and the fix. Pure.

A fix that is safe is steps (`pm.init --fix` carries them out); one that is not (a volume group, a bridge, another host
name) is advice with the commands. Node-to-node ssh, which takes two nodes, is in pmc/plans/node_keys.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pmc.checks import drbd, libvirt, lvm, machine, network, saving
from pmc.checks.finding import About, Check, Finding, Seen, Verdict, bad, good
from pmc.command import Query
from pmc.errors import CommandFailed
from pmc.plain import one_line, then

_NO_UTILS = "Debian: apt install drbd-utils"
_NO_LIBVIRT = "systemctl status libvirtd tells why (Debian: apt install libvirt-daemon-system libvirt-clients)"


CHECKS = (
    Check("hostname", machine.query_hostname, machine.judge_hostname),
    Check("login shell", machine.query_shell, machine.judge_shell),
    Check("drbd", drbd.query_module, drbd.judge_module),
    Check("drbd at boot", drbd.query_at_boot, drbd.judge_at_boot),
    Check("drbd utils", drbd.query_utils, drbd.judge_utils, _NO_UTILS),
    Check("volume group", lvm.query_group, lvm.judge_group,
          "make it on a free disk or partition: pvcreate DISK && vgcreate {group} DISK (Debian: apt install lvm2)"),
    Check("thin pool", lvm.query_pool, lvm.judge_pool,
          "make it: lvcreate --type thin-pool --zero y --extents 90%FREE --name {pool} {group}"),
    Check("global_filter", lvm.query_filter, lvm.judge_filter, "Debian: apt install lvm2"),
    Check("libvirt", libvirt.query_libvirt, libvirt.judge_libvirt, _NO_LIBVIRT),
    Check("libvirt at boot", libvirt.query_libvirt_boot, libvirt.judge_libvirt_boot),
    Check("saved memory", saving.query, saving.judge, _NO_LIBVIRT),
    Check("migration", libvirt.query_transport, libvirt.judge_transport),
    Check("bridge", network.query_bridge, network.judge_bridge),
    Check("xdelta3", machine.query_xdelta3, machine.judge_xdelta3),
    machine.has("virt-install", "virt-install"),
    machine.has("tools", "timeout", "base64", "sha256sum", "ssh", "ssh-keygen", "blkdiscard", "qemu-img", "ss",
                "python3", "zstd", "ionice", "awk", "prlimit", "setpriv"),
    Check("backup directory", machine.query_folder, machine.judge_folder),
    Check("replication address", network.query_replication, network.judge_replication, "Debian: apt install iproute2"),
    Check("ports", network.query_ports, network.judge_ports, "Debian: apt install iproute2"),
    Check("kvm", machine.query_kvm, machine.judge_kvm),
    Check("clock", machine.query_clock, machine.judge_clock),
)  # fmt: skip


def questions(about: About) -> list[Query[Any]]:
    return [check.query(about) for check in CHECKS]


def judged(seen: Seen) -> list[Finding]:
    node = seen.about.node
    if seen.down:
        return [Finding(node, "answers", bad(seen.down, ""))]
    return [
        Finding(node, check.name, judge(check, answer, seen.about))
        for check, answer in zip(CHECKS, seen.answers, strict=True)
    ] + [Finding(node, "login script", machine.prints(seen.prints))]


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
    modules = {node: answer[1] for node, answer in _answers(seen, drbd.query_module).items()}
    compared = drbd.mixed_versions(modules) + libvirt.mixed_versions(_answers(seen, libvirt.query_libvirt))
    return [finding for one in seen for finding in judged(one)] + compared


def _answers(seen: Iterable[Seen], query: Callable[[About], Query[Any]]) -> dict[str, Any]:
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
