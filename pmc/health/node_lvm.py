"""Checks of LVM: the volume group, and that LVM leaves the guests' disks alone. Pure."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from pmc import lvm, lvm_thin
from pmc.command import Query, bash, command
from pmc.facts import lvm_attr, lvm_report, thin_pool
from pmc.facts.lvm_report import Group
from pmc.health.check import About, Verdict, bad, good
from pmc.model import Volume
from pmc.plan import Step
from pmc.units import show_size

LVM_CONF = "/etc/lvm/lvm.conf"
REJECT_DRBD = "r|^/dev/drbd|"


def query_group(about: About) -> Query[Group]:
    return lvm_report.group(about.settings.volume_group)


def judge_group(found: Group, about: About) -> Verdict:
    if its := lvm_attr.group(found.attributes, about.settings.volume_group):
        return bad(str(its), its.remedy)
    return good(f"{about.settings.volume_group}: {show_size(found.free)} free of {show_size(found.size)}")


@dataclass(frozen=True)
class Pool:
    """The thin pool of pmc.conf, and which tools for it are missing or must not be used. Classic: not asked."""

    volume: Volume | None = None
    missing: tuple[str, ...] = ()
    wrong: str = ""


def query_pool(about: About) -> Query[Pool]:
    settings = about.settings
    pools = [f"{settings.volume_group}/{settings.thin_pool}"] if settings.volumes == "thin" else []
    script = (
        f'for p; do {shlex.join(lvm.REPORT)} "$p"; '
        "for t in thin_check thin_dump thin_delta dmsetup awk; do "
        'command -v -- "$t" >/dev/null || echo "missing $t"; done; '
        "v=$(thin_delta --version 2>/dev/null || :); case ${v##* } in "
        f'{lvm_thin.WRONG}) echo "wrong thin_delta ${{v##* }}";; esac; done; echo end'
    )
    return Query(bash(script, *pools), parse_pool)


def parse_pool(text: str) -> Pool:
    *lines, end = text.splitlines() or [""]
    if end != "end":
        raise ValueError("the answer is cut short")
    if not lines:
        return Pool()
    words = [line.partition(" ")[::2] for line in lines]
    report = "\n".join(line for line in lines if not line.startswith(("missing ", "wrong ")))
    [volume] = lvm_report.parse_volumes(report).values()
    missing = tuple(rest for word, rest in words if word == "missing")
    return Pool(volume, missing, next((rest for word, rest in words if word == "wrong"), ""))


def judge_pool(found: Pool, about: About) -> Verdict:
    settings, its = about.settings, found.volume
    path = f"{settings.volume_group}/{settings.thin_pool}"
    if settings.volumes == "classic":
        return good("not needed: new volumes are classic")
    if its is None or not its.is_pool:
        return bad(f"{path} is no thin pool", "choose another name as thin_pool in pmc.conf")
    if why := thin_pool.broken(its):
        return bad(f"{path} {why}", thin_pool.remedy(its))
    if not thin_pool.zeroes(its):
        text = f"{path} does not zero what it hands out, so a new VM would see what was there before"
        return bad(text, f"lvchange --zero y {path}")
    if full := thin_pool.over(its, settings):
        return bad(f"{path}: {full[0]}; it takes no new VM", full[0].remedy)
    if found.missing:
        return bad(f"not installed: {', '.join(found.missing)}", "Debian: apt install thin-provisioning-tools dmsetup")
    if found.wrong:
        return bad(
            f"{found.wrong} misses changes, so it is not asked what changed since a backup",
            "install thin-provisioning-tools 1.0.6 or later",
        )
    return good(f"{path}: {show_size(thin_pool.free(its))} free of {show_size(its.size)}, zeroing")


@dataclass(frozen=True)
class Filter:
    """LVM's global_filter in effect; whether somebody has set it; the physical volumes in use."""

    patterns: tuple[str, ...]
    given: bool
    physical: tuple[str, ...] = ()


def query_filter(about: About) -> Query[Filter]:
    script = (
        "lvmconfig --type full devices/global_filter; "
        "lvmconfig devices/global_filter >/dev/null 2>&1 && echo given || echo default; "
        f"pvs {shlex.join(lvm.CONFIG)} --noheadings -o pv_name"
    )
    return Query(bash(script), parse_filter)


def parse_filter(text: str) -> Filter:
    """lvmconfig prints one pattern as a string and several as a list; both in JSON's form of them."""
    first, given, *physical = text.strip().splitlines()
    key, _, value = first.partition("=")
    if key.strip() != "global_filter" or given not in ("given", "default"):
        raise ValueError("not a global_filter")
    patterns = json.loads(value)
    several = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(several, list):
        raise ValueError("not a global_filter")
    for pattern in several:
        _refuse_wild(pattern[2:-1])
    return Filter(tuple(several), given == "given", tuple(path.strip() for path in physical))


def _refuse_wild(expression: str) -> None:
    """One that Python does not take, or that it would try for ever: what is repeated in something that is repeated."""
    repeats = len(re.findall(r"[*+?{]", expression))
    if repeats > 8 or len(expression) > 500 or (repeats > 1 and re.search(r"\)[*+?{]", expression)):
        raise ValueError("a global_filter that is too involved to be tried")
    _compiled(expression)


def _compiled(expression: str) -> re.Pattern[str]:
    """Python warns of what may mean something else in its later versions, such as [[:digit:]]."""
    with warnings.catch_warnings(action="ignore"):
        return re.compile(expression)


def rejects(patterns: Iterable[str], path: str) -> bool:
    """As lvm.conf(5) has it: the first pattern that fits decides; what none fits is accepted."""
    for pattern in patterns:
        kind, inner = pattern[:1], pattern[2:-1]
        if _compiled(inner).search(path):
            return kind == "r"
    return False


def judge_filter(found: Filter, about: About) -> Verdict:
    # DRBD's device and the links to it that udev makes: one that is accepted lets LVM in.
    paths = ("/dev/drbd0", "/dev/drbd1000", "/dev/drbd/by-res/v/0", "/dev/drbd/by-disk/vg/v")
    if all(rejects(found.patterns, path) for path in paths):
        return good("rejects /dev/drbd*")
    text = "LVM looks into DRBD's devices, that is into the guests' disks"
    wanted = ", ".join(f'"{pattern}"' for pattern in (REJECT_DRBD, *(found.patterns if found.given else ())))
    advice = f"in {LVM_CONF}, devices {{ }}: global_filter = [ {wanted} ]"
    if any(path.startswith("/dev/drbd") for path in found.physical):
        return bad(text, f"{advice}; but first move the physical volume that lies on DRBD: {', '.join(found.physical)}")
    return bad(text, advice, *(() if found.given else (set_filter(about.node),)))


def set_filter(node: str) -> Step:
    """Appends to lvm.conf, after LVM itself has read a copy with the line and found it right. Appending keeps owner,
    mode and links of the file; the section's name before the key is lvm.conf's own short form (lvm.conf(5))."""
    line = f'devices/global_filter = [ "{REJECT_DRBD}" ]'
    script = (
        'd=$(mktemp -d); trap \'rm -rf "$d"\' EXIT; cp -p "${1%/*}"/*.conf "$d"; '
        'add() { printf "\\n# By pmc: what is inside a guest\'s disk is the guest\'s own.\\n%s\\n" "$2" >>"$1"; }; '
        'add "$d/lvm.conf" "$2"; LVM_SYSTEM_DIR=$d lvmconfig --validate >/dev/null; '
        'LVM_SYSTEM_DIR=$d lvmconfig devices/global_filter | grep -qF "$3"; '
        'cp -p "$1" "$1.before-pmc"; add "$1" "$2"'
    )
    return Step(
        node,
        f"set LVM's global_filter in {LVM_CONF} (the old one stays as {LVM_CONF}.before-pmc)",
        bash(script, LVM_CONF, line, REJECT_DRBD),
        undo=command("cp", "-p", f"{LVM_CONF}.before-pmc", LVM_CONF),
        check=command("grep", "-qxF", line, LVM_CONF),
    )
