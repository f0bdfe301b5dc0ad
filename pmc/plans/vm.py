"""The life of a VM after it was made: start, stop, move, remove. State in, plan out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pmc import drbd, virsh
from pmc.backup import Stored
from pmc.command import command
from pmc.errors import NodeDown, Refused
from pmc.facts.domain_disks import RUNNING, Running
from pmc.model import ClusterState, NodeState
from pmc.plain import then
from pmc.plan import Plan, Step, Wait, Watch, on_each, plan
from pmc.plans import (
    clone,
    interrupted_migration,
    other_disks,
    prune,
    remove_steps,
    requirements,
    restore_marks,
    saved_memory,
    suspended_io,
    vm_steps,
)
from pmc.settings import Settings
from pmc.units import parse_rate, show_size


def start(name: str, on: str, state: ClusterState, settings: Settings, discard: bool = False) -> Plan:
    """On node `on`, or where its DRBD is primary already, or on the node it was made on. `discard`: memory of it that
    is saved somewhere is thrown away."""
    _seen(name, state)
    homes = requirements.whole(state, name)
    requirements.settled(state, name)
    active = state.active_on(name)
    if active and on in ("", *active):
        raise Refused(f"{name}: runs already, on {active[0]}")
    if active:
        raise Refused(f"{name}: runs on {active[0]}. It can move while it runs", next=f"fab vm.mv {name}")
    if on and on not in homes:
        if on in state.strays(name):
            raise Refused(
                f"--on {on}: what is there of {name} is an old or unfinished copy; {name} lives on "
                f"{' and '.join(homes)}. Remove the old copy",
                next=f"fab vm.peer {name} --cleanup",
            )
        raise Refused(f"--on {on}: {name} has its disks on {' and '.join(homes)}; choose one of them")
    primaries = state.primaries(name)
    node = on or (primaries or homes)[0]
    if other := [each for each in primaries if each != node]:
        raise Refused(
            f"{name}: DRBD is primary on {other[0]}. Start it there", next=f"fab vm.start {name} --on {other[0]}"
        )
    _usable(state, name, homes, node)
    suspended_io.flows(name, state, homes)
    if not discard:
        saved_memory.start(name, f"fab vm.start {name}{f' --on {on}' if on else ''}", state)
    there, advice = state.nodes[node], "Move another VM away first, or start it with --on another node"
    requirements.memory(there, name, there.domains[name].memory, advice)
    closing = one_primary(_opened(name, homes, state), name, state)
    promoting = [] if primaries else [vm_steps.promote(node, name)]
    well = len(homes) > 1 and all((its := state.nodes[home].resources.get(name)) and its.healthy for home in homes)
    over = restore_marks.over(name, homes, state) if well else []
    return plan(
        f"vm.start {name}", over, closing, promoting, saved_memory.discarded(name, state), vm_steps.started(node, name)
    )


def unlike(name: str, node: str, state: ClusterState) -> str:
    """What is to be said before it starts on `node`: what it has there is not what it has on its other node. Empty when
    the two are alike, as far as a look tells."""
    said = []
    for what, show in (("memory", show_size), ("cpus", str)):
        its = {each.name: getattr(each.domains[name], what) for each in state.knowing(name) if name in each.domains}
        if len({*its.values()}) > 1:
            said.append(f"{what} {', '.join(f'{show(value)} on {there}' for there, value in its.items())}")
    if not said:
        return ""
    differ = f"{name}: its definitions differ: {'; '.join(said)}. It starts with that of {node}"
    return then(differ, f"fab vm.repair {name}")


def _seen(name: str, state: ClusterState) -> None:
    """A VM whose other node is silent may run there: started here as well it would be two, each with its own disk."""
    homes = requirements.found(state, name)
    down = [home for home in homes if home in state.nodes and state.nodes[home].down]
    here = [home for home in homes if home not in down]
    if down and here and not state.active_on(name):
        raise NodeDown(
            f"{name}: may run on {down[0]}, which does not answer ({state.nodes[down[0]].down}). Bring {down[0]} back, "
            f"or, when it is dead, fail over",
            next=f"fab vm.failover {name}",
        )


def _usable(state: ClusterState, name: str, homes: list[str], node: str) -> None:
    """Of two sides both must agree that they are equal; a VM on one node needs only its own disk."""
    if len(homes) > 1:
        resource = state.nodes[node].resources.get(name)
        told = resource and (resource.connection, resource.disk, resource.peer_disk)
        if told == ("Connected", "UpToDate", "Inconsistent"):
            return  # this side is the source of a resync, which goes on while the VM runs
        requirements.healthy(state.nodes[node], name)
        return
    resource = state.nodes[node].resources.get(name)
    if resource is None or resource.disk != "UpToDate":
        raise Refused(f"{name}: its disk on {node} is not up", next=f"fab pm.ready_drbd --node {node}")


def stop(name: str, force: bool, state: ClusterState, settings: Settings) -> Plan:
    """Asks the guest to shut down and waits; with `force` its power is cut. Then no side is primary."""
    homes = requirements.found(state, name)
    active = state.active_on(name)
    silent = [home for home in homes if home in state.nodes and state.nodes[home].trouble]
    if not active and silent:
        raise Refused(
            f"{name}: may run on {silent[0]}, which does not answer ({state.nodes[silent[0]].trouble}). Bring "
            f"{silent[0]} back. When it is dead nothing runs there, and the VM can start on its other node",
            next=f"fab vm.failover {name}",
        )
    if not active and (unknown := [home for home in homes if home not in state.nodes]):
        raise Refused(f"{name}: may run on {unknown[0]}, which is not in pmc.conf. Add it there")
    requirements.relied_on(state, *active)
    requirements.once(name, state)
    # A side that lost its peer in a move holds its writes; where nothing runs it has none, and can be secondary.
    idle = [home for home in homes if home in state.nodes and home not in active and _holds(state.nodes[home], name)]
    suspended_io.lets_go(name, state, [home for home in (*homes, *active) if home not in idle])
    steps = []
    for node in active:
        if force:
            steps.append(Step(node, f"cut the power of {name}", virsh.destroy(name)))
            continue
        seconds = settings.deadlines.shutdown
        otherwise = then(
            f"the guest does not shut down. To cut its power: fab vm.stop {name} --force. Or give it longer",
            f"fab vm.stop {name}",
        )
        steps += [
            Step(node, f"ask {name} to shut down", virsh.shutdown(name)),
            Step(node, f"wait until {name} is off", Wait(virsh.is_off(name), seconds, otherwise)),
        ]
    for node in sorted({*state.primaries(name), *(n for n in active if name in state.nodes[n].resources)}):
        steps.append(Step(node, f"make {name} secondary", drbd.secondary(name)))
    return plan(f"vm.stop {name}", steps)


def move(name: str, to: str, state: ClusterState, settings: Settings, room: bool = True) -> Plan:
    """Live to its other node. Both sides are primary only while it lasts: each step that opens has the undo that
    closes, and `settle` closes it after success. `room`: see that there is memory for it (not by itself when many
    move)."""
    homes = requirements.whole(state, name)
    active = state.active_on(name)
    if not active:
        raise Refused(f"{name}: does not run. Start it where you want it", next=f"fab vm.start {name} --on NODE")
    requirements.once(name, state)
    source = active[0]
    others = [home for home in homes if home != source]
    if not others:
        raise Refused(
            f"{name}: has its disk on {source} only, so it cannot move. Give it a second copy first",
            next=f"fab vm.peer {name} --secondary NODE",
        )
    target = to or others[0]
    if target not in others:
        raise Refused(f"--to {target}: {name} can move to {' or '.join(others)}")
    if (domain := state.nodes[source].domains[name]).state != "running":
        paused = domain.state == "paused"
        resume = f"on {source}: virsh resume {name}" if paused else "fab vm.ls"
        raise Refused(f"{name}: is {domain.state} on {source}, and only a running VM moves", next=resume)
    suspended_io.flows(name, state, homes)  # before what comes of it: DRBD gives up a peer whose disk stands still
    for node in (source, target):
        requirements.healthy(state.nodes[node], name)
        if state.nodes[node].resources[name].replication not in ("Established", "Off"):
            raise Refused(
                f"{name}: DRBD is in {state.nodes[node].resources[name].replication} on {node}. Wait for its end",
                next="fab vm.ls",
            )
    requirements.same(state, name, f"it would go on with those of {target}")
    saved_memory.beside(name, state)
    if (known := _running(name, state.nodes[source])) is not None:
        other_disks.there_too(name, known.disks, target, state)
    if state.primaries(name) != [source]:
        raise Refused(
            f"{name}: runs on {source} but DRBD is primary on {state.primaries(name)}",
            next=f"fab vm.mv {name} --cleanup",
        )
    if room:
        requirements.memory(state.nodes[target], name, domain.memory)
    live = settings.migration_emulated == "live" or kind_of(name, state.nodes[source], settings) == "kvm"
    opening = on_each(
        (target, source),
        lambda node: Step(
            node,
            f"allow two primaries of {name}",
            drbd.two_primaries(name, True, state.nodes[node].drbd),
            undo=drbd.two_primaries(name, False, state.nodes[node].drbd),
            check=command("true"),  # taking it back does no harm when it was not given
        ),
    )
    return plan(
        f"vm.mv {name}",
        restore_marks.over(name, homes, state),
        opening,
        vm_steps.see_equal(target, name),
        vm_steps.promote(target, name),
        Step(
            source,
            f"migrate {name} to {target}" + ("" if live else ", standing still as it does not run on KVM"),
            virsh.migrate(
                name,
                target,
                settings.nodes[target].replication,
                settings.migration,
                parse_rate(settings.migration_bandwidth),
                settings.migration_pause,
                live,
            ),
            watch=Watch("migration", name),
        ),
    )


def kind_of(name: str, source: NodeState, settings: Settings) -> str:
    """kvm, or another word: QEMU before 9.0 forgets pages that an emulated guest writes while they are copied (its
    commit 03bfc2188f, whose author has seen more such races), and what the guest then writes to its disk is wrong. With
    KVM the kernel keeps count."""
    known = _running(name, source)
    return settings.virt_type if known is None else known.kind


def _running(name: str, source: NodeState) -> Running | None:
    """None: it was not asked."""
    known: dict[str, Running] | None = source.beside.get(RUNNING)
    return None if known is None else known.get(name, Running("unknown"))


def settle(name: str, state: ClusterState) -> Plan:
    """After a migration, however it ended: only the node where the VM runs stays primary, and two primaries are
    allowed nowhere. Refuses when the VM runs twice or nowhere: a person must look."""
    active = state.active_on(name)
    if len(active) == 1 and any(home in state.nodes and state.nodes[home].down for home in state.homes(name)):
        # The other node is gone, and whatever it had open with it; this side must not stay open until it is back.
        opened = _opened(name, active, state)
        ended = [_ended(node, name) for node in active if _holds(state.nodes[node], name)]
        return plan(f"vm.mv {name}: close", ended, one_primary(opened, name, state), writing(active, name, state))
    homes = requirements.whole(state, name)
    if not active and not state.primaries(name):
        return plan(f"vm.mv {name}: close", one_primary(_opened(name, homes, state), name, state))
    interrupted_migration.told_apart(name, state)
    requirements.once(name, state)
    if not active:
        primaries = " and ".join(state.primaries(name))
        raise Refused(
            f"{name}: runs nowhere, and DRBD is primary on {primaries}, so nothing was changed. See that nothing else "
            f"uses its disk",
            next=f"fab vm.stop {name} vm.mv {name} --cleanup",
        )
    steps = [
        Step(node, f"make {name} secondary", drbd.secondary(name), pivot=True)
        for node in homes
        if node not in active
        and name in state.nodes[node].resources
        and state.nodes[node].resources[name].role == "Primary"
    ]
    closing = one_primary(_opened(name, homes, state), name, state)
    return plan(f"vm.mv {name}: close", steps, closing, writing(active, name, state))


def writing(nodes: Sequence[str], name: str, state: ClusterState) -> list[Step]:
    """Where its writes are held, since the sides lost each other while it moved, they go on. Only where it runs, or is
    about to: the other side must stay as it was."""
    return [
        Step(node, f"let {name} write again", drbd.resume_io(name), pivot=True)
        for node in nodes
        if _holds(state.nodes[node], name)
    ]


def let_go(name: str, state: ClusterState) -> Plan:
    """After `settle`, looked at again: the link may have been lost while it was closed."""
    active = [node for node in state.active_on(name) if _holds(state.nodes[node], name)]
    silent = any(home in state.nodes and state.nodes[home].down for home in state.homes(name))
    if len(state.active_on(name)) != 1:
        return plan(f"vm.mv {name}: let it write")
    ended = [_ended(node, name) for node in active if silent]
    return plan(f"vm.mv {name}: let it write", ended, writing(active, name, state))


def _holds(node: NodeState, name: str) -> bool:
    """DRBD alone did it, and for that reason."""
    return name in node.resources and node.resources[name].suspended == "fencing"


def _ended(node: str, name: str) -> Step:
    """The other node is silent, so only libvirt here can tell that the guest has not gone on there: when it has given
    the move up and lets it run here. Where it stands still that is not known."""
    otherwise = (
        "libvirt still tries to move it, or left it suspended, so it may run on its other node, which does not answer. "
        f"Only when the power of that is really off, here: drbdadm resume-io {name}, virsh resume {name}. Else bring "
        f"that back. Next: fab vm.mv {name} --cleanup"
    )
    return Step(node, f"see that {name} goes on here", Wait(virsh.goes_on(name), 60, otherwise))


def standing(name: str, state: ClusterState) -> str:
    """For the end of a line: libvirt left the guest suspended, as when it could not resume it. Where its other node
    does not answer it may run there, unless DRBD here sees that that one is secondary."""
    for node in state.active_on(name):
        if state.nodes[node].domains[name].state != "paused":
            continue
        its, silent = state.nodes[node].resources.get(name), _silent(name, state)
        if silent and not (its and its.connection == "Connected" and its.peer_role == "Secondary"):
            return (
                f"; but it is suspended there, and may run on {silent[0]}. Only when the power of that is really off, "
                f"on {node}: virsh resume {name}"
            )
        return f"; but it is suspended there. Next: on {node}: virsh resume {name}"
    return ""


def _silent(name: str, state: ClusterState) -> list[str]:
    return [home for home in state.homes(name) if home in state.nodes and state.nodes[home].down]


def unseen(name: str, state: ClusterState) -> str:
    """What `settle` cannot know: a node that is silent has nothing open when it is dead, but may live. For the end of
    what is said about a VM that is closed."""
    if not (silent := _silent(name, state)):
        return ""
    return f"; {silent[0]} does not answer, and may still allow two primaries. Once it does: fab vm.mv {name} --cleanup"


def _opened(name: str, homes: Sequence[str], state: ClusterState) -> list[str]:
    """Where two primaries are allowed."""
    return [home for home in homes if (r := state.nodes[home].resources.get(name)) and r.two_primaries]


def one_primary(nodes: Sequence[str], name: str, state: ClusterState) -> list[Step]:
    return on_each(
        nodes,
        lambda node: Step(
            node,
            f"allow one primary of {name} only",
            drbd.two_primaries(name, False, state.nodes[node].drbd),
            pivot=True,
        ),
    )


def closing(name: str, target: str, state: ClusterState) -> Plan:
    """For --dry-run: what `settle` will find to do once the VM has come to `target` and all went well."""
    after = dict(state.nodes)
    for home in state.homes(name):
        node = after[home]
        domain = replace(node.domains[name], state="running" if home == target else "shut off")
        side = replace(node.resources[name], role="Primary", two_primaries=True)
        after[home] = replace(node, domains={**node.domains, name: domain}, resources={**node.resources, name: side})
    return settle(name, ClusterState(after))


def remove(
    name: str, state: ClusterState, settings: Settings, stored: Sequence[Stored] = (), backups: bool = False
) -> Plan:
    """Everything of the VM on every node, also of one that was made or removed by half; with `backups`
    those that are `stored` as well, last; the VM itself may be gone then. There is no way back. A node that is away may
    be left out when it is none of the VM's own: the same, once it is back, removes what it has."""
    holders = remove_steps.holders(name, state)
    away = [node.name for node in state if node.down]
    if holders and away:
        requirements.sides(state, name)
    requirements.answering(state, *(node.name for node in state if not (holders and node.down)))
    requirements.relied_on(state, *(node.name for node in holders))
    requirements.half_known(name, state)
    suspended_io.lets_go(name, state, [node.name for node in holders])
    requirements.readable(state, name)  # or it is not known which volume is its disk
    other_disks.one_volume(name, "vm.rm", state)
    remove_steps.refuse_foreign(name, state, settings)
    remove_steps.refuse_namesakes(name, state)
    if not holders and stored and not backups:
        raise Refused(
            f"{name}: no such VM, but {prune.lying(name, stored)}. fab vm.rm {name} --backups removes them for good",
            next=f"fab vm.backups {name}",
        )
    if not holders and not stored:
        requirements.found(state, name)
    others = [node.name for node in state if node not in holders and not node.down]
    last = prune.all_removed(name, stored, others, settings) if backups else []
    left = clone.left_for(name, state, settings)
    return plan(f"vm.rm {name}", left, remove_steps.steps(name, holders, settings), last)
