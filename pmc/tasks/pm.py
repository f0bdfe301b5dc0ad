"""pm.*: the nodes (physical machines)."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from invoke.context import Context

from pmc import drbd
from pmc.cluster import Cluster
from pmc.errors import Interrupted, NodeDown, PmcError, Refused, StepFailed
from pmc.health import node_checks
from pmc.health.node_checks import About, Finding, Seen
from pmc.lock_files import INIT
from pmc.model import ClusterState, NodeState
from pmc.plan import Plan
from pmc.plans import node_keys
from pmc.plans import pm as plans
from pmc.plans.node_keys import Keys
from pmc.tasks.base import carry_out, located, lock, opened, task
from pmc.transport.node import WORKERS, Node
from pmc.view.output import document, note, show, show_script, table
from pmc.view.rows import PM_COLUMNS, pm_rows


@task()
def ls(c: Context, json: bool = False, conf: str = "") -> None:
    """List the nodes: state, VMs, memory, volume group, DRBD resources by state"""
    with opened(conf) as cluster:
        state = cluster.state(last=True)
        rows = pm_rows(state)
        show(document(rows) if json else table(rows, PM_COLUMNS))
        for node in state:
            if node.prints:
                note(f"{node.name}: a login script prints {node.prints!r}; fab pm.init {node.name} says what to fix")
        if trouble := [f"{node.name}: {node.trouble}" for node in state if node.trouble]:
            raise PmcError("\n".join(trouble))


@task(place="nodes", nodes="a node, several with commas between them, or all", fix="fix what is safe to fix")
def init(
    c: Context, nodes: str = "", fix: bool = False, json: bool = False, conf: str = "", dry_run: bool = False
) -> None:
    """Check nodes, and say how to fix what fails: pm.init NODE [--fix]

    One line a check. --fix makes the backup directory, has DRBD and libvirt start at boot, sets LVM's global_filter if
    none is set, and lets the nodes' roots into each other by ssh, host keys checked. The rest is printed as commands.
    """
    with opened(conf) as cluster:
        chosen = _chosen(cluster, nodes)
        lock(c, cluster, dry_run or not fix, INIT)
        found = _examine(cluster, chosen)
        if fix:
            plan = plans.init(found)
            if not carry_out(c, cluster, plan, dry_run):
                return
            found = _examine(cluster, chosen) if plan.steps else found
        _show(found, json)
        failed = [finding for finding in found if not finding.verdict.ok]
        if failed:
            raise PmcError(f"{len(failed)} of {len(found)} checks failed")


def _chosen(cluster: Cluster, nodes: str) -> list[str]:
    if not nodes:
        raise Refused("pm.init: name a node, several with commas between them, or all")
    if nodes == "all":
        return list(cluster.nodes)
    return list(dict.fromkeys(cluster.settings.node("pm.init", name).name for name in nodes.split(",")))


def _examine(cluster: Cluster, chosen: Sequence[str]) -> list[Finding]:
    """Asks the chosen nodes everything, and the others for their keys: ssh takes two. Where the manager cannot log in
    the others need not try: it would cost each of them its time, and tell nothing."""
    down = {name: why for name, why in zip(cluster.nodes, cluster.on_all(_why_down), strict=True) if why}
    up = [name for name in cluster.nodes if name not in down]
    answers: list[tuple[Seen, Keys | str]] = [
        (Seen(About(name, cluster.settings), down=why), why) for name, why in down.items()
    ]
    answers += cluster.on_all(lambda node: _ask(node, chosen, up), up)
    seen = [seen for seen, _ in answers if seen.about.node in chosen]
    keys = {seen.about.node: keys for seen, keys in answers}
    found = node_checks.findings(seen)
    for one in (each for each in seen if not each.down):
        node = one.about.node
        found += [node_keys.judged(node, peer, keys, cluster.settings) for peer in cluster.nodes if peer != node]
    return sorted(found, key=lambda finding: chosen.index(finding.node))


def _why_down(node: Node) -> str:
    try:
        node.connection.open()
        return ""
    except PmcError as error:
        return str(error).removeprefix(f"{node.name}: ")


def _ask(node: Node, chosen: Sequence[str], up: Sequence[str]) -> tuple[Seen, Keys | str]:
    about = About(node.name, node.settings)
    # Those after itself first: not all nodes shall knock at the same one.
    nodes = list(node.settings.nodes.values())
    own = [each.name for each in nodes].index(node.name)
    there = [name for name in up if node.name in chosen or name in chosen]
    peers = [peer for peer in nodes[own + 1 :] + nodes[:own] if peer.name in there]
    mine = node_checks.questions(about) if node.name in chosen else []
    try:
        node.connection.open()  # before the clock is read: a login takes its time
        began = time.time()
        *answers, keys = node.ask_each(
            *mine, node_keys.query(peers), seconds=node.settings.deadlines.command + node_keys.longest(peers)
        )
        about = replace(about, asked=(began, time.time()))
    except PmcError as error:
        why = str(error).removeprefix(f"{node.name}: ")
        return Seen(about, down=why), why
    return Seen(about, tuple(answers), prints=node.prints), keys if isinstance(keys, Keys) else str(keys)


def _show(found: Sequence[Finding], json: bool) -> None:
    if json:
        show(document(found))
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ✓ shall still tell
    for finding in found:
        show(node_checks.line(finding))


@task(place="node", node="the node (default: all)")
def ready_drbd(c: Context, node: str = "", json: bool = False, conf: str = "", dry_run: bool = False) -> None:
    """After a boot: bring DRBD up and wait until it is connected: pm.ready_drbd [NODE]

    On all nodes pmc loads DRBD's module, activates the volumes and brings up every resource that is not up. Then it
    waits until both sides are Connected and UpToDate, and gives up when nothing gets better for deadlines.peer seconds.
    It may be run again at any time.
    """
    with opened(conf) as cluster:
        names = [cluster.settings.node("pm.ready_drbd", node).name] if node else list(cluster.nodes)
        state = cluster.state()
        if node and state.nodes[node].down:
            raise NodeDown(f"{node}: {state.nodes[node].down}")
        todo = plans.ready_all(names, state, cluster.settings)
        if todo.plans:
            # Somebody may be making or removing one of these VMs right now: look again when that is over.
            asleep = sorted({vm for name in names for vm in plans.asleep(state.nodes[name])})
            state = located(c, cluster, dry_run, *asleep, first=state)
            if not asleep:  # only the node itself is made ready
                lock(c, cluster, dry_run, INIT)
            # What fell asleep since then is not locked: the next run's.
            todo = plans.ready_all(names, state, cluster.settings, asleep)
        if dry_run or c.config.run.dry:
            for each in todo.plans:
                show_script(cluster.script(each))
            if not todo.plans:
                show("# nothing to do")
            if unseen := [f"{name}: {why}" for name in names if (why := plans.unknown(state.nodes[name]))]:
                raise PmcError("\n".join(unseen))
            return
        failures = _brought_up(cluster, todo)
        for taken in cluster.locked:
            taken.release()  # all that follows is looked at, and it may be for hours
        sides = _settled(cluster, state, names)
        show(document(sides) if json else table(sides, plans.READY_COLUMNS))
        seconds = cluster.settings.deadlines.peer
        troubled = [
            f"{side.node}: {side.resource or 'DRBD'}: {side.note}{plans.late(side, seconds)}"
            for side in sides
            if side.note
        ]
        if failures or troubled:
            raise PmcError("\n".join([*failures, *troubled]))


def _brought_up(cluster: Cluster, todo: plans.Ready) -> list[str]:
    """What failed. Nodes side by side, what is for one of them in turn."""
    with cluster.interruptible():
        done = [_attempt(cluster, each) for each in todo.closing]
        nodes = [each for each in todo.nodes if each]
        work = lambda each: [_attempt(cluster, plan) for plan in each]  # noqa: E731
        for failures in cluster.at_once(work, nodes, min(WORKERS, max(1, len(nodes)))):
            done += failures
    return [failure for failure in done if failure]


def _attempt(cluster: Cluster, plan: Plan) -> str:
    """What failed, if something did: the other resources are brought up all the same. Ctrl-C ends it all."""
    try:
        cluster.apply(plan)
    except StepFailed as error:
        if isinstance(error.__cause__, Interrupted):
            raise
        return str(error)
    return ""


def _settled(cluster: Cluster, state: ClusterState, names: Sequence[str]) -> list[plans.Side]:
    """Asks the nodes until no side can be expected to become better, or nothing did for `deadlines.peer` seconds."""
    best, since = plans.Best(), time.monotonic()
    while True:
        # From the first look each time: a node whose ssh failed once is asked again.
        sides, now = plans.sides(_looked(cluster, state, names), names), time.monotonic()
        best, better = best.after(sides)
        since = now if better else since
        if not any(side.waiting for side in sides) or now - since > cluster.settings.deadlines.peer:
            return sides
        cluster.go_on()
        time.sleep(0.5)


def _looked(cluster: Cluster, before: ClusterState, names: Sequence[str]) -> ClusterState:
    """The same state with DRBD as it is now on the nodes `names` that answered."""
    known = [name for name in names if not plans.unknown(before.nodes[name])]
    now = cluster.on_all(lambda node: _status(node, before.nodes[node.name]), known)
    return ClusterState({**before.nodes, **{node.name: node for node in now}})


def _status(node: Node, before: NodeState) -> NodeState:
    try:
        return replace(before, resources=node.ask(drbd.status())[0])
    except PmcError as error:
        return NodeState(node.name, down=str(error).removeprefix(f"{node.name}: "))
