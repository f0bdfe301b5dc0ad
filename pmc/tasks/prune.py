"""vm.prune: what becomes of each backup is shown, then those that no rule keeps are removed, one VM after the other."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from invoke.context import Context

from pmc.actions import Action
from pmc.backup import Stored
from pmc.cluster import Cluster
from pmc.command import Command
from pmc.errors import CommandFailed, NodeDown, PmcError, Refused
from pmc.model import ClusterState
from pmc.plans import prune as plans
from pmc.plans import requirements, retention
from pmc.plans.backup import remove_unfinished
from pmc.plans.retention import REMOVE, Decision
from pmc.settings import Keep
from pmc.tasks import lookups, vm_lock
from pmc.tasks.base import carry_out, complain, heard, opened, task
from pmc.tasks.paths import here
from pmc.transport import local as manager
from pmc.view.output import document, note, show, show_script, table

AGAIN = "keep the newest backup of each of the last so many {}"


@task(
    place="name",
    name="the VM; it may be gone",
    all="prune the backups of every VM, also of those that are gone",
    keep_last="keep the newest so many backups",
    keep_hourly=AGAIN.format("hours"),
    keep_daily=AGAIN.format("days"),
    keep_weekly=AGAIN.format("weeks (ISO)"),
    keep_monthly=AGAIN.format("months"),
    keep_yearly=AGAIN.format("years"),
    keep_verified="keep the newest so many that vm.verify_backup found right (default: 1)",
    together="count the backups of all nodes as one set (default: each node's for themselves)",
    from_="prune the copies in this directory of the manager (default: the backups on the nodes)",
    broken="remove also what cannot be used: damaged, of another version, or a delta without its base",
    json="print what becomes of each backup as JSON; sizes in bytes",
)
def prune(
    c: Context, name: str = "", all: bool = False, keep_last: str = "", keep_hourly: str = "", keep_daily: str = "",
    keep_weekly: str = "", keep_monthly: str = "", keep_yearly: str = "", keep_verified: str = "",
    together: bool = False, from_: str = "", broken: bool = False, json: bool = False, conf: str = "",
    dry_run: bool = False,
) -> None:  # fmt: skip
    """Remove the backups that no rule keeps: vm.prune NAME --keep-last 3 --keep-daily 7 [--dry-run]

    The rules are those of Proxmox, in UTC (default: [keep] of pmc.conf). pmc never removes the base of a delta that
    stays, and what is broken only with --broken. It does not ask: look with --dry-run first.
    """
    with opened(conf) as cluster:
        if bool(name) == all:
            raise Refused("vm.prune: name the VM, or give --all")
        if name:
            requirements.check_name("vm.prune", name)
        flags = dict(last=keep_last, hourly=keep_hourly, daily=keep_daily, weekly=keep_weekly, monthly=keep_monthly,
                     yearly=keep_yearly, verified=keep_verified)  # fmt: skip
        keep = plans.rules(flags, cluster.settings)
        if from_ and broken:
            # What a delta needs may lie on a node, and need only be copied.
            raise Refused("--broken: not with --from; what cannot be used there is left as it is")
        dry, rows, failed = bool(dry_run or c.config.run.dry), list[Decision](), list[str]()
        state: ClusterState | None = None
        if from_:
            directory = str(here("--from", from_))
            found, unseen = retention.by_vm(lookups.kept(directory, name)), list[str]()
            work = partial(_copies, cluster, directory)
        else:
            state = cluster.state(beside=lookups.backups(cluster, name))
            found, unseen = retention.by_vm(lookups.stored(state)), [node.name for node in state if node.down]
            work = partial(_pruned, c, cluster, state)
        if not found:
            if state:
                heard(state)
            _none(name, state, from_)
        how = How(keep, broken, together, unseen, dry, json)
        for vm, stored in found.items():
            cluster.go_on(vm)
            try:
                rows += work(vm, stored, how)
            except PmcError as error:
                if name or cluster.stop.is_set():
                    raise
                note(str(error))
                failed.append(vm)
        if json:
            show(document(rows))
        if failed:
            raise PmcError(f"{len(failed)} of {len(found)} were not pruned: {', '.join(failed)}")
        if state:
            complain(state)


def _copies(cluster: Cluster, directory: str, vm: str, stored: Sequence[Stored], how: How) -> list[Decision]:
    """As `_pruned`, those in a directory of the manager."""
    decisions, settings = how.decide(stored), replace(cluster.settings, backup_dir=directory)
    if how.dry or not any(each.action == REMOVE for each in decisions):
        _tell(vm, decisions, how)
        if how.dry and not how.json:
            show_script(cluster.script(plans.prune(vm, decisions, settings)))
    else:
        # A vm.backup may be copying a delta there that needs a base.
        with cluster.lock(f"vm.prune {vm}", vm), cluster.interruptible():
            decisions = how.decide(retention.by_vm(lookups.kept(directory, vm)).get(vm, []))
            _tell(vm, decisions, how)
            _here(remove_unfinished(directory, vm), f"remove what is unfinished in {directory}")
            plan = plans.prune(vm, decisions, settings)
            cluster.begin(plan)
            for step in plan.steps:
                cluster.go_on()
                _here(step.do, step.note)
    return decisions


def _here(action: Action, what: str) -> None:
    """On this machine, and always to its end: else it would leave half a backup."""
    assert isinstance(action, Command)  # noqa: S101
    try:
        manager.run(action)
    except CommandFailed as error:
        raise PmcError(f"{what}: {error.stderr or error.exit}; what was removed before stays removed") from None


def _none(name: str, state: ClusterState | None, directory: str) -> None:
    if name and not state:
        raise Refused(
            f"vm.prune {name}: --from {directory}: no backup of it",
            next=f"fab vm.backups --from {shlex.quote(directory)}",
        )
    if name and state and name not in state.vm_names():
        raise Refused(
            f"vm.prune {name}: no such VM, and no backup of one on the nodes that answer", next="fab vm.backups"
        )
    note(f"{name} has no backups" if name else "there are no backups")


@dataclass(frozen=True)
class How:
    """What vm.prune was asked for; `unseen`: the nodes that do not answer."""

    keep: Keep
    broken: bool
    together: bool
    unseen: Sequence[str]
    dry: bool
    json: bool

    def decide(self, stored: Sequence[Stored]) -> list[Decision]:
        return retention.decide(stored, self.keep, self.unseen, self.broken, self.together)


def _pruned(
    c: Context, cluster: Cluster, state: ClusterState, vm: str, stored: Sequence[Stored], how: How
) -> list[Decision]:
    """What becomes of each backup of one VM. When one goes, the VM is locked and they are looked at again."""
    decisions = how.decide(stored)
    if how.dry or not any(each.action == REMOVE for each in decisions):
        _tell(vm, decisions, how)
        if how.dry and not how.json:
            show_script(cluster.script(plans.prune(vm, decisions, cluster.settings)))
    else:
        there = list(dict.fromkeys(each.node for each in stored))
        with vm_lock.locked(cluster, f"vm.prune {vm}", [vm], state, there, beside=lookups.backups(cluster, vm)) as (
            _,
            now,
        ):
            # What it keeps is not seen any more, and may be the base or the delta that another node's needs.
            if lost := [node for node in now if node.down and node.name not in how.unseen]:
                raise NodeDown(f"{vm}: not pruned: " + "; ".join(f"{node.name}: {node.down}" for node in lost))
            decisions = how.decide(retention.by_vm(lookups.stored(now)).get(vm, []))
            _tell(vm, decisions, how)
            carry_out(c, cluster, plans.prune(vm, decisions, cluster.settings), how.dry)
    return decisions


def _tell(vm: str, decisions: Sequence[Decision], how: How) -> None:
    """The table; before a plan that is shown as commands, as comments of the shell."""
    if not how.json:
        text = table(decisions, plans.COLUMNS)
        show("\n".join(f"# {line}" for line in text.splitlines()) if how.dry else text)
    note(plans.told(vm, decisions))
