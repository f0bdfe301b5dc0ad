"""Backups removed: those that vm.prune does not keep (retention.py decides), or all of a VM with vm.rm. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pmc.backup import NOTES, Stored
from pmc.command import Command, bash, operation
from pmc.errors import Refused
from pmc.plan import Plan, Step, on_each, plan
from pmc.plans import node_files
from pmc.plans.backup import remove_unfinished
from pmc.plans.retention import KEEP, LEAVE, NEEDED, REMOVE, Decision
from pmc.settings import Keep, Settings
from pmc.units import show_size

# What a backup may consist of when its manifest does not tell: ID.json and so on, the manifest first.
ENDS = ("json", "img", "img.zst", "xd3", "index", *NOTES)
COLUMNS = ("id", "kind", "time", "node", "stored", "action", "why")


def rules(flags: Mapping[str, str], settings: Settings) -> Keep:
    """How many to keep by each rule: as the flags say (`last` is --keep-last) when there is any, else as configured."""
    given = {rule: text for rule, text in flags.items() if text}
    for rule, text in given.items():
        if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII):
            raise Refused(f"--keep-{rule} {text[:70]!r}: must be a whole number, 0 or more")
    numbers = {rule: int(text) for rule, text in given.items()}
    if numbers.keys() - {"verified"}:
        keep = replace(Keep(verified=settings.keep.verified), **numbers)
    else:
        keep = replace(settings.keep, **numbers)
    if not any(keep.rules.values()):
        none = numbers.keys() <= {"verified"}
        why = f"no rule says what to keep, and {settings.source} has none" if none else "the rules keep nothing at all"
        raise Refused(f"vm.prune: {why}. Give one above 0, as in --keep-last 3 --keep-daily 7, or [keep] in pmc.conf")
    return keep


def prune(name: str, decisions: Sequence[Decision], settings: Settings) -> Plan:
    return plan(f"vm.prune {name}", removed([d.stored for d in decisions if d.action == REMOVE], settings))


def removed(going: Sequence[Stored], settings: Settings) -> list[Step]:
    """Deltas go before the base that they need, the oldest first: wherever it is interrupted, what is left is whole."""
    return [
        Step(
            each.node,
            f"remove {each.id} (frees {show_size(each.stored)})",
            remove(settings.backup_dir, files(each)),
            check=node_files.is_gone(f"{settings.backup_dir}/{each.id}.json"),
            pivot=True,
        )
        for each in sorted(going, key=lambda s: (s.id.endswith(".base"), s.id, s.node))
    ]


def all_removed(name: str, stored: Sequence[Stored], nodes: Sequence[str], settings: Settings) -> list[Step]:
    """Every backup of a VM; before them, as they tell of the VM, what an earlier removal left unfinished on `nodes`."""
    rest = remove_unfinished(settings.backup_dir, name)
    note = f"remove unfinished backups of {name}, if any"
    return [*on_each(nodes, lambda node: Step(node, note, rest, pivot=True)), *removed(stored, settings)]


def files(each: Stored) -> tuple[str, ...]:
    """All that may lie there of it, the manifest first."""
    if each.backup and not each.broken:
        return each.backup.files
    return tuple(f"{each.id}.{end}" for end in ENDS)


@operation
def remove(folder: str, names: Sequence[str]) -> Command:
    """The files, the first one first, get the names of unfinished ones, and are then deleted, which may take its time:
    if that is interrupted, what is left looks like no backup, and pm.verify and the next vm.backup find it."""
    script = (
        'cd "$1"; shift; for f; do [ ! -e "$f" ] || mv -- "$f" ".$f.part"; done; sync .; '
        'for f; do rm -f -- ".$f.part"; done'
    )
    return bash(script, folder, *names, long=True)


def lying(name: str, stored: Sequence[Stored]) -> str:
    """How many backups of a VM there are, in words."""
    count, nodes = len({each.id for each in stored}), " and ".join(sorted({each.node for each in stored}))
    return f"{count} backup{'s' * (count > 1)} of {name} on {nodes} ({show_size(sum(s.stored for s in stored))})"


def told(name: str, decisions: Sequence[Decision]) -> str:
    """What becomes of them, in one line. Of copies on several nodes each counts."""
    size = {action: sum(d.stored.stored for d in decisions if d.action == action) for action in (KEEP, REMOVE, LEAVE)}
    count = {action: sum(d.action == action for d in decisions) for action in size}
    bases = sum(d.action == KEEP and d.why.startswith(NEEDED) for d in decisions)
    only = f" ({bases} of them only as the base of a delta)" if bases else ""
    left = f"; {count[LEAVE]} that cannot be used are left as they are" if count[LEAVE] else ""
    return f"{name}: {count[REMOVE]} to remove ({show_size(size[REMOVE])}), {count[KEEP]} to keep{only}{left}"
