"""vm.failover: a VM of a dead node starts on its other one. Signs of life, state in, plan out. Pure.

No sign of life is no proof of death: a network that is cut looks the same, and a VM that runs on both sides has two
disks that each lack the other's writes. So any sign refuses, and without a fence command a person must say that the
power is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pmc.actions import Wait
from pmc.errors import NodeDown, Refused
from pmc.facts.dead_node import LostLink, PeerSigns, silent
from pmc.model import ClusterState, Resource
from pmc.plan import Plan, Step, plan
from pmc.plans import failover_restore, requirements, saved_memory, suspended_io, vm_steps
from pmc.plans import room as room_check
from pmc.plans.close_migration import forbid_two_primaries, resume_writes
from pmc.settings import Settings


def hangs(dead: str, settings: Settings) -> str:
    """The node that a person says is dead (`dead`), if it has a fence command: then that takes its power also when it
    still gives signs of life, as one does whose kernel lives and nothing else."""
    return dead if dead and settings.nodes[dead].fence else ""


def homes(name: str, state: ClusterState, settings: Settings, hangs: str = "") -> tuple[str, str]:
    """(dead, survivor) of the VM; refused when it is not so that one is silent and the other answers. One that `hangs`
    need not be silent."""
    found = requirements.found(state, name)
    for node in state.answering:  # or the silent one may be another than a person, and its fence command, takes it for
        if node.name in found or node.hostname in state.nodes:
            requirements.own_hostname(node)
    requirements.readable(state, name)
    requirements.consistent_placement(state, name)
    requirements.configured(state, name, found)
    if active := state.active_on(name):
        how = state.nodes[active[0]].domains[name].state
        raise Refused(
            f"{name}: is {how} on {active[0]}, so there is nothing to fail over"
            + (". libvirt ends an interrupted migration within half a minute: try again then" * (how == "paused"))
        )
    down = [home for home in found if state.nodes[home].down]
    if not down:
        raise Refused(
            f"{name}: {' and '.join(found)} answer{'s' * (len(found) == 1)} ssh, so nothing is dead. Start it",
            next=f"fab vm.start {name}",
        )
    if len(found) < 2:
        raise Refused(
            f"{name}: has its disk on {found[0]} only, and no second copy. Restore a backup",
            next=f"fab vm.backups {name}",
        )
    if len(down) > 1 or len(found) > 2:
        raise NodeDown(
            f"{name}: {'; '.join(f'{home}: {state.nodes[home].down}' for home in down)}. One must be "
            f"there. Bring one back, or restore a backup on other nodes",
            next=f"fab vm.backups {name}",
        )
    dead = down[0]
    if state.nodes[dead].answers and dead != hangs:
        raise Refused(
            f"{name}: {dead} is alive (it answered ssh) but cannot be used: {state.nodes[dead].down}. "
            f"{_when_it_hangs(dead, settings)}"
        )
    survivor = next(home for home in found if home != dead)
    requirements.reachable(state, survivor)
    return dead, survivor


def signs(dead: str, survivor: str, names: Sequence[str], state: ClusterState, seen: PeerSigns) -> list[str]:
    """All that says that the silent node lives: to the manager, and to the survivor."""
    here = state.nodes[dead]
    found = [] if here.down else ["it answers the manager"]
    if here.down and here.answers:
        found = [f"it answers the manager: {here.down}"]
    found += [f"{survivor} reaches it: {sign}" for sign in seen.life]
    # ping-int in pmc/drbd.py, and what the answer may take.
    late = "a lost power shows within 5 s: then try again"
    return found + [f"DRBD of {name} is Connected to it ({late})" for name in linked(survivor, names, state)]


def marked(survivor: str, names: Sequence[str], state: ClusterState) -> dict[str, int]:
    """The VMs whose disk on the survivor is marked to differ from the other one, and how many bytes of it. When this
    side has begun no generation of its own, they are none that it wrote alone: a verify found them, and the dead
    node's, which was in use, may be the right ones."""
    resources = state.nodes[survivor].resources
    return {name: size for name in names if name in resources and (size := resources[name].out_of_sync)}


def linked(survivor: str, names: Sequence[str], state: ClusterState) -> dict[str, LostLink]:
    """The VMs whose link is still there: the survivor has all that was written until now."""
    resources = state.nodes[survivor].resources
    known = {name: resources[name] for name in names if name in resources}
    return {name: LostLink("", 0, r.peer_role == "Primary") for name, r in known.items() if r.connected}


def alive(dead: str, signs: Sequence[str], settings: Settings) -> None:
    """Refuses when there is any sign of life."""
    if signs:
        raise Refused(
            f"{dead}: does not answer the manager, but lives: {'; '.join(signs)}. Correct the manager's way to it. "
            f"{_when_it_hangs(dead, settings)}"
        )


def _when_it_hangs(dead: str, settings: Settings) -> str:
    if settings.nodes[dead].fence:
        return f"If it hangs: give --dead {dead}, and its fence command cuts its power first"
    return "If it hangs: configure fence for it, or cut its power and try again"


def failover(
    name: str,
    state: ClusterState,
    settings: Settings,
    room: bool = True,
    hangs: str = "",
    discard: bool = False,
    size: int = 0,
) -> Plan:
    """Once the dead node is known to be dead. The survivor must hold all that DRBD ever acknowledged to it. `room`: see
    that there is memory for it (not by itself when many start). `discard`: as for vm.start; what is saved on the dead
    node is there when it comes back, and vm.start refuses then. `size`: see `failover_restore.on`."""
    dead, survivor = homes(name, state, settings, hangs)
    node = state.nodes[survivor]
    if name not in node.domains:
        raise Refused(
            f"{name}: is not defined on {survivor}, so it cannot start there. Define it by hand",
            next=f"on {survivor}: virsh define FILE",
        )
    resource = requirements.up(node, name)
    back = failover_restore.on(survivor, dead, name, size, state, settings)
    _complete(name, dead, survivor, resource)
    if resource.suspended != "fencing":  # held since the dead node was lost in the middle of a move
        suspended_io.require_io(name, state, [survivor])
    if not discard:
        saved_memory.start(name, f"fab vm.failover {name}", state)
    if room:
        room_check.memory(node, name, node.domains[name].memory, "Move another VM away first")
    opened = [survivor] if resource.two_primaries else []
    return plan(
        f"vm.failover {name}",
        see_silent(dead, survivor, settings),
        vm_steps.see_apart(survivor, name),
        [replace(step, pivot=False) for step in forbid_two_primaries(opened, name, state)],
        [vm_steps.promote(survivor, name)] if not resource.primary else [],
        [replace(step, pivot=False) for step in resume_writes([survivor], name, state)],
        back,
        saved_memory.discarded(name, state),
        vm_steps.started(survivor, name),
    )


def _complete(name: str, dead: str, survivor: str, resource: Resource) -> None:
    if not resource.good:
        raise Refused(
            f"{name}: its disk on {survivor} is {resource.disk}: it lacks writes, or may lack some, that {dead} has. "
            f"Bring {dead} back, or restore a backup",
            next=f"fab vm.backups {name}",
        )
    if resource.standalone:
        raise Refused(
            f"{name}: DRBD on {survivor} is StandAlone: the sides were apart already (split brain, or disconnected by "
            f"hand), so this one may lack writes: fab doc failover"
        )


def see_silent(dead: str, survivor: str, settings: Settings) -> Step:
    """Again, right before: a question may have waited long for its answer, and the node may be back."""
    wait = Wait(silent(dead, settings), 5, f"{dead} lives: it answers on the replication network")
    return Step(survivor, f"see that {dead} is silent", wait)
