"""pm.balance: it ends, it makes nothing worse, it does enough, and nothing is left to do after it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from pmc.capacity.memory import Guest, Memory, Score, running
from pmc.capacity.rebalance import LEAST, Solution, _straight, fits, solve, weigh
from pmc.errors import NodeDown
from pmc.model import ClusterState, NodeState
from pmc.plans import balance as plans
from pmc.plans.evacuate import Outcome
from pmc.units import GiB
from tests.unit.fleets import Kind, build, moved, settings, shares, shortages, simulated
from tests.unit.refusals import raises
from tests.unit.samples import cells

FLEETS = [
    *(Kind(2, 30, seed, crowded=3) for seed in range(6)),
    *(Kind(5, 60, seed, crowded=8, mixed=bool(seed % 2)) for seed in range(12)),
    *(Kind(5, 40, seed, sizes=(1, 16), crowded=4) for seed in range(6)),
    *(Kind(20, 300, seed, crowded=10, mixed=bool(seed % 2)) for seed in range(6)),
    Kind(100, 1500, crowded=10),
    Kind(300, 6000, crowded=10),
]
SMALL = [kind for kind in FLEETS if kind.nodes <= 20]


def solved(state: ClusterState) -> tuple[Memory, Solution]:
    guests = list(running(state))
    memory = Memory(state, guests)
    return memory, solve(memory, [guest for guest in guests if guest.refuge])


@pytest.mark.parametrize("kind", FLEETS, ids=str)
def test_it_ends_better_and_then_has_nothing_to_do(kind: Kind) -> None:
    state = simulated(kind)
    memory, solution = solved(state)
    before, after = memory.score(), solution.after.score()
    assert after < before if solution.moves else after == before
    then = moved(state, solution.moves)
    again, rest = solved(then)
    assert rest.moves == ()
    assert again.score().lacking == after.lacking == sum(shortages(then).values())
    assert again.score().spread == pytest.approx(after.spread)
    assert sum(memory.used.values()) == sum(solution.after.used.values())


@pytest.mark.parametrize("kind", [kind for kind in FLEETS if kind.nodes <= 100], ids=str)
def test_no_move_lacks_memory_or_makes_the_loss_of_any_node_worse(kind: Kind) -> None:
    state = simulated(kind)
    short = shortages(state)
    moves = solved(state)[1].moves
    for guest in moves:
        assert state.nodes[guest.refuge].memory_available >= guest.memory
        state = moved(state, [guest])
        now = shortages(state)
        # What the two nodes lack for each other may go over from one direction to the other, and never grows.
        both = {(guest.on, guest.refuge), (guest.refuge, guest.on)}
        assert all(size <= short[pair] for pair, size in now.items() if pair not in both)
        assert sum(now[pair] for pair in both) <= sum(short[pair] for pair in both)
        short = now


@pytest.mark.parametrize("kind", FLEETS, ids=str)
def test_the_moves_of_a_round_do_not_need_each_other(kind: Kind) -> None:
    """Whichever of a round comes first, each is one that may be, and the end is the same."""
    memory, solution = solved(simulated(kind))
    found = plans.rounds(solution.moves)
    assert sorted(map(str, solution.moves)) == sorted(str(move) for each in found for move in each)
    for each in found:
        nodes = [node for move in each for node in (move.on, move.refuge)]
        assert len(nodes) == len(set(nodes))
        for move in reversed(each):
            assert fits(memory, move)
            memory.move(move)
    assert (memory.used, memory.falls) == (solution.after.used, solution.after.falls)
    flat = [move for each in found for move in each]
    assert plans.rounds(flat) == found
    if kind.nodes >= 100:
        assert len(found) < len(flat) / 5


def test_a_move_waits_for_those_before_it_on_its_nodes() -> None:
    """c waits for b's room on pm-3, and b for a's on pm-2; d has to do with none of them."""
    a, b, c = Guest("a", GiB, "pm-2", "pm-1"), Guest("b", GiB, "pm-3", "pm-2"), Guest("c", GiB, "pm-4", "pm-3")
    d = Guest("d", GiB, "pm-5", "pm-6")
    assert plans.rounds([a, b, c, d, d.moved]) == [[a, d], [b, d.moved], [c]]
    assert plans.rounds([]) == []


@pytest.mark.parametrize("kind", SMALL, ids=str)
def test_what_is_weighed_again_is_enough(kind: Kind) -> None:
    """The same end as when every VM is weighed at every step."""
    state = simulated(kind)
    guests = {guest.name: guest for guest in running(state)}
    memory = Memory(state, guests.values())
    while worths := [worth for guest in guests.values() if (worth := weigh(memory, guest))]:
        best = guests[min(worths)[-1]]
        memory.move(best)
        guests[best.name] = best.moved
    after = solved(state)[1].after
    assert (after.used, after.falls) == (memory.used, memory.falls)


def test_three_hundred_nodes_are_weighed_by_the_few_that_change() -> None:
    """Counts, not seconds. All VMs at each step would be five million."""
    state = simulated(Kind(300, 6000, crowded=10))
    _, solution = solved(state)
    living = Counter(name for each in state for name in each.files)
    assert len(living) == 6000
    largest = max(len(each.files) for each in state)
    assert 500 < len(solution.moves) < 1500
    assert solution.weighed <= 6000 + len(solution.moves) * 2 * largest
    assert solution.weighed < 150_000
    assert solution.after.score().lacking == 0
    assert solution.after.score().spread < 0.02


@pytest.mark.parametrize("kind", SMALL[::3], ids=str)
def test_the_same_state_has_the_same_moves_in_whatever_order_the_nodes_are_named(kind: Kind) -> None:
    state = simulated(kind)
    turned = ClusterState({
        name: replace(node, domains=dict(reversed(list(node.domains.items()))))
        for name, node in reversed(list(state.nodes.items()))
    })  # fmt: skip
    assert solved(state)[1].moves == solved(turned)[1].moves


# -- small clusters that can be reckoned in the head --

TWO = {"pm-1": 64 * GiB, "pm-2": 64 * GiB}


def twins(count: int, size: int, on: str = "pm-1", refuge: str = "pm-2", prefix: str = "vm") -> list[Guest]:
    return [Guest(f"{prefix}-{number}", size * GiB, on, refuge) for number in range(1, count + 1)]


def balanced(state: ClusterState) -> plans.Balance:
    return plans.balance(state, settings(state))


def names(wanted: plans.Balance) -> list[str]:
    return [guest.name for guest in wanted.moves]


def test_half_of_what_runs_on_one_of_two_nodes_goes_over() -> None:
    wanted = balanced(build(TWO, twins(6, 8)))
    assert [(each.name, each.on, each.refuge) for each in wanted.moves] == [
        (f"vm-{number}", "pm-1", "pm-2") for number in (1, 2, 3)
    ]
    assert (wanted.before, wanted.after) == (Score(0, 24 / 64), Score(0, 0.0))


def test_ties_are_broken_by_name() -> None:
    assert names(balanced(build(TWO, reversed(twins(6, 8))))) == ["vm-1", "vm-2", "vm-3"]


@pytest.mark.parametrize(("more", "moves"), [(2, []), (3, ["small"])])
def test_little_is_not_moved_for_less(more: int, moves: list[str]) -> None:
    """One GiB is 1.6 % of a node: the target must stay 2 % (1.3 GiB) below what the source was."""
    state = build(TWO, [*twins(1, 8), *twins(1, 8, "pm-2", "pm-1", "other"), Guest("small", GiB, "pm-1", "pm-2")],
                  {"pm-1": (55 - more) * GiB, "pm-2": 55 * GiB})  # fmt: skip
    assert LEAST == 0.02
    assert names(balanced(state)) == moves


def test_a_large_vm_does_not_move_to_and_fro() -> None:
    """It would only change which node is full."""
    assert names(balanced(build(TWO, twins(1, 20)))) == []


def test_n_plus_1_is_mended_before_memory_is_evened_out() -> None:
    """pm-3 is the fullest, but when pm-1 is lost, pm-2 cannot take what falls on it: pm-2 gives away first."""
    totals = {f"pm-{number}": 64 * GiB for number in range(1, 5)}
    guests = [
        *twins(3, 10, "pm-1", "pm-2", "a"),
        *twins(4, 10, "pm-2", "pm-4", "b"),
        *twins(5, 10, "pm-3", "pm-4", "c"),
    ]
    state = build(totals, guests)
    assert shortages(state) == {("pm-1", "pm-2"): 7 * GiB}
    wanted = balanced(state)
    assert wanted.moves[0].name == "b-1"
    assert (wanted.before.lacking, wanted.after.lacking) == (7 * GiB, 0)
    assert wanted.nodes[1].lacking == 7 * GiB
    assert not shortages(moved(state, wanted.moves))


def test_n_plus_1_is_mended_at_the_price_of_evenness() -> None:
    """pm-2 is less full than pm-4, but cannot take what falls on it."""
    totals = {f"pm-{number}": 64 * GiB for number in range(1, 5)}
    guests = [*twins(5, 10), *twins(2, 10, "pm-2", "pm-4", "b"), *twins(3, 10, "pm-4", "", "c")]
    wanted = balanced(build(totals, guests))
    assert names(wanted)[0] == "b-1"
    assert (wanted.before.lacking, wanted.after.lacking) == (7 * GiB, 0)


def test_what_two_nodes_keep_for_each_other_is_no_hindrance_between_them() -> None:
    """56 of 64 GiB may fall on pm-2; a VM that comes before needs no room twice."""
    assert len(balanced(build(TWO, twins(7, 8))).moves) == 3


def test_a_small_node_is_not_filled_for_the_sake_of_a_large_one() -> None:
    """It would stay below the other, but far above the cluster: 25 % used."""
    totals = {"big": 640 * GiB, "small": 64 * GiB, "empty": 640 * GiB}
    vm = Guest("vm", 16 * GiB, "big", "small")
    state = build(totals, [vm], {"big": 320 * GiB, "small": 51 * GiB})
    memory = Memory(state, running(state))
    assert memory.share("big") - memory.share("small", vm.memory) > LEAST
    assert weigh(memory, vm) is None


def test_there_and_back_is_left_out_when_no_other_waits_for_it() -> None:
    a, b = Guest("a", 8 * GiB, "pm-1", "pm-2"), Guest("b", 8 * GiB, "pm-1", "pm-2")
    state = build(TWO, [a, b])
    memory = Memory(state, running(state))
    assert _straight(memory, [a, b, a.moved]) == (b,)
    assert _straight(memory, [a, b, a.moved, a]) == (a, b)
    assert _straight(memory, [a, b]) == (a, b)


def test_there_and_back_stays_when_another_needs_the_room_meanwhile() -> None:
    a, c = Guest("a", 30 * GiB, "pm-1", "pm-3"), Guest("c", 20 * GiB, "pm-1", "pm-3")
    b = Guest("b", 30 * GiB, "pm-2", "pm-1")
    state = build({**TWO, "pm-3": 128 * GiB}, [a, b, c])
    moves = [a, b, c, a.moved]
    assert _straight(Memory(state, running(state)), moves) == tuple(moves)


def test_what_may_fall_on_a_node_keeps_others_away() -> None:
    """pm-2 is empty, but must be able to take all of pm-3."""
    totals = {"pm-1": 64 * GiB, "pm-2": 64 * GiB, "pm-3": 64 * GiB}
    guests = [*twins(5, 10), *twins(6, 10, "pm-3", "pm-2", "big")]
    state = build(totals, guests)
    assert not shortages(state)
    wanted = balanced(state)
    assert not shortages(moved(state, wanted.moves))
    pinned = [replace(guest, refuge="") if guest.name.startswith("big") else guest for guest in running(state)]
    memory = Memory(state, running(state))
    assert not fits(memory, guests[0])
    assert solve(memory, [guest for guest in pinned if guest.refuge]).moves == ()


def test_guests_that_have_not_touched_their_memory_count_with_what_they_may_use() -> None:
    state = build(TWO, twins(6, 8), {"pm-1": 60 * GiB, "pm-2": 63 * GiB})
    assert len(balanced(state).moves) == 3


def test_what_the_node_itself_uses_counts() -> None:
    state = build(TWO, [*twins(2, 4), *twins(2, 4, "pm-2", "pm-1", "other")], {"pm-1": 20 * GiB})
    assert names(balanced(state)) == ["vm-1", "vm-2"]


def test_a_vm_that_cannot_move_stays_and_its_memory_counts() -> None:
    state = build(TWO, twins(6, 8))
    resources = state.nodes["pm-1"].resources
    broken = replace(resources["vm-1"], connection="StandAlone", peer_disk="DUnknown")
    state = ClusterState({
        **state.nodes, "pm-1": replace(state.nodes["pm-1"], resources={**resources, "vm-1": broken})
    })  # fmt: skip
    wanted = balanced(state)
    assert names(wanted) == ["vm-2", "vm-3", "vm-4"]
    assert wanted.staying["vm-1"].startswith("DRBD on pm-1 is StandAlone")
    assert "vm-1" not in names(wanted)


def test_a_vm_on_one_node_is_no_trouble_and_no_move() -> None:
    wanted = balanced(build(TWO, [Guest("one", 30 * GiB, "pm-1"), *twins(2, 8)]))
    assert names(wanted) == ["vm-1", "vm-2"]
    assert wanted.staying == {}


def silent(state: ClusterState, name: str) -> ClusterState:
    return ClusterState({**state.nodes, name: NodeState(name, down="no ssh within 10 s", answers=False)})


def test_a_silent_node_is_left_out_and_room_is_kept_for_its_vms() -> None:
    """Those of pm-3 may be started on pm-2 any time, so nothing goes there."""
    totals = {"pm-1": 64 * GiB, "pm-2": 64 * GiB, "pm-3": 64 * GiB}
    state = build(totals, [*twins(5, 10), *twins(6, 10, "pm-3", "pm-2", "gone")])
    wanted = balanced(silent(state, "pm-3"))
    assert wanted.unseen == {"pm-3": "no ssh within 10 s"}
    assert [row.node for row in wanted.nodes] == ["pm-1", "pm-2"]
    assert names(wanted) == []
    fewer = build(totals, [*twins(5, 10), *twins(2, 10, "pm-3", "pm-2", "gone")])
    assert names(balanced(silent(fewer, "pm-3"))) == ["vm-1", "vm-2"]


def test_a_cluster_that_tells_nothing_is_refused() -> None:
    state = build(TWO, twins(2, 8))
    with raises(NodeDown, "balance.balance", "pm-1: no ssh within 10 s", "pm-2: no ssh"):
        balanced(silent(silent(state, "pm-1"), "pm-2"))


def test_a_node_whose_libvirt_fails_is_left_out() -> None:
    state = build(TWO, twins(6, 8))
    failing = replace(state.nodes["pm-2"], failures={"libvirt": "command not found"}, domains={})
    wanted = balanced(ClusterState({**state.nodes, "pm-2": failing}))
    assert (names(wanted), list(wanted.unseen)) == ([], ["pm-2"])


# -- what is shown --


def test_the_tables() -> None:
    state = build({**TWO, "pm-3": 64 * GiB}, twins(4, 8))
    wanted = balanced(state)
    assert cells([plans.Planned(each) for each in wanted.moves]) == [
        {"vm": "vm-1", "from": "pm-1", "to": "pm-2", "memory": "8 GiB"},
        {"vm": "vm-2", "from": "pm-1", "to": "pm-2", "memory": "8 GiB"},
    ]
    assert cells(plans.changing(wanted.nodes)) == [
        {"node": "pm-1", "memory": "64 GiB", "running": "4", "then": "2", "used": "52%", "used then": "27%",
         "lacks": "", "lacks then": ""},
        {"node": "pm-2", "memory": "64 GiB", "running": "0", "then": "2", "used": "2%", "used then": "27%",
         "lacks": "", "lacks then": ""},
    ], "a node that does not change is left out"  # fmt: skip
    assert plans.told(Score(0, 0.125)) == "spread 12.5 %, N+1 holds"
    assert plans.told(Score(3 * GiB, 0.125)) == "spread 12.5 %, N+1 lacks 3 GiB"


def test_the_document() -> None:
    wanted = balanced(build(TWO, twins(4, 8)))
    shown = json.loads(json.dumps(plans.document(wanted, [])))
    assert sorted(shown) == ["after", "before", "moves", "nodes", "staying", "unseen"]
    assert shown["moves"][0] == {"vm": "vm-1", "from": "pm-1", "to": "pm-2", "memory": 8 * GiB}
    results = [Outcome(each.name, each.on, each.refuge, "moved", "0.17 s") for each in wanted.moves]
    done = json.loads(json.dumps(plans.document(wanted, results)))
    assert done["moves"][1] == {**shown["moves"][1], "result": "moved", "stood_still": "0.17 s"}
    assert shown["nodes"][1] == {"node": "pm-2", "memory": 64 * GiB, "running": 0, "running_then": 2,
                                 "used": GiB, "used_then": 17 * GiB, "lacking": 0, "lacking_then": 0}  # fmt: skip
    assert shown["after"] == {"lacking": 0, "spread": 0.0}


def test_the_shares_are_what_pm_ls_shows_when_guests_have_touched_all() -> None:
    state = simulated(Kind(5, 60, mixed=True))
    memory = Memory(state, running(state))
    assert {name: memory.share(name) for name in memory.total} == pytest.approx(shares(state))
