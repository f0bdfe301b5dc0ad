"""The end of a migration, however it ended: one primary, two allowed nowhere, and what is said of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pmc import drbd, virsh
from pmc.actions import Wait
from pmc.errors import Refused
from pmc.model import ClusterState, NodeState
from pmc.plan import Plan, Step, on_each, plan
from pmc.plans import interrupted_migration, requirements


def close(name: str, state: ClusterState) -> Plan:
    """After a migration, however it ended: only the node where the VM runs stays primary, and two primaries are
    allowed nowhere. Refuses when the VM runs twice or nowhere: a person must look."""
    active = state.active_on(name)
    if len(active) == 1 and any(home in state.nodes and state.nodes[home].down for home in state.homes(name)):
        # The other node is gone, and whatever it had open with it; this side must not stay open until it is back.
        opened = two_allowed(name, active, state)
        ended = [_ended(node, name) for node in active if holds_writes(state.nodes[node], name)]
        return plan(
            f"vm.mv {name}: close", ended, forbid_two_primaries(opened, name, state), resume_writes(active, name, state)
        )
    homes = requirements.defined_everywhere(state, name)
    if not active and not state.primaries(name):
        return plan(f"vm.mv {name}: close", forbid_two_primaries(two_allowed(name, homes, state), name, state))
    interrupted_migration.require_known_source(name, state)
    requirements.runs_once(name, state)
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
        if node not in active and node in state.primaries(name)
    ]
    closing = forbid_two_primaries(two_allowed(name, homes, state), name, state)
    return plan(f"vm.mv {name}: close", steps, closing, resume_writes(active, name, state))


def resume_writes(nodes: Sequence[str], name: str, state: ClusterState) -> list[Step]:
    """Where its writes are held, since the sides lost each other while it moved, they go on. Only where it runs, or is
    about to: the other side must stay as it was."""
    return [
        Step(node, f"let {name} write again", drbd.resume_io(name), pivot=True)
        for node in nodes
        if holds_writes(state.nodes[node], name)
    ]


def resume_after_close(name: str, state: ClusterState) -> Plan:
    """After `close`, looked at again: the link may have been lost while it was closed."""
    active = [node for node in state.active_on(name) if holds_writes(state.nodes[node], name)]
    silent = any(home in state.nodes and state.nodes[home].down for home in state.homes(name))
    if len(state.active_on(name)) != 1:
        return plan(f"vm.mv {name}: let it write")
    ended = [_ended(node, name) for node in active if silent]
    return plan(f"vm.mv {name}: let it write", ended, resume_writes(active, name, state))


def holds_writes(node: NodeState, name: str) -> bool:
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


def paused_note(name: str, state: ClusterState) -> str:
    """For the end of a line: libvirt left the guest suspended, as when it could not resume it. Where its other node
    does not answer it may run there, unless DRBD here sees that that one is secondary."""
    for node in state.active_on(name):
        if state.nodes[node].domains[name].state != "paused":
            continue
        its, silent = state.nodes[node].resources.get(name), _silent(name, state)
        if silent and not (its and its.connected and its.peer_role == "Secondary"):
            return (
                f"; but it is suspended there, and may run on {silent[0]}. Only when the power of that is really off, "
                f"on {node}: virsh resume {name}"
            )
        return f"; but it is suspended there. Next: on {node}: virsh resume {name}"
    return ""


def _silent(name: str, state: ClusterState) -> list[str]:
    return [home for home in state.homes(name) if home in state.nodes and state.nodes[home].down]


def unreachable_note(name: str, state: ClusterState) -> str:
    """What `close` cannot know: a node that is silent has nothing open when it is dead, but may live. For the end of
    what is said about a VM that is closed."""
    if not (silent := _silent(name, state)):
        return ""
    return f"; {silent[0]} does not answer, and may still allow two primaries. Once it does: fab vm.mv {name} --cleanup"


def two_allowed(name: str, homes: Sequence[str], state: ClusterState) -> list[str]:
    """Where two primaries are allowed."""
    return [home for home in homes if home in state.two_allowed(name)]


def forbid_two_primaries(nodes: Sequence[str], name: str, state: ClusterState) -> list[Step]:
    return on_each(
        nodes,
        lambda node: Step(
            node,
            f"allow one primary of {name} only",
            drbd.two_primaries(name, False, state.nodes[node].drbd),
            pivot=True,
        ),
    )


def planned_close(name: str, target: str, state: ClusterState) -> Plan:
    """For --dry-run: what `close` will find to do once the VM has come to `target` and all went well."""
    after = dict(state.nodes)
    for home in state.homes(name):
        node = after[home]
        domain = replace(node.domains[name], state="running" if home == target else "shut off")
        side = replace(node.resources[name], role="Primary", two_primaries=True)
        after[home] = replace(node, domains={**node.domains, name: domain}, resources={**node.resources, name: side})
    return close(name, ClusterState(after))
