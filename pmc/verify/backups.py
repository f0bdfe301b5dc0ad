"""Findings about backups and unfinished files. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from pmc.verify.facts import Facts
from pmc.verify.finding import Finding


def folders(facts: Facts) -> Iterator[Finding]:
    folder = facts.settings.backup_dir
    for node in facts.state:
        used = facts.answers(node).folder_used
        if used is not None and used > facts.settings.verify.full_percent:
            advice = f"remove backups there that are not needed (fab vm.backups lists them), or make {folder} larger"
            yield Finding("BACKUP_DIR_FULL", f"the file system of {folder} is {used:.0f} % full", advice, node.name)


def parts(facts: Facts) -> Iterator[Finding]:
    for node in facts.state:
        for path in facts.answers(node).parts:
            text = f"{path} is unfinished, and no command is writing it"
            yield Finding("PART_STALE", text, f"on {node.name}: rm {path}", node.name)


_UNTOLD = {"backups", "the questions"}


def ages(facts: Facts) -> Iterator[Finding]:
    """Known only when all nodes tell: the newest backup may lie on one that does not."""
    days = facts.settings.verify.backup_max_age_days
    if not days or any(node.down or _UNTOLD & facts.answers(node).failures.keys() for node in facts.state):
        return
    stored = [each for node in facts.state for each in facts.answers(node).backups]
    for vm in facts.whole:
        made = [s.backup.time for s in stored if s.backup and not s.broken and s.backup.vm == vm]
        if not made:
            yield Finding("BACKUP_NONE", "has no backup that can be used", f"fab vm.backup {vm}", vm=vm)
            continue
        age = (facts.now - max(map(_seconds, made))) / 86400
        if age > days:
            text = f"its newest backup is {age:.1f} days old, {days:g} are allowed"
            yield Finding("BACKUP_OLD", text, f"fab vm.backup {vm}", vm=vm)


def _seconds(time: str) -> float:
    """Of a manifest's time; one that is none counts as old."""
    try:
        return datetime.fromisoformat(time).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return 0.0


CHECKS = (folders, parts, ages)
