"""vm.backup, vm.backups: making backups and listing them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from invoke.context import Context

from pmc import names
from pmc.actions import Fetch
from pmc.backup import NOTES, Backup, Stored, sound
from pmc.cluster import Cluster
from pmc.errors import PmcError, Refused
from pmc.model import ClusterState
from pmc.paste import comment
from pmc.plan import Plan
from pmc.plans import backup as plans
from pmc.plans import backup_copies, backup_request, requirements, restore, split_brain_snapshot
from pmc.plans.backup_request import BackupRequest
from pmc.tasks import lookups, vm_lock
from pmc.tasks.base import carry_out, complain, listed, located_with_backups, opened, task
from pmc.tasks.paths import here, is_folder
from pmc.transport.scheduler import run_limited
from pmc.units import parse_rate
from pmc.view.output import Plain, Row, document, note, show, show_script, table
from pmc.view.rows import BACKUP_COLUMNS, backup_rows

COLUMNS = ("vm", "backup", "result")


@dataclass(frozen=True)
class Result(Plain):
    """Of one VM; without a `backup` it was not backed up, and `result` says why. Of a dry run `result` is the plan."""

    vm: str
    backup: str
    result: str


@task(
    place="name",
    name="the VM",
    base="make a full image, not a delta against the newest one",
    all="back up every VM; when one fails, the others go on",
    jobs="with --all: backups at the same time on a node, which reads or keeps them (default: 1)",
    total="with --all: backups at the same time in all (default: 8)",
    to="the node to keep a new base on (left out: where the disk is read), or a directory of this machine for a copy",
    compress="compress a base with zstd (default); --no-compress: store it as it is, with holes",
    limit="read and copy no more than this a second, such as 50M (default: no limit)",
    freeze="have the guest agent, if there is one, freeze the file systems for the snapshot (default)",
)
def backup(
    c: Context, name: str = "", base: bool = False, all: bool = False, jobs: str = "", total: str = "", to: str = "",
    compress: bool = True, limit: str = "", freeze: bool = True, conf: str = "", dry_run: bool = False,
) -> None:  # fmt: skip
    """Back a VM up while it runs: vm.backup NAME [--base], or all: vm.backup --all [--jobs N]

    Reads a snapshot of the standby's volume. The first backup is a base, the next ones are deltas against it.
    """
    with opened(conf) as cluster:
        if bool(name) == all:
            raise Refused("vm.backup: name the VM, or give --all")
        if (jobs or total) and not all:
            raise Refused("--jobs and --total: go with --all")
        directory = _directory(to) if backup_copies.is_directory(to) else ""
        if to and not directory:
            cluster.settings.node("--to", to)
        wish = BackupRequest(name, base, "" if directory else to, compress, _rate(limit), freeze)
        number, most = _count("--jobs", jobs or "1"), _count("--total", total or "8")
        if all:
            _all(c, cluster, wish, number, most, directory, dry_run)
            return
        requirements.check_name("vm.backup", name)
        state = located_with_backups(c, cluster, dry_run, name, wish.to)
        stored = lookups.stored(state)
        if dry_run or c.config.run.dry:
            show_script(_shown(cluster, wish, state, stored, directory)[1])
            return
        made, plan = _planned(cluster, wish, state, stored)
        id = made.id
        if carry_out(c, cluster, plan, dry_run):
            note(f"{id} is complete on {plans.kept_on(plan)}")
            if directory:
                copy = _copy(cluster, id, plan, directory, wish.limit)
                carry_out(c, cluster, copy, dry_run)
                _forget(copy)
                note(f"{id} is complete in {directory}")


def _directory(to: str) -> str:
    path = here("--to", to)
    if not to.isprintable() or not is_folder("--to", path) or not os.access(path, os.W_OK):
        raise Refused(f"--to {to[:200]!r}: must be a node, or a directory of this machine that you may write to")
    return str(path)


def _copy(cluster: Cluster, id: str, made: Plan, directory: str, limit: int) -> Plan:
    """Of a backup that is complete on a node, with its base, which lies there too."""
    found = restore.find(id, lookups.stored_on(cluster, plans.kept_on(made), id.partition(".")[0]))
    there = {each.id for each in sound(lookups.kept(directory, found.backup.vm))}
    return backup_copies.to_manager(found, directory, there, cluster.settings, limit)


def _forget(copied: Plan) -> None:
    """What reading it back has shown of a copy that another one took the place of."""
    for step in copied.steps:
        if isinstance(step.do, Fetch) and step.do.target.endswith(".json"):
            for each in NOTES:
                Path(step.do.target).with_suffix(f".{each}").unlink(missing_ok=True)


def _planned(
    cluster: Cluster, wish: BackupRequest, state: ClusterState, stored: Sequence[Stored]
) -> tuple[Backup, Plan]:
    source = lookups.agent(cluster, wish.name, plans.choose_source(wish.name, state), wish.freeze)
    size, xml = lookups.disk_at(cluster, wish.name, source.node, state)
    time, said = backup_request.follows(wish.name, stored, lookups.now())
    stale = requirements.stale_copy_note(wish.name, source.node, state)
    for each in (said, backup_request.passed_over(wish, source.node, stored), stale):
        if each:
            note(each)
    return plans.make_backup(wish, source, size, xml, stored, time, state, cluster.settings)


def _rate(text: str) -> int:
    try:
        return parse_rate(text)
    except ValueError as error:
        raise Refused(f"--limit {error}") from None


def _count(flag: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= 32 and len(text) <= 4):
        raise Refused(f"{flag} {text[:40]!r}: must be a number from 1 to 32")
    return int(text)


def _all(
    c: Context, cluster: Cluster, wish: BackupRequest, jobs: int, most: int, directory: str, dry_run: bool
) -> None:
    """`jobs` backups at a time on any node, which reads the disk, or keeps the backup of another node's disk."""
    state = cluster.state(beside={**lookups.backups(cluster), **lookups.RUNNING})
    stored = lookups.stored(state)
    dry, nodes, rows = bool(dry_run or c.config.run.dry), dict[str, set[str]](), list[Result]()
    there = {name for node in state for name in (*node.domains, *node.foreign) if not names.why_not(name)}
    for name in sorted(there):
        if not any(name in kind for node in state for kind in (node.resources, node.files, node.volumes)):
            note(f"{name}: no node has a DRBD resource or a volume of that name, so it is not pmc's; left out")
            continue
        try:
            source = plans.choose_source(name, state)
            nodes[name] = {source.node, backup_request.keeper_for(wish.named(name), source.node, stored)}
        except PmcError as error:
            rows.append(Result(name, "", str(error)))

    def one(name: str) -> Result:
        mine = [each for each in stored if each.id.startswith(f"{name}.")]
        wanted = wish.named(name)
        if dry:
            return _attempt(name, lambda: _shown(cluster, wanted, state, mine, directory))
        if cluster.stop.is_set():
            return Result(name, "", "not begun: interrupted")
        return _attempt(name, lambda: _locked(cluster, wanted, state, mine, directory))

    with cluster.interruptible():
        rows += run_limited(one, list(nodes), lambda name: nodes[name], jobs, most)
    rows.sort(key=lambda row: row.vm)
    if dry:
        show_script("\n".join(row.result if row.backup else comment(row.result) for row in rows))
    elif rows or state.answering:
        show(table(rows, COLUMNS))
    if failed := [row.vm for row in rows if not row.backup]:
        raise PmcError(f"{len(failed)} of {len(rows)} were not backed up: {', '.join(failed)}")
    complain(state)


def _shown(
    cluster: Cluster, wish: BackupRequest, state: ClusterState, stored: Sequence[Stored], directory: str
) -> tuple[str, str]:
    """Its id, and what --dry-run prints. How large the backup will be is not known, so what copies it to a `directory`
    does not look at that, nor at --limit."""
    made, plan = _planned(cluster, wish, state, stored)
    if not directory:
        return made.id, cluster.script(plan)
    node = plans.kept_on(plan)
    base = next((each.backup for each in stored if each.node == node and each.id == made.base), None)
    there = {each.id for each in sound(lookups.kept(directory, made.vm))}
    copy = backup_copies.to_manager(restore.Found(node, made, base), directory, there, cluster.settings)
    return made.id, cluster.script(plan, copy)


def _locked(
    cluster: Cluster, wish: BackupRequest, state: ClusterState, stored: Sequence[Stored], directory: str
) -> tuple[str, str]:
    """Only the VM's own nodes, and those that keep its backups, are looked at again, under its lock."""
    also = list(dict.fromkeys([*(each.node for each in stored), *([wish.to] if wish.to else [])]))
    beside = {**lookups.backups(cluster, wish.name), **lookups.RUNNING}
    with vm_lock.locked(cluster, f"vm.backup {wish.name}", [wish.name], state, also, beside=beside) as (held, now):
        mine = [each for each in lookups.stored(now) if each.id.startswith(f"{wish.name}.")]
        made, plan = _planned(cluster, wish, now, mine)
        id = made.id
        cluster.apply(plan, prefix=wish.name, under=[held])
        if directory:
            copy = _copy(cluster, id, plan, directory, wish.limit)
            cluster.apply(copy, prefix=wish.name, under=[held])
            _forget(copy)
        return id, f"complete on {plans.kept_on(plan)}"


def _attempt(name: str, work: Callable[[], tuple[str, str]]) -> Result:
    try:
        id, result = work()
        return Result(name, id, result)
    except PmcError as error:
        note(str(error))
        return Result(name, "", str(error).splitlines()[0])


@task(place="name", name="the VM (default: all)", from_="list the copies in this directory of the manager")
def backups(c: Context, name: str = "", from_: str = "", json: bool = False, conf: str = "") -> None:
    """List the backups of a VM, or of all VMs, and the snapshots that vm.repair kept: vm.backups [NAME]"""
    with opened(conf) as cluster:
        if name:
            requirements.check_name("vm.backups", name)
        if from_:
            copies = backup_rows(lookups.kept(str(here("--from", from_)), name))
            show(document(copies) if json else table(copies, BACKUP_COLUMNS))
            return
        state = cluster.state(beside=lookups.backups(cluster, name))
        kept = split_brain_snapshot.snapshots(state, name)
        rows: list[Row] = [*backup_rows(lookups.stored(state, partly=True)), *kept]
        listed(rows, json, BACKUP_COLUMNS, state)
        for each in kept:
            note(split_brain_snapshot.advice(each, cluster.settings))
        complain(state)
