"""Findings about logical volumes. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pmc import lvm
from pmc.facts import backing, lvm_attr
from pmc.health.cluster_facts import FILES, LIBVIRT, STATUS, VOLUMES, Facts
from pmc.health.finding import Finding
from pmc.model import NodeState, Volume
from pmc.plain import then
from pmc.plans import base_snapshot, clone, unfinished_restore
from pmc.units import show_size


def _all_tell(facts: Facts) -> bool:
    """Or something may be in use, or the only good one, on a node that could not be asked."""
    return all(facts.tells(node.name, STATUS, FILES, LIBVIRT) for node in facts.state)


def orphans(facts: Facts) -> Iterator[Finding]:
    """Known only when all nodes tell: what names the volume may be on one that does not."""
    if not _all_tell(facts):
        return
    for node in facts.telling(VOLUMES):
        for volume in sorted(node.volumes.values(), key=lambda v: v.name):
            if not {lvm.TAG, lvm.REUSED} & set(volume.tags) or lvm.snapshot_for(volume) or volume.name in facts.vms:
                continue
            if not _users(facts, node, volume):
                text = f"{volume.group}/{volume.name} ({show_size(volume.size)}) is pmc's, and there is no such VM"
                advice = then(
                    f"Look first: it may be the only copy of a VM whose node was made anew. fab vm.add {volume.name} "
                    f"--reuse --primary {node.name} makes a VM of it; fab vm.rm {volume.name} removes it for good",
                    f"on {node.name}: lvs -o +lv_time,lv_tags {volume.group}/{volume.name}",
                )
                if lvm.REUSED in volume.tags:
                    text = f"{volume.group}/{volume.name} was given to a vm.add --reuse that did not end"
                    advice = then("This leaves the volume, and takes pmc's marks off it", f"fab vm.rm {volume.name}")
                elif "." in volume.name:
                    advice = then(
                        "No VM has such a name. Find out who renamed it, and give it its name again",
                        f"on {node.name}: lvrename {volume.group} {volume.name} NAME",
                    )
                yield Finding("LV_ORPHAN", text, advice, node.name, volume.name)


def _users(facts: Facts, node: NodeState, volume: Volume) -> list[str]:
    """The resources and domains whose disk it is."""
    domains = facts.answers(node).domains.items()
    split = (volume.group, volume.name)
    return [
        *backing.users(node, volume.group, volume.name),
        *(vm for vm, each in domains if split in map(lvm.split, each.sources)),
    ]


def _for_deltas(facts: Facts, volume: Volume, vm: str) -> bool:
    """It is of the VM's newest base, and wanted; known only when all nodes tell of VMs."""
    return bool(base_snapshot.base_of(volume)) and (vm in facts.vms or not _all_tell(facts))


def snapshots(facts: Facts) -> Iterator[Finding]:
    """Of pmc's making, and nobody's disk. One that is open (lv_attr, sixth letter: o) is being read by a command."""
    for node in facts.telling(VOLUMES):
        for volume in sorted(node.volumes.values(), key=lambda v: v.name):
            vm, kind = lvm.snapshot_for(volume) or ("", "")
            path = f"{volume.group}/{volume.name}"
            if not vm or _for_deltas(facts, volume, vm) or _users(facts, node, volume):
                continue
            if kind.startswith("lost-"):
                text = f"{path} is the losing side of a split brain, kept by vm.repair"
                drop = then("Remove it only when nothing in it is needed", f"fab vm.repair {vm} --drop {volume.name}")
                yield Finding("SNAPSHOT_KEPT", text, drop, node.name, vm)
            elif kind == unfinished_restore.BEFORE:
                text = f"{path} is the disk of {vm} before a restore into it that was interrupted, or is under way"
                way = f"fab vm.restore {vm} --put-back"
                if _all_tell(facts) and node.name not in facts.state.homes(vm):
                    way = f"fab vm.peer {vm} --cleanup" if vm in facts.vms else f"fab vm.rm {vm}"
                elif not unfinished_restore.marked(node, vm, lvm.RESTORING):
                    text, way = (
                        f"{path} is what a restore kept, and no restore was interrupted",
                        unfinished_restore.no_more_needed(volume, node.name),
                    )
                yield Finding("RESTORE_BROKEN", text, way, node.name, vm)
            elif volume.attributes[5:6] != "o":
                text = f"{path} is a snapshot that an interrupted command left"
                yield Finding("SNAPSHOT_LEFT", text, _removal(facts, volume, vm, node.name), node.name, vm)


def restoring(facts: Facts) -> Iterator[Finding]:
    """Disks that are marked, and no snapshot tells of it."""
    for node in facts.telling(VOLUMES):
        for volume in sorted(node.volumes.values(), key=lambda v: v.name):
            if not {lvm.RESTORING, lvm.RESTORING_THERE} & set(volume.tags):
                continue
            vm = next(iter(backing.users(node, volume.group, volume.name)), volume.name)
            if any(backing.snapshot(each, vm, unfinished_restore.BEFORE) for each in facts.state):
                continue
            text = f"a restore into {volume.group}/{volume.name} was interrupted, or is under way"
            half = unfinished_restore.interrupted(facts.state, vm)
            old = _all_tell(facts) and vm in facts.vms and node.name not in facts.state.homes(vm)
            way = f"fab vm.peer {vm} --cleanup" if old else f"fab vm.restore {vm} --put-back"
            if half and not old:
                lost = "What was on it is lost, so restore it again"
                way = then(lost, f"fab vm.restore {vm} --backup ID --in-place")
            yield Finding("RESTORE_BROKEN", text, way, node.name, vm)


def _removal(facts: Facts, volume: Volume, vm: str, node: str) -> str:
    """By the command that removes it under the locks, where there is one; LVM refuses to remove what is being read."""
    made = [tag.removeprefix(lvm.FOR) for tag in volume.tags if tag.startswith(lvm.FOR)]
    if made and made[0] in facts.half_made:
        return f"fab vm.rm {made[0]}"
    also = (
        f", or fab vm.backup {vm}, which removes it too"
        if volume.name in [f"{vm}.{kind}" for kind in clone.KINDS]
        else ""
    )
    return f"on {node}: lvremove {volume.group}/{volume.name}{also if vm in facts.whole else ''}"


def unwell(facts: Facts) -> Iterator[Finding]:
    """Of a thin one its pool is told of for itself (pools.py)."""
    for vm in facts.whole:
        for node in facts.telling(VOLUMES):
            for its in filter(None, map(lvm_attr.unwell, backing.all_of(node, vm))):
                code = "LV_BROKEN" if its.stands else "LV_WEAK"
                yield Finding(code, str(its), f"on {node.name}: {its.remedy}", node.name, vm)


def broken_groups(facts: Facts) -> Iterator[Finding]:
    for node in facts.telling(VOLUMES):
        if its := lvm_attr.group(node.group_attributes, facts.settings.volume_group):
            yield Finding("VG_BROKEN", str(its), f"on {node.name}: {its.remedy}", node.name)


def missing(facts: Facts) -> Iterator[Finding]:
    group = facts.settings.volume_group
    for vm in facts.whole:
        for node in facts.sides(vm, VOLUMES, FILES):
            for split in map(lvm.split, backing.paths_of(node, vm)):
                if split and split[0] == group and split[1] not in node.volumes:
                    text = f"{group}/{split[1]} is not there"
                    yield Finding("LV_MISSING", text, f"fab vm.repair {vm}", node.name, vm)


def sizes(facts: Facts) -> Iterator[Finding]:
    for vm in facts.whole:
        found = {node.name: disk for node in facts.sides(vm, VOLUMES, FILES) if (disk := backing.of(node, vm))}
        if len({disk.size for disk in found.values()}) > 1:
            small = min(found, key=lambda name: found[name].size)
            yield Finding(
                "LV_SIZE", " and ".join(f"{disk.size} bytes on {name}" for name, disk in found.items()),
                f"on {small}: lvextend --size {max(disk.size for disk in found.values())}b "
                f"{found[small].group}/{found[small].name} && drbdadm resize {vm}", small, vm,
            )  # fmt: skip


def nearly_full(facts: Facts) -> Iterator[Finding]:
    limit = facts.settings.verify.full_percent
    for node in facts.telling(VOLUMES):
        for volume in sorted(node.volumes.values(), key=lambda v: v.name):
            # Of a thin volume being full is normal; its pool: pools.py.
            used = volume.data_percent
            if volume.classic_snapshot and used is not None and used > limit:
                made, of = lvm.snapshot_for(volume), node.volumes.get(volume.origin)
                vms = [made[0]] if made else backing.users(node, of.group, of.name) if of else []
                path = f"{volume.group}/{volume.name}"
                # What may be the only copy of something is not to be removed for its room.
                only = made and (made[1] == unfinished_restore.BEFORE or made[1].startswith("lost-"))
                yield Finding(
                    "SNAPSHOT_FULL", f"{path} is {used:.0f} % full; when it is full it is lost",
                    f"on {node.name}: lvextend --extents +50%LV {path}" + ", or remove it" * bool(made and not only),
                    node.name, next(iter(vms), volume.origin),
                )  # fmt: skip


def groups(facts: Facts) -> Iterator[Finding]:
    """Where new volumes are thin, the group may be given to the pool as a whole."""
    limit, group = facts.settings.verify.full_percent, facts.settings.volume_group
    if facts.settings.volumes == "thin":
        return
    for node in facts.telling(VOLUMES):
        used = 100.0 * (1 - node.group_free / node.group_size) if node.group_size else 0.0
        if used > limit:
            text = f"the volume group {group} is {used:.0f} % full, {show_size(node.group_free)} are free"
            advice = then("Give it a disk, or move VMs to another node", f"on {node.name}: vgextend {group} DISK")
            yield Finding("VG_FULL", text, advice, node.name)


CHECKS = (orphans, snapshots, restoring, broken_groups, unwell, missing, sizes, nearly_full, groups)
