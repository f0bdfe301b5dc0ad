"""vm.stop: the guest shuts down, or its power is cut; then no side is primary. State in, plan out. Pure."""

from __future__ import annotations

from pmc import drbd, virsh
from pmc.actions import Wait
from pmc.errors import Refused
from pmc.model import ClusterState
from pmc.plain import then
from pmc.plan import Plan, Step, plan
from pmc.plans import requirements, suspended_io
from pmc.plans.close_migration import holds_writes
from pmc.settings import Settings


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
    requirements.reachable(state, *active)
    requirements.runs_once(name, state)
    # A side that lost its peer in a move holds its writes; where nothing runs it has none, and can be secondary.
    idle = [
        home for home in homes if home in state.nodes and home not in active and holds_writes(state.nodes[home], name)
    ]
    suspended_io.require_stoppable(name, state, [home for home in (*homes, *active) if home not in idle])
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
