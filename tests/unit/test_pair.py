"""The model of one DRBD resource, by what real ones did (tests/lab/test_model.py, seed named)."""

from __future__ import annotations

import pytest

from pmc import drbd, drbd_generations
from tests.lab.pair import NAME, NODES, Model


def pair(holds: bool) -> Model:
    """Equal, connected, pm-1 is primary."""
    model = Model()
    assert model.tool("pm-1", drbd.skip_initial_sync(NAME))
    assert model.tool("pm-1", drbd.primary(NAME))
    if holds:
        for node in NODES:
            assert model.tool(node, drbd.two_primaries(NAME, True, "8.4.11"))
    return model


def disks(model: Model) -> list[str]:
    return [seen[1] for seen in model.seen().values()]


@pytest.mark.parametrize("who", NODES)
@pytest.mark.parametrize(("holds", "left"), [(True, "Outdated"), (False, "UpToDate")])
def test_who_leaves_a_primary_that_holds_is_outdated_until_they_meet(who: str, holds: bool, left: str) -> None:
    """263615644"""
    model = pair(holds)
    assert model.tool(who, drbd_generations.disconnect(NAME))
    assert disks(model) == ["UpToDate", left]
    assert model.tool("pm-2", drbd.primary(NAME)) is (not holds)
    if not holds:
        assert model.tool("pm-2", drbd.secondary(NAME))
        assert model.tool(who, drbd_generations.connect(NAME))
        assert model.seen()["pm-2"][2] == "StandAlone"  # each began its own generation
        return
    here, there = (model.gi(node, NAME) for node in NODES)
    assert here is not None
    assert there is not None
    assert drbd_generations.compare(here, there) == "ahead"  # who is outdated is not waited for
    assert not model.nodes["pm-1"].resources[NAME].held
    other = next(node for node in NODES if node != who)
    assert model.tool(other, drbd_generations.disconnect(NAME))
    for node in NODES:
        assert model.tool(node, drbd_generations.connect(NAME))
    assert disks(model) == ["UpToDate", "UpToDate"]


def test_of_two_primaries_that_hold_neither_leaves() -> None:
    model = pair(holds=True)
    assert model.tool("pm-2", drbd.primary(NAME))
    assert not model.tool("pm-1", drbd_generations.disconnect(NAME))
    assert model.seen()["pm-1"][2] == "Connected"


def test_a_side_that_goes_down_beside_a_primary_that_holds_is_outdated_when_it_is_back() -> None:
    model = pair(holds=True)
    assert model.tool("pm-2", drbd.down(NAME))
    model.sever(frozenset(NODES))
    assert model.tool("pm-2", drbd.up(NAME))
    assert disks(model) == ["UpToDate", "Outdated"]


def test_a_side_that_holds_is_no_primary_alone_while_nobody_knows_what_became_of_its_peer() -> None:
    """As CI saw it: both hold, the link is cut, and drbdadm primary is refused."""
    model = pair(holds=True)
    assert model.tool("pm-1", drbd.secondary(NAME))
    model.sever(frozenset(NODES))
    assert not model.tool("pm-2", drbd.primary(NAME))
    assert model.tool("pm-2", drbd.two_primaries(NAME, False, "8.4.11"))
    assert model.tool("pm-2", drbd.primary(NAME))


def test_a_side_that_holds_is_primary_again_without_the_peer_that_left_as_outdated() -> None:
    model = pair(holds=True)
    assert model.tool("pm-2", drbd_generations.disconnect(NAME))
    for do in (drbd.secondary(NAME), drbd.primary(NAME)):
        assert model.tool("pm-1", do)
    assert not model.tool("pm-2", drbd.primary(NAME))


def test_of_a_peer_that_had_no_disk_when_it_was_lost_nothing_is_known() -> None:
    model = pair(holds=True)
    model.detach("pm-2", NAME)
    model.disks["pm-2", NAME].state = "Inconsistent"  # what it was is no matter
    model.sever(frozenset(NODES))
    assert not model.nodes["pm-1"].resources[NAME].behind
    assert model.nodes["pm-1"].resources[NAME].held
