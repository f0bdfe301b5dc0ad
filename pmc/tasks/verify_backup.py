"""vm.verify_backup: backups are read back where they lie. No lock is held for it: the VM could not move for hours."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from invoke.context import Context

from pmc.backup import ID, Stored
from pmc.cluster import Cluster
from pmc.command import Command
from pmc.errors import Interrupted, PmcError, Refused
from pmc.plan import plan
from pmc.plans import backup_copies, requirements, restore
from pmc.tasks import lookups
from pmc.tasks.base import carry_out, complain, heard, opened, task
from pmc.tasks.paths import here
from pmc.transport.local import STREAM, need, run
from pmc.view.output import Plain, Progress, document, note, show, show_script, table

RIGHT, REMOVED = "right", "removed meanwhile"
COLUMNS = ("backup", "node", "result")


@dataclass(frozen=True)
class Result(Plain):
    """Of a backup on a node, or in a directory: RIGHT, REMOVED, or what is wrong with it."""

    backup: str
    node: str
    result: str


@task(
    place="name",
    name="the VM (default with --all: every VM)",
    backup="the id of the backup (default: the newest)",
    all="verify every backup of it",
    from_="verify the copies in this directory of the manager (default: the backups on the nodes)",
)
def verify_backup(
    c: Context, name: str = "", backup: str = "", all: bool = False, from_: str = "", json: bool = False,
    conf: str = "", dry_run: bool = False,
) -> None:  # fmt: skip
    """Read a backup back and compare its checksum: vm.verify_backup NAME [--backup ID | --all]"""
    with opened(conf) as cluster:
        if name:
            requirements.check_name("vm.verify_backup", name)
        elif not all:
            raise Refused("vm.verify_backup: name the VM, or give --all")
        if backup and all:
            raise Refused("--backup and --all: choose one")
        directory = str(here("--from", from_)) if from_ else ""
        state = None if directory else cluster.state(beside=lookups.backups(cluster, name))
        stored = lookups.stored(state, partly=True) if state else lookups.kept(directory, name)
        ids = [backup] if backup else sorted({each.id for each in stored}, key=lambda id: id.split(".")[:2])
        newest = [id for id in ids if not any(each.id == id and each.ahead for each in stored)][-1:]
        if state and not ids:
            heard(state)
        if not ids:
            where = f"in {directory}" if directory else "on any node that answers"
            raise Refused(f"vm.verify_backup{name and f' {name}'}: there is no backup {where}")
        if directory:
            need("xdelta3", "zstd")
        rows = list[Result]()
        try:
            with cluster.interruptible():
                for id in ids if all else newest or ids[-1:]:
                    cluster.go_on(id)
                    rows += _proved(c, cluster, id, stored, directory, dry_run)
        except Interrupted:
            if rows:
                show(document(rows) if json else table(rows, COLUMNS))
            raise
        if not rows:
            return
        show(document(rows) if json else table(rows, COLUMNS))
        if failed := [row.backup for row in rows if row.result not in (RIGHT, REMOVED)]:
            advice = (
                "\n  If they are damaged, and not only unreadable for you: remove their files (ID.*) from "
                f"{directory}; the next vm.backup --to copies what it needs again."
            )
            raise PmcError(
                f"{len(failed)} of {len(rows)} cannot be used: {', '.join(failed)}{advice if directory else ''}"
            )
        if {row.result for row in rows} == {REMOVED}:
            raise PmcError(f"nothing was proved: {rows[0].backup} was removed meanwhile", next="fab vm.backups")
        if state:
            complain(state)


def _proved(
    c: Context, cluster: Cluster, id: str, stored: Sequence[Stored], directory: str, dry_run: bool
) -> list[Result]:
    """A row for each node that the backup lies on, or for the `directory`; none for a dry run."""
    rows = []
    nodes = [each.node for each in stored if each.id == id]
    if not nodes:
        if directory and ID.fullmatch(id):
            raise Refused(f"--backup {id}: not in {directory}", next=f"fab vm.backups --from {shlex.quote(directory)}")
        restore.find(id, stored)  # says what is wrong with the id
    for node in nodes:
        try:
            found = restore.find(id, [each for each in stored if each.node == node])
            if directory:
                done = _read_here(c, cluster, found, directory, dry_run)
            else:
                done = carry_out(c, cluster, restore.verified(found, cluster.settings), dry_run, under=())
            if not done:
                continue
            result = RIGHT
        except Refused as error:
            result = str(error)
        except PmcError as error:
            cluster.go_on()
            if _gone(cluster, id, node, directory):
                result = REMOVED
            else:
                note(str(error))
                result = next((row.strip() for row in str(error).splitlines()[1:2]), str(error))
        rows.append(Result(id, node, result))
    return rows


def _read_here(c: Context, cluster: Cluster, found: restore.Found, directory: str, dry_run: bool) -> bool:
    """One that lies in a directory of the manager; False for a dry run."""
    for each in backup_copies.parts(found):
        if not os.access(file := f"{directory}/{each.file}", os.R_OK):
            raise Refused(f"{file}: you may not read it")
    step = restore.prove(found, replace(cluster.settings, backup_dir=directory), STREAM)
    assert isinstance(step.do, Command)  # noqa: S101
    if dry_run or c.config.run.dry:
        show_script(cluster.script(plan(f"vm.verify_backup {found.backup.id}", [step])))
        return False
    note(step.note)
    with Progress().bytes(step.watch, found.backup.size) as bar:
        run(step.do, cluster.stop.is_set, bar.dd)
    return True


def _gone(cluster: Cluster, id: str, node: str, directory: str) -> bool:
    """It was there when the command began: who removed it (vm.prune, vm.rm --backups) wanted to."""
    if directory and not os.path.isdir(directory):
        return True
    try:
        name = id.partition(".")[0]
        there = lookups.kept(directory, name) if directory else lookups.stored_on(cluster, node, name)
        return all(each.id != id for each in there)
    except PmcError:
        return False
