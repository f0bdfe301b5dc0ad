"""vm.mv: a VM goes to its other node while it runs. State in, plan out. Pure."""

from __future__ import annotations

from pmc import drbd, virsh
from pmc.actions import Watch
from pmc.command import Command, command, operation
from pmc.errors import Refused
from pmc.model import ClusterState, NodeState, Running
from pmc.plan import Plan, Step, on_each, plan
from pmc.plans import other_disks, requirements, restore_marks, saved_memory, suspended_io, vm_steps
from pmc.plans import room as room_check
from pmc.settings import Settings
from pmc.units import parse_rate


def move(name: str, to: str, state: ClusterState, settings: Settings, room: bool = True) -> Plan:
    """Live to its other node. Both sides are primary only while it lasts: each step that opens has the undo that
    closes, and `close` closes it after success. `room`: see that there is memory for it (not by itself when many
    move)."""
    homes = requirements.defined_everywhere(state, name)
    active = state.active_on(name)
    if not active:
        raise Refused(f"{name}: does not run. Start it where you want it", next=f"fab vm.start {name} --on NODE")
    requirements.runs_once(name, state)
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
    requirements.quiet_login(state.nodes[target], name, source)
    suspended_io.require_io(name, state, homes)  # before what comes of it: DRBD gives up a peer whose disk stands still
    for node in (source, target):
        requirements.healthy(state.nodes[node], name)
        if state.nodes[node].resources[name].replication not in ("Established", "Off"):
            raise Refused(
                f"{name}: DRBD is in {state.nodes[node].resources[name].replication} on {node}. Wait for its end",
                next="fab vm.ls",
            )
    requirements.in_sync(state, name, f"it would go on with those of {target}")
    saved_memory.beside(name, state)
    if (known := _running(name, state.nodes[source])) is not None:
        other_disks.there_too(name, known.disks, target, state)
    if state.primaries(name) != [source]:
        raise Refused(
            f"{name}: runs on {source} but DRBD is primary on {state.primaries(name)}",
            next=f"fab vm.mv {name} --cleanup",
        )
    if room:
        room_check.memory(state.nodes[target], name, domain.memory)
    live = settings.migration_emulated == "live" or kind_of(name, state.nodes[source], settings) == "kvm"
    opening = on_each(
        (target, source),
        lambda node: Step(
            node,
            f"allow two primaries of {name}",
            drbd.two_primaries(name, True, state.nodes[node].drbd),
            undo=drbd.two_primaries(name, False, state.nodes[node].drbd),
            check=harmless(),
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


@operation
def harmless() -> Command:
    """Taking it back does no harm when it was not given."""
    return command("true")


def kind_of(name: str, source: NodeState, settings: Settings) -> str:
    """kvm, or another word: QEMU before 9.0 forgets pages that an emulated guest writes while they are copied (its
    commit 03bfc2188f, whose author has seen more such races), and what the guest then writes to its disk is wrong. With
    KVM the kernel keeps count."""
    known = _running(name, source)
    return settings.virt_type if known is None else known.kind


def _running(name: str, source: NodeState) -> Running | None:
    """None: it was not asked."""
    known = source.running
    return None if known is None else known.get(name, Running("unknown"))
