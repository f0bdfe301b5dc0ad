"""vm.failover and pm.evacuate: when a node is dead, and when it shall have nothing to do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from invoke.context import Context

from pmc import drbd
from pmc.cluster import Cluster
from pmc.errors import Refused
from pmc.model import ClusterState
from pmc.paste import comment
from pmc.plans import close_migration, failover_restore, requirements, saved_memory
from pmc.plans import evacuate as evacuations
from pmc.plans import failover as plans
from pmc.plans.evacuate import Evacuation, Move, Outcome
from pmc.tasks import fencing, lookups
from pmc.tasks.base import carry_out, complain, lock, opened, task
from pmc.tasks.migrate import (
    BANDWIDTH,
    PARALLEL,
    PAUSE,
    Work,
    move_each,
    move_many,
    overrides,
    parse_parallel,
    report,
)
from pmc.view.output import note, show_script

DEAD = "confirm that this node is dead: its power is off, or it hangs and has a fence command (default: you are asked)"


DISCARD = "throw away the memory of it that libvirt has saved on any node (virsh managedsave)"


@task(place="name", name="the VM", dead=DEAD, discard_saved=DISCARD)
def failover(
    c: Context, name: str = "", dead: str = "", discard_saved: bool = False, conf: str = "", dry_run: bool = False
) -> None:
    """Start a VM on its other node when its node is dead: vm.failover NAME [--dead NODE]

    pmc refuses while the node gives any sign of life. It goes on when you give --dead and the node has a fence
    command (pmc.conf), which cuts its power first. Silence is no proof of death: without a fence command that
    succeeds, pmc asks you to make sure that the power is off, and to type the node's name.
    """
    with opened(conf) as cluster:
        requirements.check_name("vm.failover", name)
        if dead:
            cluster.settings.node("--dead", dead)
        hangs = plans.hangs(dead, cluster.settings)
        lock(c, cluster, dry_run, name, but=hangs)
        state = cluster.state()
        node, survivor = plans.homes(name, state, cluster.settings, hangs)
        # Of a restore that was interrupted: what it kept is put back first.
        its = state.nodes[survivor].resources.get(name) if failover_restore.kept(name, survivor, state) else None
        size = cluster.ask(survivor, drbd.size_of(its.minor))[0] if its else 0
        plan = plans.failover(name, state, cluster.settings, hangs=hangs, discard=discard_saved, size=size)
        places = {survivor: [name]}
        sight = fencing.observe(cluster, state, node, places, hangs)
        failover_restore.not_in_use(name, survivor, state, name in sight.facts and sight.facts[name].in_use)
        if size:
            note(f"{name}: a restore into its disk was interrupted; the disk becomes again what it was before that")
        if dry_run or c.config.run.dry:
            fencing.tell_stale_copies([name], state)
        else:
            fencing.prove(cluster, node, [name], sight, dead, state)
            if sight.signs:
                state = fencing.silent(cluster, node, places)
                plan = plans.failover(name, state, cluster.settings, discard=discard_saved, size=size)
        if carry_out(c, cluster, plan, dry_run, first=fencing.how(cluster, node, sight)):
            alone = any(failover_restore.ALONE in step.note for step in plan.steps)
            also = f", fab vm.restore {name} --put-back (its copy is marked still)" if alone else ""
            note(f"{name} runs on {survivor}; when {node} is back: fab pm.ready_drbd{also}, then fab vm.mv {name}")


@task(
    place="node",
    node="the node to empty",
    parallel=PARALLEL,
    failover="the node is dead: start its VMs on their other nodes",
    dead=f"with --failover: {DEAD}",
    discard_saved=f"with --failover: {DISCARD}",
    bandwidth=BANDWIDTH,
    pause_after=PAUSE,
)
def evacuate(
    c: Context, node: str = "", parallel: str = "2", failover: bool = False, dead: str = "",
    discard_saved: bool = False, bandwidth: str = "", pause_after: str = "", conf: str = "", dry_run: bool = False,
) -> None:  # fmt: skip
    """Move everything off a node, live, the largest VM first: pm.evacuate NODE [--parallel N] [--failover]

    pmc refuses before the first move when the other nodes have no memory for all of them. When one fails, the others
    still move; the end says which failed. VMs that are off stay.
    """
    if failover and (bandwidth or pause_after):
        raise Refused("--bandwidth and --pause-after: go with live migrations, not with --failover")
    with opened(conf, overrides(bandwidth, pause_after, live=not failover)) as cluster:
        cluster.settings.node("pm.evacuate", node)
        most = parse_parallel(parallel)
        if dead and (not failover or dead != node):
            raise Refused(f"--dead {dead[:70]!r}: goes with --failover, and names the same node")
        if discard_saved and not failover:
            raise Refused("--discard-saved: goes with --failover; a VM that runs needs no boot")
        state = cluster.state(beside=lookups.RUNNING)
        dry = bool(dry_run or c.config.run.dry)
        work: Work
        if failover:
            hangs = plans.hangs(dead, cluster.settings)
            every = evacuations.start_all(node, (), state, cluster.settings, hangs=hangs, discard=discard_saved)
            first = [each.name for each in every.leaving]
            lock(c, cluster, dry, *first, but=hangs)
            wanted, proof = _dead(cluster, cluster.state(), node, dead, dry, first, discard_saved)
            work = partial(_start, cluster)
        else:
            wanted, proof = evacuations.move_all(node, state, cluster.settings), list[str]()
            work = move_each(cluster, state)
        for name in wanted.off:
            note(f"{name} is off and is left{saved_memory.told(name, state)}")
        if dry:
            for each in wanted.leaving:
                closing = [] if failover else [close_migration.planned_close(each.name, each.target, state)]
                show_script(cluster.script(each.plan, *closing, first=proof))
            for name, why in wanted.staying.items():
                show_script(comment(f"{name} stays: {why}"))
        else:
            with cluster.interruptible():
                rows = move_many(cluster, wanted.leaving, most, work)
                _report(node, wanted, rows)
        if failover:  # what only these know is not in it
            complain(ClusterState({each.name: each for each in state if each.name != node}))


def _report(node: str, wanted: Evacuation, rows: list[Outcome]) -> None:
    rows = [*rows, *(Outcome(name, node, "", f"stays: {why}") for name, why in wanted.staying.items())]
    if not rows:
        note(f"{node} has nothing that could leave it")
        return
    report(rows, f"leave {node}")


def _start(cluster: Cluster, each: Move) -> tuple[str, str]:
    cluster.apply(each.plan, prefix=each.name)
    return "started", ""


def _dead(
    cluster: Cluster, state: ClusterState, node: str, dead: str, dry: bool, locked: Sequence[str], discard: bool
) -> tuple[Evacuation, list[str]]:
    """What starts elsewhere, of the VMs that are locked, after one proof of the node's death for all of it; and what a
    dry run says of that."""
    hangs = plans.hangs(dead, cluster.settings)
    start_all = partial(
        evacuations.start_all, node, settings=cluster.settings, locked=locked, discard=discard
    )  # fmt: skip
    wanted = start_all((), state, hangs=hangs)
    if not wanted.leaving:
        return wanted, []
    places: dict[str, list[str]] = {}
    for each in wanted.leaving:
        places.setdefault(each.target, []).append(each.name)
    sight = fencing.observe(cluster, state, node, places, hangs)
    off = fencing.off(sight)
    wanted = start_all(off, state, hangs=hangs)
    names = [each.name for each in wanted.leaving]
    if dry:
        fencing.tell_stale_copies(names, state)
    elif names:
        fencing.prove(cluster, node, names, sight, dead, state)
        if sight.signs:
            wanted = start_all(off, fencing.silent(cluster, node, places))
    return wanted, fencing.how(cluster, node, sight)
