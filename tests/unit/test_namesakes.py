"""Two VMs of one name: the second was made while the only node of the first was away. No disk of either is removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pmc.errors import Refused
from pmc.model import ClusterState, ResourceFile
from pmc.plans import peer, remove_steps
from pmc.plans import remove as remove_plan
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, alone, changed, home, running
from tests.unit.stories import with_stale_copy

OTHER = home("pm-3", active=False, primary=False, single=True)


def beside(state: ClusterState) -> ClusterState:
    """And pm-3 is back, which had a web of its own when it went away."""
    return changed(state, "pm-3", files=OTHER.files, volumes=OTHER.volumes, domains=OTHER.domains)


REMOVALS: list[Callable[[ClusterState], Any]] = [
    lambda state: remove_plan.remove("web", state, SETTINGS),
    lambda state: remove_steps.cleanup("web", state, SETTINGS),
]


@pytest.mark.parametrize(
    "remove", [*REMOVALS, lambda state: peer.choose("web", "pm-3", state, SETTINGS)], ids=["rm", "cleanup", "peer"]
)
def test_neither_is_removed(remove: Callable[[ClusterState], Any]) -> None:
    state = beside(running())
    assert state.stale_copies("web") == ["pm-3"]  # as a stale copy would be
    with raises(Refused, "remove_steps.refuse_namesakes", "one on pm-1 and pm-2, another on pm-3", "virsh domstate "):
        remove(state)


@pytest.mark.parametrize("remove", REMOVALS)
def test_an_old_copy_is(remove: Callable[[ClusterState], Any]) -> None:
    assert any("lvremove" in str(step.do) and step.node == "pm-2" for step in remove(with_stale_copy().state()).steps)


def test_two_that_live_alone_each() -> None:
    with raises(Refused, "remove_steps.refuse_namesakes", "one on pm-1, another on pm-3"):
        remove_plan.remove("web", beside(alone(active=False)), SETTINGS)


def test_files_that_a_third_one_joins_are_one_vms() -> None:
    """Its second copy went from pm-2 to pm-3, and then the first one to pm-4."""
    file = ResourceFile("web", 1, "/dev/vg/web", ("pm-1", "pm-3"), (7800,))
    moved = {"pm-1": ("pm-1", "pm-3"), "pm-2": ("pm-1", "pm-2"), "pm-3": ("pm-3", "pm-4")}
    state = running()
    for name, hosts in moved.items():
        state = changed(state, name, files={"web": replace(file, hosts=hosts)})
    remove_steps.refuse_namesakes("web", state)
