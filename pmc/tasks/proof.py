"""vm.verify_backup: backups are read back where they lie. No lock is held for it: the VM could not move for hours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pmc import looks
from pmc.backup import Stored
from pmc.cluster import Cluster
from pmc.errors import PmcError, Refused
from pmc.plans import refuse, restore
from pmc.tasks.base import carry_out, complain, opened, task
from pmc.view import note, show, table

Row = dict[str, str]
RIGHT, REMOVED = "right", "removed meanwhile"


@task(
    place="name",
    name="the VM; left out with --all, every VM",
    backup="the id of the backup; left out, its newest",
    all="every backup of it",
)
def verify_backup(
    c: Any, name: str = "", backup: str = "", all: bool = False, json: bool = False, conf: str = "",
    dry_run: bool = False,
) -> None:  # fmt: skip
    """Read a backup back and compare its checksum; needs no space: vm.verify_backup NAME [--backup ID | --all]"""
    with opened(conf) as cluster:
        if name:
            refuse.check_name("vm.verify_backup", name)
        elif not all:
            raise Refused("vm.verify_backup: name the VM, or give --all")
        if backup and all:
            raise Refused("--backup and --all: choose one")
        state = cluster.state(beside=looks.backups(cluster, name))
        stored = looks.stored(state)
        ids = [backup] if backup else sorted({each.id for each in stored}, key=lambda id: id.split(".")[:2])
        if not ids:
            raise Refused(f"vm.verify_backup {name}: there is no backup on any node that answers")
        rows = list[Row]()
        with cluster.interruptible():
            for id in ids if all else ids[-1:]:
                cluster.go_on(id)
                rows += _proved(c, cluster, id, stored, dry_run)
        if not rows:
            return
        show(table(rows, json, ("backup", "node", "result")))
        if failed := [row["backup"] for row in rows if row["result"] not in (RIGHT, REMOVED)]:
            raise PmcError(f"{len(failed)} of {len(rows)} cannot be used: {', '.join(failed)}")
        if {row["result"] for row in rows} == {REMOVED}:
            raise PmcError(
                f"nothing was proved: {rows[0]['backup']} was removed meanwhile; fab vm.backups lists what there is"
            )
        complain(state)


def _proved(c: Any, cluster: Cluster, id: str, stored: Sequence[Stored], dry_run: bool) -> list[Row]:
    """A row for each node that the backup lies on; none for a dry run."""
    rows = []
    nodes = [each.node for each in stored if each.id == id]
    if not nodes:
        restore.find(id, stored)  # says what is wrong with the id
    for node in nodes:
        try:
            found = restore.find(id, [each for each in stored if each.node == node])
            if not carry_out(c, cluster, restore.verified(found, cluster.settings), dry_run):
                continue
            result = RIGHT
        except Refused as error:
            result = str(error)
        except PmcError as error:
            cluster.go_on()
            if _gone(cluster, id, node):
                result = REMOVED
            else:
                note(str(error))
                result = next((row.strip() for row in str(error).splitlines()[1:2]), str(error))
        rows.append({"backup": id, "node": node, "result": result})
    return rows


def _gone(cluster: Cluster, id: str, node: str) -> bool:
    """It was there when the command began: who removed it (vm.prune, vm.rm --backups) wanted to."""
    try:
        return all(each.id != id for each in looks.stored_on(cluster, node, id.partition(".")[0]))
    except PmcError:
        return False
