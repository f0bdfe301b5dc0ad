"""vm.peer: another secondary for a VM that runs. State in, plan out. Pure.

All that can be made ready on the new node is made ready before the old node's copy is let go; that is removed only when
the new one is complete. DRBD 8.4 has one peer for a volume, so from the change to the end of the copy there is one good
disk: where the old node's copy still is one, a failure brings it back. DRBD 9 is refused: nothing was tried with it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

from pmc import backup_pipeline, drbd, drbd_new_peer, lvm
from pmc.actions import Watch
from pmc.capacity import allocate
from pmc.errors import Refused
from pmc.facts import backing
from pmc.model import ClusterState, NodeState, Resource, ResourceFile
from pmc.plan import Plan, Step, plan
from pmc.plans import (
    node_files,
    other_disks,
    remove_steps,
    requirements,
    restore_marks,
    room,
    split_brain_snapshot,
    suspended_io,
    vm_steps,
    whose,
)
from pmc.plans.add import iso_path
from pmc.settings import Settings
from pmc.units import show_size


@dataclass(frozen=True)
class Change:
    """A checked `vm.peer`: the VM runs on `primary`; `new` takes the place of `old` (empty: there is none)."""

    name: str
    primary: str
    old: str
    new: str
    file: ResourceFile
    ask: str = ""  # what a person must agree to

    @property
    def there(self) -> bool:
        """The change was made before; what is missing of it is to be done."""
        return self.old == self.new


def choose(name: str, new: str, state: ClusterState, settings: Settings) -> Change:
    primary = runs_on(name, state)
    homes = state.homes(name)
    if new == primary:
        raise Refused(f"--secondary {new}: {name} runs there; the second copy belongs on another node")
    requirements.reachable(state, new)
    whose.free(name, state.nodes[new], state.nodes[primary])
    file = state.nodes[primary].files[name]
    old = next((home for home in homes if home != primary), "")
    if len(homes) > 2:
        raise Refused(f"{name}: lives on {', '.join(homes)}; vm.peer is for a VM with one or two nodes")
    if not file.ports:
        raise Refused(
            f"{name}: its resource file on {primary} names no port. Correct it",
            next=f"on {primary}: drbdadm dump {name}",
        )
    disk = backing.of(state.nodes[primary], name)
    if disk is None or disk.name != name:
        path = backing.path_of(state.nodes[primary], name) or "none"
        raise Refused(
            f"{name}: its disk {path} on {primary} is not {settings.volume_group}/{name}, as that of a VM that pmc "
            f"made. Make a new VM of it: back it up, then fab vm.restore {name} --backup ID --as NEW",
            next=f"fab vm.backup {name}",
        )
    for node in (state.nodes[primary], state.nodes[new]):
        _eight(node)
    suspended_io.require_io(name, state, [primary])
    if (its := state.nodes[primary].resources.get(name)) and its.two_primaries:
        raise Refused(
            f"{name}: a migration left two primaries allowed on {primary}, so without its peer its writes would stop",
            next=f"fab vm.mv {name} --cleanup",
        )
    requirements.usual_disk(state.nodes[new], name, settings)
    change = Change(name, primary, old, new, file)
    if change.there and name in state.nodes[new].volumes:
        return change
    _fits(change, state, settings)
    kept = split_brain_snapshot.going(state, name, (change.old, change.new))
    stays = remove_steps.stays(name, old_side(change, state), settings)
    asks = [_old_goes(change, state), _new_goes(change, state), kept, stays]
    return replace(change, ask="; ".join(filter(None, asks)))


def runs_on(name: str, state: ClusterState) -> str:
    """The one node where it runs, its disk there good: all else is for vm.start, vm.mv and vm.failover first."""
    requirements.found(state, name)
    requirements.consistent_placement(state, name)
    active = state.active_on(name)
    requirements.runs_once(name, state)
    if not active:
        raise Refused(f"{name}: runs nowhere; vm.peer is for a VM that runs on one node", next=f"fab vm.start {name}")
    primary = active[0]
    requirements.reachable(state, primary)
    resource = state.nodes[primary].resources.get(name)
    if primary not in state.homes(name) or resource is None or name not in state.nodes[primary].files:
        raise Refused(
            f"{name}: runs on {primary}, which has no part in its DRBD resource",
            next=f"on {primary}: virsh dumpxml {name}; drbdadm dump {name}",
        )
    if state.primaries(name) != [primary]:
        raise Refused(f"{name}: DRBD is primary on {state.primaries(name)}", next=f"fab vm.mv {name} --cleanup")
    if not resource.good:
        raise Refused(
            f"{name}: its disk on {primary} is {resource.disk}, so it cannot be copied from. Repair that first",
            next=f"fab vm.repair {name}",
        )
    return primary


def _eight(node: NodeState) -> None:
    requirements.module(node)
    if not node.drbd.startswith("8."):
        raise Refused(
            f"{node.name}: has DRBD {node.drbd}; vm.peer is made for 8.4 and was not tried with 9. Make a new "
            f"VM from a backup of it (fab vm.backup NAME)",
            next="fab vm.restore NAME --backup ID --as NEW --primary A --secondary B",
        )


def _fits(change: Change, state: ClusterState, settings: Settings) -> None:
    node, name, minor = state.nodes[change.new], change.name, change.file.minor
    remove_steps.refuse_foreign(name, [node, *old_side(change, state)], settings)
    remove_steps.refuse_namesakes(name, state)
    requirements.own_hostname(node)
    requirements.claimed(node, name, settings)
    known: list[ResourceFile | Resource] = [*node.files.values(), *node.resources.values()]
    taken = dict.fromkeys(node.minors, "taken by what is not pmc's")
    taken |= {n: f"{each.name}'s" for each in known if each.name != name for n in (each.minor, *each.more_minors)}
    if whose := taken.get(minor):
        raise Refused(
            f"{node.name}: DRBD's minor {minor} is {whose} there, and a VM that runs keeps its own; choose another node"
        )
    size = state.nodes[change.primary].volumes[name].size
    # What is there of it goes first, and leaves its space; but a thin pool may be too full all the same.
    if (name not in node.volumes or settings.volumes == "thin") and (why := room.no_room(node, size, settings)):
        raise Refused(f"--secondary {node.name}: it {why}")
    if node.memory < (needed := state.nodes[change.primary].domains[name].memory):
        raise Refused(f"{node.name}: has {show_size(node.memory)} of memory, {name} needs {show_size(needed)}")


def _old_goes(change: Change, state: ClusterState) -> str:
    """What is lost with the old node's copy, if there still is one; refused when its writes may be wanted."""
    seen = state.nodes[change.primary].resources[change.name]
    node = state.nodes.get(change.old)
    there = node.resources.get(change.name) if node else None
    if there and not there.diskless and (seen.standalone or there.standalone):
        raise Refused(
            f"{change.name}: DRBD is StandAlone between {change.primary} and {change.old}, which may have writes of "
            f"its own (split brain). See to that first",
            next=f"fab vm.repair {change.name}",
        )
    if seen.healthy:
        return (
            f"{change.name} has no second copy from now until the one on {change.new} is complete; then the one on "
            f"{change.old} is removed"
        )
    if node and not node.down and change.name in node.volumes:
        return f"the copy of {change.name} on {change.old} is removed when the one on {change.new} is complete"
    return ""


def _new_goes(change: Change, state: ClusterState) -> str:
    """A copy that was never complete may go unasked."""
    volume = state.nodes[change.new].volumes.get(change.name)
    if volume is None or lvm.UNFINISHED in volume.tags:
        return ""
    return f"what {change.new} has of {change.name} is removed first"


def peer(change: Change, xml: str, secret: str, state: ClusterState, settings: Settings) -> Plan:
    other_disks.whole(change.name, "a second copy", xml, state)
    if change.there and change.name in state.nodes[change.new].volumes:
        return finish(change, xml, state, settings)
    name, new, primary = change.name, change.new, change.primary
    node = state.nodes[new]
    port = change.file.ports[0]
    # Never the former peer's port: its old secret, tried there while the new one is awaited, makes 8.4 StandAlone. Nor
    # one of another VM there, be it down: it got the same when a node did not answer.
    others = [each for each, file in node.files.items() if port in file.ports and each != name]
    if change.old not in ("", new) or others or (port in node.ports and name not in node.resources):
        port = allocate.port(state, settings)
    hosts = [(each, settings.nodes[each].replication) for each in (primary, new)]
    disk = lvm.path(settings.volume_group, name)
    text = drbd.resource_text(name, change.file.minor, port, disk, hosts, secret, state.nodes[primary].drbd)
    size = state.nodes[primary].volumes[name].size
    former = [node] if node.knows(name) or backing.snapshots(node, name) else []
    return plan(
        f"vm.peer {name}",
        [replace(step, pivot=False) for step in remove_steps.steps(name, former, settings)],
        # Should the primary not be switched back, the new copy stays: DRBD may be completing it.
        replace(vm_steps.volume(settings, new, name, size, lvm.UNFINISHED, ", marked as unfinished"), guard=True),
        Step(
            new,
            f"write {drbd.path(name)}",
            drbd.write_file(name, text, secret),
            undo=drbd.remove_file(name),
            check=node_files.exists(drbd.path(name)),
            claims=True,
            guard=True,
        ),
        Step(new, f"make DRBD's metadata on {name}", drbd.create_metadata(name)),
        Step(
            new,
            f"bring up {name} (minor {change.file.minor}, port {port})",
            drbd.up_or_down(name, alone=False),
            undo=drbd.down(name),
            check=drbd.is_up(name),
            guard=True,
        ),
        [replace(step, guard=True) for step in defined(change, xml, settings)],
        Step(
            primary,
            f"connect {name} to {new}" + (f" in place of {change.old}" if change.old else "") + ", while it runs",
            drbd_new_peer.switch(name, text, secret),
            undo=drbd_new_peer.switch_back(name),
            check=drbd_new_peer.file_names(name, new),
        ),
        # Nothing is lost by going on from here, unless the old node's copy is still a good one.
        replace(
            vm_steps.wait_connected(settings, primary, name), pivot=not state.nodes[primary].resources[name].healthy
        ),
        complete(change, state, settings),
        # Not before: until then the old node may come back, and what its disk is marked with would count again.
        restore_marks.over(name, [primary], state),
        remove_steps.steps(name, old_side(change, state), settings),
    )


def old_side(change: Change, state: ClusterState) -> list[NodeState]:
    """The old secondary, when it answers; else what it has stays there, a stale copy."""
    node = state.nodes.get(change.old)
    return [node] if node and not node.trouble and not change.there and node.knows(change.name) else []


def defined(change: Change, xml: str, settings: Settings) -> list[Step]:
    """The domain as on the primary; and its CD, without which it could not move there."""
    name, new, iso = change.name, change.new, iso_path(settings, change.name)
    steps = vm_steps.defined([new], name, xml)
    if iso in xml:
        reader = backup_pipeline.remotely(settings.nodes[change.primary].replication, f"cat {shlex.quote(iso)}")
        steps += [
            vm_steps.folder(new, settings.image_dir, "755"),
            Step(
                new,
                f"copy {iso} from {change.primary}",
                node_files.receive(iso, "644", reader),
                undo=node_files.remove(iso),
                check=node_files.exists(iso),
            ),
        ]
    return steps


def complete(change: Change, state: ClusterState, settings: Settings) -> list[Step]:
    """Only what is equal on both sides, seen at that moment, is called a second copy."""
    name, primary, new = change.name, change.primary, change.new
    size, mark = state.nodes[primary].resources[name].size, lvm.mark(settings.volume_group, name, False, lvm.UNFINISHED)
    return [
        Step(
            primary,
            f"wait until {new} has all of {name} ({show_size(size)})",
            drbd_new_peer.copied(name, settings.deadlines.peer, settings.deadlines.sync),
            watch=Watch("bytes", name, size),
        ),
        vm_steps.see_equal(primary, name),
        Step(primary, f"remove the old {drbd.path(name)}", drbd_new_peer.forget_kept(name), pivot=True),
        Step(new, f"mark the volume {settings.volume_group}/{name} as complete", mark, pivot=True),
    ]


def finish(change: Change, xml: str, state: ClusterState, settings: Settings) -> Plan:
    """What an earlier vm.peer that was interrupted left to do."""
    name, new, node = change.name, change.new, state.nodes[change.new]
    rest = [] if name in node.domains else defined(change, xml, settings)
    if lvm.UNFINISHED not in node.volumes[name].tags:
        requirements.healthy(state.nodes[change.primary], name)
        return plan(f"vm.peer {name}", rest, restore_marks.over(name, [change.primary], state))
    return plan(
        f"vm.peer {name}",
        [] if name in node.resources else [Step(new, f"bring up {name}", drbd.up(name))],
        rest,
        Step(change.primary, f"connect {name} to {new}, while it runs", drbd_new_peer.adjust(name)),
        vm_steps.wait_connected(settings, change.primary, name),
        complete(change, state, settings),
        restore_marks.over(name, [change.primary], state),
    )
