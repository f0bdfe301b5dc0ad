"""pm.balance: the moves that even out memory, and the nodes before and after. State in, data out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pmc.capacity.memory import Guest, Memory, Score, running
from pmc.capacity.rebalance import solve
from pmc.errors import NodeDown, Refused
from pmc.model import ClusterState
from pmc.plans import migrate
from pmc.settings import Settings
from pmc.units import show_size

MOVE_COLUMNS = ("vm", "from", "to", "memory")
NODE_COLUMNS = ("node", "memory", "running", "then", "used", "used then", "lacks", "lacks then")


@dataclass(frozen=True)
class Balance:
    """`moves`: in this order, that of their `rounds`. `staying`: the VMs with a second copy that cannot move now, and
    why. `unseen`: the nodes that are left out, and why."""

    moves: tuple[Guest, ...]
    staying: dict[str, str]
    unseen: dict[str, str]
    nodes: list[dict[str, Any]]
    before: Score
    after: Score


def balance(state: ClusterState, settings: Settings) -> Balance:
    guests = list(running(state))
    memory = Memory(state, guests)
    unseen = {node.name: node.trouble for node in state if node.name not in memory.total}
    if not memory.total:
        raise NodeDown(f"no node tells: {'; '.join(f'{name}: {why}' for name, why in unseen.items())}")
    movable, staying = [], {}
    for guest in guests:
        if guest.refuge and guest.on in memory.total:
            try:
                migrate.move(guest.name, guest.refuge, state, settings, room=False)
                movable.append(guest)
            except Refused as error:
                staying[guest.name] = str(error).removeprefix(f"{guest.name}: ")
    solution = solve(memory, movable)
    moves = tuple(move for each in rounds(solution.moves) for move in each)
    nodes = _nodes(memory, solution.after, guests, moves)
    return Balance(moves, staying, unseen, nodes, memory.score(), solution.after.score())


def rounds(moves: Iterable[Guest]) -> list[list[Guest]]:
    """What may move at the same time: VMs that share no node. A move may need the room that one before it made, or keep
    what falls on a node as it was weighed; but whether it may be depends on its own two nodes alone
    (pmc/capacity/rebalance.py), so only with those before it on one of these must it keep the order."""
    found: list[list[Guest]] = []
    turns: Counter[str] = Counter()  # of each node, how many rounds it must wait for
    for guest in moves:
        turn = max(turns[guest.on], turns[guest.refuge])
        if turn == len(found):
            found.append([])
        found[turn].append(guest)
        turns[guest.on] = turns[guest.refuge] = turn + 1
    return found


def _nodes(before: Memory, after: Memory, guests: Iterable[Guest], moves: Iterable[Guest]) -> list[dict[str, Any]]:
    running = Counter(guest.on for guest in guests)
    then = Counter(running)
    for guest in moves:
        then[guest.on] -= 1
        then[guest.refuge] += 1
    return [
        {
            "node": name, "memory": memory, "running": running[name], "running_then": then[name],
            "used": before.used[name], "used_then": after.used[name],
            "lacking": before.lacking(name), "lacking_then": after.lacking(name),
        }
        for name, memory in before.total.items()
    ]  # fmt: skip


def move_rows(moves: Iterable[Guest], text: bool) -> list[dict[str, Any]]:
    return [
        {"vm": each.name, "from": each.on, "to": each.refuge, "memory": show_size(each.memory) if text else each.memory}
        for each in moves
    ]


def document(wanted: Balance, results: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """For --json: all there is. `results`: how each move went; empty when none was begun."""
    moves = move_rows(wanted.moves, text=False)
    for move, result in zip(moves, results, strict=False):
        move |= {"result": result["result"], "stood_still": result["stood still"]}
    return {**asdict(wanted), "moves": moves}


def node_rows(nodes: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """For a table: the nodes that change, or lack memory."""
    return [
        {
            "node": row["node"], "memory": show_size(row["memory"]),
            "running": str(row["running"]), "then": str(row["running_then"]),
            "used": f"{row['used'] / row['memory']:.0%}", "used then": f"{row['used_then'] / row['memory']:.0%}",
            "lacks": show_size(row["lacking"]) if row["lacking"] else "",
            "lacks then": show_size(row["lacking_then"]) if row["lacking_then"] else "",
        }
        for row in nodes
        if row["used"] != row["used_then"] or row["lacking"] or row["lacking_then"]
    ]  # fmt: skip


def told(score: Score) -> str:
    """'spread 12.5 %, N+1 holds'."""
    n1 = f"N+1 lacks {show_size(score.lacking)}" if score.lacking else "N+1 holds"
    return f"spread {100 * score.spread:.1f} %, {n1}"
