"""Checks of DRBD: module, tools, versions that cannot talk to each other. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pmc import drbd
from pmc.command import Query, bash, command
from pmc.health.check import About, Finding, Verdict, bad, good, parse_yes
from pmc.plan import Step
from pmc.plans import node_files


def query_module(about: About) -> Query[tuple[str, str]]:
    script = (
        "if [ -e /sys/module/drbd/version ]; then echo loaded; cat /sys/module/drbd/version; "
        "elif modprobe -n drbd 2>/dev/null; then echo loadable; modinfo -F version drbd; else echo none; fi"
    )
    return Query(bash(script), parse_module)


def parse_module(text: str) -> tuple[str, str]:
    """(loaded, loadable or none; version)"""
    state, _, version = text.strip().partition("\n")
    if state not in ("loaded", "loadable", "none"):
        raise ValueError("not the state of a module")
    return state, version.strip()


def judge_module(found: tuple[str, str], about: About) -> Verdict:
    state, version = found
    if state == "none":
        return bad(
            "this kernel has no module drbd",
            "install a kernel that has it (Debian: linux-image-amd64) or LINBIT's drbd-dkms, and boot it",
        )
    if not re.match(r"8\.4\.|9\.|[1-9][0-9]", version):
        return bad(f"version {version or 'unknown'}", "pmc works with DRBD 8.4 and 9; install one of them")
    return good(f"{version}, loaded" if state == "loaded" else f"{version}, not loaded now; pm.ready_drbd loads it")


def query_at_boot(about: About) -> Query[bool]:
    script = (
        "grep -qsx 'drbd *' /etc/modules {/etc,/run,/usr/lib}/modules-load.d/*.conf "
        "|| systemctl -q is-enabled drbd.service 2>/dev/null && echo yes || echo no"
    )
    return Query(bash(script), parse_yes)


def judge_at_boot(found: bool, about: About) -> Verdict:
    if found:
        return good("the module is loaded at boot")
    path = "/etc/modules-load.d/pmc.conf"
    step = Step(
        about.node,
        "have DRBD's module loaded at boot",
        command("install", "-m", "644", "/dev/stdin", path, stdin="drbd\n"),
        undo=node_files.remove(path),
        check=node_files.exists(path),
    )
    return bad("the module is not loaded at boot", f"echo drbd >{path}", step)


def query_utils(about: About) -> Query[tuple[str, bool, str]]:
    # sh-resources reads the whole configuration: one file that is not right makes drbdadm refuse every resource.
    script = (
        "drbdadm --version; "
        'echo "included=$(grep -Ecs "^[[:space:]]*include[[:space:]].*drbd[.]d/[*][.]res" /etc/drbd.conf)"; '
        'said=$(drbdadm sh-resources 2>&1 >/dev/null) || echo "said=$said"'
    )
    return Query(bash(script), parse_utils)


def parse_utils(text: str) -> tuple[str, bool, str]:
    """(version, whether drbd.conf includes drbd.d/*.res, what drbdadm says against the configuration)"""
    head, _, said = text.partition("\nsaid=")
    fact = dict(row.partition("=")[::2] for row in head.splitlines())
    return fact["DRBDADM_VERSION"], fact["included"] not in ("", "0"), said.strip()


def judge_utils(found: tuple[str, bool, str], about: About) -> Verdict:
    version, included, said = found
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if numbers < (8, 9, 2):
        return bad(f"drbd-utils {version}", "pmc needs drbd-utils 8.9.2 or later (drbdsetup events2)")
    if not included:
        return bad("/etc/drbd.conf does not include the resource files", 'add to it: include "drbd.d/*.res";')
    if said:
        return bad(f"drbdadm: {said.splitlines()[0]}", f"correct the file that it names in {drbd.DIRECTORY}")
    return good(f"drbd-utils {version}")


def mixed_versions(versions: Mapping[str, str]) -> list[Finding]:
    """DRBD 9.1.0 to 9.1.7 cannot talk to 8.4 (fixed in 9.1.8); all other versions from 8.4 on mix."""
    old = sorted(node for node, version in versions.items() if version.startswith("8."))
    broken = [node for node, version in versions.items() if re.fullmatch(r"9\.1\.[0-7]([^0-9].*)?", version)]
    return [
        Finding(node, "drbd peers", bad(
            f"{versions[node]} cannot talk to {versions[old[0]]} on {', '.join(old)}",
            f"install DRBD 9.1.8 or later on {node}",
        ))
        for node in broken if old
    ]  # fmt: skip
