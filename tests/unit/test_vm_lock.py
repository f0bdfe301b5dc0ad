"""Which nodes a command locks and looks at again: the VM's own ones, as long as that is sure; else all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from invoke.context import Context

from pmc.backup import Stored
from pmc.model import Volume
from pmc.plan import apply
from pmc.tasks import vm_lock
from pmc.tasks.base import located_with_backups
from pmc.units import GiB
from tests.sim.fake import World
from tests.unit.counted import MANY, Counted, counted
from tests.unit.stories import peered, with_stale_copy, with_web


def held(cluster: Counted, meanwhile: Callable[[], object] = lambda: None) -> list[str]:
    """The nodes on which web is locked in the end, and that it is known there as it is now."""
    first = cluster.state()
    meanwhile()
    with vm_lock.locked(cluster, "test", ["web"], first) as (taken, state):
        assert state.about("web") == cluster.state().about("web")
        return sorted(taken.holds)


def test_its_own_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert held(counted(monkeypatch, with_web())) == ["pm-1", "pm-2"]


def test_an_old_copy_counts_as_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    world = with_stale_copy()
    assert held(counted(monkeypatch, world)) == ["pm-1", "pm-2", "pm-3"]


def test_all_when_one_of_its_own_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another manager may see the other one only: the two must meet somewhere."""
    world = with_web()
    world.dead.add("pm-2")
    assert len(held(counted(monkeypatch, world))) == MANY - 1


@pytest.mark.parametrize("kind", ["backup", "clone"])
def test_all_when_a_backup_or_clone_broke_off(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads its snapshot may still run on any node, held by the lock's file there."""
    world = with_web()
    world.nodes["pm-2"].volumes[f"web.{kind}"] = Volume(f"web.{kind}", "vg", GiB)
    assert len(held(counted(monkeypatch, world))) == MANY


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


def test_the_nodes_of_its_backups_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another manager may just be making or removing one there."""
    cluster = counted(monkeypatch, with_web())
    monkeypatch.setattr(
        "pmc.tasks.lookups.stored", lambda state: [Stored("pm-7", "web.20260101T000000Z.base", 0, None, "")]
    )
    with cluster:
        located_with_backups(Context(), cluster, False, "web", "pm-9", "")
        assert sorted(cluster.locked[0].holds) == ["pm-1", "pm-2", "pm-7", "pm-9"]
        twice = [name for name, asked in cluster.asked.items() if asked["look"] == 2]
        assert sorted(twice) == ["pm-1", "pm-2", "pm-7", "pm-9"]
