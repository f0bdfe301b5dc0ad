"""What has a VM's name and is not that VM's: it is left alone, and it is in nobody's way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pmc.errors import Refused
from pmc.model import ClusterState, Domain, NodeState, Odd, Volume
from pmc.node_state import cluster_state
from pmc.plan import Plan
from pmc.plans import add, failover, peer, remove, remove_steps, start, stop
from pmc.units import GiB
from pmc.view.rows import vm_rows
from tests.unit.samples import SETTINGS, changed, cluster, home, node, running, stopped, with_resource

NOT_PMCS = r"the domain web on pm-3 is not pmc's: .*Next: on pm-3: virsh domrename web NEW"


def beside(state: ClusterState, how: str, **more: Any) -> ClusterState:
    """pm-3 has a domain of that name, and nothing else."""
    return changed(state, "pm-3", domains={"web": Domain("web", how, GiB, 1)}, **more)


def touched(plan: Plan) -> list[str]:
    return [step.note for step in plan.steps if step.node == "pm-3" and "virsh" in str(step.do)]


@pytest.mark.parametrize(
    "build",
    [
        lambda: remove.remove("web", beside(running(), "running"), SETTINGS),
        lambda: remove_steps.cleanup("web", beside(running(), "shut off"), SETTINGS),
        lambda: stop.stop("web", True, beside(running(), "running"), SETTINGS),
        lambda: start.start("web", "", beside(stopped(), "running"), SETTINGS),
        lambda: start.start("web", "", beside(stopped(), "shut off", saved=frozenset({"web"})), SETTINGS, discard=True),
    ],
    ids=["rm", "cleanup", "stop", "start", "discard-saved"],
)
def test_somebody_elses_domain_of_that_name_is_left_alone(build: Callable[[], Plan]) -> None:
    assert touched(build()) == []


@pytest.mark.parametrize(
    "build",
    [
        lambda state: remove.remove("web", state, SETTINGS),
        lambda state: stop.stop("web", True, state, SETTINGS),
        lambda state: start.start("web", "", state, SETTINGS),
    ],
    ids=["rm", "stop", "start"],
)
def test_where_there_is_no_other_it_is_refused_by_name(build: Callable[[ClusterState], Plan]) -> None:
    with pytest.raises(Refused, match=NOT_PMCS):
        build(beside(cluster(), "running"))


def test_no_second_copy_comes_to_where_it_is() -> None:
    with pytest.raises(Refused, match=NOT_PMCS):
        peer.choose("web", "pm-3", beside(running(), "shut off"), SETTINGS)


def test_no_new_vm_takes_its_name() -> None:
    with pytest.raises(Refused, match="something on pm-3 has this name, which is not pmc's"):
        add.check_cluster("web", beside(cluster(), "running"), SETTINGS)


def test_a_failover_is_not_held_up_by_it() -> None:
    state = with_resource(beside(running(), "running"), "pm-2", connection="Connecting", peer_disk="DUnknown")
    state = cluster_state({**state.nodes, "pm-1": NodeState("pm-1", down="no ssh", answers=False)})
    assert failover.failover("web", state, SETTINGS).steps


def test_both_are_listed() -> None:
    rows = vm_rows(beside(running(), "running"), text=True)
    assert [(row["vm"], row["on"]) for row in rows] == [("web", "pm-1"), ("web", "pm-3")]


@pytest.mark.parametrize(
    "more",
    [
        {"files": home("pm-3", active=False, primary=False).files},
        {"resources": running().nodes["pm-2"].resources},
        {"volumes": {"web": Volume("web", "vg", GiB, ("pmc",))}},
        {"odd": (Odd("the file", "cannot be read", "web"),)},
        {"failures": {"drbd files": "no answer"}},
        {"failures": {"drbd status": "no answer"}},
        {"failures": {"volumes": "no answer"}},
    ],
    ids=str,
)
def test_what_has_more_than_a_domain_or_may_have_is_pmcs(more: dict[str, Any]) -> None:
    assert beside(running(), "running", **more).active_on("web") == ["pm-1", "pm-3"]


def test_a_home_that_lost_all_but_its_guest_is_seen_still() -> None:
    """Its file is gone; that of its other node names it."""
    lost = changed(running(), "pm-1", files={}, resources={}, volumes={})
    assert lost.active_on("web") == ["pm-1"]


def test_whose_it_is_shows_when_another_node_is_looked_at_again() -> None:
    file = home("pm-1", active=False, primary=False).files["web"]
    alone = node("pm-3", domains={"web": Domain("web", "running", GiB, 1)})
    there = node("pm-1", files={"web": replace(file, hosts=("pm-1", "pm-3"))})
    assert cluster_state({"pm-3": alone}).active_on("web") == []
    assert cluster_state({"pm-3": alone, "pm-1": there}).active_on("web") == ["pm-3"]
