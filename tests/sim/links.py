"""The fake world with power, links and DRBD's data: what faults do to nodes, and what sides do that lose or meet
each other.

Each side of a DRBD resource has a `Disk` (metadata.py) that outlives its node's power. After each thing that happens
`see_links` looks which sides can reach each other: two that lost each other go on alone, two that meet compare their
data as DRBD 8.4 does. One followed the other, and is copied; or both went on alone, which is a split brain: pmc sets
every after-sb policy to disconnect, so then both stand alone until a person decides. (Real sides need not find that out
both: one may go on looking for its peer.) A primary that loses its peer begins a new generation at once, written or
not; one that holds its writes then does so when it is let go. What must never be, is noted in `broken`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import combinations

from tests.sim import metadata
from tests.sim.fake import World
from tests.sim.machine import Kernel
from tests.sim.metadata import Disk
from tests.unit.samples import SETTINGS

Link = frozenset[str]
MANAGER = "manager"
# The last ones only keep the manager from a node.
LINKS = [frozenset(pair) for pair in combinations(SETTINGS.nodes, 2)]
WAYS = [*LINKS, *(frozenset((MANAGER, node)) for node in SETTINGS.nodes)]


class Linked(World):
    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.off: set[str] = set()
        self.unloaded: set[str] = set()  # booted, DRBD's module not loaded yet
        self.cut: set[Link] = set()
        self.hung: set[str] = set()  # it does nothing and answers nobody, and may go on as if no time had passed
        self.late: list[tuple[str, str, str]] = []  # (side, peer, VM): a hung side that will find its peer lost
        self.stood: set[tuple[str, str]] = set()  # (node, VM): it hung while its peer went on
        self.linked: dict[str, Link] = {}  # the two connected sides of each VM
        self.roles: dict[tuple[str, str], str] = {}  # that connected peers know of each other
        self.disks: dict[tuple[str, str], Disk] = {}
        self.detached: set[tuple[str, str]] = set()  # (node, VM): its disk failed, or was detached by hand
        self.journal: dict[str, list[str]] = {}  # of each node since its boot, as journalctl -o json has it
        self.steps: dict[str, timedelta] = {}  # by how much a node's clock is wrong
        self.broken: list[str] = []
        self._number = 0

    def next(self) -> int:
        self._number += 1
        return self._number

    def generation(self) -> int:
        """The lowest bit is none of it; and none is CREATED."""
        return 16 * self.next()

    def clocks(self, node: str) -> tuple[float, float]:
        """What it says in seconds: the time since its boot, and its clock."""
        since = (self.now - datetime(2025, 12, 31, tzinfo=UTC)).total_seconds()
        return since, (self.now + self.steps.get(node, timedelta())).timestamp()

    # -- nodes and links --

    def power_off(self, node: str) -> None:
        """What is in memory is gone; volumes, files and definitions stay."""
        machine = self.nodes[node]
        self.off.add(node)
        self.unloaded.add(node)
        self.forget_hang(node)
        self.journal.pop(node, None)
        machine.resources.clear()
        self.detached = {each for each in self.detached if each[0] != node}
        machine.domains = dict.fromkeys(machine.domains, "shut off")
        self.see_links()

    def boot(self, node: str) -> None:
        self.off.discard(node)

    def hang(self, node: str) -> None:
        if node not in self.off:
            self.hung.add(node)
            self.see_links()

    def go_on(self, node: str) -> None:
        """It finds out only now what it has lost."""
        late = [each for each in self.late if each[0] == node]
        self.forget_hang(node)
        for each in late:
            self.stood.add((node, each[2]))
            self.lost(*each)
        self.see_links()

    def forget_hang(self, node: str) -> None:
        self.hung.discard(node)
        self.late = [each for each in self.late if each[0] != node]

    def sever(self, link: Link) -> None:
        self.cut.add(link)
        self.see_links()

    def heal(self, link: Link) -> None:
        self.cut.discard(link)
        self.see_links()

    def silent(self, node: str, seen_from: str = MANAGER) -> bool:
        return node in self.off or node in self.hung or frozenset((seen_from, node)) in self.cut

    # -- DRBD --

    def sides(self, vm: str) -> list[str]:
        """The nodes where it is up."""
        return [name for name, machine in self.nodes.items() if vm in machine.resources]

    def peer(self, name: str, vm: str) -> Kernel | None:
        other = self.other(name, vm)
        return self.nodes[other].resources[vm] if other else None

    def other(self, name: str, vm: str) -> str:
        """The node that this side is connected to."""
        link = self.linked.get(vm, frozenset())
        return next(iter(link - {name})) if name in link else ""

    def alone(self, vm: str) -> list[str]:
        """The sides that look for no peer, though there should be one."""
        return [s for s in self.sides(vm) if (k := self.nodes[s].resources[vm]).alone and len(k.hosts) > 1]

    def see_links(self) -> None:
        for vm in sorted({vm for machine in self.nodes.values() for vm in machine.resources} | set(self.linked)):
            if (link := self.linked.get(vm)) and not self._reach(link, vm):
                del self.linked[vm]
                for side in sorted(link):
                    peer = next(iter(link - {side}))
                    if side in self.hung:
                        self.late.append((side, peer, vm))
                    else:
                        self.lost(side, peer, vm)
            if vm not in self.linked:
                pairs = [pair for pair in combinations(self.sides(vm), 2) if self._reach(frozenset(pair), vm)]
                for one, two in pairs[:1]:
                    self.meet(one, two, vm)
            for side in self.linked.get(vm, ()):
                self.roles[side, vm] = self.nodes[side].resources[vm].role

    def _reach(self, link: Link, vm: str) -> bool:
        kernels = [k for side in link if (k := self.nodes[side].resources.get(vm))]
        named = [set(kernel.hosts) == link and not kernel.alone for kernel in kernels]
        return link not in self.cut and not link & self.hung and named == [True, True]

    def lost(self, side: str, peer: str, vm: str) -> None:
        """A side that is still up goes on without its peer, and the kernel says so."""
        kernel = self.nodes[side].resources.get(vm)
        if kernel is None:
            return
        # Who disconnects by itself says Disconnecting, which tells nothing of the peer.
        state, role = "Disconnecting" if kernel.alone else "NetworkFailure", self.roles.get((peer, vm), "Unknown")
        said = f"drbd {vm}: peer( {role} -> Unknown ) conn( Connected -> {state} ) pdsk( UpToDate -> DUnknown ) "
        since, clock = (round(1e6 * time) for time in self.clocks(side))
        entry = {"MESSAGE": said, "__MONOTONIC_TIMESTAMP": f"{since}", "__REALTIME_TIMESTAMP": f"{clock}"}
        self.journal.setdefault(side, []).append(json.dumps(entry))
        # Of a peer without a disk nothing is known any more (sanitize_state: DUnknown).
        known = (peer, vm) not in self.detached
        kernel.behind = known and self.disks.get((peer, vm), Disk()).state in ("Outdated", "Inconsistent")
        if kernel.role == "Primary" and (side, vm) not in self.detached:
            kernel.held = kernel.holds and not kernel.behind
            if not kernel.held:
                self.disks[side, vm].lose_peer(self.generation())

    def detach(self, side: str, vm: str) -> None:
        """As after an I/O error. What is written from now on is on the other side only, which begins a new generation
        when it is, or its peer, primary."""
        other = self.other(side, vm)
        self.detached.add((side, vm))
        if other and (other, vm) not in self.detached:
            roles = {self.nodes[each].resources[vm].role for each in (side, other)}
            if "Primary" in roles:
                self.disks[other, vm].lose_peer(self.generation())
        self.show(vm)

    def attach(self, side: str, vm: str) -> None:
        """Connected sides compare their data once more."""
        self.detached.discard((side, vm))
        if other := self.other(side, vm):
            del self.linked[vm]
            self.meet(side, other, vm, connected=True)
        self.show(vm)

    def meet(self, one: str, two: str, vm: str, connected: bool = False) -> None:
        """The two sides have found each other; they compare their data. `connected`: they are already, and one has just
        got its disk again: that side may be primary, as it reads from the other until it is copied."""
        a, b = (self.nodes[side].resources[vm] for side in (one, two))
        mine, peers = self.disks[one, vm], self.disks[two, vm]
        if {(one, vm), (two, vm)} & self.detached:
            self._meet_without(one, two, vm)
            return
        before = {mine.state, peers.state} == {"UpToDate"} and mine.current == peers.current != metadata.CREATED
        if before and mine.writes != peers.writes:
            self.broken.append(f"{vm}: of one generation, but {one} and {two} differ")
        verdict = metadata.handshake(mine, peers, a.discard, b.discard)
        behind = "" if not verdict else two if verdict > 0 else one
        if (
            verdict is None
            or a.two_primaries != b.two_primaries
            or (a.role == b.role == "Primary" and not a.two_primaries)
            or (behind and not connected and self.nodes[behind].resources[vm].role == "Primary")
        ):
            self.part(one, two, vm)
            return
        self.linked[vm] = frozenset((one, two))
        self.stood -= {(one, vm), (two, vm)}
        a.held = b.held = False
        a.discard = b.discard = False
        for disk in (mine, peers):
            if disk.state == "Outdated":  # "D_OUTDATED vanishes when we get connected" (sanitize_state)
                disk.state = "UpToDate"
        if behind:
            source = self.disks[one if behind == two else two, vm]
            metadata.begin_copy(source, self.disks[behind, vm], abs(verdict or 0) == 2, self.generation())
        self.show(vm)

    def _meet_without(self, one: str, two: str, vm: str) -> None:
        """A side without its disk has nothing to compare."""
        a, b = (self.nodes[side].resources[vm] for side in (one, two))
        if a.two_primaries != b.two_primaries or (a.role == b.role == "Primary" and not a.two_primaries):
            self.part(one, two, vm)
            return
        self.linked[vm] = frozenset((one, two))
        a.discard = b.discard = a.held = b.held = False
        self.show(vm)

    def part(self, one: str, two: str, vm: str) -> None:
        """Both stand alone; the connection's options are gone with it."""
        for kernel in (self.nodes[side].resources[vm] for side in (one, two)):
            kernel.alone, kernel.two_primaries, kernel.discard = True, False, False

    def show(self, vm: str) -> None:
        """Kernels tell what their metadata say."""
        for side in self.sides(vm):
            here = (side, vm) not in self.detached
            self.nodes[side].resources[vm].disk = self.disks[side, vm].state if here else "Diskless"

    def copying(self, vm: str) -> tuple[Disk, Disk] | None:
        """The source and the target of a copy that is under way."""
        link = self.linked.get(vm, frozenset())
        if len(link) == 2 and not any((side, vm) in self.detached for side in link):
            one, two = (self.disks[side, vm] for side in sorted(link))
            if {one.state, two.state} == {"UpToDate", "Inconsistent"}:
                return (one, two) if one.state == "UpToDate" else (two, one)
        return None

    def resync(self, vm: str, some: bool = False) -> None:
        """A copy that is under way comes to its end; or only `some` of it is done."""
        if pair := self.copying(vm):
            if some:
                metadata.copy(*pair, frozenset(sorted(pair[0].bits or ())[::2]))
                return
            metadata.end_copy(*pair)
            if pair[0].writes != pair[1].writes:
                self.broken.append(f"{vm}: after a copy the sides differ")
            self.show(vm)
