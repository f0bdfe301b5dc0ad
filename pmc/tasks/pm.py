"""pm.*: the nodes (physical machines)."""

from __future__ import annotations

from typing import Any

from pmc.errors import PmcError
from pmc.rows import PM_COLUMNS, pm_rows
from pmc.tasks.base import opened, task
from pmc.view import table


@task()
def ls(c: Any, json: bool = False, conf: str = "") -> None:
    """List the nodes: up or not, VMs, memory, volume group, DRBD resources by state."""
    with opened(conf) as cluster:
        state = cluster.state()
        print(table(pm_rows(state, text=not json), json, PM_COLUMNS))
        if trouble := [f"{node.name}: {node.trouble}" for node in state if node.trouble]:
            raise PmcError("\n".join(trouble))
