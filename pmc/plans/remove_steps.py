"""What a VM is made of on a node, removed: with the VM, or a stale copy that is no part of it any more. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pmc import drbd, drbd_new_peer, lvm, virsh
from pmc.command import Command, bash, operation
from pmc.errors import Refused
from pmc.facts import backing, managed_save
from pmc.model import ClusterState, NodeState
from pmc.plan import Plan, Step, on_each, plan
from pmc.plans import other_disks, requirements, vm_steps, whose
from pmc.plans.add import iso_path, upload_path
from pmc.settings import Settings


def holders(name: str, state: ClusterState) -> list[NodeState]:
    """The nodes that have anything of it, and be it one of pmc's snapshots whose volume is gone."""
    knowing = {node.name for node in state.knowing(name)}
    return [node for node in state if node.name in knowing or backing.snapshots(node, name)]


def steps(name: str, holders: Sequence[NodeState], settings: Settings) -> list[Step]:
    """All of the VM on these nodes, whole or half. There is no way back."""
    active = [node.name for node in holders if name in node.domains and node.domains[name].active]
    defined = [node.name for node in holders if name in node.domains]
    up = [node.name for node in holders if name in node.resources]
    asleep = [node.name for node in holders if name in node.saved and name not in node.domains]
    rest = unfinished(settings, name)
    found = [
        *on_each(active, lambda node: Step(node, f"cut the power of {name}", virsh.destroy(name), pivot=True)),
        *on_each(defined, lambda node: Step(node, f"undefine {name}", virsh.undefine(name), pivot=True)),
        *on_each(
            asleep, lambda node: Step(node, f"remove saved memory of {name}", managed_save.discard(name), pivot=True)
        ),
        *on_each(
            [node.name for node in holders],
            lambda node: Step(node, "remove its ISO file and what is unfinished, if any", rest, pivot=True),
        ),
        *on_each(up, lambda node: Step(node, f"take down {name}", drbd.down(name), pivot=True)),
    ]
    for volume, nodes in sorted(volumes(name, holders).items(), reverse=True):
        found += removed(name, settings.volume_group, volume, nodes)
    # Last, so that what failed before it is still known to be this VM's.
    files = drbd_new_peer.forget_files(name)
    found += on_each(
        [node.name for node in holders],
        lambda node: Step(node, f"remove {drbd.path(name)}", files, pivot=True),
    )
    # Behind the file: without its mark the volume that the file names would be the VM's disk.
    group = settings.volume_group
    note = f"leave the volume {group}/{name}, which was there before vm.add --reuse; take pmc's tags off"
    return found + on_each(reused(name, holders), lambda node: Step(node, note, lvm.let_go(group, name), pivot=True))


def reused(name: str, holders: Iterable[NodeState]) -> list[str]:
    """The nodes whose volume of that name was there before a vm.add --reuse, which did not come to its end."""
    return [node.name for node in holders if name in node.volumes and lvm.REUSED in node.volumes[name].tags]


def stays(name: str, holders: Iterable[NodeState], settings: Settings) -> str:
    """For a question and an answer: what is left of it, and why."""
    nodes = " and ".join(reused(name, holders))
    return f"{settings.volume_group}/{name} on {nodes} stays, as it was there before vm.add --reuse" if nodes else ""


@operation
def unfinished(settings: Settings, name: str) -> Command:
    """The VM's ISO file, uploads, and backups that were interrupted. Its finished backups stay."""
    iso, upload = iso_path(settings, name), upload_path(settings, name)
    script = 'rm -f -- "${@:3}"; rm -f -- "$1"/."$2".????????T??????Z.*.part*'
    return bash(script, settings.backup_dir, name, iso, f"{iso}.part", upload, f"{upload}.part")


def volumes(name: str, holders: Iterable[NodeState]) -> dict[str, list[str]]:
    """What goes of each node's volumes, and of which nodes: the VM's disk and pmc's snapshots of it, which LVM would
    remove with it (classic ones) or keep (thin ones). What has such a name elsewhere may be something else there. What
    was there before the VM stays."""
    found: dict[str, list[str]] = {}
    for node in holders:
        own = [name] if name in node.volumes and not reused(name, [node]) else []
        for volume in [*own, *_snapshots(name, node)]:
            found.setdefault(volume, []).append(node.name)
    return found


def _snapshots(name: str, node: NodeState) -> list[str]:
    return sorted(each.name for each in backing.snapshots(node, name).values())


def removed(vm: str, group: str, volume: str, nodes: Sequence[str]) -> list[Step]:
    gone = lvm.remove_disk(group, vm) if volume == vm else lvm.remove_snapshot(group, volume)
    return on_each(nodes, lambda node: Step(node, f"remove the volume {group}/{volume}", gone, pivot=True))


def also_removed(name: str, holders: Iterable[NodeState], settings: Settings) -> str:
    """All of its volumes by name, for a question."""
    found = sorted(volumes(name, holders).items())
    return ", ".join(f"{settings.volume_group}/{volume} on {' and '.join(nodes)}" for volume, nodes in found)


def refuse_foreign(name: str, nodes: Iterable[NodeState], settings: Settings) -> None:
    """A volume of that name that is neither marked as pmc's nor the disk of the VM's resource is somebody else's; and
    so may be what LVM would remove with it."""
    for node in nodes:
        if node.knows(name):
            whose.own_file(node, name)
        requirements.usual_disk(node, name, settings)
        if name in node.volumes:
            requirements.claimed(node, name, settings)
        mine = set(volumes(name, [node]))
        for volume in (node.volumes[each] for each in sorted(mine)):
            path = f"{volume.group}/{volume.name}"
            if hanging := backing.dependents(node, volume, mine):
                raise Refused(
                    f"{node.name}: the volume {volume.group}/{hanging[0]}, which pmc did not make, depends on {path} "
                    f"and would go with it. When nobody needs it any more, remove it, then run this again",
                    next=f"on {node.name}: lvs -o +tags {volume.group}/{hanging[0]}",
                )
            if volume.is_pool or (lvm.TAG not in volume.tags and name not in node.files):
                raise Refused(
                    f"{node.name}: the volume {path} was not made by pmc and belongs to no DRBD resource, so it is not "
                    f"touched. Rename or remove it by hand",
                    next=f"on {node.name}: lvs {path}",
                )


def refuse_namesakes(name: str, state: ClusterState) -> None:
    """A stale copy's file names a node that the VM still has. One that shares none with it may be another VM's, made
    under the same name while the first one's only node was away or not in pmc.conf."""
    groups = list[set[str]]()
    for node in state.knowing(name):
        if name in node.files:
            hosts = {node.name, *node.files[name].hosts}
            touching = [group for group in groups if group & hosts]
            groups = [group for group in groups if not group & hosts] + [hosts.union(*touching)]
    if len(groups) > 1:
        who = ", another on ".join(" and ".join(sorted(group)) for group in groups)
        raise Refused(
            f"{name}: by the resource files there is one on {who}: they may be two VMs of that name, so none of their "
            f"disks is removed. What is not wanted any more has to go by hand: virsh undefine, drbdadm down, lvremove, "
            f"then {drbd.path(name)}",
            next=f"on each of them: virsh domstate {name}; drbdadm dump {name}",
        )


def cleanup(name: str, state: ClusterState, settings: Settings) -> Plan:
    """Removes the copies that are no part of the VM any more, when the VM itself is whole without them."""
    homes = requirements.defined_everywhere(state, name)
    for home in homes if len(homes) > 1 else []:
        requirements.healthy(state.nodes[home], name)
    if all((r := state.nodes[home].resources.get(name)) is None or not r.good for home in homes):
        raise Refused(f"{name}: its disk is not UpToDate on {' or '.join(homes)}", next="fab pm.ready_drbd")
    requirements.in_sync(state, name, "what a stale copy has may be wanted")
    stale_copies = [node.name for node in holders(name, state) if node.name not in homes]
    requirements.reachable(state, *stale_copies)
    refuse_namesakes(name, state)
    other_disks.one_volume(name, "vm.peer --cleanup", state)
    refuse_foreign(name, [state.nodes[each] for each in stale_copies], settings)
    see = [vm_steps.see_equal(homes[0], name)] if stale_copies and len(homes) > 1 else []
    return plan(f"vm.peer {name} --cleanup", see, steps(name, [state.nodes[each] for each in stale_copies], settings))
