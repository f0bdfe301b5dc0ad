"""Findings about logical volumes. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pmc import lvm, lvm_attr
from pmc.model import Volume
from pmc.plans import clone, kept, refuse
from pmc.units import show_size
from pmc.verify.facts import FILES, LIBVIRT, STATUS, VOLUMES, Facts
from pmc.verify.finding import Finding


def orphans(facts: Facts) -> Iterator[Finding]:
    """Known only when all nodes tell: what names the volume may be on one that does not."""
    if not all(facts.tells(node.name, STATUS, FILES, LIBVIRT) for node in facts.state):
        return
    for node in facts.telling(VOLUMES):
        for volume in sorted(node.volumes.values(), key=lambda v: v.name):
            if lvm.TAG in volume.tags and not _snapshot(volume) and volume.name not in facts.vms and not _kept(volume):
                text = f"{volume.group}/{volume.name} ({show_size(volume.size)}) is pmc's, and there is no such VM"
                yield Finding("LV_ORPHAN", text, f"fab vm.rm {volume.name}", node.name, volume.name)


def _snapshot(volume: Volume) -> bool:
    """A thin one outlives its origin; no VM's name has a dot."""
    return bool(volume.origin) or (volume.thin and "." in volume.name)


def _kept(volume: Volume) -> bool:
    """vm.repair names so what it keeps of the losing side of a split brain."""
    return ".lost-" in volume.name


def _for_deltas(facts: Facts, volume: Volume, vm: str) -> bool:
    """It is of the VM's newest base, and wanted; known only when all nodes tell of VMs."""
    all_tell = all(facts.tells(node.name, STATUS, FILES, LIBVIRT) for node in facts.state)
    return bool(kept.base_of(volume)) and (vm in facts.vms or not all_tell)


def snapshots(facts: Facts) -> Iterator[Finding]:
    """Of pmc's making. One that is open (lv_attr, sixth letter: o) is being read by a command."""
    for node in facts.telling(VOLUMES):
        for volume in sorted(node.volumes.values(), key=lambda v: v.name):
            vm, path = volume.origin or volume.name.partition(".")[0], f"{volume.group}/{volume.name}"
            if lvm.TAG not in volume.tags or _for_deltas(facts, volume, vm):
                continue
            if _kept(volume):
                text = f"{path} is the losing side of a split brain, kept by vm.repair"
                drop = f"when nothing in it is needed any more: fab vm.repair {vm} --drop {volume.name}"
                yield Finding("SNAPSHOT_KEPT", text, drop, node.name, vm)
            elif volume.name == refuse.before(vm):
                text = f"{path} is the disk of {vm} before a restore into it that broke off, or is under way"
                yield Finding("RESTORE_BROKEN", text, f"fab vm.restore {vm} --put-back", node.name, vm)
            elif node.name in refuse.restoring(facts.state, vm) and volume.name == vm:
                if any(refuse.before(vm) in each.volumes for each in facts.state):
                    continue  # told of the snapshot
                text = f"a restore into {path} broke off, or is under way"
                half = refuse.half_restored(facts.state, vm)
                mend = "--backup ID --in-place, as what was on it is lost" if half else "--put-back"
                yield Finding("RESTORE_BROKEN", text, f"fab vm.restore {vm} {mend}", node.name, vm)
            elif _snapshot(volume) and volume.attributes[5:6] != "o":
                text = f"{path} is a snapshot that a command left when it broke off"
                yield Finding("SNAPSHOT_LEFT", text, _removal(facts, volume, vm, node.name), node.name, vm)


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
            its = lvm_attr.unwell(node.volumes[vm]) if vm in node.volumes and vm in node.files else None
            if its:
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
            file = node.files.get(vm)
            if file and file.disk == lvm.path(group, vm) and vm not in node.volumes:
                yield Finding("LV_MISSING", f"{group}/{vm} is not there", f"fab vm.repair {vm}", node.name, vm)


def sizes(facts: Facts) -> Iterator[Finding]:
    group = facts.settings.volume_group
    for vm in facts.whole:
        found = {node.name: node.volumes[vm].size for node in facts.sides(vm, VOLUMES) if vm in node.volumes}
        if len(set(found.values())) > 1:
            small = min(found, key=lambda name: found[name])
            yield Finding(
                "LV_SIZE", " and ".join(f"{size} bytes on {name}" for name, size in found.items()),
                f"on {small}: lvextend --size {max(found.values())}b {group}/{vm} && drbdadm resize {vm}",
                small, vm,
            )  # fmt: skip


def nearly_full(facts: Facts) -> Iterator[Finding]:
    limit = facts.settings.verify.full_percent
    for node in facts.telling(VOLUMES):
        for volume in sorted(node.volumes.values(), key=lambda v: v.name):
            # lv_attr, first letter: s or S a snapshot. Of a thin volume (V) being full is normal; its pool: pools.py.
            classic, used = volume.attributes[:1] in ("s", "S"), volume.data_percent
            if classic and used is not None and used > limit:
                yield Finding(
                    "SNAPSHOT_FULL", f"{volume.group}/{volume.name} is {used:.0f} % full; when it is full it is lost",
                    f"on {node.name}: lvextend --extents +50%LV {volume.group}/{volume.name}, or remove it",
                    node.name, volume.origin,
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
            yield Finding("VG_FULL", text, f"vgextend {group} DISK there, or move VMs to another node", node.name)


CHECKS = (orphans, snapshots, broken_groups, unwell, missing, sizes, nearly_full, groups)
