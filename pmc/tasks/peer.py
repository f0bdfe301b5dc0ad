"""vm.peer: another second node. Check the words, look, plan, apply, show."""

from __future__ import annotations

from invoke.context import Context

from pmc.errors import Refused
from pmc.lock_files import ALLOCATION
from pmc.plans import peer as plans
from pmc.plans import remove_steps, requirements, split_brain_snapshot
from pmc.tasks import lookups, vm_lock
from pmc.tasks.base import carry_out, confirm, located, lock, opened, task
from pmc.view.output import note


@task(
    place="name",
    name="the VM; it must run",
    secondary="the node for its second copy",
    cleanup="remove a stale copy from a node that the VM no longer lives on; change nothing of the VM",
)
def peer(
    c: Context, name: str = "", secondary: str = "", cleanup: bool = False, yes: bool = False, conf: str = "",
    dry_run: bool = False,
) -> None:  # fmt: skip
    """Give a VM another secondary while it runs: vm.peer NAME --secondary NODE, or vm.peer NAME --cleanup

    For a dead node or disk, or a VM without a second copy. When the new copy is complete, pmc removes the old one, if
    its node answers. After an interruption the same command does what is missing.
    """
    with opened(conf) as cluster:
        requirements.check_name("vm.peer", name)
        if bool(secondary) == cleanup:
            raise Refused("vm.peer: give --secondary NODE or --cleanup")
        sure = yes or dry_run or c.config.run.dry
        if cleanup:
            state = located(c, cluster, dry_run, name)
            plan = remove_steps.cleanup(name, state, cluster.settings)
            stale_copies = " and ".join(state.stale_copies(name))
            if plan.steps and not sure:
                kept = split_brain_snapshot.warning(state, name, state.stale_copies(name))
                confirm(f"the stale copy of {name} on {stale_copies} is removed for good{kept}", name)
            if carry_out(c, cluster, plan, dry_run):
                note(
                    f"{name} has no stale copy on {stale_copies} any more"
                    if plan.steps
                    else f"{name} has no stale copy"
                )
            return
        cluster.settings.node("--secondary", secondary)
        # The copy may need a port that no VM of the cluster has.
        lock(c, cluster, dry_run, name)
        lock(c, cluster, dry_run, ALLOCATION)
        state = cluster.state(allocating=True, beside=lookups.RUNNING)
        change = plans.choose(name, secondary, state, cluster.settings)
        xml, fits = lookups.domain_of(cluster, name, change.primary, secondary)
        if fits is False:
            raise Refused(f"--secondary {secondary}: it cannot give {name} the CPU that it has; choose another node")
        plan = plans.peer(change, xml, lookups.new_secret(), state, cluster.settings)
        if fits is None:
            note(f"{secondary}: libvirt does not tell whether it can give {name} its CPU; try a vm.mv when it is done")
        if change.ask and not sure:
            confirm(change.ask, name)
        if carry_out(c, cluster, plan, dry_run):
            note(f"{name} has its second copy on {secondary}" + ("" if plan.steps else " already"))
            _tell_stale_copies(vm_lock.refresh_vm(cluster, state, name).stale_copies(name), name)


def _tell_stale_copies(nodes: list[str], name: str) -> None:
    for node in nodes:
        note(f"{node} has a stale copy of {name}; fab vm.peer {name} --cleanup removes it")
