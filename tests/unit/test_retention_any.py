"""What must hold of the backups that stay, for any backups and any rules."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pmc import backup
from pmc.backup import Stored
from pmc.plans import prune
from pmc.plans.retention import KEEP, LEAVE, REMOVE, Decision, chosen, decide
from pmc.settings import Keep
from tests.unit.samples import SETTINGS
from tests.unit.test_retention import PERIOD, at, base, delta, kept, restic, unread

RULES = [each.name for each in fields(Keep)]  # what is kept of the verified is the last
COUNTED = list(Keep().rules)
BEGIN = datetime(2025, 11, 20, tzinfo=UTC)  # with the ends of a year, of months and of weeks close by
HALF_HOURS = st.one_of(st.integers(0, 50), st.integers(0, 20 * 48), st.integers(0, 900 * 48))
TIMES = HALF_HOURS.map(lambda number: BEGIN + timedelta(minutes=30 * number))
MANY_TIMES = st.integers(1, 24).flatmap(lambda number: st.lists(TIMES, min_size=number, max_size=number, unique=True))
NUMBERS = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 7])
SOME = st.builds(Keep, *[NUMBERS] * len(RULES)).filter(lambda keep: any(keep.rules.values()))
# Weeks do not fit into months and years; of the other periods each lies within the next.
NESTED = st.one_of(
    SOME.map(lambda keep: replace(keep, weekly=0)), SOME.map(lambda keep: replace(keep, monthly=0, yearly=0))
).filter(lambda keep: any(keep.rules.values()))
SILENT = st.sampled_from([(), (), (), ("pm-3",)])
MANY = settings(max_examples=150, deadline=None)


@st.composite
def backups(draw: st.DrawFn) -> list[Stored]:
    """Bases, some of them on two nodes, and deltas against them, some of each broken or not to be read."""
    # A generator of its own: hypothesis likes extreme numbers too much to leave most backups whole.
    chance = random.Random(draw(st.integers(0, 2**32)))
    rare = chance.choice([0, 0, 0.1])
    found: list[Stored] = []
    for time in sorted(draw(MANY_TIMES)):
        node = chance.choice(["pm-1", "pm-2"])
        bases = [each.id for each in found if each.id.endswith(".base")]
        if bases and chance.random() < 0.5:
            made = [delta(backup.new_id("web", "delta", time), chance.choice(bases), node)]
        else:
            made = [base(backup.new_id("web", "base", time), at) for at in chance.choice([["pm-1"], ["pm-2", "pm-1"]])]
        for each in made:
            if chance.random() < 0.3:
                when, right = "2026-01-31T03:00:00Z", chance.random() < 0.7
                each = replace(each, verified=when) if right else replace(each, damaged=when)
            if chance.random() < 0.05:
                each = replace(each, ahead=True)
            state = chance.random()
            found.append(
                replace(each, broken="x") if state < rare else unread(each.id, each.node) if state > 1 - rare else each
            )
    return list({(each.id, each.node): each for each in found}.values())


def ids(decisions: Sequence[Decision], *actions: str) -> set[str]:
    return {each.stored.id for each in decisions if each.action in actions}


def usable(decisions: Sequence[Decision]) -> set[str]:
    return ids(decisions, KEEP, REMOVE)


@MANY
@given(backups(), SOME, SILENT, st.booleans())
def test_no_delta_that_stays_loses_its_base(
    stored: list[Stored], keep: Keep, unseen: Sequence[str], broken: bool
) -> None:
    decisions = decide(stored, keep, unseen, broken)
    needed = {each.stored.backup.base for each in decisions if each.action != REMOVE and each.stored.backup}
    assert not needed & ids(decisions, REMOVE)
    if unseen:
        assert not [id for id in ids(decisions, REMOVE) if id.endswith(".base")]


@MANY
@given(backups(), SOME, SILENT, st.booleans())
def test_wherever_it_breaks_off_no_delta_is_without_the_base_that_it_had(
    stored: list[Stored], keep: Keep, unseen: Sequence[str], broken: bool
) -> None:
    lying = {(each.id, each.node) for each in stored}
    bases = {(each.id, each.node): each.backup.base for each in stored if each.backup and each.backup.base}
    had = {(id, node) for (id, node), base in bases.items() if (base, node) in lying}
    for step in prune.prune("web", decide(stored, keep, unseen, broken), SETTINGS).steps:
        lying.remove((step.note.split()[1], step.node))
        assert all((bases[id, node], node) in lying for id, node in had & lying)


@MANY
@given(backups(), SOME, SILENT)
def test_what_is_asked_of_the_broken_changes_nothing_of_the_others(
    stored: list[Stored], keep: Keep, unseen: Sequence[str]
) -> None:
    """But for bases, which some of them need, or may."""
    plain, more = decide(stored, keep, unseen), decide(stored, keep, unseen, broken=True)
    for before, after in zip(plain, more, strict=True):
        if before.action == REMOVE or not before.stored.id.endswith(".base"):
            assert after == before or (before.action, after.action) == (LEAVE, REMOVE)
        assert after.action in (before.action, REMOVE)


@MANY
@given(backups(), SOME, SILENT)
def test_pruning_again_removes_nothing(stored: list[Stored], keep: Keep, unseen: Sequence[str]) -> None:
    first = decide(stored, keep, unseen)
    again = decide([each.stored for each in first if each.action != REMOVE], keep, unseen)
    assert not ids(again, REMOVE)
    assert [each for each in again if each.action == LEAVE] == [each for each in first if each.action == LEAVE]


@MANY
@given(backups(), SOME, SILENT)
def test_a_backup_that_can_be_used_always_stays(stored: list[Stored], keep: Keep, unseen: Sequence[str]) -> None:
    """Even the newest of them, whatever the rules."""
    decisions = decide(stored, keep, unseen)
    if usable(decisions):
        assert max(usable(decisions), key=lambda id: id.split(".")[1]) in ids(decisions, KEEP)
    assert {each.stored.id for each in decisions} == {each.id for each in stored}
    odd = [each for each in decisions if each.stored.broken or each.stored.doubt or not each.stored.backup]
    assert all(each.action == LEAVE for each in odd)


@MANY
@given(backups(), SOME, SILENT, st.booleans())
def test_what_other_nodes_hold_never_makes_one_go(
    stored: list[Stored], keep: Keep, unseen: Sequence[str], broken: bool
) -> None:
    """But for what can be used no more, and is asked to go: a delta whose base another node has might be fixed."""
    going = {(d.stored.id, d.stored.node) for d in decide(stored, keep, unseen, broken) if d.action == REMOVE}
    for node in ("pm-1", "pm-2"):
        mine = [each for each in stored if each.node == node]
        alone = {(d.stored.id, node) for d in decide(mine, keep, unseen, broken) if d.action == REMOVE}
        assert {key for key in going if key[1] == node} <= alone


@MANY
@given(backups(), SOME, SILENT)
def test_on_each_node_the_newest_that_was_read_back_stays(
    stored: list[Stored], keep: Keep, unseen: Sequence[str]
) -> None:
    decisions = decide(stored, replace(keep, verified=max(keep.verified, 1)), unseen)
    for node in ("pm-1", "pm-2"):
        here = [d for d in decisions if d.stored.node == node and d.stored.verified and d.action != LEAVE]
        assert not here or max(here, key=lambda d: d.stored.id.split(".")[1:]).action == KEEP


@MANY
@given(backups(), SOME, st.randoms(use_true_random=False))
def test_the_order_in_which_they_are_listed_does_not_matter(
    stored: list[Stored], keep: Keep, chance: random.Random
) -> None:
    mixed = list(stored)
    chance.shuffle(mixed)
    assert decide(mixed, keep) == decide(stored, keep)


@MANY
@given(MANY_TIMES, SOME)
def test_a_rule_keeps_one_of_a_period_and_at_most_its_number(times: list[datetime], keep: Keep) -> None:
    found: dict[str, list[str]] = {rule: [] for rule in COUNTED}
    for id, why in chosen((backup.new_id("web", "base", time) for time in times), keep).items():
        found[why.split()[0]].append(id)
    for rule, kept_by_it in found.items():
        assert len(kept_by_it) <= asdict(keep)[rule]
        assert len({PERIOD[rule](at(id)) for id in kept_by_it}) == len(kept_by_it)


@MANY
@given(backups(), SOME, st.sampled_from(RULES), st.integers(1, 5))
def test_more_of_the_last_rule_never_keeps_fewer(stored: list[Stored], keep: Keep, rule: str, more: int) -> None:
    """Whatever the rules before it are."""
    later = RULES[RULES.index(rule) + 1 :]
    keep = replace(keep, **dict.fromkeys(later, 0))
    greater = replace(keep, **{rule: asdict(keep)[rule] + more})
    assert ids(decide(stored, keep), KEEP) <= ids(decide(stored, greater), KEEP)


@MANY
@given(backups(), NESTED, st.sampled_from(RULES), st.integers(1, 5))
def test_more_of_any_rule_never_keeps_fewer_unless_weeks_meet_months_or_years(
    stored: list[Stored], keep: Keep, rule: str, more: int
) -> None:
    """They do in test_a_week_hides_the_days_of_an_earlier_month, which is Proxmox's documented way."""
    crossing = keep.weekly if rule in ("monthly", "yearly") else rule == "weekly" and (keep.monthly or keep.yearly)
    greater = replace(keep, **{rule: asdict(keep)[rule] + more})
    if not crossing:
        assert ids(decide(stored, keep), KEEP) <= ids(decide(stored, greater), KEEP)


@MANY
@given(MANY_TIMES, NESTED)
@example([BEGIN], Keep(last=1))
def test_what_restic_would_keep_is_kept_unless_weeks_meet_months_or_years(times: list[datetime], keep: Keep) -> None:
    texts = [f"{time:%Y-%m-%dT%H:%M:%S}" for time in times]
    assert restic(texts, **keep.rules) <= set(kept(texts, **keep.rules))
