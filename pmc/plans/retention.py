"""Which backups stay: the rules of Proxmox (vzdump, Proxmox Backup Server). Pure.

The rules take turns: last, hourly, daily, weekly (ISO weeks), monthly, yearly. Each goes from the newest backup to the
oldest and keeps the newest of each of its first N periods. Periods without a backup do not count, nor do those that
are covered: in which an earlier rule keeps one. What else lies in a period that a rule counted is out, for the later
rules too: so a week that reaches into two months may leave the older month without a backup.

restic's forget lets every rule count for itself: of a backup a day, `--keep-daily 7 --keep-weekly 5` keeps 7 + 4 there
(the newest is the first of both rules) and 7 + 5 here. It also keeps the oldest one when a rule has periods to spare.

Periods are those of UTC, and a backup's time is the one in its id. One that is broken or was found damaged, cannot be
read, or lacks its base is not counted by any rule, and left as it is unless such are asked for; one whose time is in
the future is not counted, and left. A base stays as long as a delta that stays needs it, or may, wherever the two lie.

The rules count the backups of each node for themselves, for they are known by the node's word only: what one says makes
none of another's go. (`together`: those of all nodes are one set, a backup on several is one.) And the newest that were
read back and found right stay, `keep.verified` of them, until newer ones were: what is newer may have rotted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pmc.backup import Stored, moment
from pmc.settings import Keep
from pmc.units import show_size

KEEP, REMOVE, LEAVE = "keep", "remove", "leave"
NEEDED = "needed by "  # so begins why a base stays that no rule keeps
# strftime's words for the period of each rule; for `last` every backup is one of its own.
PERIODS = {"hourly": "%Y-%m-%d %H:00", "daily": "%Y-%m-%d", "weekly": "%G-W%V", "monthly": "%Y-%m", "yearly": "%Y"}


@dataclass(frozen=True)
class Decision:
    """`action`: keep; remove; or leave, what cannot be used. `why` names the rule and its period, the backup that needs
    this one, or what is wrong with it."""

    stored: Stored
    action: str
    why: str

    def cells(self) -> dict[str, object]:
        here, time = self.stored, moment(self.stored.id)
        return {
            "id": here.id, "kind": here.backup.kind if here.backup else "",
            "time": time.isoformat(timespec="seconds") if time else "", "node": here.node,
            "stored": show_size(here.stored), "action": self.action, "why": self.why,
        }  # fmt: skip

    def json(self) -> dict[str, object]:
        here = self.stored
        base = here.backup.base if here.backup else ""
        return self.cells() | {"stored": here.stored, "vm": vm_of(here.id), "base": base, "broken": here.broken}


def vm_of(id: str) -> str:
    """The VM of a backup, also when only its file's name can be read."""
    return id.rsplit(".", 2)[0]


def by_vm(stored: Iterable[Stored]) -> dict[str, list[Stored]]:
    found: dict[str, list[Stored]] = {}
    for each in sorted(stored, key=lambda s: (vm_of(s.id), _time(s.id), s.id, s.node)):
        found.setdefault(vm_of(each.id), []).append(each)
    return found


def chosen(ids: Iterable[str], keep: Keep) -> dict[str, str]:
    """Of one VM's backups, each with a time in its id, those that the rules keep, and why."""
    times = {id: time for id in ids if (time := moment(id))}
    newest_first = sorted(times, key=lambda id: (times[id], id), reverse=True)
    kept: dict[str, str] = {}
    out: set[str] = set()
    for rule, most in keep.rules.items():
        period = {id: times[id].strftime(PERIODS[rule]) if rule in PERIODS else id for id in newest_first}
        covered = {period[id] for id in kept}
        counted: set[str] = set()
        for id in newest_first:
            if id in kept or id in out or period[id] in covered:
                continue
            if period[id] in counted:
                out.add(id)
            elif len(counted) >= most:
                break
            else:
                counted.add(period[id])
                kept[id] = f"{rule} {period[id] if rule in PERIODS else len(counted)}"
    return kept


def decide(
    stored: Sequence[Stored], keep: Keep, unseen: Sequence[str] = (), broken: bool = False, together: bool = False
) -> list[Decision]:
    """For all backups of one VM, the oldest first. `unseen` are the nodes that could not be asked: a delta there may
    need any base. `broken`: what cannot be used goes too, when nothing can fix it."""
    stored = [each for found in by_vm(stored).values() for each in found]
    sound = {
        (each.id, each.node) for each in stored
        if each.backup and not each.broken and not each.damaged and moment(each.id)
    }  # fmt: skip
    wrong = {(each.id, each.node): _wrong(each, sound) for each in stored}
    usable = [each for each in stored if not wrong[each.id, each.node]]
    kept: dict[tuple[str, str], str] = {}
    for node in dict.fromkeys(each.node for each in usable):
        kept |= {(id, node): why for id, why in _kept([s for s in usable if together or s.node == node], keep).items()}
    lost = {
        (each.id, each.node) for each in stored if broken and wrong[each.id, each.node] and _lost(each, sound, unseen)
    }
    left = {key for key, why in wrong.items() if why and key not in lost}
    staying = [each for each in reversed(stored) if (each.id, each.node) in {*kept, *left}]
    needed: dict[str, str] = {}
    for each in staying:
        if each.backup and each.backup.base:
            needed.setdefault(each.backup.base, f"{NEEDED}{each.id}")

    def decision(each: Stored) -> Decision:
        why, need = wrong[each.id, each.node], needed.get(each.id) or _perhaps_needed(each, staying, unseen)
        if why:
            stays = need or (each.id, each.node) in left
            return Decision(each, LEAVE if stays else REMOVE, why)
        why = kept.get((each.id, each.node)) or need
        return Decision(each, KEEP, why) if why else Decision(each, REMOVE, "no rule keeps it")

    return [decision(each) for each in stored]


def _kept(usable: Sequence[Stored], keep: Keep) -> dict[str, str]:
    """By the rules, and of those that were read back and found right the newest."""
    kept = chosen((each.id for each in usable), keep)
    proved = sorted({each.id for each in usable if each.verified}, key=lambda id: (_time(id), id), reverse=True)
    return {id: f"verified {number}" for number, id in enumerate(proved[: keep.verified], 1)} | kept


def _wrong(each: Stored, sound: set[tuple[str, str]]) -> str:
    """Why this one cannot be restored as it lies there; empty when it can."""
    if (each.id, each.node) not in sound:
        return each.broken or each.doubt or "its manifest cannot be read, or its time is none"
    if each.ahead:
        return each.doubt
    if each.backup and each.backup.base and (each.backup.base, each.node) not in sound:
        return f"its base {each.backup.base} is missing on {each.node} or cannot be used"
    return ""


def _lost(each: Stored, sound: set[tuple[str, str]], unseen: Sequence[str]) -> bool:
    """Whether nothing can make a use of it again. A delta whose base lies on another node, or may, only needs a copy of
    that beside it. What has no time that can be told may not be a backup. What is of the future is a good one when it
    is the manager's clock that is wrong."""
    if each.ahead:
        return False
    if (each.id, each.node) not in sound:
        return moment(each.id) is not None
    return not unseen and not any(each.backup and id == each.backup.base for id, _ in sound)


def _perhaps_needed(base: Stored, staying: Iterable[Stored], unseen: Sequence[str]) -> str:
    """Why a base may be needed by a delta of which nothing is known: one on a node that does not answer, or one that is
    not older and whose manifest cannot be read (damaged, or of another version)."""
    if not base.id.endswith(".base"):
        return ""
    if unseen:
        return f"{unseen[0]} does not answer, and a delta there may need it"
    unread = (s.id for s in staying if not s.backup and not s.id.endswith(".base") and _time(s.id) >= _time(base.id))
    return next((f"{id} cannot be read and may need it" for id in unread), "")


def _time(id: str) -> str:
    """As it is written; in the far future when it cannot be told."""
    return id.rsplit(".", 2)[1] if id.count(".") > 1 else "~"
