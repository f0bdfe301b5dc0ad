"""A split brain: both sides were written without the other. What is known of each, and throwing one away. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pmc import drbd, drbd_generations, lvm, virsh
from pmc.actions import Wait
from pmc.drbd_generations import Past
from pmc.facts import backing
from pmc.model import Resource
from pmc.plan import Step
from pmc.plans import requirements, room, saved_memory, split_brain_snapshot
from pmc.plans.repair_context import Condition, RepairContext, SideFacts
from pmc.units import show_size

CODE = "split-brain"
APART = 30  # seconds that two nodes' clocks may seem to be apart: they are not asked at the same moment
COLUMNS = (
    "node",
    "vm",
    "role",
    "disk",
    "connection",
    "differs",
    "lost its peer",
    "went on alone",
    "could write until",
)


def split(case: RepairContext) -> Condition:
    text = f"split brain: both {' and '.join(case.homes)} were written without the other"
    refusal = _refusal(case)
    return Condition(CODE, text, refusal=refusal) if refusal else _won(case, text)


def _refusal(case: RepairContext) -> str:
    name, keep = case.name, case.wishes.keep
    if not keep:
        return (
            f"split brain. Choose the side whose data stays; the other's is overwritten, and a snapshot of it is kept. "
            f"Next: fab vm.repair {name} --keep {' or --keep '.join(case.homes)}"
        )
    victim = case.other(keep)
    if case.active == victim:
        return (
            f"it runs on {victim}, whose disk would be overwritten under it. Keep that side (--keep {victim}), or stop "
            f"it first. Next: fab vm.stop {name}"
        )
    if not case.up[keep].good:
        return f"--keep {keep}: its disk is {case.up[keep].disk} there, so it has nothing whole to keep"
    if nodes := case.state.saved_on(name):
        return (
            f"its memory is saved on {' and '.join(nodes)} (virsh managedsave), and does not fit the disk any more. "
            f"Throw it away first. Next: {saved_memory.remedy(name, nodes, case.state)}"
        )
    if not case.wishes.snapshot:
        return ""
    node, volume = case.node(victim), backing.of(case.node(victim), name)
    if volume is None:
        return (
            f"{victim}: its disk {backing.path_of(node, name) or 'none'} is not there, or no volume of "
            f"{case.settings.volume_group}, so no snapshot of it can be kept. Without one: --no-snapshot"
        )
    if why := room.no_snapshot_room(node, volume, split_brain_snapshot.room(differing(case), volume)):
        return f"{why}. Make room (vgextend; fab vm.backups lists old ones), or give --no-snapshot"
    return ""


def differing(case: RepairContext) -> int:
    """Bytes that the resync will copy: what either side wrote."""
    return sum(its.out_of_sync for its in case.up.values())


def _won(case: RepairContext, text: str) -> Condition:
    """As the user's guide has it. What the loser wrote since is overwritten with what the survivor has."""
    name, keep, group = case.name, case.wishes.keep, case.settings.volume_group
    victim = case.other(keep)
    steps: list[Step] = []
    if name in case.node(victim).domains:
        otherwise = f"it runs on {victim}, whose disk would be overwritten"
        look = Wait(virsh.is_off(name), 2, otherwise)
        steps.append(Step(victim, f"see that {name} does not run here", look))
    if case.wishes.snapshot:
        kept = split_brain_snapshot.name_for(name, case.wishes.now)
        volume = requirements.disk(case.node(victim), name, case.settings)
        steps.append(
            Step(
                victim,
                f"keep this side as the snapshot {group}/{kept}",
                lvm.snapshot_of(volume, group, kept, split_brain_snapshot.room(differing(case), volume)),
                undo=lvm.remove(group, kept),
                check=lvm.exists(group, kept),
            )
        )
    was_alone = case.up[victim].standalone
    steps.append(
        Step(
            victim,
            f"disconnect {name}",
            drbd_generations.disconnect(name),
            undo=None if was_alone else drbd_generations.connect(name),
        )
    )
    if not case.up[keep].standalone:
        # It may look for its peer as the one that gives up, since a repair that kept the other side was interrupted:
        # with two that give up DRBD finds a split brain again.
        again = drbd_generations.connect(name)
        steps.append(
            Step(
                keep,
                f"disconnect {name}, to connect it as the side that stays",
                drbd_generations.disconnect(name),
                again,
            )
        )
    steps += [
        Step(victim, f"make {name} secondary", drbd.secondary(name)),
        Step(
            victim,
            f"connect {name}, giving up what this side wrote",
            drbd_generations.connect_as_loser(name),
            pivot=True,
        ),
        Step(keep, f"connect {name}", drbd_generations.connect_if_alone(name), pivot=True),
    ]
    ask = (
        ""
        if case.wishes.snapshot
        else f"{name}: what {victim} wrote since the split is thrown away, without a snapshot"
    )
    return Condition(CODE, text, tuple(steps), ask=ask, advice="does the replication network work between the nodes?")


@dataclass(frozen=True)
class SplitSide:
    """What is known about when a side was written: DRBD itself does not keep it."""

    case: RepairContext
    home: str

    def _facts(self) -> tuple[Resource, Past, dict[str, object], str]:
        """What DRBD says, its past, what both ways to show it have in common, and until when it could be written."""
        node, about = self.case.node(self.home), self.case.about.get(self.home, SideFacts())
        now, domain = self.case.resource(self.home) or Resource(self.case.name), node.domains.get(self.case.name)
        row: dict[str, object] = {
            "node": self.home, "vm": domain.state if domain else "not defined", "role": now.role, "disk": now.disk,
            "connection": now.connection,
        }  # fmt: skip
        return now, about.past, row, "now" if now.primary else moment(about.past.demoted)

    def json(self) -> dict[str, object]:
        now, past, row, until = self._facts()
        return row | {
            "out_of_sync": now.out_of_sync, "size": now.size, "lost_peer": moment(past.lost),
            "went_on_alone": moment(past.alone), "could_write_until": until, "split_found": moment(past.split),
        }  # fmt: skip

    def cells(self) -> dict[str, object]:
        now, past, row, until = self._facts()
        return row | {
            "differs": show_size(now.out_of_sync), "lost its peer": moment(past.lost) or "not in the log",
            "went on alone": moment(past.alone) or "not in the log", "could write until": until or "not in the log",
        }  # fmt: skip


def sides(case: RepairContext) -> list[SplitSide]:
    return [SplitSide(case, home) for home in case.homes]


def clocks(case: RepairContext) -> str:
    """Why the times of the two rows must not be compared as they stand; empty when they may. A person chooses by them
    whose data is thrown away."""
    pasts = {home: case.about[home].past for home in case.homes if home in case.about}
    said = [f"the clock of {home} was set back in between" for home, past in pasts.items() if past.stepped]
    known = {home: past.now for home, past in pasts.items() if past.now is not None}
    if len(known) > 1 and (apart := max(known.values()) - min(known.values())) > APART:
        fast = max(known, key=lambda home: known[home])
        said.append(f"the clock of {fast} is {apart:.0f} s ahead of the other one")
    return f"do not compare the times of the two sides as they stand: {'; '.join(said)}" if said else ""


def moment(time: float | None) -> str:
    """UTC; empty when it is not known, or of a year that there is no date of."""
    try:
        return "" if time is None else datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return ""


def copied(abouts: Sequence[SideFacts]) -> int | None:
    """Bytes that the last resync set out to copy, by the kernels' logs."""
    return next((about.past.resync for about in abouts if about.past.resync is not None), None)
