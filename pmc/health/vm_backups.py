"""Findings about backups and unfinished files. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime

from pmc.backup import dated, is_ahead, moment
from pmc.health.cluster_facts import Facts
from pmc.health.finding import Finding
from pmc.plain import then
from pmc.plans.retention import vm_of


def folders(facts: Facts) -> Iterator[Finding]:
    folder = facts.settings.backup_dir
    for node in facts.state:
        used = facts.answers(node).folder_used
        if used is not None and used > facts.settings.verify.full_percent:
            advice = then(f"Remove backups there that are not needed, or make {folder} larger", "fab vm.backups")
            yield Finding("BACKUP_DIR_FULL", f"the file system of {folder} is {used:.0f} % full", advice, node.name)


def parts(facts: Facts) -> Iterator[Finding]:
    for node in facts.state:
        for path in facts.answers(node).parts:
            text = f"{path} is unfinished, and no command is writing it"
            yield Finding("PART_STALE", text, f"on {node.name}: rm {shlex.quote(path)}", node.name)


_UNTOLD = {"backups", "the questions"}


def ages(facts: Facts) -> Iterator[Finding]:
    """Known only when all nodes tell: the newest backup may lie on one that does not."""
    days = facts.settings.verify.backup_max_age_days
    if not days or any(node.down or _UNTOLD & facts.answers(node).failures.keys() for node in facts.state):
        return
    now = datetime.fromtimestamp(facts.now, UTC)
    stored = dated((each for node in facts.state for each in facts.answers(node).backups), now)
    for vm in facts.whole:
        mine = [s for s in stored if s.backup and not s.broken and s.backup.vm == vm]
        made = [time for s in mine if not s.doubt and (time := moment(s.id))]
        if not made:
            yield Finding("BACKUP_NONE", "has no backup that can be used", f"fab vm.backup {vm}", vm=vm)
            continue
        if not any(s.verified for s in mine):
            text = "none of its backups was ever read back: a base may have rotted, and all deltas against it with it"
            yield Finding("BACKUP_UNPROVED", text, f"fab vm.verify_backup {vm}", vm=vm)
        age = (facts.now - max(made).timestamp()) / 86400
        if age > days:
            text = f"its newest backup is {age:.1f} days old, {days:g} are allowed"
            yield Finding("BACKUP_OLD", text, f"fab vm.backup {vm}", vm=vm)


def future(facts: Facts) -> Iterator[Finding]:
    """By the manager's clock; or it is that which is wrong."""
    folder, now = facts.settings.backup_dir, datetime.fromtimestamp(facts.now, UTC)
    for node in facts.state:
        for id in facts.answers(node).future:
            if is_ahead(id, now):
                text = f"the backup {id} is of the future: no delta is made against it, and vm.prune does not count it"
                clock = f"If this machine's clock ({now.isoformat(timespec='minutes')}) is wrong, set it right"
                gone = f"If it is right, remove that backup, on {node.name}: rm {folder}/{id}.*"
                advice = then(f"{clock}. {gone}", "timedatectl")
                yield Finding("BACKUP_FUTURE", text, advice, node.name, vm_of(id))


def damaged(facts: Facts) -> Iterator[Finding]:
    """Told when backups are looked at."""
    for node in facts.state:
        for each in facts.answers(node).backups:
            if each.damaged:
                vm = vm_of(each.id)
                text = f"the backup {each.id} was found damaged when it was read back at {each.damaged}"
                again = f"To read it once more: fab vm.verify_backup {vm} --backup {each.id}. Else make a new base"
                advice = then(again, f"fab vm.backup {vm} --base")
                yield Finding("BACKUP_DAMAGED", text, advice, node.name, vm)


CHECKS = (folders, parts, future, damaged, ages)
