"""pm.balance: the moves that even out memory, and the nodes before and after. State in, data out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from pmc.capacity.memory import Guest, Memory, Score, running
from pmc.capacity.rebalance import solve
from pmc.errors import NodeDown, Refused
from pmc.model import ClusterState
from pmc.plans import migrate
from pmc.plans.evacuate import Outcome
from pmc.settings import Settings
from pmc.units import show_size

MOVE_COLUMNS = ("vm", "from", "to", "memory")
NODE_COLUMNS = ("node", "memory", "running", "then", "used", "used then", "lacks", "lacks then")


@dataclass(frozen=True)
class Share:
    """A node: what of its memory is used, and by how many VMs, now and `then`. Bytes. `lacking`: for what may fall on
    it when another node is lost."""

    node: str
    memory: int
    running: int
    running_then: int
    used: int
    used_then: int
    lacking: int
    lacking_then: int

    def cells(self) -> dict[str, object]:
        return {
            "node": self.node, "memory": show_size(self.memory),
            "running": str(self.running), "then": str(self.running_then),
            "used": f"{self.used / self.memory:.0%}", "used then": f"{self.used_then / self.memory:.0%}",
            "lacks": show_size(self.lacking) if self.lacking else "",
            "lacks then": show_size(self.lacking_then) if self.lacking_then else "",
        }  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A move, before it is made."""

    guest: Guest

    def json(self) -> dict[str, object]:
        each = self.guest
        return {"vm": each.name, "from": each.on, "to": each.refuge, "memory": each.memory}

    def cells(self) -> dict[str, object]:
        return self.json() | {"memory": show_size(self.guest.memory)}


@dataclass(frozen=True)
class Balance:
    """`moves`: in this order, that of their `rounds`. `staying`: the VMs with a second copy that cannot move now, and
    why. `unseen`: the nodes that are left out, and why."""

    moves: tuple[Guest, ...]
    staying: dict[str, str]
    unseen: dict[str, str]
    nodes: tuple[Share, ...]
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


def _nodes(before: Memory, after: Memory, guests: Iterable[Guest], moves: Iterable[Guest]) -> tuple[Share, ...]:
    running = Counter(guest.on for guest in guests)
    then = Counter(running)
    for guest in moves:
        then[guest.on] -= 1
        then[guest.refuge] += 1
    return tuple(
        Share(
            name, memory, running[name], then[name], before.used[name], after.used[name], before.lacking(name),
            after.lacking(name),
        )
        for name, memory in before.total.items()
    )  # fmt: skip


def changing(nodes: Iterable[Share]) -> list[Share]:
    """Those whose use changes, or that lack memory."""
    return [each for each in nodes if each.used != each.used_then or each.lacking or each.lacking_then]


def document(wanted: Balance, results: Sequence[Outcome]) -> dict[str, object]:
    """For --json: all there is. `results`: how each move went; empty when none was begun."""
    moves = [Planned(each).json() for each in wanted.moves]
    for move, result in zip(moves, results, strict=False):
        move |= {"result": result.result, "stood_still": result.still}
    return {**asdict(wanted), "moves": moves}


def told(score: Score) -> str:
    """'spread 12.5 %, N+1 holds'."""
    n1 = f"N+1 lacks {show_size(score.lacking)}" if score.lacking else "N+1 holds"
    return f"spread {100 * score.spread:.1f} %, {n1}"
