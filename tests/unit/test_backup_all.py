"""vm.backup --all: which VMs, and how many of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest
from invoke.context import Context

from pmc.errors import PmcError
from pmc.model import Volume
from pmc.tasks import backups
from tests.sim.fake import World
from tests.unit.counted import counted
from tests.unit.refusals import raises
from tests.unit.stories import backed_up_web, with_two, with_web

Said = pytest.CaptureFixture[str]


def backed_up(monkeypatch: pytest.MonkeyPatch, world: World, **flags: Any) -> None:
    counted(monkeypatch, world)
    backups.backup(Context(), all=True, **flags)


def test_a_domain_that_is_not_pmcs_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    world = with_web()
    world.nodes["pm-1"].domains["windows"] = "running"
    backed_up(monkeypatch, world)
    out, err = capsys.readouterr()
    assert "windows: no node has a DRBD resource or a volume of that name, so it is not pmc's; left out\n" in err
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["web"]


def test_one_that_lost_its_resource_is_pmcs_and_fails(monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    """Its volume is there: leaving it out would be a VM without backups that nobody hears of."""
    world = with_web()
    world.nodes["pm-1"].domains["mail"] = "running"
    world.nodes["pm-2"].volumes["mail"] = Volume("mail", "vg", 1 << 30, ("pmc",))
    with raises(PmcError, "backups.all", "1 of 2", "mail"):
        backed_up(monkeypatch, world)
    assert "web " in capsys.readouterr().out


def places(monkeypatch: pytest.MonkeyPatch, world: World, **flags: Any) -> dict[str, set[str]]:
    """Of each VM the nodes that it keeps busy."""
    seen: dict[str, set[str]] = {}

    def turns(work: Any, things: Sequence[str], at: Callable[[str], Collection[str]], each: int, most: int) -> Any:
        seen.update({name: set(at(name)) for name in things})
        assert (each, most) == (3, 5)
        return [work(name) for name in things]

    monkeypatch.setattr(backups, "run_limited", turns)
    backed_up(monkeypatch, world, jobs="3", total="5", **flags)
    return seen


def test_a_node_that_keeps_a_backup_is_as_busy_as_one_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert places(monkeypatch, with_two()) == {"web": {"pm-2"}, "web2": {"pm-2"}}
    both = {"pm-2", "pm-3"}
    assert places(monkeypatch, with_two(), to="pm-3") == {"web": both, "web2": both}


def test_a_delta_keeps_the_node_of_its_base_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """web runs on pm-2 now, so pm-1 is read; its base lies on pm-2."""
    world = backed_up_web()
    for at, state, role in (("pm-1", "shut off", "Secondary"), ("pm-2", "running", "Primary")):
        world.nodes[at].domains["web"] = state
        world.nodes[at].resources["web"] = replace(world.nodes[at].resources["web"], role=role)
    assert places(monkeypatch, world) == {"web": {"pm-1", "pm-2"}}
