"""What is left of a migration that was interrupted because the nodes lost each other. Pure.

DRBD gives the data of every primary that loses its peer a new generation, whether it is written or not; with two
primaries these are two, and when the link is back it sees a split brain, even though the guest ran on one side only.
While the sides are still apart the side that was never written can take its generation back: it is then what it was
before, an older copy, and a bitmap resync brings it up to date.
"""

from __future__ import annotations

from pmc import drbd_generations, virsh
from pmc.command import Command, bash, operation
from pmc.errors import Refused
from pmc.facts import backing
from pmc.model import ClusterState
from pmc.plan import Plan, Step, plan


def in_progress(name: str, state: ClusterState) -> bool:
    """Two of it, or one that stands still: a migration that was interrupted is still being ended by libvirt, which
    drops the one and lets the other go on when it finds that its peer is gone (keepalive: 30 s)."""
    active = state.active_on(name)
    if len(active) == 1 and (its := state.nodes[active[0]].resources.get(name)) and "fencing" in its.suspended:
        return False  # nothing of it can go on before its writes do
    return len(active) > 1 or any(state.nodes[node].domains[name].state != "running" for node in active)


def half_received(name: str, source: str, state: ClusterState) -> Plan:
    """The sides lost each other while the guest was about to go on at the other one, and its last writes are held here:
    QEMU waits for them, and libvirt for QEMU. What came to the other side is not whole and has never run; without it
    the guest can only stay here."""
    active = state.active_on(name)
    held = source in active and (its := state.nodes[source].resources.get(name)) and "fencing" in its.suspended
    waiting = [node for node in active if node != source and state.nodes[node].domains[name].state == "paused"]
    # Not held, and both stand still: libvirt will let neither go on by itself any more, and is sure which one came.
    stuck = len(active) == 2 and source != "" and source_of(name, state) == source and _stands(name, source, state)
    steps = [Step(node, f"end what came of {name}", virsh.drop_incoming(name)) for node in waiting if held or stuck]
    return plan(f"vm.mv {name}: end what was received", steps)


def _stands(name: str, node: str, state: ClusterState) -> bool:
    return state.nodes[node].domains[name].state == "paused"


def require_known_source(name: str, state: ClusterState) -> None:
    """Of two that both stand still one came from the other. Raises Refused when libvirt was asked which, and is not
    sure: the one that is ended must be the one that has never run."""
    active = state.active_on(name)
    still = all(state.nodes[node].domains[name].state == "paused" for node in active)
    asked = all(state.nodes[node].running is not None for node in active)
    if len(active) == 2 and still and asked and not source_of(name, state):
        raise Refused(
            f"{name}: a migration was interrupted. It is suspended on {' and '.join(active)}, libvirt does not "
            f"tell on which of them it ran, so nothing was changed. On each: virsh qemu-monitor-command {name} "
            f"--hmp info status. postmigrate and finish-migrate mean that it ran there; inmigrate means that it never "
            f"did: there, and nowhere else: virsh destroy {name}. When neither says so, leave both",
            next=f"fab vm.mv {name} --cleanup",
        )


def source_of(name: str, state: ClusterState) -> str:
    """The node on which it was before a move that is not over, when libvirt is sure: it notes at each end which way it
    moves, and the other end does not say the same. Empty: it is not known."""
    known = {node: its for node in state.active_on(name) if (its := (state.nodes[node].running or {}).get(name))}
    here = [node for node, its in known.items() if its.moves != "in"]
    there = [node for node, its in known.items() if its.moves == "in"]
    return here[0] if len(here) == len(there) == 1 else ""


def rejoin(name: str, state: ClusterState) -> Plan:
    """Once the migration is closed. Nothing to do when the sides see each other, or when the other side was written."""
    title = f"vm.mv {name}: rejoin"
    active = state.active_on(name)
    others = [home for home in state.homes(name) if home not in active]
    if len(active) != 1 or len(others) != 1 or any(home not in state.nodes for home in others):
        return plan(title)
    source, target = state.nodes[active[0]], state.nodes[others[0]]
    here, there, file = source.resources.get(name), target.resources.get(name), target.files.get(name)
    if there and (there.more_minors or here is None or here.more_minors):
        return plan(title)  # the identifiers are of one volume
    if here is None or there is None or file is None or here.connected or there.connected:
        return plan(title)
    # DRBD 9 makes a new generation with the first write only, so there is nothing to take back.
    if there.role != "Secondary" or not there.good or there.out_of_sync or not target.drbd.startswith("8."):
        return plan(title)
    back = Step(
        target.name,
        f"take the new generation of {name} back: nothing was written here",
        generation_back(name, there.minor, backing.named_by(file, target)),
        pivot=True,
    )
    connect = Step(source.name, f"connect {name}", drbd_generations.connect(name), pivot=True)
    return plan(title, back, [connect] if here.standalone else [])


@operation
def generation_back(name: str, minor: int, disk: str) -> Command:
    """The generation that DRBD's bitmap counts from becomes the current one again. Looked at again right before:
    nothing may have been written here (no bit set), the side must be secondary and apart."""
    script = """
        now=$(drbdsetup events2 --now --statistics "$1")
        for fact in role:Secondary disk:UpToDate out-of-sync:0; do
            grep -qE "^exists .* $fact( |\\$)" <<<"$now" || { echo "not $fact any more" >&2; exit 1; }
        done
        ! grep -q "connection:Connected" <<<"$now" || exit 0
        IFS=: read -r current bitmap rest <<<"$(drbdadm get-gi "$1")"
        case $bitmap in ""|0000000000000000) exit 0;; esac
        drbdadm down "$1"
        s=0
        drbdmeta --force "$2" v08 "$3" internal set-gi "$bitmap:0000000000000000:$rest" || s=$?
        drbdadm up "$1"
        exit $s
    """
    return bash(script, name, str(minor), disk)
