"""Which backups stay: the documented examples of Proxmox and restic, and a case of each kind.
(What must hold for any: test_retention_any.py.)

Proxmox Backup Server: its tests/prune.rs (expectations for given times), and the prune simulator's documentation,
https://pbs.proxmox.com/docs/prune-simulator/documentation.html. Proxmox VE: "Retention Settings Example" in its guide's
chapter on vzdump (pve-docs, vzdump.adoc). restic: "Removing snapshots according to a policy",
https://restic.readthedocs.io/en/stable/060_forget.html (doc/060_forget.rst).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pmc import backup
from pmc.backup import Stored, dated, moment, newest_base
from pmc.plans.retention import KEEP, LEAVE, REMOVE, by_vm, chosen, decide, vm_of
from pmc.settings import Keep
from tests.unit.stories import BASE, DELTA


def named(time: str, kind: str = "base") -> str:
    """'2019-11-15T09:39:15' as the id of a backup."""
    return backup.new_id("web", kind, datetime.fromisoformat(time).replace(tzinfo=UTC))


def at(id: str) -> datetime:
    time = moment(id)
    assert time is not None
    return time


def kept(times: Iterable[str], **rules: int) -> list[str]:
    ids = chosen(map(named, times), Keep(**rules))
    return [f"{at(id):%Y-%m-%dT%H:%M:%S}" for id in sorted(ids)]


# -- Proxmox's examples --

HOURS = ["2019-11-15T09:39:15", "2019-11-15T10:49:15", "2019-11-15T10:59:15", "2019-11-15T11:39:15",
         "2019-11-15T11:49:15", "2019-11-15T11:59:15"]  # fmt: skip
LONG = ["2018-11-15T11:59:15", "2019-11-15T11:59:15", "2019-11-21T11:59:15", "2019-11-22T11:59:15",
        "2019-11-29T11:59:15", "2019-12-01T11:59:15", "2019-12-02T11:59:15", "2019-12-03T11:59:15",
        "2019-12-04T11:59:15"]  # fmt: skip
WEEK = ["2019-12-02T11:59:15", "2019-12-03T11:59:15", "2019-12-04T11:59:15", "2019-12-04T12:59:15"]


@pytest.mark.parametrize(
    ("times", "rules", "expected"),
    [
        (HOURS, {"hourly": 3}, [0, 2, 5]),
        (HOURS, {"hourly": 2}, [2, 5]),
        (LONG, {"daily": 1}, [8]),
        (LONG, {"last": 1, "daily": 1}, [7, 8]),
        (LONG, {"daily": 1, "weekly": 1}, [5, 8]),
        (LONG, {"daily": 1, "weekly": 1, "monthly": 1}, [3, 5, 8]),
        (LONG, {"monthly": 1, "yearly": 1}, [0, 8]),
        (WEEK, {"last": 4}, [0, 1, 2, 3]),
        (WEEK, {"last": 3}, [1, 2, 3]),
        (WEEK, {"last": 2}, [2, 3]),
        (WEEK, {"last": 1}, [3]),
        (WEEK, {"last": 0}, []),
        (WEEK, {"last": 2, "daily": 2}, [0, 1, 2, 3]),
        (WEEK, {"daily": 3}, [0, 1, 3]),
        (WEEK, {"daily": 2}, [1, 3]),
        (WEEK, {"weekly": 5}, [3]),
        (WEEK, {"daily": 1, "weekly": 5}, [3]),
        (WEEK, {"monthly": 6}, [3]),
        (WEEK, {"yearly": 7}, [3]),
        (WEEK, {"weekly": 5, "monthly": 6, "yearly": 7}, [3]),
    ],
)
def test_as_proxmox_backup_server_tests_it(times: list[str], rules: dict[str, int], expected: list[int]) -> None:
    assert kept(times, **rules) == [times[number] for number in expected]


def test_a_week_hides_the_days_of_an_earlier_month() -> None:
    """The prune simulator's documentation: keep-monthly does not look at a week that keep-weekly covers, "even if part
    of the week is part of an earlier month". The one case in which a further rule leaves fewer."""
    times = ["2019-11-29T12:00:00", "2019-12-01T12:00:00"]  # a Friday and the Sunday after it
    assert kept(times, monthly=2) == times
    assert kept(times, weekly=1, monthly=2) == times[1:]
    assert kept(["2019-11-22T12:00:00", *times], weekly=1, monthly=2) == ["2019-11-22T12:00:00", times[1]]


def daily(days: int, end: str = "2026-11-23T03:00:00") -> list[str]:
    """A backup each night, the last at `end`."""
    last = datetime.fromisoformat(end)
    return [f"{last - timedelta(days=number):%Y-%m-%dT%H:%M:%S}" for number in reversed(range(days))]


def periods(times: Iterable[str]) -> dict[str, set[Any]]:
    """Of each rule, those in which there is a backup."""
    found = [datetime.fromisoformat(time).replace(tzinfo=UTC) for time in times]
    return {rule: {PERIOD[rule](time) for time in found} for rule in PERIOD}


PERIOD: dict[str, Callable[[datetime], object]] = {
    "last": lambda time: time,
    "hourly": lambda time: (time.date(), time.hour),
    "daily": lambda time: time.date(),
    "weekly": lambda time: time.isocalendar()[:2],
    "monthly": lambda time: (time.year, time.month),
    "yearly": lambda time: time.year,
}


def test_the_retention_settings_example_of_proxmox_ve() -> None:
    """Nightly backups for 12 years; what the guide promises of each number."""
    times = daily(12 * 366)
    stay = kept(times, last=3, daily=13, weekly=8, monthly=11, yearly=9)
    assert len(stay) == 3 + 13 + 8 + 11 + 9
    assert stay[-14:] == times[-14:], "at least two weeks of backups"
    have = periods(stay)
    newest = [datetime.fromisoformat(time) for time in reversed(times)]
    assert {PERIOD["weekly"](day) for day in newest[:62]} <= have["weekly"], "at least two full months of weekly ones"
    assert {PERIOD["monthly"](day) for day in newest[:365]} <= have["monthly"], "at least a year of monthly ones"
    assert len(have["yearly"]) >= 10, "at least 10 years of coverage"


# -- restic's examples --

SUNDAYS = [f"{datetime(2019, 9, 1, 11) + timedelta(weeks=number):%Y-%m-%dT%H:%M:%S}" for number in range(12)]


def restic(times: Iterable[str], **rules: int) -> set[str]:
    """What restic keeps by counting each rule alone (without the oldest one, which it adds when there are too few)."""
    newest_first = sorted(times, reverse=True)
    stay: set[str] = set()
    for rule, most in rules.items():
        first: dict[object, str] = {}
        for time in newest_first:
            first.setdefault(PERIOD[rule](datetime.fromisoformat(time)), time)
        stay |= set(list(first.values())[:most])
    return stay


def test_days_without_a_backup_do_not_count() -> None:
    """restic: one backup each Sunday; --keep-daily 4 keeps the last four Sundays. So does Proxmox."""
    assert SUNDAYS[-1] == "2019-11-17T11:00:00"
    assert kept(SUNDAYS, daily=4) == SUNDAYS[-4:]
    assert set(SUNDAYS[-4:]) == restic(SUNDAYS, daily=4)


@pytest.mark.parametrize("end", ["2026-11-22T03:00:00", "2027-01-03T03:00:00"])  # Sundays
def test_a_backup_a_day_for_100_years(end: str) -> None:
    """restic: --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --keep-yearly 75 keeps 7, then 4 more weeks (the newest
    is in the 7), at most 12 more months and 75 more years. Here each rule begins where the one before it ended, so
    the numbers are whole and reach further back: what is the newest of a month there may lie in a week that is covered
    here. Common to both: the 7 days, the 4 weeks, and a backup in each period that restic's rules count."""
    rules = {"daily": 7, "weekly": 5, "monthly": 12, "yearly": 75}
    times = daily(36524, end)
    theirs, ours = restic(times, **rules), kept(times, **rules)
    assert len(theirs) <= 7 + 4 + 12 + 75
    assert len(ours) == 7 + 5 + 12 + 75
    days_and_weeks = restic(times, daily=7, weekly=5)
    assert len(days_and_weeks) == 7 + 4
    assert set(times[-7:]) <= days_and_weeks <= set(ours)
    have, wanted = periods(ours), periods(theirs)
    for rule, most in rules.items():
        latest = sorted(wanted[rule], reverse=True)[:most]
        assert set(latest) <= have[rule], rule


# -- times --


def test_weeks_are_those_of_iso_also_at_the_end_of_a_year() -> None:
    times = ["2020-12-27T12:00:00", "2020-12-28T12:00:00", "2020-12-31T12:00:00", "2021-01-03T12:00:00"]
    assert kept(times, weekly=9) == [times[0], times[3]]
    assert chosen(map(named, times), Keep(weekly=1))[named(times[3])] == "weekly 2020-W53"


def test_days_are_those_of_utc_and_the_time_is_the_one_in_the_id() -> None:
    times = ["2026-11-22T23:59:59", "2026-11-23T00:00:00"]
    assert kept(times, daily=2) == times
    assert moment("web.20261123T000000Z.base") == datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize("id", ["web.20261323T000000Z.base", "web.20261123T006000Z.base", "web.x.base", "", "web"])
def test_an_id_without_a_time(id: str) -> None:
    assert moment(id) is None
    assert chosen([id], Keep(last=5)) == {}


def test_each_is_told_which_rule_keeps_it() -> None:
    times = ["2024-05-01T00:00:00", "2026-09-01T00:00:00", "2026-11-10T00:00:00", "2026-11-21T00:00:00",
             "2026-11-22T10:00:00", "2026-11-22T12:30:00", "2026-11-23T01:00:00", "2026-11-23T02:00:00"]  # fmt: skip
    why = chosen(map(named, times), Keep(last=1, hourly=2, daily=1, weekly=1, monthly=1, yearly=1))
    assert [why.get(named(time), "") for time in times] == [
        "yearly 2024", "monthly 2026-09", "weekly 2026-W46", "daily 2026-11-21", "", "hourly 2026-11-22 12:00",
        "hourly 2026-11-23 01:00", "last 1",
    ]  # fmt: skip


# -- bases, copies, and what cannot be used --

OLD, MIDDLE, NEW = (named(f"2026-01-0{day}T00:00:00") for day in (1, 3, 5))
OLD_DELTA, NEW_DELTA = named("2026-01-02T00:00:00", "delta"), named("2026-01-06T00:00:00", "delta")


def base(id: str, node: str = "pm-1", broken: str = "") -> Stored:
    return Stored(node, id, 1000, replace(BASE, id=id), broken)


def delta(id: str, of: str, node: str = "pm-1", broken: str = "") -> Stored:
    return Stored(node, id, 10, replace(DELTA, id=id, base=of), broken)


def unread(id: str, node: str = "pm-1") -> Stored:
    return Stored(node, id, 10, None, "its manifest is damaged")


def proved(each: Stored) -> Stored:
    return replace(each, verified="2026-01-31T03:00:00Z")


def decided(
    *stored: Stored, unseen: Sequence[str] = (), broken: bool = False, together: bool = False, **rules: int
) -> list[tuple[str, str]]:
    return [(each.action, each.why) for each in decide(stored, Keep(**rules), unseen, broken, together)]


def test_a_base_stays_for_a_delta_that_stays() -> None:
    stored = base(OLD), delta(OLD_DELTA, OLD), base(MIDDLE), delta(NEW_DELTA, OLD)
    assert decided(*stored, last=1) == [
        (KEEP, f"needed by {NEW_DELTA}"), (REMOVE, "no rule keeps it"), (REMOVE, "no rule keeps it"), (KEEP, "last 1"),
    ]  # fmt: skip
    assert decided(*stored, last=2)[2] == (KEEP, "last 2"), "what is only needed does not count"


def test_a_backup_on_two_nodes_is_one_and_all_its_copies_share_its_fate() -> None:
    stored = base(OLD), base(OLD, "pm-2"), base(NEW), base(NEW, "pm-2")
    assert [action for action, _ in decided(*stored, last=1)] == [REMOVE, REMOVE, KEEP, KEEP]
    assert [action for action, _ in decided(*stored, last=2)] == [KEEP] * 4


def test_what_one_node_says_makes_none_of_anothers_go() -> None:
    """Five real backups lie on pm-2; who is root on pm-1 lists three that do not exist, newer ones, each read back."""
    real = [proved(base(named(f"2026-01-0{day}T00:00:00"), "pm-2")) for day in range(1, 6)]
    false = [proved(base(named(f"2026-02-0{day}T00:00:00"), "pm-1")) for day in range(1, 4)]
    expected = [(REMOVE, "no rule keeps it")] * 2 + [(KEEP, f"last {number}") for number in (3, 2, 1)] * 2
    assert decided(*real, *false, last=3) == expected
    assert [action for action, _ in decided(*real, *false, last=3, together=True)] == [REMOVE] * 5 + [KEEP] * 3
    copied = decided(base(OLD), base(OLD, "pm-2"), base(NEW), last=1)
    assert copied == [(REMOVE, "no rule keeps it"), (KEEP, "last 1"), (KEEP, "last 1")]
    assert [action for action, _ in decided(base(OLD), base(OLD, "pm-2"), base(NEW), last=1, together=True)] == [
        REMOVE, REMOVE, KEEP,
    ]  # fmt: skip


def test_the_newest_that_was_read_back_stays_until_a_newer_one_was() -> None:
    """Those that are newer may have rotted: nobody has read them."""
    stored = proved(base(OLD)), proved(base(MIDDLE)), base(NEW), base(named("2026-01-07T00:00:00"))
    assert decided(*stored, last=1) == [
        (REMOVE, "no rule keeps it"), (KEEP, "verified 1"), (REMOVE, "no rule keeps it"), (KEEP, "last 1"),
    ]  # fmt: skip
    assert [action for action, _ in decided(*stored, last=1, verified=2)] == [KEEP, KEEP, REMOVE, KEEP]
    assert [action for action, _ in decided(*stored, last=1, verified=0)] == [REMOVE, REMOVE, REMOVE, KEEP]
    newer = *stored[:3], proved(stored[3])
    assert [action for action, _ in decided(*newer, last=1)] == [REMOVE, REMOVE, REMOVE, KEEP]


def test_a_delta_that_was_read_back_keeps_its_base() -> None:
    stored = base(OLD), proved(delta(OLD_DELTA, OLD)), base(NEW)
    assert decided(*stored, last=1) == [
        (KEEP, f"needed by {OLD_DELTA}"), (KEEP, "verified 1"), (KEEP, "last 1"),
    ]  # fmt: skip


def test_what_was_found_damaged_takes_the_place_of_none() -> None:
    bad = replace(base(NEW), damaged="2026-01-31T03:00:00Z")
    why = "it was found damaged when it was read back at 2026-01-31T03:00:00Z"
    assert decided(base(OLD), bad, last=1) == [(KEEP, "last 1"), (LEAVE, why)]
    assert decided(base(OLD), bad, last=1, broken=True) == [(KEEP, "last 1"), (REMOVE, why)]
    assert decided(base(OLD), bad, delta(NEW_DELTA, NEW), last=1)[2] == (
        LEAVE, f"its base {NEW} is missing on pm-1 or cannot be used",
    )  # fmt: skip


NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)


def test_what_is_of_the_future_is_not_counted_and_never_removed() -> None:
    """A manager whose clock was years ahead made it; or this one's is behind, and it is the newest."""
    future = base(named("2099-01-01T00:00:00"))
    stored = dated([base(OLD), base(NEW), future], NOW)
    for broken in (False, True):
        assert decided(*stored, last=1, broken=broken) == [
            (REMOVE, "no rule keeps it"), (KEEP, "last 1"), (LEAVE, "its time is in the future"),
        ]  # fmt: skip
    assert [each.ahead for each in dated(map(base, (NEW, named("2026-01-11T12:00:00"))), NOW)] == [False, False]
    assert [each.ahead for each in dated(map(base, (named("2026-01-11T12:00:01"), "web.x.base")), NOW)] == [True, False]


def test_a_base_of_the_future_is_no_base_for_a_delta() -> None:
    stored = dated([base(OLD), base(NEW), base(named("2099-01-01T00:00:00"), "pm-2")], NOW)
    newest = newest_base(stored, "web", "pm-2")
    assert newest is not None
    assert newest.id == NEW


def test_nor_is_one_that_was_found_damaged_or_a_delta_against_it() -> None:
    """The sums that a delta is made by are those of the index: they do not tell that the base itself has rotted."""
    bad = replace(base(NEW), damaged="2026-01-31T03:00:00Z")
    old, copy = base(OLD), base(NEW, "pm-2")
    for stored, wanted in (
        ([old, bad], old), ([old, bad, copy], copy), ([bad], None),
        ([old, base(NEW), replace(delta(NEW_DELTA, NEW), damaged="2026-01-31T03:00:00Z")], old),
    ):  # fmt: skip
        assert newest_base(stored, "web", "pm-1") == wanted


def test_each_copy_of_a_base_stays_wherever_the_delta_lies() -> None:
    stored = base(OLD), base(OLD, "pm-2"), delta(NEW_DELTA, OLD, "pm-2")
    assert [action for action, _ in decided(*stored, last=1)] == [KEEP, KEEP, KEEP]


def test_what_is_broken_is_neither_counted_nor_removed() -> None:
    stored = base(OLD), base(MIDDLE), base(NEW, broken="its file is missing"), unread(named("2026-01-07T00:00:00"))
    assert decided(*stored, last=1) == [
        (REMOVE, "no rule keeps it"), (KEEP, "last 1"), (LEAVE, "its file is missing"),
        (LEAVE, "its manifest is damaged"),
    ]  # fmt: skip


def test_one_good_copy_is_enough_and_the_broken_one_is_left() -> None:
    stored = base(OLD), base(NEW, broken="its file is missing"), base(NEW, "pm-2")
    assert [action for action, _ in decided(*stored, last=1, together=True)] == [REMOVE, LEAVE, KEEP]
    assert [action for action, _ in decided(*stored, last=1)] == [KEEP, LEAVE, KEEP], "it is the only one of its node"


@pytest.mark.parametrize("of", [[], [base(OLD, broken="its file is missing")], [base(OLD, "pm-2")], [unread(OLD)]])
def test_a_delta_without_its_base_beside_it_is_left_and_not_counted(of: list[Stored]) -> None:
    """Or it would be the newest, and the good ones be removed for its sake. It keeps its base from being removed."""
    found = decide([*of, base(MIDDLE), delta(NEW_DELTA, OLD)], Keep(last=1))
    assert [each.action for each in found if each.stored.id != OLD] == [KEEP, LEAVE]
    assert found[-1].why == f"its base {OLD} is missing on pm-1 or cannot be used"
    assert all(each.action != REMOVE for each in found)


def test_a_delta_that_cannot_be_read_may_need_any_base_that_is_not_younger() -> None:
    odd, newest = unread(named("2026-01-04T00:00:00", "delta")), base(named("2026-01-09"))
    stored = base(OLD), base(MIDDLE), odd, base(NEW), newest
    assert [action for action, _ in decided(*stored, last=1)] == [KEEP, KEEP, LEAVE, REMOVE, KEEP]
    assert decided(*stored, last=1)[0][1] == f"{odd.id} cannot be read and may need it"
    without_time = unread("web.what is this.delta"), base(OLD), base(NEW)
    assert {action for action, _ in decided(*without_time, last=1)} == {KEEP, LEAVE}


def test_a_node_that_does_not_answer_may_hold_a_delta_of_any_base() -> None:
    stored = base(OLD), delta(OLD_DELTA, OLD), base(NEW)
    assert decided(*stored, unseen=["pm-3"], last=1) == [
        (KEEP, "pm-3 does not answer, and a delta there may need it"), (REMOVE, "no rule keeps it"), (KEEP, "last 1"),
    ]  # fmt: skip


def test_what_is_broken_goes_when_that_is_asked_for_and_is_not_counted_then_either() -> None:
    stored = base(OLD), base(MIDDLE), base(NEW, broken="its file is missing"), unread(named("2026-01-07T00:00:00"))
    assert decided(*stored, last=1, broken=True) == [
        (REMOVE, "no rule keeps it"), (KEEP, "last 1"), (REMOVE, "its file is missing"),
        (REMOVE, "its manifest is damaged"),
    ]  # fmt: skip
    assert decided(unread("web.what is this.delta"), base(OLD), last=1, broken=True)[1][0] == LEAVE, (
        "no backup, perhaps"
    )


def test_only_the_broken_copy_goes() -> None:
    stored = base(NEW, broken="its file is missing"), base(NEW, "pm-2")
    assert [action for action, _ in decided(*stored, last=1, broken=True)] == [REMOVE, KEEP]


def test_a_damaged_base_that_a_delta_needs_stays_also_then() -> None:
    """Its other copy may be lost one day, and much of a damaged one can often be read."""
    stored = base(OLD, broken="its file is short"), base(OLD, "pm-2"), delta(OLD_DELTA, OLD, "pm-2")
    assert [action for action, _ in decided(*stored, last=1, broken=True)] == [LEAVE, KEEP, KEEP]
    damaged = base(OLD, broken="its file is short"), delta(OLD_DELTA, OLD), base(NEW)
    assert [action for action, _ in decided(*damaged, last=1)] == [LEAVE, LEAVE, KEEP]
    assert [action for action, _ in decided(*damaged, last=1, broken=True)] == [REMOVE, REMOVE, KEEP]


def test_a_delta_whose_base_lies_elsewhere_is_not_given_up() -> None:
    """Nor is that base: beside it, it can be used."""
    stored = base(OLD, "pm-2"), delta(OLD_DELTA, OLD), base(NEW)
    for broken in (False, True):
        for together in (False, True):
            found = decided(*stored, last=1, broken=broken, together=together)
            assert [action for action, _ in found] == [KEEP, LEAVE, KEEP]
    assert decided(*stored, last=1, together=True)[0][1] == f"needed by {OLD_DELTA}"
    gone = stored[1:]
    assert [action for action, _ in decided(*gone, last=1, broken=True)] == [REMOVE, KEEP]
    assert [action for action, _ in decided(*gone, last=1, broken=True, unseen=["pm-2"])] == [LEAVE, KEEP]


def test_a_delta_that_cannot_be_read_needs_nothing_once_it_goes() -> None:
    stored = base(OLD), unread(named("2026-01-04T00:00:00", "delta")), base(NEW)
    assert [action for action, _ in decided(*stored, last=1)] == [KEEP, LEAVE, KEEP]
    assert [action for action, _ in decided(*stored, last=1, broken=True)] == [REMOVE, REMOVE, KEEP]


def test_a_base_and_a_delta_of_the_same_second_are_two() -> None:
    twin = OLD.replace("base", "delta")
    assert decided(base(OLD), delta(twin, OLD), last=1) == [(KEEP, f"needed by {twin}"), (KEEP, "last 1")]
    assert [why for _, why in decided(base(OLD), delta(twin, OLD), last=2)] == ["last 2", "last 1"]


def test_each_vm_has_its_own() -> None:
    mail = Stored("pm-1", "mail.20260101T000000Z.base", 1, None, "x")
    found = by_vm([base(NEW), mail, base(OLD), unread("web.odd.base")])
    assert {vm: [each.id for each in stored] for vm, stored in found.items()} == {
        "mail": [mail.id], "web": [OLD, NEW, "web.odd.base"],
    }  # fmt: skip
    assert vm_of("a-b.20260101T000000Z.delta") == "a-b"
