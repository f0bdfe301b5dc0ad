"""vm.start: where a VM starts, and what must hold for it. State in, plan out. Pure."""

from __future__ import annotations

from pmc.errors import NodeDown, Refused
from pmc.model import ClusterState
from pmc.plain import then
from pmc.plan import Plan, plan
from pmc.plans import requirements, restore_marks, room, saved_memory, suspended_io, unfinished_restore, vm_steps
from pmc.plans.close_migration import forbid_two_primaries, two_allowed
from pmc.settings import Settings
from pmc.units import show_size


def start(name: str, on: str, state: ClusterState, settings: Settings, discard: bool = False) -> Plan:
    """On node `on`, or where its DRBD is primary already, or on the node it was made on. `discard`: memory of it that
    is saved somewhere is thrown away."""
    _seen(name, state)
    homes = requirements.defined_everywhere(state, name)
    unfinished_restore.none(state, name)
    active = state.active_on(name)
    if active and on in ("", *active):
        raise Refused(f"{name}: runs already, on {active[0]}")
    if active:
        raise Refused(f"{name}: runs on {active[0]}. It can move while it runs", next=f"fab vm.mv {name}")
    if on and on not in homes:
        if on in state.stale_copies(name):
            raise Refused(
                f"--on {on}: what is there of {name} is a stale or unfinished copy; {name} lives on "
                f"{' and '.join(homes)}. Remove that copy",
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
    suspended_io.require_io(name, state, homes)
    if not discard:
        saved_memory.start(name, f"fab vm.start {name}{f' --on {on}' if on else ''}", state)
    there, advice = state.nodes[node], "Move another VM away first, or start it with --on another node"
    room.memory(there, name, there.domains[name].memory, advice)
    closing = forbid_two_primaries(two_allowed(name, homes, state), name, state)
    idle = [vm_steps.let_go(each, name) for each in primaries]
    well = len(homes) > 1 and all((its := state.nodes[home].resources.get(name)) and its.healthy for home in homes)
    over = restore_marks.over(name, homes, state) if well else []
    up = vm_steps.promote(node, name)
    return plan(
        f"vm.start {name}", idle, over, closing, up, saved_memory.discarded(name, state), vm_steps.started(node, name)
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
    if resource is None or not resource.good:
        raise Refused(f"{name}: its disk on {node} is not up", next=f"fab pm.ready_drbd --node {node}")
