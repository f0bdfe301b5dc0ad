"""vm.rm: everything of a VM on every node. State in, plan out. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pmc.backup import Stored
from pmc.errors import Refused
from pmc.model import ClusterState
from pmc.plan import Plan, plan
from pmc.plans import clone, other_disks, prune, remove_steps, requirements, suspended_io
from pmc.settings import Settings


def remove(
    name: str, state: ClusterState, settings: Settings, stored: Sequence[Stored] = (), backups: bool = False
) -> Plan:
    """Everything of the VM on every node, also of one that was made or removed by half; with `backups`
    those that are `stored` as well, last; the VM itself may be gone then. There is no way back. A node that is away may
    be left out when it is none of the VM's own: the same, once it is back, removes what it has."""
    holders = remove_steps.holders(name, state)
    away = [node.name for node in state if node.down]
    if holders and away:
        requirements.known_nodes(state, name)
    requirements.answering(state, *(node.name for node in state if not (holders and node.down)))
    requirements.reachable(state, *(node.name for node in holders))
    requirements.known_by_all(name, state)
    suspended_io.require_stoppable(name, state, [node.name for node in holders])
    requirements.readable(state, name)  # or it is not known which volume is its disk
    other_disks.one_volume(name, "vm.rm", state)
    remove_steps.refuse_foreign(name, state, settings)
    remove_steps.refuse_namesakes(name, state)
    if not holders and stored and not backups:
        raise Refused(
            f"{name}: no such VM, but {prune.lying(name, stored)}. fab vm.rm {name} --backups removes them for good",
            next=f"fab vm.backups {name}",
        )
    if not holders and not stored:
        requirements.found(state, name)
    others = [node.name for node in state if node not in holders and not node.down]
    last = prune.all_removed(name, stored, others, settings) if backups else []
    left = clone.left_for(name, state, settings)
    return plan(f"vm.rm {name}", left, remove_steps.steps(name, holders, settings), last)
