"""pm.balance: memory used evenly, by moving VMs while they run."""

from __future__ import annotations

from json import dumps

from invoke.context import Context

from pmc.capacity.memory import Guest
from pmc.cluster import Cluster
from pmc.errors import Refused
from pmc.model import ClusterState
from pmc.plans import balance as plans
from pmc.plans.balance import Balance
from pmc.plans.evacuate import Outcome
from pmc.tasks.base import confirm, opened, task
from pmc.tasks.migrate import (
    BANDWIDTH,
    COLUMNS,
    PARALLEL,
    PAUSE,
    attempt,
    moved_unless_stopped,
    overrides,
    parse_parallel,
    see_done,
)
from pmc.view.output import note, show, table

SHOWN = 5  # of the VMs that cannot move


@task(
    parallel=f"{PARALLEL}; those that move together share no node",
    bandwidth=BANDWIDTH,
    pause_after=PAUSE,
    json="print JSON; sizes in bytes; needs --dry-run or --yes",
    dry_run="print the moves, and the nodes before and after; change nothing",
)
def balance(
    c: Context, parallel: str = "2", bandwidth: str = "", pause_after: str = "", json: bool = False, yes: bool = False,
    conf: str = "", dry_run: bool = False,
) -> None:  # fmt: skip
    """Even out the nodes' memory by moving running VMs to their other node, live: pm.balance [--dry-run] [--yes]

    pmc shows the moves and each node before and after, then asks. When a VM fails, the others still move.
    No VM moves to a node that lacks the memory, nor so that N+1 gets worse (pm.verify: MEMORY_N1). Where N+1 does not
    hold, that is fixed first. It may be run again at any time.
    """
    dry = bool(dry_run or c.config.run.dry)
    if json and not (dry or yes):
        raise Refused("--json: give --dry-run to see the moves, or --yes to carry them out; nobody is asked then")
    with opened(conf, overrides(bandwidth, pause_after)) as cluster:
        most = parse_parallel(parallel)
        state = cluster.state()
        wanted = plans.balance(state, cluster.settings)
        if not json:
            _show(wanted, dry)
        if wanted.moves and not (dry or yes):
            confirm(f"{len(wanted.moves)} moves, {_pace(wanted, most)}", "yes")
        with cluster.interruptible():
            rows = [] if dry else _carried_out(cluster, wanted, state, most)
            if json:
                show(dumps(plans.document(wanted, rows), indent=2))
            elif rows:
                show(table(rows, COLUMNS))
            see_done(rows)


def _pace(wanted: Balance, most: int) -> str:
    most = min(most, max(map(len, plans.rounds(wanted.moves))))
    return f"up to {most} at the same time" if most > 1 else "one after the other"


def _carried_out(cluster: Cluster, wanted: Balance, first: ClusterState, most: int) -> list[Outcome]:
    """In the order of the moves. What is alone in its round shows its progress as vm.mv does."""
    rows: list[Outcome] = []
    for each in plans.rounds(wanted.moves):
        begun = len(rows)

        def move(place: tuple[int, Guest], alone: bool = len(each) == 1 or most == 1) -> Outcome:
            number, guest = place
            note(f"move {number} of {len(wanted.moves)}: {guest.name} from {guest.on} to {guest.refuge}")
            prefix = "" if alone else guest.name
            work = lambda: moved_unless_stopped(cluster, guest.name, first, guest.refuge, prefix)  # noqa: E731
            return attempt(guest.name, guest.on, guest.refuge, work)

        rows += cluster.at_once(move, enumerate(each, begun + 1), most)
    return rows


def _show(wanted: Balance, dry: bool) -> None:
    for name, why in wanted.unseen.items():
        note(f"{name} is left out: {why}")
    for name, why in list(wanted.staying.items())[:SHOWN]:
        note(f"{name} stays: {why}")
    if len(wanted.staying) > SHOWN:
        note(f"... and {len(wanted.staying) - SHOWN} more that cannot move now; fab pm.verify")
    if nodes := plans.changing(wanted.nodes):
        show(f"{table(nodes, plans.NODE_COLUMNS)}\n")
    if not wanted.moves:
        note(f"nothing to move: no VM's other node is enough less full ({plans.told(wanted.before)})")
        return
    show(table([plans.Planned(each) for each in wanted.moves], plans.MOVE_COLUMNS))
    show(f"\nnow:  {plans.told(wanted.before)}\nthen: {plans.told(wanted.after)}")
    if dry:
        show("\n" + "\n".join(f"fab vm.mv {each.name} --to {each.refuge}" for each in wanted.moves))
