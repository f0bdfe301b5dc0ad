"""Checks of LVM: the volume group, and that LVM leaves the guests' disks alone. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pmc import lvm
from pmc.checks.finding import About, Verdict, bad, good
from pmc.command import Query, bash, command
from pmc.plan import Step
from pmc.units import show_size

LVM_CONF = "/etc/lvm/lvm.conf"
REJECT_DRBD = "r|^/dev/drbd|"


def query_group(about: About) -> Query[tuple[int, int]]:
    return lvm.group(about.settings.volume_group)


def judge_group(found: tuple[int, int], about: About) -> Verdict:
    size, free = found
    return good(f"{about.settings.volume_group}: {show_size(free)} free of {show_size(size)}")


@dataclass(frozen=True)
class Filter:
    """LVM's global_filter in effect; whether somebody has set it; the physical volumes in use."""

    patterns: tuple[str, ...]
    given: bool
    physical: tuple[str, ...] = ()


def query_filter(about: About) -> Query[Filter]:
    script = (
        "lvmconfig --type full devices/global_filter; "
        "lvmconfig devices/global_filter >/dev/null 2>&1 && echo given || echo default; pvs --noheadings -o pv_name"
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
    return Filter(tuple(several), given == "given", tuple(path.strip() for path in physical))


def rejects(patterns: Iterable[str], path: str) -> bool:
    """As lvm.conf(5) has it: the first pattern that fits decides; what none fits is accepted."""
    for pattern in patterns:
        kind, inner = pattern[:1], pattern[2:-1]
        if re.search(inner, path):
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
