"""Looking again at a VM's own nodes only. Among hundreds of nodes a VM lives on two: one look over all finds them, and
from then on the command is about these.

Two managers must not miss each other's locks. Whoever takes a VM's lock on its own nodes alone has it on all of them,
and sees under it that they are the VM's nodes still; so two such commands meet on each of them. When that cannot be
had (one of them does not answer, the VM is not known yet, it moved to other nodes meanwhile, or a backup or clone of it
was interrupted) the lock is taken on all nodes that answer, and all are looked at again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from pmc.cluster import Beside, Cluster
from pmc.model import ClusterState
from pmc.node_state import cluster_state
from pmc.plans import clone
from pmc.transport.lock import Lock


def involved_nodes(state: ClusterState, names: Sequence[str]) -> list[str]:
    """The nodes of these VMs, and others that know them (stale copies); none when that is not known for sure."""
    found: list[str] = []
    for name in names:
        about = state.about(name)
        if not about or any(node not in state.nodes or state.nodes[node].trouble for node in about):
            return []
        # A backup or a clone that was interrupted: what reads the snapshot may still run, on any node that it was to go
        # to.
        if any(f"{name}.{kind}" in state.nodes[node].volumes for node in about for kind in clone.KINDS):
            return []
        found += about
    return list(dict.fromkeys(found))


def refresh(cluster: Cluster, state: ClusterState, nodes: Sequence[str], beside: Beside | None = None) -> ClusterState:
    """The same state, with these nodes as they are now. `beside`: see Cluster.state."""
    there = [node for node in nodes if node in cluster.nodes]
    return cluster_state({**state.nodes, **cluster.state(there, beside=beside).nodes})


def refresh_vm(cluster: Cluster, state: ClusterState, name: str, beside: Beside | None = None) -> ClusterState:
    """The same state, with the VM's nodes as they are now."""
    return refresh(cluster, state, state.about(name), beside)


@contextmanager
def locked(
    cluster: Cluster,
    what: str,
    names: Sequence[str],
    first: ClusterState,
    also: Sequence[str] = (),
    beside: Beside | None = None,
) -> Iterator[tuple[Lock, ClusterState]]:
    """The lock of these VMs and what is true under it, from a first look without it. `also`: further nodes that the
    command is about."""
    with ExitStack() as locks:
        if mine := involved_nodes(first, names):
            nodes = list(dict.fromkeys((*mine, *also)))
            taken = locks.enter_context(cluster.lock(what, *names, on=nodes))
            state = refresh(cluster, first, nodes, beside)
            now = involved_nodes(state, names)
            if now and set(now) <= set(nodes):
                yield taken, state
                return
            locks.close()
        taken = locks.enter_context(cluster.lock(what, *names))
        yield taken, cluster.state(beside=beside)
