"""Snapshots that vm.repair keeps of the side that lost a split brain: NAME.lost-TIME on the node where it was. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from pmc import lvm
from pmc.errors import Refused
from pmc.facts import backing
from pmc.model import ClusterState, Volume
from pmc.plan import Plan, Step, on_each, plan
from pmc.settings import Settings
from pmc.units import MiB, show_size

NAME = re.compile(r"(?P<vm>[A-Za-z0-9][A-Za-z0-9_-]*)\.lost-(?P<time>\d{8}T\d{6}Z)", re.ASCII)


@dataclass(frozen=True)
class LostSide:
    """It is listed beside backups, with the same columns."""

    node: str
    vm: str
    time: datetime
    volume: Volume
    disk: int  # bytes of the volume that it is a snapshot of

    @property
    def broken(self) -> str:
        """lvs(8): the fifth attribute is I when it overflowed; the ninth F when a thin one failed."""
        if self.volume.thin and self.volume.attributes[8:9] == "F":
            return "its thin pool failed"
        return "it overflowed and is worth nothing" if self.volume.attributes[4:5] in ("I", "S") else ""

    def json(self) -> dict[str, object]:
        return {
            "id": self.volume.name, "node": self.node, "kind": "lost", "base": "",
            "time": self.time.isoformat(timespec="seconds"), "vm": self.vm, "disk": self.disk,
            "stored": self.volume.used, "room": self.volume.size, "broken": self.broken,
        }  # fmt: skip

    def cells(self) -> dict[str, object]:
        # A thin one holds the whole disk, most of it shared with the volume.
        of = "in the thin pool" if self.volume.thin else f"of {show_size(self.volume.size)}"
        return self.json() | {
            "kind": f"BROKEN: {self.broken}" if self.broken else "lost", "disk": show_size(self.disk),
            "stored": f"{show_size(self.volume.used)} {of}",
        }  # fmt: skip


def name_for(vm: str, now: datetime) -> str:
    return f"{vm}.lost-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def snapshots(state: ClusterState, vm: str = "") -> list[LostSide]:
    """Those of one VM, or of all, on the nodes that answer."""
    found = []
    for node in state:
        for volume in node.volumes.values():
            match = NAME.fullmatch(volume.name)
            if not match or vm not in ("", match["vm"]) or not lvm.snapshot_for(volume):
                continue
            if backing.users(node, volume.group, volume.name):  # somebody's disk
                continue
            origin = volume if volume.thin else node.volumes.get(volume.origin)
            try:
                time = datetime.strptime(match["time"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            except ValueError:  # a name by hand
                continue
            found.append(LostSide(node.name, match["vm"], time, volume, origin.size if origin else 0))
    return sorted(found, key=lambda each: (each.volume.name, each.node))


def advice(each: LostSide, settings: Settings) -> str:
    """What can be done with it."""
    name, path = each.volume.name, lvm.path(settings.volume_group, each.volume.name)
    look = "" if each.broken else f"on {each.node} it is read as {path} (fab doc repair); "
    return f"{name}: {look}it is removed by: fab vm.repair {each.vm} --drop {name}"


def going(state: ClusterState, vm: str, nodes: Collection[str] | None = None) -> str:
    """What goes with the VM, or with its copies on `nodes`; empty when there is nothing."""
    found = [each for each in snapshots(state, vm) if nodes is None or each.node in nodes]
    return "; ".join(f"so is {each.volume.name} on {each.node}, a kept side of a split brain" for each in found)


def warning(state: ClusterState, vm: str, nodes: Collection[str] | None = None) -> str:
    """The same, behind a sentence that says what is removed."""
    found = going(state, vm, nodes)
    return f"; {found}" if found else ""


def room(differs: int, volume: Volume) -> int:
    """For a snapshot of the loser: all that the resync will overwrite, and a fifth of the disk (of a thin one: of what
    is on it) for what the guest writes from then on, since that is replicated onto the snapshot's origin. No more than
    can ever change."""
    fifth = (volume.used if volume.thin else volume.size) // 5
    return min(-(-(differs + fifth) // (4 * MiB)) * 4 * MiB + 4 * MiB, most(volume.size))


def most(volume: int) -> int:
    """A snapshot of this size cannot overflow: the whole volume, and LVM's table of what was copied."""
    return -(-(volume + volume // 128) // (4 * MiB)) * 4 * MiB + 4 * MiB


def drop(vm: str, snapshot: str, state: ClusterState, settings: Settings) -> Plan:
    match = NAME.fullmatch(snapshot)
    if not match or match["vm"] != vm:
        raise Refused(
            f"--drop {snapshot[:90]!r}: no snapshot that vm.repair keeps of {vm}", next=f"fab vm.backups {vm}"
        )
    nodes = [each.node for each in snapshots(state, vm) if each.volume.name == snapshot]
    if not nodes:
        raise Refused(f"--drop {snapshot}: on no node that answers", next=f"fab vm.backups {vm}")
    group = settings.volume_group
    gone = lvm.remove_snapshot(group, snapshot)
    return plan(
        f"vm.repair {vm}: drop",
        on_each(nodes, lambda node: Step(node, f"remove the snapshot {group}/{snapshot}", gone, pivot=True)),
    )
