"""Which volume backs a VM's disk: the one that its resource file names on that node, in any spelling, whatever it is
called. And who else has to do with a volume. Pure."""

from __future__ import annotations

from collections.abc import Collection

from pmc import lvm
from pmc.model import NodeState, ResourceFile, Volume


def path_of(node: NodeState, vm: str) -> str:
    """The device that the VM's resource file names here; empty when there is no file, or it names none."""
    file = node.files.get(vm)
    return named_by(file, node) if file else ""


def named_by(file: ResourceFile, node: NodeState) -> str:
    return file.disk_on(node.hostname or node.name)


def of(node: NodeState, vm: str) -> Volume | None:
    """The VM's disk here. None: there is no file, or the disk is not there, or is no volume of pmc's group."""
    return at(node, path_of(node, vm))


def all_of(node: NodeState, vm: str) -> list[Volume]:
    """As `of`, of all volumes of its resource (pmc makes one)."""
    return [volume for path in paths_of(node, vm) if (volume := at(node, path))]


def paths_of(node: NodeState, vm: str) -> tuple[str, ...]:
    return node.files[vm].disks_on(node.hostname or node.name) if vm in node.files else ()


def at(node: NodeState, path: str) -> Volume | None:
    """The volume of that path; None: none of those in pmc's group."""
    split = lvm.split(path)
    volume = node.volumes.get(split[1]) if split else None
    return volume if volume and split and volume.group == split[0] else None


def usual(node: NodeState, vm: str, group: str) -> bool:
    """Its resource file here names the volume that has the VM's name, or there is no file."""
    return vm not in node.files or lvm.split(path_of(node, vm)) == (group, vm)


def users(node: NodeState, group: str, name: str) -> list[str]:
    """The VMs or other resources whose resource file here names this volume, as any of theirs, be it there or not."""
    return sorted(vm for vm in node.files if (group, name) in map(lvm.split, paths_of(node, vm)))


def dependents(node: NodeState, volume: Volume, besides: Collection[str] = ()) -> list[str]:
    """What LVM would remove with the volume: its classic snapshots, and thin volumes of other pools whose external
    origin it is (lvmthin(7)). A thin snapshot in the same pool lives on by itself."""
    found = (each for each in node.volumes.values() if each.origin == volume.name and each.name not in besides)
    return sorted(each.name for each in found if not (each.thin and each.pool == volume.pool))


def snapshot(node: NodeState, vm: str, kind: str) -> Volume | None:
    """pmc's snapshot of that kind of the VM here. A volume that a resource file names is somebody's disk."""
    volume = node.volumes.get(f"{vm}.{kind}")
    return (
        volume
        if volume and lvm.snapshot_for(volume) == (vm, kind) and not users(node, volume.group, volume.name)
        else None
    )


def snapshots(node: NodeState, vm: str) -> dict[str, Volume]:
    """All of them, by kind."""
    kinds = (name.partition(".")[2] for name in node.volumes if name.startswith(f"{vm}."))
    return {kind: found for kind in kinds if (found := snapshot(node, vm, kind))}
