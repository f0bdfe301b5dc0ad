"""More rules about sides that went apart or are gone: vm.repair, vm.peer."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from pmc.errors import PmcError, Refused
from pmc.plans import peer, remove_steps, repair, split_brain
from pmc.plans.repair_context import Condition, RepairOptions, SideFacts
from tests.sim.losses import Losses
from tests.sim.metadata import Disk
from tests.sim.sequences import NODE, NODES, ONE, TROUBLE, Manager, Trouble, count
from tests.unit.samples import SETTINGS

ROUNDS = 20


class Fixing(Losses):
    @rule(one=ONE, keep=st.sampled_from(("", *NODES)), snapshot=st.sampled_from((True, True, False)), trouble=TROUBLE)
    def repair(self, one: int, keep: str, snapshot: bool, trouble: Trouble) -> None:
        apart = [name for name in self.known() if self.world.alone(name)]
        self._repaired(apart[one % len(apart)] if apart else self.there(one), keep, snapshot, trouble)

    def _repaired(self, name: str, keep: str, snapshot: bool, trouble: Trouble) -> None:
        work = lambda manager: self._repair(manager, name, keep, snapshot)  # noqa: E731
        mine = self.world.disks.get((keep, name), Disk()).writes
        others = frozenset[int]().union(*(disk.writes for (_, vm), disk in self.world.disks.items() if vm == name))
        given_up = others - mine if self.world.alone(name) and keep in self.world.alone(name) else frozenset()
        if self.task("vm.repair", work, trouble, apart=True) == "done":
            self.opened.discard(name)
            if not self.sees(name):
                return
            homes = self.state().homes(name)
            disks = [self.world.disks[home, name] for home in homes]
            assert len({disk.writes for disk in disks}) == 1, f"{name}: its sides differ after vm.repair"
            assert {disk.state for disk in disks} == {"UpToDate"}
            assert not disks[0].writes & given_up, f"{name}: {keep} was to be kept as it was"
            assert not self._conditions(name, "", True, False), "there is nothing to repair twice"

    def _conditions(self, name: str, keep: str, snapshot: bool, stalled: bool) -> list[Condition]:
        state, world = self.state(), self.world
        about = {
            home: SideFacts(world.gi(home, name), xml=world.xml.get((home, name), ""))
            for home in repair.homes(name, state, SETTINGS)
        }
        wishes = RepairOptions(world.now, keep, snapshot, stalled=stalled)
        return repair.conditions(name, state, about, SETTINGS, wishes)

    def _repair(self, manager: Manager, name: str, keep: str, snapshot: bool) -> None:
        """As the task: one condition after the other, each after another look. All questions are answered with yes."""
        found = self._conditions(name, keep, snapshot, False)
        if refused := [each.refusal for each in found if each.refusal]:
            raise Refused(refused[0])
        try:
            self._each_of(found, manager, name, keep, snapshot)
        except Refused as error:
            raise (PmcError(str(error)) if manager.calls else error) from None

    def _each_of(self, found: list[Condition], manager: Manager, name: str, keep: str, snapshot: bool) -> None:
        world, done = self.world, list[str]()
        while found:
            first = found[0]
            if first.refusal or (first.steps and first.text in done) or len(done) > ROUNDS:
                raise PmcError(first.refusal or f"still: {first.text}")
            done.append(first.text)
            count(f"vm.repair: {first.code}")
            if first.code == split_brain.CODE:
                self._decide(manager, name, keep, snapshot, first)
                keep = ""
            elif first.steps:
                manager.carry_out(first.plan(name))
            world.resync(name)
            kernels = [self.state().nodes[home].resources.get(name) for home in self.state().homes(name)]
            stalled = repair.outlook(kernels) == repair.WAITS
            found = self._conditions(name, keep, snapshot, stalled)

    def _decide(self, manager: Manager, name: str, keep: str, snapshot: bool, first: Condition) -> None:
        """From now on what counts is what the kept side has; what the other one had is on the snapshot."""
        world = self.world
        victim = next(home for home in self.state().homes(name) if home != keep)
        kept, given_up = world.disks[keep, name].writes, world.disks[victim, name].writes
        if name in world.acknowledged:
            world.acknowledged[name] = kept
        manager.carry_out(first.plan(name))
        world.resync(name)
        if not world.cut and not world.off and not world.hung:
            now = world.disks[victim, name].writes
            assert now >= kept, f"{name}: {victim} is not what was kept"
            assert not now & (given_up - kept), f"{name}: {victim} has what was given up"
        if snapshot:
            found = [writes for (at, of), writes in world.kept.items() if at == victim and of.startswith(f"{name}.")]
            assert given_up in found, f"{name}: what {victim} wrote is not on its snapshot"

    @rule(one=ONE, node=NODE, yes=st.sampled_from((True, True, False)), trouble=TROUBLE)
    def peer(self, one: int, node: str, yes: bool, trouble: Trouble) -> None:
        self._peered(self.there(one, running=True), node, yes, trouble)

    def _peered(self, name: str, node: str, yes: bool, trouble: Trouble) -> None:
        world = self.world
        old = next((other for at in world.running(name) if (other := world.other(at, name))), "")
        good = old and old != node and world.nodes[old].resources[name].disk == "UpToDate"
        apart = [at for at in world.alone(name) if at not in world.running(name) and at != node]
        end = self.task("vm.peer", lambda manager: self._peer(manager, name, node, yes), trouble)
        if good and (old, name) not in world.disks and name in world.acknowledged:  # else another manager removed it
            assert world.disks[node, name].state == "UpToDate", f"{name}: {old}'s copy went, {node}'s is not complete"
        for at in apart:
            assert (at, name) in world.disks, f"{name}: {at} stood alone and is removed"
        if end == "done" and not trouble.kind:  # a link may be cut after all was seen to be equal
            primary = self.world.running(name)[0]
            assert set(self.state().homes(name)) == {primary, node}
            assert self.world.has_all(node, name), f"{name}: its new copy on {node} lacks writes"
            assert self.world.other(primary, name) == node
            state = self.state()
            change = peer.choose(name, node, state, SETTINGS)
            again = peer.peer(change, self.world.xml[primary, name], "hunter2", state, SETTINGS)
            assert not again.steps, "there is nothing to do twice"

    def _peer(self, manager: Manager, name: str, node: str, yes: bool) -> None:
        state = self.state()
        change = peer.choose(name, node, state, SETTINGS)
        if change.ask and not yes:
            raise Refused("not confirmed; nothing was touched")
        xml = self.world.xml[change.primary, name]
        manager.carry_out(peer.peer(change, xml, "hunter2", state, SETTINGS))

    @rule(one=ONE, trouble=TROUBLE)
    def peer_cleanup(self, one: int, trouble: Trouble) -> None:
        stale = [name for name in self.known() if self.state().stale_copies(name)]
        self._cleared(stale[one % len(stale)] if stale else self.there(one), trouble)

    def _cleared(self, name: str, trouble: Trouble) -> None:
        def work(manager: Manager) -> None:
            plan = remove_steps.cleanup(name, self.state(), SETTINGS)
            homes = self.state().homes(name) if plan.steps else []
            if homes and name in self.forced and name in self.world.acknowledged:
                # They were told that it is removed for good.
                self.world.acknowledged[name] = self.world.disks[homes[0], name].writes
                self.forced.discard(name)
            assert all(self.world.has_all(home, name) for home in homes), f"{name} is not whole without its stale copy"
            manager.carry_out(plan)

        if self.task("vm.peer --cleanup", work, trouble) == "done":
            if not self.sees(name):
                return
            assert not self.state().stale_copies(name)
            if not self.world.cut:  # with a link that was cut meanwhile it is refused
                assert not remove_steps.cleanup(name, self.state(), SETTINGS).steps, "there is nothing to clean twice"
