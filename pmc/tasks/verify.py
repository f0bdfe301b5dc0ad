"""pm.verify: look, ask, judge, show. It changes nothing."""

from __future__ import annotations

import time
from dataclasses import replace

from invoke.context import Context

from pmc import drbd
from pmc.actions import Watch
from pmc.cluster import Cluster
from pmc.errors import CommandFailed, InDoubt, Interrupted, NodeDown, PmcError, Refused
from pmc.health import deep as deeply
from pmc.health import verify
from pmc.health.cluster_facts import Facts
from pmc.health.finding import COLUMNS, Finding, grave
from pmc.health.questions import Extra, questions
from pmc.model import ClusterState, NodeState, Resource
from pmc.node_state import said_by
from pmc.plans import requirements
from pmc.tasks import lookups
from pmc.tasks.base import opened, task
from pmc.transport.node import Node
from pmc.view.output import Progress, document, note, show, table

# Seconds between the two looks that tell a resync that gets on from one that does not.
SECOND_LOOK = 5.0


@task(vm="only what is about this VM", deep="compare both copies of each disk, block by block; this takes long")
def verify_(c: Context, vm: str = "", deep: bool = False, json: bool = False, conf: str = "") -> None:
    """Find what is wrong with the cluster, and how to fix it: pm.verify [--vm NAME] [--deep]

    The exit status is 1 when there is an error or a warning, else 0. For the codes: doc verify. --deep runs
    DRBD's online verify on each healthy VM, one after the other. pm.verify changes nothing.
    """
    with opened(conf) as cluster:
        if vm:
            requirements.check_name("--vm", vm)
        state = cluster.state(beside=lookups.RUNNING)
        if vm and not state.knowing(vm):
            requirements.found(state, vm)
        facts = _facts(cluster, state)
        found = verify.findings(facts)
        if deep:
            found += _compared(cluster, facts, vm)
        _show([finding for finding in found if not vm or _about(finding, vm, facts)], facts, json)


def _about(finding: Finding, vm: str, facts: Facts) -> bool:
    """What keeps one of its nodes from telling anything of it is the VM's as well, and what DRBD does there with all;
    and what it shares with another."""
    if finding.vm:
        return finding.vm == vm or (finding.code.startswith("DUPLICATE_") and vm in finding.text.split())
    homes = facts.homes.get(vm)
    return finding.code in ("NODE_DOWN", "NODE_TOOL", "DRBD_MODULE", "FILE_OPTIONS") and (
        not homes or finding.node in homes
    )


def _show(found: list[Finding], facts: Facts, json: bool) -> None:
    if json or found:
        show(document(found) if json else table(found, COLUMNS))
    wrong = [finding for finding in found if grave(finding)]
    looked = f"{len(facts.vms)} VMs on {len(facts.state.nodes)} nodes"
    if wrong:
        raise PmcError(f"{looked}: {len(wrong)} found")
    (note if json else show)(f"{looked}: nothing found{' but notes' if found else ''}")


def _facts(cluster: Cluster, state: ClusterState) -> Facts:
    """One more round trip a node; and only while a resync runs a second look at DRBD, a few seconds later."""
    names = [node.name for node in state.answering]
    extras = cluster.on_all(lambda node: _ask(node, state.nodes[node.name]), names)
    later: dict[str, dict[str, Resource]] = {}
    if any(each.syncing for node in state for each in node.resources.values()):
        time.sleep(SECOND_LOOK)
        later = dict(zip(names, cluster.on_all(_status, names), strict=True))
    return Facts(state, dict(zip(names, extras, strict=True)), cluster.settings, time.time(), later)


def _ask(node: Node, seen: NodeState) -> Extra:
    asked = questions(seen, node.settings)
    began = time.time()
    try:
        answers = dict(zip(asked, node.ask_each(*asked.values()), strict=True))
    except PmcError as error:
        return Extra(failures={"the questions": str(error)})
    failures = {what: said_by(error) for what, error in answers.items() if isinstance(error, CommandFailed)}
    good = {what: answer for what, answer in answers.items() if what not in failures}
    return replace(Extra(failures=failures, asked=(began, time.time())), **good)


def _status(node: Node) -> dict[str, Resource]:
    try:
        found: dict[str, Resource] = node.ask(drbd.status())[0]
        return found
    except PmcError:
        return {}


def _compared(cluster: Cluster, facts: Facts, vm: str) -> list[Finding]:
    chosen = deeply.candidates(facts, vm)
    if vm and not chosen:
        raise Refused(
            f"--deep: {vm} has no second copy that is Connected and UpToDate", next=f"fab pm.verify --vm {vm}"
        )
    found = []
    with Progress() as progress, cluster.interruptible():
        for name, node in chosen.items():
            cluster.go_on(name)
            try:
                if finding := _one(cluster, facts, name, node, progress):
                    found.append(finding)
            except (CommandFailed, InDoubt, NodeDown) as error:
                advice = f"fab pm.verify --vm {name} --deep"
                found.append(Finding("VERIFY_FAILED", str(error), advice, node, name))
    return found


def _one(cluster: Cluster, facts: Facts, vm: str, node: str, progress: Progress) -> Finding | None:
    note(f"{vm}: compare both sides, from {node}")
    first = _pass(cluster, facts, vm, node, progress)
    if deeply.clean(first):
        return None
    note(f"{vm}: what differed is looked at again")
    return deeply.judged(vm, node, first, _pass(cluster, facts, vm, node, progress), facts)


def _pass(cluster: Cluster, facts: Facts, vm: str, node: str, progress: Progress) -> deeply.Pass:
    """Starts it and waits for its end. The kernel goes on when pmc does not wait any longer."""
    seen = facts.state.nodes[node]
    minor, peer = seen.resources[vm].minor, next(home for home in facts.homes[vm] if home != node)
    since = cluster.ask(node, deeply.newest())[0]
    cluster.nodes[node].run(deeply.start(vm, seen.drbd, peer))
    deadline = time.monotonic() + cluster.settings.deadlines.long
    size = seen.resources[vm].size
    with progress.bytes(Watch("bytes", vm, size), size) as bar:
        while True:
            now, done = cluster.ask(node, drbd.status(vm), deeply.done(vm, minor))
            resource = now.get(vm, Resource(vm))
            if not resource.replication.startswith("Verify"):
                break
            bar.at(round(done / 100 * size), size)
            if cluster.stop.wait(1):
                raise Interrupted()
            if time.monotonic() > deadline:
                line = str(deeply.start(vm, seen.drbd, peer))
                raise CommandFailed(node, line, 1, "it did not end within deadlines.long; the kernel goes on with it")
    if not resource.healthy:
        said = f"it was interrupted: now {resource.connection}, {resource.disk}/{resource.peer_disk}"
        raise CommandFailed(node, str(deeply.start(vm, seen.drbd, peer)), 1, said)
    return deeply.Pass(cluster.ask(node, deeply.log(minor, since))[0], resource.out_of_sync)
