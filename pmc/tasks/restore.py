"""vm.restore: a backup as a new VM, into the VM itself, or as a file."""

from __future__ import annotations

import os
import shlex
import uuid
from pathlib import Path

from invoke.context import Context

from pmc.backup import sound
from pmc.cluster import Cluster
from pmc.errors import Refused
from pmc.lock_files import ALLOCATION
from pmc.model import ClusterState
from pmc.plan import Plan
from pmc.plans import backup_copies, failover_restore, requirements, restore_in_place
from pmc.plans import restore as plans
from pmc.plans.restore import Found
from pmc.settings import Settings
from pmc.tasks import lookups
from pmc.tasks.base import CHOSEN, carry_out, confirm, located, located_with_backups, lock, opened, task
from pmc.tasks.paths import about, here, is_folder
from pmc.view.output import note


@task(
    place="name",
    name="the VM that was backed up",
    backup="the id of the backup, from vm.backups",
    as_="make a new VM of this name from it",
    in_place="write it to the VM's own disk; the VM must be off, and what its disk has now is lost",
    to="write its disk to this file of the manager; qcow2 when the name ends so, else raw",
    from_="the directory of this machine that has the backup (default: the nodes)",
    put_back="after an interrupted --in-place: put the disk back as it was before",
    primary="with --as: the node of the new VM (default: the old VM's)",
    secondary="with --as: the node of its second copy (default: the old VM's)",
)
def restore(
    c: Context, name: str = "", backup: str = "", as_: str = "", in_place: bool = False, to: str = "", from_: str = "",
    put_back: bool = False, primary: str = "", secondary: str = "", yes: bool = False, conf: str = "",
    dry_run: bool = False,
) -> None:  # fmt: skip
    """Restore a backup: vm.restore NAME --backup ID with --as NEW, --in-place, or --to FILE

    pmc verifies the disk's checksum; with --in-place before the first write. It starts nothing.
    """
    with opened(conf) as cluster:
        requirements.check_name("vm.restore", name)
        choice = (("--as", as_), ("--in-place", in_place), ("--to", to), ("--put-back", put_back))
        ways = [flag for flag, given in choice if given]
        if len(ways) != 1:
            raise Refused("vm.restore: give one of --as NEW, --in-place, --to FILE (or --put-back)")
        if (primary or secondary) and not as_:
            raise Refused(f"--primary and --secondary go with --as, not with {ways[0]}")
        dry, which = bool(dry_run or c.config.run.dry), (backup, str(here("--from", from_)) if from_ else "")
        if put_back:
            _put_back(c, cluster, name, dry)
        elif as_:
            _as_new(c, cluster, name, which, as_, primary, secondary, dry)
        elif to:
            _to_file(c, cluster, name, which, to, dry)
        else:
            _in_place(c, cluster, name, which, dry, yes)


# The id of a backup, and the directory of the manager in which it lies, if not on a node.
Which = tuple[str, str]


def _found(state: ClusterState, name: str, which: Which, settings: Settings) -> tuple[Found, Plan]:
    """The backup on a node, and what brings it there."""
    id, directory = which
    stored = lookups.stored(state)
    if not directory:
        return plans.find(id, stored), Plan("", ())
    there = lookups.kept(directory, name)
    if id not in {each.id for each in there}:
        raise Refused(
            f"--backup {id[:90]!r}: not in {directory}", next=f"fab vm.backups {name} --from {shlex.quote(directory)}"
        )
    found = plans.find(id, there)
    answering = [node.name for node in state.answering]
    requirements.reachable(state, *(() if answering else state.nodes))
    node = next((node for node in found.backup.nodes if node in answering), answering[0])
    sizes = {path.name: os.path.getsize(path) for path in Path(directory).iterdir() if os.path.isfile(path)}
    here = [each for each in stored if each.node == node]
    whole = {each.id for each in sound(here)}
    doubtful, manifests = {each.id for each in here} - whole, [f"{id}.json" for id in whole]
    copy = backup_copies.to_node(found, node, directory, sizes, manifests, settings, doubtful)
    return backup_copies.on(node, found), copy


def _both(first: Plan, then: Plan) -> Plan:
    return Plan(then.title, (*first.steps, *then.steps))


def _as_new(
    c: Context, cluster: Cluster, name: str, which: Which, new: str, primary: str, secondary: str, dry: bool
) -> None:
    requirements.check_new("--as", new)
    address = lookups.address_of(new, cluster.settings)
    lock(c, cluster, dry, name, new)
    lock(c, cluster, dry, ALLOCATION)
    state = cluster.state(allocating=True, beside=lookups.backups(cluster, name))
    found, copy = _found(state, name, which, cluster.settings)
    nodes = plans.nodes_for(found, primary, secondary, cluster.settings)
    given = lookups.given(state, cluster.settings, address)
    plan = plans.as_new(found, new, nodes, state, cluster.settings, given, str(uuid.uuid4()))
    if carry_out(c, cluster, _both(copy, plan), dry, first=[CHOSEN]):
        note(f"{new} is restored from {found.backup.id}; start it: fab vm.start {new}")


def _looked(c: Context, cluster: Cluster, name: str, which: Which, dry: bool) -> ClusterState:
    """With the VM's lock; everywhere when a directory's backup may go to any node."""
    if not which[1]:
        return located_with_backups(c, cluster, dry, name)
    lock(c, cluster, dry, name)
    return cluster.state(beside=lookups.backups(cluster, name))


def _in_place(c: Context, cluster: Cluster, name: str, which: Which, dry: bool, yes: bool) -> None:
    state = _looked(c, cluster, name, which, dry)
    found, copy = _found(state, name, which, cluster.settings)
    size, xml = lookups.disk_of(cluster, name, state)
    plan = restore_in_place.in_place(found, size, xml, state, cluster.settings)
    if not (dry or yes):
        confirm(f"the disk of {name} becomes that of {found.backup.time}; what was written since then is lost", name)
    if carry_out(c, cluster, _both(copy, plan), dry):
        note(f"{name} has the disk of {found.backup.id}; start it: fab vm.start {name}")


def _put_back(c: Context, cluster: Cluster, name: str, dry: bool) -> None:
    state = located(c, cluster, dry, name)
    failover_restore.both_there(name, state)
    size, _ = lookups.disk_of(cluster, name, state)
    plan = restore_in_place.undo_in_place(name, size, state, cluster.settings)
    if carry_out(c, cluster, plan, dry):
        put = any(step.note.startswith("put the disk") for step in plan.steps)
        marks = f"{name}: no restore is marked any more; its disk is whole, as it was before or as the restore left it"
        note(f"{name} has the disk that it had before the restore" if put else marks)


def _to_file(c: Context, cluster: Cluster, name: str, which: Which, to: str, dry: bool) -> None:
    path = here("--to", to)
    if not to.isprintable() or len(to) > 1000 or about("--to", path) or not is_folder("--to", path.parent):
        raise Refused(f"--to {to[:200]!r}: must be a new file in a folder that is there")
    if not os.access(path.parent, os.W_OK):
        raise Refused(f"--to {to[:200]!r}: you may not write there")
    # What it puts into the backup directory meanwhile, a backup of the VM would take for the rest of a broken one.
    state = _looked(c, cluster, name, which, dry)
    found, copy = _found(state, name, which, cluster.settings)
    if carry_out(c, cluster, _both(copy, plans.to_file(found, str(path), cluster.settings)), dry):
        note(f"{path} is the disk of {found.backup.id}")
