"""vm.failover and pm.evacuate: when a node is dead, and when it shall have nothing to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pmc import fence
from pmc.cluster import Cluster
from pmc.errors import PmcError, Refused
from pmc.model import ClusterState
from pmc.plans import evacuate as evacuations
from pmc.plans import failover as plans
from pmc.plans import refuse
from pmc.plans import vm as moves
from pmc.plans.evacuate import Evacuation, Leaving
from pmc.tasks.base import carry_out, confirm, lock, opened, task
from pmc.tasks.moving import BANDWIDTH, COLUMNS, PAUSE, Row, attempt, failed, hurried, moved_unless_stopped, row
from pmc.view import note, show, table

DEAD = "its power is really off: the name of the dead node, in place of being asked for it"


@task(place="name", name="the VM", dead=DEAD)
def failover(c: Any, name: str = "", dead: str = "", conf: str = "", dry_run: bool = False) -> None:
    """Start a VM on its other node when its node is dead: vm.failover NAME [--dead NODE]

    Refused when there is any sign of life. No sign of life is no proof of death: unless the node's fence command
    (pmc.conf) succeeds, you are asked to make sure that its power is off and to type its name.
    """
    with opened(conf) as cluster:
        refuse.check_name("vm.failover", name)
        if dead:
            cluster.settings.node("--dead", dead)
        lock(c, cluster, dry_run, name)
        state = cluster.state()
        node, survivor = plans.homes(name, state)
        plan = plans.failover(name, state, cluster.settings)
        facts = _seen(cluster, state, node, {survivor: [name]})
        if dry_run or c.config.run.dry:
            show(_how_proved(cluster, node))
        else:
            _prove(cluster, node, [name], facts, dead, state)
        if carry_out(c, cluster, plan, dry_run):
            note(f"{name} runs on {survivor}; when {node} is back: fab pm.ready_drbd, then fab vm.mv {name}")


@task(
    place="node",
    node="the node that shall run no VM",
    parallel="how many VMs move at the same time (2)",
    failover="the node is dead: start its VMs on their other nodes",
    dead=f"with --failover: {DEAD}",
    bandwidth=BANDWIDTH,
    pause_after=PAUSE,
)
def evacuate(
    c: Any, node: str = "", parallel: str = "2", failover: bool = False, dead: str = "", bandwidth: str = "",
    pause_after: str = "", conf: str = "", dry_run: bool = False,
) -> None:  # fmt: skip
    """Move everything off a node, live, the largest VM first: pm.evacuate NODE [--parallel N] [--failover]

    Refused before the first move when the other nodes have no memory for all of them together. Goes on past a VM
    that fails and reports at the end. VMs that are off are left.
    """
    with opened(conf) as cluster:
        cluster.settings.node("pm.evacuate", node)
        if not parallel.isascii() or not parallel.isdigit() or not 1 <= int(parallel) <= 32:
            raise Refused(f"--parallel {parallel[:70]!r}: must be a number from 1 to 32")
        if dead and (not failover or dead != node):
            raise Refused(f"--dead {dead[:70]!r}: goes with --failover, and names the same node")
        if failover and (bandwidth or pause_after):
            raise Refused("--bandwidth and --pause-after: go with live migrations, not with --failover")
        cluster.settings = hurried(cluster.settings, bandwidth, pause_after)
        state = cluster.state()
        dry = bool(dry_run or c.config.run.dry)
        work: Callable[[Leaving], Row]
        if failover:
            first = [each.name for each in evacuations.start_all(node, (), state, cluster.settings).leaving]
            lock(c, cluster, dry, *first)
            wanted = _dead(cluster, cluster.state(), node, dead, dry, first)
            work = lambda each: _attempt(each, lambda: _start(cluster, each))  # noqa: E731
        else:
            wanted = evacuations.move_all(node, state, cluster.settings)
            work = lambda each: _attempt(each, lambda: _move(cluster, each, state))  # noqa: E731
        for name in wanted.off:
            note(f"{name} is off and is left")
        if dry:
            for each in wanted.leaving:
                show(str(each.plan) if failover else f"{each.plan}\n{moves.closing(each.name, state)}")
            for name, why in wanted.staying.items():
                show(f"# {name} stays: {why}")
            return
        with cluster.interruptible():
            rows = cluster.at_once(work, wanted.leaving, int(parallel))
            _report(node, wanted, rows)


def _report(node: str, wanted: Evacuation, rows: list[Row]) -> None:
    rows = [*rows, *(row(name, node, "", f"stays: {why}") for name, why in wanted.staying.items())]
    if not rows:
        note(f"{node} has nothing that could leave it")
        return
    show(table(rows, False, COLUMNS))
    if names := failed(rows):
        raise PmcError(f"{len(names)} of {len(rows)} did not leave {node}: {', '.join(names)}")


def _attempt(each: Leaving, work: Callable[[], tuple[str, str]]) -> Row:
    return attempt(each.name, each.source, each.target, work)


def _move(cluster: Cluster, each: Leaving, first: ClusterState) -> tuple[str, str]:
    return moved_unless_stopped(cluster, each.name, first, each.target, prefix=each.name)


def _start(cluster: Cluster, each: Leaving) -> tuple[str, str]:
    cluster.apply(each.plan, prefix=each.name)
    return "started", ""


def _dead(cluster: Cluster, state: ClusterState, node: str, dead: str, dry: bool, locked: Sequence[str]) -> Evacuation:
    """What starts elsewhere, of the VMs that are locked, after one proof of the node's death for all of it."""
    wanted = evacuations.start_all(node, (), state, cluster.settings, locked)
    if not wanted.leaving:
        return wanted
    places: dict[str, list[str]] = {}
    for each in wanted.leaving:
        places.setdefault(each.target, []).append(each.name)
    facts = _seen(cluster, state, node, places)
    wanted = evacuations.start_all(node, _off(facts), state, cluster.settings, locked)
    if dry:
        show(_how_proved(cluster, node))
    elif wanted.leaving:
        _prove(cluster, node, [each.name for each in wanted.leaving], facts, dead, state)
    return wanted


Facts = dict[str, plans.Lost]  # by VM


def _seen(cluster: Cluster, state: ClusterState, dead: str, places: dict[str, list[str]]) -> Facts:
    """Asks each survivor about the dead node; refused when one sees it alive."""
    query = plans.peer(dead, cluster.settings)
    facts: Facts = {}
    seen = cluster.on_all(lambda node: node.ask(query)[0], places)
    for (survivor, names), one in zip(places.items(), seen, strict=True):
        plans.alive(dead, survivor, names, state, one)
        facts.update({name: one.lost[name] for name in names if name in one.lost})
    return facts


def _off(facts: Facts) -> Iterable[str]:
    return [name for name, lost in facts.items() if not lost.in_use]


def _how_proved(cluster: Cluster, dead: str) -> str:
    spec = cluster.settings.nodes[dead]
    how = (
        f"the manager runs its fence command, {fence.program(spec)}" if spec.fence else "you are asked to type its name"
    )
    return f"# first {dead} must be proved dead: {how}"


def _prove(cluster: Cluster, node: str, names: Sequence[str], facts: Facts, dead: str, state: ClusterState) -> None:
    """By the node's fence command, else by a person's word. Where it is not known since when the link is lost, or it is
    long ago, the disk may be an old one, which no fence command can tell: asked before the power is taken away."""
    spec = cluster.settings.nodes[node]
    if dead and dead != node:
        raise Refused(f"--dead {dead}: the node that does not answer is {node}; nothing was touched")
    for name in (name for name in names if name not in facts):
        note(f"{name}: its other node has no record since its boot of when the link was lost; the disk may be old")
    old = [name for name in names if name not in facts or facts[name].ago > plans.FRESH]
    if away := [each.name for each in state if each.trouble and each.name != node]:
        note(f"{', '.join(away)} cannot be asked either; a second copy that vm.peer made there would be the newer one")
    for name, lost in facts.items():
        text = f"{name}: lost {node} at {lost.since}"
        note(f"{text}; what {node} wrote after that, if it still ran, is not on the other node")
    if spec.fence:
        if old and not dead:
            confirm(f"the disk of {', '.join(old)} may be old", node, f"if you know that it is not, give --dead {node}")
        note(f"fence {node}: {fence.program(spec)}")
        try:
            fence.run(spec, cluster.settings.deadlines.fence)
            return
        except PmcError as error:
            if not dead:
                raise
            note(f"{error}\n  Going on all the same: --dead {node} says that it is off")
    if dead:
        return
    confirm(
        f"{node} gives no sign of life, but that is no proof: a cut network looks the same, and a VM that runs on both "
        f"nodes destroys its disk. Make sure that the POWER of {node} is OFF",
        node,
        f"once its power is really off, give --dead {node}",
    )
