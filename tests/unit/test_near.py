"""Which nodes a command locks and looks at again: the VM's own ones, as long as that is sure; else all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pmc.plan import apply
from pmc.tasks import near
from tests.unit.counted import MANY, Counted, counted
from tests.unit.fake import World
from tests.unit.stories import peered, with_stray, with_web


def held(cluster: Counted, meanwhile: Callable[[], object] = lambda: None) -> list[str]:
    """The nodes on which web is locked in the end, and that it is known there as it is now."""
    first = cluster.state()
    meanwhile()
    with near.held(cluster, "test", ["web"], first) as (taken, state):
        assert state.about("web") == cluster.state().about("web")
        return sorted(taken.holds)


def test_its_own_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert held(counted(monkeypatch, with_web())) == ["pm-1", "pm-2"]


def test_an_old_copy_counts_as_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    world = with_stray()
    assert held(counted(monkeypatch, world)) == ["pm-1", "pm-2", "pm-3"]


def test_all_when_one_of_its_own_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another manager may see the other one only: the two must meet somewhere."""
    world = with_web()
    world.dead.add("pm-2")
    assert len(held(counted(monkeypatch, world))) == MANY - 1


def test_all_when_nobody_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(held(counted(monkeypatch, World()))) == MANY


def test_all_when_it_lives_elsewhere_by_now(monkeypatch: pytest.MonkeyPatch) -> None:
    world = with_web()
    cluster = counted(monkeypatch, world)
    assert len(held(cluster, lambda: apply(peered(world), world.carry_out))) == MANY


def test_all_when_one_stopped_answering_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    world = with_web()
    cluster = counted(monkeypatch, world)
    assert len(held(cluster, lambda: world.dead.add("pm-2"))) == MANY - 1
