"""vm.repair: one condition after the other is fixed, each after another look, until nothing is left to fix."""

from __future__ import annotations

import json as json_
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from invoke.context import Context

from pmc import drbd
from pmc.cluster import Cluster
from pmc.errors import Interrupted, PmcError, Refused, StepFailed
from pmc.model import ClusterState
from pmc.plans import repair as plans
from pmc.plans import requirements, split_brain, split_brain_snapshot
from pmc.plans.repair_context import Condition, RepairContext, RepairOptions
from pmc.tasks import lookups, vm_lock
from pmc.tasks.base import carry_out, confirm, located, opened, task, typed
from pmc.units import show_size
from pmc.view.output import note, show, show_script, table

ROUNDS = 20  # more than a VM can have conditions: one that comes back for ever must end


@task(
    place="name",
    name="the VM",
    keep="after a split brain: the node whose data stays; the other node's writes since then are overwritten",
    no_snapshot="keep no snapshot of the copy that is overwritten",
    new_disk="where DRBD lost its disk: make a new volume, and copy all of it from the other node",
    drop="repair nothing; remove this snapshot of an overwritten copy (vm.backups lists them)",
    json="print what is wrong as JSON; repair nothing",
)
def repair(
    c: Context, name: str = "", keep: str = "", no_snapshot: bool = False, new_disk: bool = False, drop: str = "",
    yes: bool = False, json: bool = False, conf: str = "", dry_run: bool = False,
) -> None:  # fmt: skip
    """Repair a VM's replication, definitions or disks: vm.repair NAME [--keep NODE]

    pmc shows a split brain, and repairs it when you say whose data stays; it keeps a snapshot of the other copy.
    What a person must decide, pmc says and leaves as it is.
    """
    with opened(conf) as cluster:
        requirements.check_name("vm.repair", name)
        if keep:
            cluster.settings.node("--keep", keep)
        state = located(c, cluster, dry_run or json, name, beside=lookups.RUNNING)
        sure = yes or dry_run or bool(c.config.run.dry)
        if drop:
            return _drop(c, cluster, name, drop, state, sure, dry_run)
        wishes = RepairOptions(datetime.now(UTC), keep, not no_snapshot, new_disk)
        case, found = _judged(cluster, name, wishes, state)
        if away := [node.name for node in state if node.trouble and node.name not in case.homes]:
            note(f"{', '.join(away)} cannot be asked, so what is there of {name}, if anything, is not known")
        if json:
            facts = [{"code": a.code, "text": a.text, "refused": a.refusal, "steps": len(a.steps)} for a in found]
            sides = [side.json() for side in split_brain.sides(case)]
            return show(json_.dumps({"vm": name, "conditions": facts, "sides": sides}, indent=2))
        if any(each.code == split_brain.CODE for each in found):
            told = table(split_brain.sides(case), split_brain.COLUMNS)
            dry = dry_run or c.config.run.dry  # then what is no command is a comment
            show("\n".join(f"# {line}" for line in told.splitlines()) if dry else told)
            if said := split_brain.clocks(case):
                note(said)
            if not keep and not sure and sys.stdin is not None and sys.stdin.isatty():
                wishes = replace(wishes, keep=_chosen(case))
                case, found = _judged(
                    cluster, name, wishes, vm_lock.refresh_vm(cluster, state, name, beside=lookups.RUNNING)
                )
        if refused := [each.refusal for each in found if each.refusal]:
            raise Refused(f"{name}: {refused[0]}")
        if dry_run or c.config.run.dry:
            again = "# vm.repair looks again after each plan, and repairs what is left then"
            shown = cluster.script(*(each.plan(name) for each in found), first=[again] * (len(found) > 1))
            return show_script(shown or f"# {name}: nothing to repair")
        asks = {each.ask for each in found if each.ask}
        for ask in sorted(asks) if not yes else ():
            confirm(ask, name)
        with cluster.interruptible():
            _fix_each(cluster, case, found, wishes, asks if not yes else None)


def _judged(
    cluster: Cluster, name: str, wishes: RepairOptions, state: ClusterState
) -> tuple[RepairContext, list[Condition]]:
    homes = plans.homes(name, state, cluster.settings)
    about = lookups.sides(cluster, state, name, homes)
    case = RepairContext(name, homes, state, about, cluster.settings, wishes)
    return case, plans.conditions(name, state, about, cluster.settings, wishes)


def _chosen(case: RepairContext) -> str:
    note(f"Whose data stays? The other side's is overwritten (a snapshot is kept). Type {' or '.join(case.homes)}:")
    answer = typed()
    if answer not in case.homes:
        raise Refused("none of the two was chosen; nothing was touched")
    return answer


def _fix_each(
    cluster: Cluster, case: RepairContext, found: list[Condition], wishes: RepairOptions, asked: set[str] | None
) -> None:
    """The first condition is fixed, then one looks again: nothing is done that was not just seen to be needed. What
    must be confirmed and was not (`asked`; None: all is) ends it."""
    name, done = case.name, list[Condition]()
    if not found:
        return note(f"{name}: nothing to repair")
    while found:
        first = found[0]
        if first.refusal or (first.steps and first.text in [each.text for each in done]) or len(done) > ROUNDS:
            raise PmcError(f"{name}: {first.refusal or f'still: {first.text}; {first.advice}'}")
        if first.ask and asked is not None and first.ask not in asked:
            raise PmcError(f"{first.ask}: run this again to decide it")
        note(f"{name}: {first.text}")
        done.append(first)
        if first.steps:
            try:
                cluster.apply(first.plan(name))
            except StepFailed as error:
                raise PmcError(f"{error}\n  {first.advice}" if first.advice else str(error)) from error
        stalled = _watch(cluster, name, case.homes)
        if first.code == split_brain.CODE:
            _tell(cluster, case)
        wishes = replace(wishes, stalled=stalled, keep="" if first.code == split_brain.CODE else wishes.keep)
        case, found = _judged(
            cluster, name, wishes, vm_lock.refresh_vm(cluster, case.state, name, beside=lookups.RUNNING)
        )
    note(f"{name} is whole again")


def _watch(cluster: Cluster, name: str, homes: Sequence[str]) -> bool:
    """Until both sides are equal, or one needs fixing. True: nothing got better for `deadlines.peer` seconds."""
    best, since, told = (-1, -1, 0), time.monotonic(), time.monotonic()
    while True:
        resources = [cluster.ask(home, drbd.status(name))[0].get(name) for home in homes]
        if plans.outlook(resources) != plans.WAITS:
            return False
        now = time.monotonic()
        if (score := plans.score(resources)) > best:
            best, since = score, now
        if now - since > cluster.settings.deadlines.peer:
            return True
        if now - told > 10:
            told = now
            note(f"{name}: {min(r.percent for r in resources if r):.1f} % in sync")
        if cluster.stop.wait(0.5):
            raise Interrupted()


def _tell(cluster: Cluster, case: RepairContext) -> None:
    """How much was copied, and what became of the side that lost."""
    about = lookups.sides(cluster, case.state, case.name, case.homes)
    size = max((r.size for home in case.homes if (r := case.resource(home))), default=0)
    if (copied := split_brain.copied(list(about.values()))) is not None:
        note(f"{case.name}: {show_size(copied)} of {show_size(size)} were copied")
    for each in split_brain_snapshot.snapshots(vm_lock.refresh_vm(cluster, case.state, case.name), case.name):
        note(split_brain_snapshot.advice(each, cluster.settings))


def _drop(
    c: Context, cluster: Cluster, name: str, snapshot: str, state: ClusterState, sure: bool, dry_run: bool
) -> None:
    plan = split_brain_snapshot.drop(name, snapshot, state, cluster.settings)
    if not sure:
        confirm(f"{snapshot} is removed for good, and with it what that side wrote", name)
    if carry_out(c, cluster, plan, dry_run):
        note(f"{snapshot} is removed")
