"""What a VM is made of on a node, removed: with the VM, or an old copy that is no part of it any more. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pmc import drbd, drbd_peer, lvm, saved, virsh
from pmc.command import Command, bash
from pmc.errors import Refused
from pmc.model import ClusterState, NodeState
from pmc.plan import Plan, Step, on_each, plan
from pmc.plans import make, refuse
from pmc.plans.add import iso_path, upload_path
from pmc.settings import Settings


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
        *on_each(asleep, lambda node: Step(node, f"remove saved memory of {name}", saved.discard(name), pivot=True)),
        *on_each(
            [node.name for node in holders],
            lambda node: Step(node, "remove its ISO file and what is unfinished, if any", rest, pivot=True),
        ),
        *on_each(up, lambda node: Step(node, f"take down {name}", drbd.down(name), pivot=True)),
    ]
    for volume in sorted({volume for node in holders for volume in [*snapshots(name, node), name]}, reverse=True):
        found += removed(settings.volume_group, volume, [node.name for node in holders if volume in node.volumes])
    # Last, so that what failed before it is still known to be this VM's.
    files = drbd_peer.forget_files(name)
    return found + on_each(
        [node.name for node in holders],
        lambda node: Step(node, f"remove {drbd.path(name)}", files, pivot=True),
    )


def unfinished(settings: Settings, name: str) -> Command:
    """The VM's ISO file, uploads and backups that broke off. Its finished backups stay."""
    iso, upload = iso_path(settings, name), upload_path(settings, name)
    script = 'rm -f -- "${@:3}"; rm -f -- "$1"/."$2".????????T??????Z.*.part*'
    return bash(script, settings.backup_dir, name, iso, f"{iso}.part", upload, f"{upload}.part")


def removed(group: str, volume: str, nodes: Sequence[str]) -> list[Step]:
    gone = lvm.remove(group, volume)
    return on_each(nodes, lambda node: Step(node, f"remove the volume {group}/{volume}", gone, pivot=True))


def snapshots(name: str, node: NodeState) -> list[str]:
    """Those of the VM's volume; LVM would remove classic ones with it, and keep thin ones."""
    return sorted(volume.name for volume in node.volumes.values() if lvm.is_snapshot_of(volume, name))


def refuse_foreign(name: str, nodes: Iterable[NodeState], settings: Settings) -> None:
    """A volume of that name that is neither marked as pmc's nor the disk of the VM's resource is somebody else's."""
    for node in nodes:
        for snapshot in snapshots(name, node):
            if lvm.TAG not in node.volumes[snapshot].tags:
                raise Refused(
                    f"{node.name}: {name} has a snapshot {snapshot} that pmc did not make; remove it there first"
                )
        volume = node.volumes.get(name)
        if volume is None or (lvm.TAG in volume.tags and not volume.is_pool):
            continue
        file = node.files.get(name)
        if file is None or file.disk != lvm.path(settings.volume_group, name):
            raise Refused(
                f"{node.name}: the volume {settings.volume_group}/{name} was not made by pmc and belongs to no DRBD "
                f"resource, so it is not touched; if it is to go: lvremove {settings.volume_group}/{name} there"
            )


def refuse_namesakes(name: str, state: ClusterState) -> None:
    """An old copy's file names a node that the VM still has. One that shares none with it may be another VM's, made
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
            f"disks is removed; what is not wanted any more has to go by hand (virsh undefine, drbdadm down, lvremove, "
            f"then {drbd.path(name)})"
        )


def cleanup(name: str, state: ClusterState, settings: Settings) -> Plan:
    """Removes the copies that are no part of the VM any more, when the VM itself is whole without them."""
    homes = refuse.whole(state, name)
    for home in homes if len(homes) > 1 else []:
        refuse.healthy(state.nodes[home], name)
    if all((r := state.nodes[home].resources.get(name)) is None or r.disk != "UpToDate" for home in homes):
        raise Refused(f"{name}: its disk is not UpToDate on {' or '.join(homes)}; fab pm.ready_drbd")
    refuse.same(state, name, "what an old copy has may be wanted")
    strays = state.strays(name)
    refuse.relied_on(state, *strays)
    refuse_namesakes(name, state)
    refuse_foreign(name, [state.nodes[stray] for stray in strays], settings)
    see = [make.see_equal(homes[0], name)] if strays and len(homes) > 1 else []
    return plan(f"vm.peer {name} --cleanup", see, steps(name, [state.nodes[s] for s in strays], settings))
