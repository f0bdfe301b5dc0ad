"""What vm.backup was asked for; against which base, on which node and of which time the new one is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pmc import backup
from pmc.backup import Stored
from pmc.backup_pipeline import How
from pmc.plain import then
from pmc.plans import retention

FEW = 60  # seconds that the clocks of two managers may be apart, without a word of it


@dataclass(frozen=True)
class BackupRequest:
    """What vm.backup was asked for."""

    name: str
    base: bool = False
    to: str = ""  # the node to keep it on; else where the disk is read, or where the base lies
    compress: bool = True
    limit: int = 0  # bytes a second; 0: none
    freeze: bool = True  # when the guest has an agent

    def named(self, name: str) -> BackupRequest:
        return replace(self, name=name)

    @property
    def how(self) -> How:
        return How(self.compress, self.limit)


def base_for(wish: BackupRequest, reader: str, stored: Sequence[Stored]) -> Stored | None:
    """What a delta is made against; None: a new base is made. `reader`: the node that reads the disk."""
    usable = [s for s in stored if wish.to in ("", s.node)]
    return None if wish.base else backup.newest_base(usable, wish.name, reader)


def passed_over(wish: BackupRequest, reader: str, stored: Sequence[Stored]) -> str:
    """What to say of a base that is newer than the one that is taken, and why it is not; empty: there is none."""
    usable = [s for s in stored if wish.to in ("", s.node) and not s.ahead]
    taken, whole = base_for(wish, reader, stored), {each.id for each in backup.sound(usable)}
    bases = [each for each in usable if each.id.startswith(f"{wish.name}.") and each.id.endswith(".base")]
    newer = [each for each in bases if each.id not in whole and (taken is None or each.id > taken.id)]
    if wish.base or not newer:
        return ""
    last = max(newer, key=lambda each: each.id)
    if last.broken:
        said = f"{last.id} on {last.node} is broken ({last.broken}), so no delta is made against it"
        return then(f"{wish.name}: {said}", f"fab vm.backup {wish.name} --base") if taken else f"{wish.name}: {said}"
    # One of its own, or one that needs it: then either may be what is damaged, and both are read again.
    bad = last if last.damaged else next(s for s in usable if s.damaged and s.backup and s.backup.base == last.id)
    which = "it" if bad is last else f"{bad.id}, which needs it,"
    said = f"no delta is made against {last.id} on {last.node}, as {which} was found damaged"
    return then(f"{wish.name}: {said}", f"fab vm.verify_backup {wish.name} --backup {bad.id}")


def keeper_for(wish: BackupRequest, reader: str, stored: Sequence[Stored]) -> str:
    """The node that it will lie on."""
    found = base_for(wish, reader, stored)
    return found.node if found else wish.to or reader


def follows(name: str, stored: Sequence[Stored], now: datetime) -> tuple[datetime, str]:
    """The time for a new backup, and what to say when this machine's clock is behind the newest one: which backup is
    the newest is told by their ids, so these never go back. (One that is of the future is no measure.)"""
    mine = [each for each in stored if retention.vm_of(each.id) == name]
    ahead = sorted(each.id for each in mine if each.ahead)
    newest = max(((time, s.id) for s in mine if not s.ahead and (time := backup.moment(s.id))), default=None)
    said = ""
    if ahead:
        said = (
            f"{name}: {ahead[-1]} is of the future by this machine's clock, which says "
            f"{now.astimezone(UTC).isoformat(timespec='seconds')}; if the clock is wrong, set it right before anything "
            f"is pruned; if it is right, that backup counts for nothing: fab pm.verify tells how to remove it"
        )
    if newest is None or newest[0] <= now:
        return now, said
    if (late := (newest[0] - now).total_seconds()) > FEW:
        said = (
            f"{name}: this machine's clock is {late:.0f} s behind the newest backup, {newest[1]}; the new one is dated "
            f"a second after that; set the clock right"
        )
    return newest[0] + timedelta(seconds=1), said
