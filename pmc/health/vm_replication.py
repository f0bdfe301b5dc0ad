"""Findings about DRBD's resources as the kernels know them. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pmc import drbd, drbd_generations
from pmc.health.cluster_facts import FILES, LIBVIRT, STATUS, Facts
from pmc.health.finding import Finding
from pmc.model import NodeState, Resource
from pmc.plain import then
from pmc.plans import suspended_io


def without_file(facts: Facts) -> Iterator[Finding]:
    for node in facts.telling(STATUS, FILES):
        for vm in sorted(set(node.resources) - set(node.files)):
            others = [home for home in facts.homes[vm] if home != node.name]
            stale = others and node.name not in facts.homes[vm]
            if stale or vm in facts.half_made:
                continue  # a stale copy, or one that vm.rm removes: reported as such
            path = drbd.path(vm)
            lost = "No node that answers has it. Write it again by what DRBD says. Only of a VM that is to go"
            advice = then(f"{lost}: fab vm.rm {vm}", f"on {node.name}: drbdsetup show {vm}")
            if others:
                spec = facts.settings.nodes.get(others[0])
                host = spec.replication if spec else others[0]
                host = f"[{host}]" if ":" in host else host
                copy = f"on {node.name}: scp -p root@{host}:{path} {path}"
                advice = then(f"Copy the file from {others[0]}; it has mode 600", copy)
            yield Finding("DRBD_NO_FILE", f"is up, and there is no {path}", advice, node.name, vm)


def not_up(facts: Facts) -> Iterator[Finding]:
    for vm in facts.whole:
        for node in facts.sides(vm, STATUS, "drbd version"):
            if node.drbd and node.up(vm) is None:
                yield Finding("DRBD_NOT_UP", "is not up", f"fab pm.ready_drbd {node.name}", node.name, vm)


def suspended(facts: Facts) -> Iterator[Finding]:
    for vm in facts.whole:
        for node in facts.sides(vm, STATUS):
            if why := suspended_io.suspended(vm, node):
                text = f"its I/O is suspended ({why}): whatever reads or writes its disk waits for ever"
                yield Finding("DRBD_SUSPENDED", text, suspended_io.remedy(vm, node.name, why), node.name, vm)


def connections(facts: Facts) -> Iterator[Finding]:
    """The worst of what the sides say, once for a VM. A side whose peer is down or not up waits for good reason, and
    that reason is reported."""
    for vm in facts.whole:
        sides = facts.resources(vm)
        apart = [(node.name, now.connection) for node, now in sides if not now.connected]
        if len(facts.homes[vm]) < 2 or not apart:
            continue
        told = " and ".join(f"{state} on {node}" for node, state in apart)
        verdict = _compared(facts, vm)
        if verdict == "split":
            text = f"{told}; both sides have writes that the other lacks"
            yield Finding("DRBD_SPLIT", text, f"fab vm.repair {vm}", vm=vm)
        elif verdict == "unrelated":
            text = f"{told}; the two sides have nothing in common"
            advice = then(
                "pmc does not choose between them; fab doc repair says how to give one up",
                f"on both: drbdadm get-gi {vm}",
            )
            yield Finding("DRBD_UNRELATED", text, advice, vm=vm)
        elif alone := [node for node, state in apart if state == "StandAlone"]:
            text = f"{told}: disconnected by hand, or split brain"
            yield Finding("DRBD_STANDALONE", text, f"fab vm.repair {vm}", ",".join(alone), vm)
        elif len(sides) == len(facts.homes[vm]):
            advice = then("See that the link between the nodes works and carries the port", "fab pm.ready_drbd")
            yield Finding("DRBD_NOT_CONNECTED", told, advice, vm=vm)


def _compared(facts: Facts, vm: str) -> str:
    """See drbd_generations.compare. Empty: it is not known of both."""
    known = [facts.answers(node).generations.get(vm) for node, _ in facts.resources(vm)]
    match known:
        case [drbd_generations.Generation() as one, drbd_generations.Generation() as other]:
            return drbd_generations.compare(one, other)
    return ""


def disks(facts: Facts) -> Iterator[Finding]:
    for vm in facts.whole:
        for node, now in facts.resources(vm):
            if node.up(vm) and (finding := _disk(facts, node, now)):
                yield finding


def _disk(facts: Facts, node: NodeState, now: Resource) -> Finding | None:
    repair = f"fab vm.repair {now.name}"
    if now.diskless:
        text = f"its disk is {now.disk}: it failed, or was detached; the guest lives on the other side's"
        return Finding("DRBD_DISKLESS", text, repair, node.name, now.name)
    if now.syncing:
        later = facts.later.get(node.name, {}).get(now.name)
        if later is not None and later.syncing and later.out_of_sync >= now.out_of_sync:
            text = f"{now.replication}, {now.percent:.1f} % in sync, and no progress between two looks"
            return Finding("DRBD_SYNC_STALLED", text, repair, node.name, now.name)
        text = f"{now.replication}, {now.percent:.1f} % in sync"
        return Finding("DRBD_SYNCING", text, then("It goes on by itself", "fab vm.ls"), node.name, now.name)
    if now.disk == "Inconsistent":
        return Finding("DRBD_INCONSISTENT", "its disk is Inconsistent, and no resync runs", repair, node.name, now.name)
    if now.disk in ("Outdated", "Consistent"):
        text = f"its disk is {now.disk}: it lacks writes, or may"
        return Finding("DRBD_OUTDATED", text, repair, node.name, now.name)
    return None


def out_of_sync(facts: Facts) -> Iterator[Finding]:
    for vm in facts.whole:
        for _, now in facts.resources(vm):
            if now.differs:
                text = f"{now.differs} bytes are marked as different, by a verify or a broken resync"
                yield Finding("DRBD_OUT_OF_SYNC", text, resync(facts, vm), vm=vm)
                break


def resync(facts: Facts, vm: str) -> str:
    """vm.repair copies the marked blocks from the side in use, so there must be one."""
    return f"fab vm.repair {vm}" if facts.state.active_on(vm) else f"fab vm.start {vm} vm.repair {vm}"


def primaries(facts: Facts) -> Iterator[Finding]:
    """What a migration opens and closes. One that is under way at this moment looks the same."""
    for vm in facts.whole:
        active, now = facts.state.active_on(vm), facts.state.primaries(vm)
        cleanup = f"vm.mv {vm} --cleanup"
        stop = f"vm.stop {vm}" if now and not active else ""
        closed = f"fab {stop or cleanup}"
        opened = [node.name for node, each in facts.resources(vm) if each.two_primaries]
        if opened:
            text = f"a migration was interrupted, unless one runs now: allowed on {' and '.join(opened)}"
            advice = " ".join(filter(None, ("fab", stop, cleanup)))
            yield Finding("DRBD_TWO_ALLOWED", text, advice, ",".join(opened), vm)
        if len(now) > 1:
            yield Finding("DRBD_TWO_PRIMARIES", f"primary on {' and '.join(now)}", closed, ",".join(now), vm)
        elif now and now[0] not in active and facts.tells(now[0], LIBVIRT):
            text = f"is primary, and {f'runs on {active[0]}' if active else 'does not run'}"
            yield Finding("DRBD_PRIMARY_IDLE", text, closed, now[0], vm)


def sizes(facts: Facts) -> Iterator[Finding]:
    for vm in facts.whole:
        found = {node.name: now.size for node, now in facts.resources(vm) if now.size}
        if len(set(found.values())) > 1:
            text = " and ".join(f"{size} bytes on {name}" for name, size in found.items())
            sure = "The sides must be Connected (fab pm.ready_drbd)"
            advice = then(sure, f"on {next(iter(found))}: drbdadm resize {vm}")
            yield Finding("DRBD_SIZE", text, advice, vm=vm)


CHECKS = (without_file, not_up, suspended, connections, disks, out_of_sync, primaries, sizes)
