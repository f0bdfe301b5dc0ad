"""vm.add without --primary: which nodes are chosen, that any one may still be lost, and what is said when none fits."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from pmc.capacity.memory import Guest
from pmc.cluster import Cluster
from pmc.errors import Refused
from pmc.model import ClusterState, NodeState, Volume
from pmc.plans import placement
from pmc.plans.request import Add
from pmc.settings import Verify
from pmc.tasks import lookups, vm
from pmc.units import GiB
from tests.unit.fleets import OWN, Kind, build, settings, shortages, simulated
from tests.unit.samples import XML


def totals(count: int, size: int = 64) -> dict[str, int]:
    return {f"pm-{number}": size * GiB for number in range(1, count + 1)}


def wanted(memory: int = 4, **changes: Any) -> Add:
    return replace(Add("new", "", "", 10 * GiB, memory * GiB), **changes)


def chosen(state: ClusterState, request: Add | None = None) -> tuple[str, ...]:
    return placement.choose(request or wanted(), 10 * GiB, state, settings(state))[0].nodes


def why(state: ClusterState, request: Add | None = None) -> str:
    return placement.choose(request or wanted(), 10 * GiB, state, settings(state))[1]


def refused(state: ClusterState, request: Add | None = None) -> str:
    with pytest.raises(Refused) as caught:
        chosen(state, request)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(state: ClusterState, name: str, **changes: Any) -> ClusterState:
    return ClusterState({**state.nodes, name: replace(state.nodes[name], **changes)})


def guests(count: int, on: str, refuge: str, size: int = 4) -> list[Guest]:
    return [Guest(f"{on}-{number}", size * GiB, on, refuge) for number in range(1, count + 1)]


# -- which --


def test_on_an_empty_cluster_the_names_decide() -> None:
    assert chosen(build(totals(5), [])) == ("pm-1", "pm-2")
    turned = ClusterState(dict(reversed(list(build(totals(5), []).nodes.items()))))
    assert chosen(turned) == ("pm-1", "pm-2")


def test_the_least_full_runs_it_and_the_fewest_vms_decide_between_equals() -> None:
    """pm-3 is as empty as pm-4, but has four second copies; of pm-4's VMs nothing falls on anybody yet."""
    state = build(totals(4), [*guests(4, "pm-1", "pm-3"), *guests(2, "pm-2", "pm-1")])
    assert chosen(state) == ("pm-4", "pm-2")
    assert why(state) == (
        "new: pm-4 is the least full node that fits (7 % of memory with it); second copy on pm-2 "
        "(20 % at most when a node is lost)"
    )
    assert chosen(changed(state, "pm-4", memory_available=40 * GiB)) == ("pm-3", "pm-4")


def test_what_runs_on_one_node_falls_on_many() -> None:
    """pm-2 has the fewest VMs, but one of pm-1's already."""
    state = build(totals(3), [Guest("a", 4 * GiB, "pm-1", "pm-2"), *guests(4, "pm-3", "", 8)])
    assert chosen(changed(state, "pm-2", memory_available=40 * GiB)) == ("pm-1", "pm-3")


@pytest.mark.parametrize(("nodes", "vms"), [(5, 30), (20, 200)])
def test_one_after_the_other_they_are_even(nodes: int, vms: int) -> None:
    placed: list[Guest] = []
    for number in range(vms):
        primary, secondary = chosen(build(totals(nodes), placed), wanted(name=f"vm-{number}"))
        placed.append(Guest(f"vm-{number}", 4 * GiB, primary, secondary))
    runs = [sum(guest.on == name for guest in placed) for name in totals(nodes)]
    disks = [sum(name in (guest.on, guest.refuge) for guest in placed) for name in totals(nodes)]
    assert max(runs) == min(runs) == vms // nodes
    assert max(disks) - min(disks) <= 2
    assert max(Counter((guest.on, guest.refuge) for guest in placed).values()) <= -(-vms // nodes // (nodes - 1))


def test_a_vm_that_is_being_made_counts_though_it_does_not_run_yet() -> None:
    """Only its resource files are there; its memory is not known."""
    state = build(totals(4), guests(1, "pm-1", "pm-2"))
    for name in ("pm-1", "pm-2"):
        state = changed(state, name, domains={}, resources={}, memory_available=63 * GiB)
    assert chosen(state) == ("pm-3", "pm-4")


def test_less_than_one_percent_is_no_difference() -> None:
    state = build(totals(3), [])
    assert chosen(changed(state, "pm-1", memory_available=63 * GiB - 1_000_000)) == ("pm-1", "pm-2")
    assert chosen(changed(state, "pm-1", memory_available=61 * GiB)) == ("pm-2", "pm-3")


def test_a_large_node_is_preferred_to_a_small_one_of_the_same_use() -> None:
    state = build({**totals(2), "pm-9": 256 * GiB}, [])
    assert chosen(state) == ("pm-9", "pm-1")


def test_guests_that_have_not_touched_their_memory_count_in_full() -> None:
    state = build(totals(3), guests(8, "pm-1", "pm-2"), {"pm-1": 63 * GiB})
    assert chosen(state) == ("pm-3", "pm-2")
    assert chosen(changed(state, "pm-3", memory_available=30 * GiB)) == ("pm-2", "pm-3")


def test_a_volume_group_that_would_be_nearly_full_comes_last_and_one_that_is_not_enough_not_at_all() -> None:
    state = build(totals(3), guests(4, "pm-3", ""))
    assert chosen(changed(state, "pm-1", group_free=205 * GiB)) == ("pm-2", "pm-3")
    assert chosen(changed(changed(state, "pm-1", group_free=205 * GiB), "pm-2", group_free=9 * GiB)) == ("pm-3", "pm-1")
    strict = replace(settings(state), verify=Verify(full_percent=50))
    request, _ = placement.choose(wanted(), 10 * GiB, changed(state, "pm-3", group_free=1500 * GiB), strict)
    assert request.nodes == ("pm-3", "pm-1")


# -- what is given --


def test_what_is_given_stays() -> None:
    state = build(totals(3), [])
    for request in (wanted(primary="pm-3", secondary="pm-2"), wanted(primary="pm-3")):
        assert placement.choose(request, 10 * GiB, state, settings(state)) == (request, "")


def test_a_given_secondary_gets_a_primary() -> None:
    state = build(totals(3), [])
    assert chosen(state, wanted(secondary="pm-1")) == ("pm-2", "pm-1")
    full = changed(state, "pm-1", memory_available=3 * GiB)
    assert refused(full, wanted(secondary="pm-1")) == "--memory 4 GiB: pm-1 has 3 GiB free of 64 GiB"


def test_single() -> None:
    state = build(totals(3), guests(1, "pm-1", "pm-2"))
    assert chosen(state, wanted(single=True)) == ("pm-3",)
    assert why(state, wanted(single=True)).endswith("(7 % of memory with it); no second copy")


# -- N+1 --


@pytest.mark.parametrize(
    ("count", "least"), [(2, 14), (3, 18), (5, 50), (20, 230)], ids=["2", "3", "5", "20"]
)  # the number of 4 GiB VMs
def test_until_nothing_fits_any_node_may_be_lost(count: int, least: int) -> None:
    placed: list[Guest] = []
    while True:
        state = build(totals(count), placed)
        assert not shortages(state)
        try:
            primary, secondary = chosen(state, wanted(name=f"vm-{len(placed)}"))
        except Refused:
            break
        placed.append(Guest(f"vm-{len(placed)}", 4 * GiB, primary, secondary))
    assert len(placed) >= least
    assert "and for the loss of any one node: " in refused(state)
    used = [len([guest for guest in placed if guest.on == name]) for name in state.nodes]
    assert max(used) - min(used) <= 2


def test_it_holds_also_once_all_guests_have_touched_their_memory() -> None:
    placed: list[Guest] = []
    untouched = {name: 63 * GiB for name in totals(3)}
    while True:
        try:
            primary, secondary = chosen(build(totals(3), placed, untouched), wanted(name=f"vm-{len(placed)}"))
        except Refused:
            break
        placed.append(Guest(f"vm-{len(placed)}", 4 * GiB, primary, secondary))
        # But for what the node uses for itself, which cannot be told from what its guests have touched.
        assert all(short <= OWN for short in shortages(build(totals(3), placed)).values())
    assert 15 < len(placed) < 3 * 16


def test_a_node_that_others_fall_on_runs_no_more_than_leaves_room_for_them() -> None:
    """pm-2 runs nothing, but 60 of its 64 GiB may be needed for pm-4's VMs. It has room for those of pm-1 all the same:
    one node is lost at a time."""
    state = build(totals(4), [*guests(15, "pm-4", "pm-2"), *guests(2, "pm-1", "pm-3"), *guests(3, "pm-3", "pm-1")])
    assert chosen(state) == ("pm-1", "pm-2")
    assert chosen(state, wanted(3))[0] == "pm-2"


def test_a_second_copy_goes_nowhere_where_the_vm_could_not_run() -> None:
    """24 GiB of pm-1 fall on pm-2 already, which has 27 left; with the new VM it would be 28."""
    state = build(totals(2), [*guests(6, "pm-1", "pm-2"), *guests(9, "pm-2", "")])
    assert "pm-1: no other node could take its VMs, with this one, if it were lost" in refused(state)
    assert chosen(state, wanted(3)) == ("pm-1", "pm-2")


def test_no_node_promises_more_memory_than_it_has() -> None:
    state = build(totals(1), guests(14, "pm-1", ""), {"pm-1": 60 * GiB})
    assert chosen(state, wanted(8, single=True)) == ("pm-1",)
    assert "and 8 GiB are spare" in refused(state, wanted(9, single=True))


def test_one_cluster_of_three_hundred_nodes() -> None:
    state = simulated(Kind(300, 6000))
    first, second = chosen(state)
    free = {name: node.memory_available for name, node in state.nodes.items()}
    assert free[first] == max(free.values())
    assert second != first


# -- refusals --


def test_no_room_is_said_with_the_reasons_and_what_helps() -> None:
    """What cannot help is not advised: no VM that moves makes room for a disk."""
    state = build(totals(2, 16), guests(3, "pm-1", "pm-2"))
    assert refused(state, wanted(memory=4)) == (
        "new: no two nodes have 4 GiB of memory free: --memory 4 GiB: pm-1 has 3 GiB free of 16 GiB; pm-2: 12 GiB may "
        "fall on it when another is lost, and 15 GiB are spare. Give a smaller --memory, or stop a VM. Moving VMs may "
        "make room. Next: fab pm.balance"
    )
    full = changed(state, "pm-1", group_free=GiB)
    assert refused(full, wanted(memory=4)).endswith(". Make room there, or give a smaller --size")
    assert refused(full, wanted(memory=4)).startswith("new: no two nodes have room for a disk of 10 GiB: --size: pm-1 ")
    assert "pm.balance" not in refused(full, wanted(memory=4))
    assert refused(build(totals(2, 16), [*guests(3, "pm-1", "pm-2"), *guests(1, "pm-2", "")]), wanted(memory=3)) == (
        "new: no two nodes have room for it (3 GiB of memory, 10 GiB of disk) and for the loss of any one node: pm-1: "
        "no other node could take its VMs, with this one, if it were lost; pm-2: 12 GiB may fall on it when another is "
        "lost, and 11 GiB are spare. --primary and --secondary place it all the same. Moving VMs may make room. Next: "
        "fab pm.balance"
    )
    other = changed(build(totals(2), []), "pm-1", drbd="")
    assert refused(other).startswith("new: no two nodes have all that it needs: pm-1: DRBD's module is not loaded")
    assert refused(build(totals(1, 4), []), wanted(single=True)).startswith("new: no node has 4 GiB of memory free: ")


def test_of_many_nodes_a_few_reasons_are_said() -> None:
    said = refused(build(totals(300, 4), []))
    assert "; and 296 more nodes. " in said
    assert len(said) < 600


def test_all_nodes_must_answer_and_the_name_be_free() -> None:
    state = build(totals(3), guests(1, "pm-1", "pm-2"))
    silent = ClusterState({**state.nodes, "pm-3": NodeState("pm-3", down="no ssh within 10 s")})
    assert refused(silent).startswith("pm-3: no ssh within 10 s. A new VM needs a name, a number")
    assert refused(state, wanted(name="pm-1-1")).startswith("pm-1-1: there is such a VM already")


def test_a_node_that_cannot_be_used_is_passed_over() -> None:
    state = build(totals(4), [])
    volume = Volume("new", "vg", GiB)
    for changes in ({"drbd": ""}, {"hostname": "other"}, {"volumes": {"new": volume}}, {"group_free": GiB}):
        assert chosen(changed(state, "pm-1", **changes)) == ("pm-2", "pm-3")


# -- as it is typed --


@pytest.mark.parametrize(
    ("flags", "nodes", "said"),
    [
        ({}, {"pm-2", "pm-3"}, "new: pm-2 is the least full node that fits"),
        ({"secondary": "pm-1"}, {"pm-1", "pm-2"}, "second copy on pm-1"),
        ({"single": True}, {"pm-2"}, "no second copy"),
        ({"primary": "pm-1", "secondary": "pm-3"}, {"pm-1", "pm-3"}, ""),
        ({"primary": "pm-1"}, {"pm-1"}, ""),
        ({"primary": "pm-1", "single": True}, {"pm-1"}, ""),
    ],
)
def test_vm_add_says_in_one_line_why(
    flags: dict[str, Any], nodes: set[str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    conf = tmp_path / "pmc.conf"
    conf.write_text("".join(f'[nodes.pm-{n}]\nreplication = "10.0.0.{n}"\n' for n in (1, 2, 3)))
    state = build(totals(3), guests(2, "pm-1", ""))
    monkeypatch.setattr(Cluster, "state", lambda self, **how: state)
    monkeypatch.setattr(lookups, "new_domain", lambda cluster, request, given: XML)
    monkeypatch.setattr(lookups, "address_of", lambda name, settings: "")
    vm.add(Context(), "new", size="10", memory="4", pxe=True, conf=str(conf), dry_run=True, **flags)
    out, err = capsys.readouterr()
    assert {line.split()[2].strip(":") for line in out.splitlines()[1:] if re.match(r"# \d+\. ", line)} == nodes
    assert (err.count("\n"), said in err) == (bool(said), True)
