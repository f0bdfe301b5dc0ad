"""Whether a node is dead: what the manager and its survivors see of it, its fence command, a person's word."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pmc import drbd_generations
from pmc.cluster import Cluster
from pmc.command import command
from pmc.drbd_generations import Generation
from pmc.errors import PmcError, Refused
from pmc.facts import dead_node
from pmc.model import ClusterState
from pmc.paste import comment
from pmc.plan import Step, plan
from pmc.plans import failover as plans
from pmc.plans import requirements
from pmc.tasks.base import confirm
from pmc.transport import fence_command
from pmc.transport.node import Node
from pmc.units import show_size
from pmc.view.output import note

Places = Mapping[str, Sequence[str]]  # the VMs that each survivor has a copy of


@dataclass(frozen=True)
class PeerEvidence:
    """What is seen of a node that may be dead. `facts`: by VM, since when its link is lost. `signs` of its life.
    `differ`: by VM, the bytes of its disk that a verify found to differ."""

    facts: Mapping[str, dead_node.LostLink] = field(default_factory=dict)
    signs: tuple[str, ...] = ()
    differ: Mapping[str, int] = field(default_factory=dict)


def observe(cluster: Cluster, state: ClusterState, dead: str, places: Places, hangs: str = "") -> PeerEvidence:
    """Asks each survivor about the dead node; refused when anything says that it lives, unless it is known to hang."""
    sight = _look(cluster, state, dead, places)
    if dead != hangs:
        plans.alive(dead, sight.signs, cluster.settings)
    return sight


def _look(cluster: Cluster, state: ClusterState, dead: str, places: Places) -> PeerEvidence:
    def ask(node: Node) -> tuple[dead_node.PeerSigns, dict[str, int]]:
        marked = plans.marked(node.name, places[node.name], state)
        peer, *told = node.ask_each(query, *map(drbd_generations.generation, marked))
        if isinstance(peer, PmcError):
            raise peer
        # What cannot be found out (DRBD 9 asks for a peer) is told, too.
        alone = [name for name, said in zip(marked, told, strict=True) if isinstance(said, Generation) and said.bitmap]
        return peer, {name: size for name, size in marked.items() if name not in alone}

    query = dead_node.peer(dead, cluster.settings)
    facts: dict[str, dead_node.LostLink] = {}
    signs: list[str] = []
    differ: dict[str, int] = {}
    for (survivor, names), (one, marked) in zip(places.items(), cluster.on_all(ask, places), strict=True):
        differ |= marked
        signs += plans.signs(dead, survivor, names, state, one)
        facts |= {name: one.lost[name] for name in names if name in one.lost}
        facts |= plans.linked(survivor, names, state)
    return PeerEvidence(facts, tuple(dict.fromkeys(signs)), differ)


def off(sight: PeerEvidence) -> list[str]:
    """The VMs whose disk was not in use there."""
    return [name for name, lost in sight.facts.items() if not lost.in_use]


def how(cluster: Cluster, dead: str, sight: PeerEvidence) -> list[str]:
    """What --dry-run says, and a line of shell that lets nobody past without it."""
    spec = cluster.settings.nodes[dead]
    text = "you are asked to type its name"
    if spec.fence:
        text = f"the manager runs its fence command, {fence_command.program(spec)}"
    if sight.signs:
        text += f", and waits until it is silent; for now it lives: {'; '.join(sight.signs)}"
    asked = f"first {dead} must be proved dead; when its power is off: dead={dead}"
    return [
        comment(f"first {dead} must be proved dead: {text}"),
        f'[ "${{dead:-}}" = {dead} ] || {{ echo {shlex.quote(asked)} >&2; exit 1; }}',
    ]


def tell_stale_copies(names: Sequence[str], state: ClusterState) -> None:
    for name in names:
        if said := requirements.stale_copy_note(name, "the VM's other node", state):
            note(said)


def prove(
    cluster: Cluster, node: str, names: Sequence[str], sight: PeerEvidence, dead: str, state: ClusterState
) -> None:
    """By the node's fence command, else by a person's word. Where it is not known since when the link is lost, or it is
    long ago, the disk may be an old one, which no fence command can tell: asked before the power is taken away. Of a
    node that gives signs of life (and was said to hang) only its fence command is a proof, and silence after it."""
    spec, facts = cluster.settings.nodes[node], sight.facts
    if dead and dead != node:
        raise Refused(f"--dead {dead}: the node that does not answer is {node}; nothing was touched")
    for name in (name for name in names if name not in facts or math.isinf(facts[name].ago)):
        note(f"{name}: its other node has no record since its boot of when the link was lost; the disk may be old")
    old = [name for name in names if name not in facts or facts[name].old]
    if away := [each.name for each in state if each.trouble and each.name != node]:
        note(f"{', '.join(away)} cannot be asked either; a second copy that vm.peer made there would be the newer one")
    tell_stale_copies(names, state)
    for name, lost in facts.items():
        if lost.since:
            text = (
                f"{name}: lost {node} at {lost.since}; that was {lost.ago:.0f} s ago (the time is by its other node's "
            )
            note(
                f"{text}clock, as it goes now); what {node} wrote after that, if it still ran, is not on the other node"
            )
    differ = [name for name in names if name in sight.differ]
    for name in differ:
        size = show_size(sight.differ[name])
        note(f"{name}: {size} of its disk differ from that on {node}, as a verify found, and that one was in use")
    if sight.signs:
        note(f"{node} gives signs of life: {'; '.join(sight.signs)}\n  --dead {node} says that it hangs")
    if spec.fence:
        if old and (sight.signs or not dead):
            # One that lives without the link may have written all the time: that it hangs says nothing of the disk.
            way = f"if it hangs all the same, take the power of {node} away by hand" if sight.signs else ""
            way = way or f"if you know that it is not, give --dead {node}"
            confirm(f"the disk of {', '.join(old)} may be old", node, way)
        if differ and not dead:
            way = f"if these do not matter, give --dead {node}"
            confirm(f"blocks of the disk of {', '.join(differ)} are known to differ", node, way)
        note(f"fence {node}: {fence_command.program(spec)}")
        # Of its words none but the program's name is shown anywhere.
        cluster.begin(plan(f"fence {node}", Step(node, "take its power away", command(fence_command.program(spec)))))
        try:
            with cluster.interruptible():  # it goes on in any case; Ctrl-C comes after it
                fence_command.run(spec, cluster.settings.deadlines.fence)
        except PmcError as error:
            if not dead or sight.signs:
                raise
            note(f"{error}\n  Going on all the same: --dead {node} says that it is off")
        else:
            note(f"{node}: its fence command ended well")
        cluster.go_on(f"the start of {', '.join(names)}")
        return
    if dead:
        return
    confirm(
        f"{node} gives no sign of life, but that is no proof: a cut network looks the same, and a VM that runs on both "
        f"nodes destroys its disk. Make sure that the POWER of {node} is OFF",
        node,
        f"once its power is really off, give --dead {node}",
    )


def silent(cluster: Cluster, node: str, places: Places) -> ClusterState:
    """After the fence command of a node that gave signs of life: the state once it gives none. Raises PmcError when
    they do not go: then something else than this node lost its power."""
    seconds = cluster.settings.deadlines.peer
    note(f"waiting, at most {seconds:g} s, until {node} gives no sign of life")
    deadline = time.monotonic() + seconds
    while True:
        cluster.go_on("to start anything")
        cluster.nodes[node].close()  # a connection from before would look alive for a while
        state = cluster.state()
        signs = _look(cluster, state, node, places).signs
        if not signs:
            return state
        if time.monotonic() > deadline:
            raise PmcError(
                f"{node}: still gives signs of life after {seconds:g} s: {'; '.join(signs)}; nothing was started. See "
                f"that the command is the one for {node}, and that its power is off; then run this again"
            )
        time.sleep(1)
