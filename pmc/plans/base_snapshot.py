"""The thin snapshot that a base was read from, kept as NAME.base on the node that was read: against it the pool tells
what has changed, so that a delta reads no more than that. One a VM; its tag names the base. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pmc import lvm, lvm_thin
from pmc.backup import Backup
from pmc.facts import backing, thin_pool
from pmc.model import ClusterState, Volume
from pmc.plan import Step
from pmc.plans import requirements
from pmc.settings import Settings

KIND = "base"


def name_for(vm: str) -> str:
    return f"{vm}.{KIND}"


def base_of(volume: Volume) -> str:
    """The id of the base that was read from it; empty when it is no such snapshot."""
    ids = [tag.removeprefix(lvm.OF) for tag in volume.tags if tag.startswith(lvm.OF)]
    return ids[0] if ids and volume.thin and lvm.snapshot_for(volume) else ""


@dataclass(frozen=True)
class Place:
    """Where a backup is read, and where it is stored."""

    vm: str
    source: str
    keeper: str
    state: ClusterState
    settings: Settings

    @property
    def volume(self) -> Volume:
        return requirements.disk(self.state.nodes[self.source], self.vm, self.settings)

    @property
    def kept(self) -> Volume | None:
        return backing.snapshot(self.state.nodes[self.source], self.vm, KIND)

    @property
    def local(self) -> bool:
        """Both the disk and the pool's metadata are read on the node that stores, and the metadata tell all of it."""
        return self.volume.thin and self.source == self.keeper and not self.outside

    @property
    def outside(self) -> str:
        """The external origin of a thin volume: a volume outside its pool. What was never written is read from there,
        and the pool's metadata do not list it (the kernel's thin-provisioning.rst, lvmthin(7)). A snapshot has that of
        its origin, and LVM names the nearer one only. A volume that is not found is taken for one outside."""
        volumes, at, seen = self.state.nodes[self.source].volumes, self.volume, set[str]()
        while at.thin and at.origin and at.origin not in seen:
            seen.add(at.origin)
            origin = volumes.get(at.origin)
            if origin is None or origin.pool != self.volume.pool:
                return at.origin
            at = origin
        return ""


def unlisted(place: Place) -> str:
    """Why the pool cannot tell what is on the disk; empty when it can."""
    return f"its thin volume reads from {place.outside} what it never wrote" if place.outside else ""


def why_all(place: Place, base: Backup, size: int) -> str:
    """Why a delta must read the whole disk and the whole base; empty when the pool can tell what has changed."""
    kept = place.kept
    if not place.volume.thin:
        return "its volume is classic"
    if why := unlisted(place):
        return why
    if not place.local:
        return f"the base lies on {place.keeper}"
    if kept is None or base_of(kept) != base.id:
        return f"{place.source} keeps no snapshot of the base"
    if kept.pool != place.volume.pool or kept.attributes[1:2] != "r" or kept.attributes[4:5] != "a":
        return f"the snapshot {kept.name} of the base cannot be used"
    return "" if base.size == size else "the disk has grown since"


def why_not_kept(place: Place) -> str:
    """Why the snapshot of a new base is not kept. It takes the pool's space as the disk changes, so not of a pool that
    is past its limits."""
    if not place.local:
        return ""
    its = place.state.nodes[place.source].volumes.get(place.volume.pool)
    if its is None:
        return f"the pool {place.volume.pool} is not there"
    full = thin_pool.over(its, place.settings)
    return f"the pool's {full[0]}" if full else ""


def most(place: Place, size: int) -> int:
    """Bytes that a base of it may need: of a thin volume no more than it holds (as LVM tells it, to 0.01 %)."""
    return min(size, place.volume.used + size // 1000) if place.local else size


def path(place: Place, kind: str) -> str:
    return lvm.path(place.settings.volume_group, f"{place.vm}.{kind}")


def list_mapped(place: Place, size: int, to: str) -> Step:
    group, snapshot = place.settings.volume_group, f"{place.vm}.backup"
    return Step(
        place.source,
        f"ask the thin pool which parts of {place.vm} hold data",
        lvm_thin.mapped(group, snapshot, size, to),
    )


def list_changed(place: Place, base: Backup, size: int, to: str) -> list[Step]:
    group, kept = place.settings.volume_group, name_for(place.vm)
    return [
        see_kept(place, base),
        Step(
            place.source,
            f"ask the thin pool which parts of {place.vm} have changed since",
            lvm_thin.changed(group, kept, f"{place.vm}.backup", size, to),
        ),
    ]


def see_kept(place: Place, base: Backup) -> Step:
    """Looked at again: the plan trusts it."""
    group, kept = place.settings.volume_group, name_for(place.vm)
    note = f"see that {group}/{kept} is what {base.id} was read from"
    return Step(place.source, note, lvm.is_kept(group, kept, base.id))


def keep(place: Place, id: str) -> Step:
    """The backup is complete: from now on its snapshot is the one to compare with."""
    group, kept = place.settings.volume_group, name_for(place.vm)
    return Step(
        place.source,
        f"keep the snapshot as {group}/{kept}, so that deltas read only what changes",
        lvm.keep(group, f"{place.vm}.backup", kept, id),
        check=lvm.is_kept(group, kept, id),
        pivot=True,
    )


def drop_older(place: Place, but_here: bool) -> list[Step]:
    """After a new base: the snapshots of older ones, on the nodes that answer."""
    nodes = [node.name for node in place.state if not (but_here and node.name == place.source)]
    return [_dropped(place, node, "an older base") for node in nodes if _id_at(place, node)]


def drop_gone(place: Place, ids: Collection[str]) -> list[Step]:
    """The snapshots of bases that are not among `ids`; none when a node, on which they may lie, does not answer."""
    if any(node.trouble for node in place.state):
        return []
    found = {node.name: _id_at(place, node.name) for node in place.state}
    return [_dropped(place, node, "a base that is gone") for node, id in found.items() if id and id not in ids]


def _id_at(place: Place, node: str) -> str:
    volume = backing.snapshot(place.state.nodes[node], place.vm, KIND)
    return base_of(volume) if volume else ""


def _dropped(place: Place, node: str, of: str) -> Step:
    group, kept = place.settings.volume_group, name_for(place.vm)
    return Step(node, f"remove the snapshot {group}/{kept} of {of}", lvm.discard(group, kept), pivot=True)


def refuse_foreign(place: Place) -> None:
    if place.local:
        node = place.state.nodes[place.source]
        requirements.foreign(node, name_for(place.vm), place.kept and base_of(place.kept), place.settings)
