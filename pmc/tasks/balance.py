"""pm.balance: memory used evenly, by moving VMs while they run."""

from __future__ import annotations

from json import dumps
from typing import Any

from pmc.errors import PmcError, Refused
from pmc.plans import balance as plans
from pmc.plans.balance import Balance
from pmc.tasks.base import confirm, opened, task
from pmc.tasks.moving import COLUMNS, Row, attempt, failed, moved_unless_stopped
from pmc.view import note, show, table

SHOWN = 5  # of the VMs that cannot move


@task(
    json="print JSON, sizes in bytes; goes with --dry-run or --yes",
    dry_run="print the moves, and the nodes before and after, and change nothing",
)
def balance(c: Any, json: bool = False, yes: bool = False, conf: str = "", dry_run: bool = False) -> None:
    """Even out the nodes' memory by moving running VMs to their other node, live: pm.balance [--dry-run] [--yes]

    Shows the moves and each node before and after, then asks; moves one VM after the other, goes on past one that
    fails, and reports at the end. Never to a node that lacks the memory, nor so that N+1 (pm.verify: MEMORY_N1) gets
    worse; where it does not hold, that is mended first. Harmless when run again.
    """
    dry = bool(dry_run or c.config.run.dry)
    if json and not (dry or yes):
        raise Refused("--json: give --dry-run to see the moves, or --yes to carry them out; nobody is asked then")
    with opened(conf) as cluster:
        state = cluster.state()
        wanted = plans.balance(state, cluster.settings)
        if not json:
            _show(wanted, dry)
        if wanted.moves and not (dry or yes):
            confirm(f"{len(wanted.moves)} moves, one after the other", "yes")
        rows: list[Row] = []
        with cluster.interruptible():
            for number, each in enumerate(() if dry else wanted.moves, 1):
                note(f"move {number} of {len(wanted.moves)}: {each.name} from {each.on} to {each.refuge}")
                work = lambda name=each.name, to=each.refuge: moved_unless_stopped(cluster, name, state, to)  # noqa: E731
                rows.append(attempt(each.name, each.on, each.refuge, work))
            if json:
                show(dumps(plans.document(wanted, rows), indent=2))
            elif rows:
                show(table(rows, False, COLUMNS))
            if names := failed(rows):
                raise PmcError(f"{len(names)} of {len(rows)} did not move: {', '.join(names)}")


def _show(wanted: Balance, dry: bool) -> None:
    for name, why in wanted.unseen.items():
        note(f"{name} is left out: {why}")
    for name, why in list(wanted.staying.items())[:SHOWN]:
        note(f"{name} stays: {why}")
    if len(wanted.staying) > SHOWN:
        note(f"... and {len(wanted.staying) - SHOWN} more that cannot move now; fab pm.verify")
    if nodes := plans.node_rows(wanted.nodes):
        show(f"{table(nodes, False, plans.NODE_COLUMNS)}\n")
    if not wanted.moves:
        note(f"nothing to move: no VM's other node is enough less full ({plans.told(wanted.before)})")
        return
    show(table(plans.move_rows(wanted.moves, text=True), False, plans.MOVE_COLUMNS))
    show(f"\nnow:  {plans.told(wanted.before)}\nthen: {plans.told(wanted.after)}")
    if dry:
        show("\n" + "\n".join(f"fab vm.mv {each.name} --to {each.refuge}" for each in wanted.moves))
