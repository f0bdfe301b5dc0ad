"""What sequences of tasks and faults are made of: what can go wrong while a plan is carried out, who carries it out,
and a machine that knows the world (world.py), how a task ended, and what there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta

from hypothesis import currently_in_test_context, event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from pmc import drbd
from pmc.actions import Action, Wait, Watch
from pmc.errors import CommandFailed, InDoubt, PmcError, Refused
from pmc.model import ClusterState
from pmc.plan import Plan, apply
from pmc.plans import clone
from tests.sim.links import WAYS, Link
from tests.sim.world import Cloud
from tests.unit.samples import SETTINGS

NAMES = ("web", "mail", "dns")
NODES = tuple(SETTINGS.nodes)


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in step `at` (modulo their number) of the task's plan number `nth` (vm.mv applies several);
    `link` is the one that a cut would cut. `then`: what goes wrong besides, in the call after that one, be it of an
    undo. What the other manager does that takes over (`kind` is "overtaken"), is `other`."""

    kind: str = ""
    at: int = 0
    link: Link = WAYS[0]
    nth: int = 0
    then: str = ""
    other: str = ""


# "hangs": the node answers nobody from then on, and may go on later. "overtaken": the node let the lock go, as it heard
# nothing of the manager, and another manager took it.
KINDS = ("fails", "lost before", "lost after", "dies", "power before", "power after", "cut", "hangs", "overtaken")
AGAIN = ("", "", "", "", "fails", "lost before", "lost after", "dies", "power before", "cut")
LEFT = tuple(f".{kind}" for kind in clone.KINDS)  # how snapshots end that are there only while a command reads them
SEVERAL = ("vm.mv", "vm.repair", "pm.evacuate", "pm.evacuate --failover")  # apply several plans
OTHERS = ("vm.start", "vm.stop", "vm.mv", "vm.mv --cleanup", "vm.rm", "vm.repair", "vm.backup")
STRIKES = st.builds(
    Trouble,
    st.sampled_from(KINDS),
    st.integers(0, 29),
    st.sampled_from(WAYS),
    st.sampled_from((0, 0, 0, 0, 1, 2)),
    st.sampled_from(AGAIN),
    st.sampled_from(OTHERS),
)
TROUBLE = st.one_of(st.just(Trouble()), STRIKES)
NAME, NODE = st.sampled_from(NAMES), st.sampled_from(NODES)
# Which of the VMs that there are, the first more often: sequences get further with one VM than with three.
ONE = st.sampled_from((0, 0, 0, 1, 2))


NONE = Trouble()
Meanwhile = Callable[["Manager", str], object]


class Died(BaseException):
    """The manager is gone between two steps. Not an Exception: nothing of pmc may catch it."""


class Manager:
    """Carries the steps of one task out, and has its trouble in one of them."""

    def __init__(self, world: Cloud, trouble: Trouble, what: str, meanwhile: Meanwhile) -> None:
        self.world, self.trouble, self.what = world, trouble, what
        self.meanwhile = meanwhile  # what another manager does that takes the lock
        self.calls, self.plans, self.due = 0, 0, -1  # `due`: the call in which the trouble comes
        self.lost = False  # the lock, to the other manager
        self.plan: Plan | None = None
        # One that is made may be taken back, with what it wrote.
        self.before = {vm for vm, _ in world.guests()}

    def __call__(self, node: str, action: Action, watch: Watch | None) -> None:
        number, self.calls = self.calls, self.calls + 1
        kind = self.trouble.kind if number == self.due else self.trouble.then if number == self.due + 1 > 0 else ""
        if kind == "fails" and self.plan and any(action is step.check for step in self.plan.steps):
            kind = "lost before"  # a check that fails says no, which is no trouble but a lie
        if kind and number == self.due:
            self._strikes(node, action, kind)
        self.world.guests_write(self.before)
        if kind == "overtaken":
            self.lost = True
            self.meanwhile(self, self.trouble.other)
        if self.lost and not isinstance(
            action, Wait
        ):  # Lock.ensure, and the token that each command brings (pmc/lock_files.py)
            raise InDoubt(node, str(action), "was locked, while the connection was lost, by another manager")
        if kind == "fails":
            for name in NAMES:
                self.world.resync(name, some=True)  # of a copy that was awaited some was done
            raise CommandFailed(node, str(action), 1, "it fails")
        if kind == "dies":
            raise Died
        if kind == "cut":
            self.world.sever(self.trouble.link)
        if kind not in ("lost before", "power before"):
            self.world.carry_out(node, action, watch)
        if kind.startswith("power"):
            self.world.power_off(node)
        if kind == "hangs":
            self.world.hang(node)
        if kind.startswith(("power", "lost", "hangs")):
            raise InDoubt(node, str(action), "the connection was lost")

    def _strikes(self, node: str, action: Action, kind: str) -> None:
        """Counts a trouble that comes inside a step, and that the step does not have already."""
        assert self.plan is not None
        there = self.world.silent(node) or (kind == "cut" and self.trouble.link in self.world.cut)
        if not there and any(action is step.do for step in self.plan.steps):
            count(f"{self.what} struck: {kind}")

    def carry_out(self, plan: Plan) -> None:
        if plan.steps:
            if self.trouble.kind and self.plans == (self.trouble.nth if self.what in SEVERAL else 0):
                self.due = self.calls + self.trouble.at % len(plan.steps)
            self.plans, self.plan = self.plans + 1, plan
        apply(plan, self)


Task = Callable[[Manager], object]
ENDS: Counter[str] = Counter()  # how often which task ended how, and what else was reached


def count(what: str) -> None:
    if currently_in_test_context():
        event(what)
    ENDS[what] += 1


class Base(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = Cloud()
        self.forced: set[str] = set()  # of these a person has started a stale copy, told that there may be a newer one
        self.managers: list[Manager] = []  # one for each task
        self.ending = False  # what cleans up at the end is not counted
        self.second = False  # another manager is at work while the first one is in the middle of a plan
        self.opened: set[str] = set()  # of these a migration was interrupted, which only --cleanup puts right

    def state(self) -> ClusterState:
        return self.world.state()

    def sees(self, name: str) -> bool:
        """False: the manager lost its way to a side, in the last step of a task that was done all the same."""
        return not any(self.world.silent(home) for home in self.state().homes(name))

    def known(self) -> list[str]:
        machines = self.world.nodes.values()
        return [n for n in NAMES if any(n in m.volumes or n in m.domains or drbd.path(n) in m.files for m in machines)]

    def there(self, one: int, running: bool | None = None) -> str:
        """The name of a VM of which anything is there, rather of one that runs (or does not, as asked); of one that is
        not there, when there is none."""
        known = self.known()
        fit = [name for name in known if running is None or bool(self.world.running(name)) == running]
        return fit[one % len(fit)] if fit else known[one % len(known)] if known else NAMES[one]

    def absent(self, name: str) -> str:
        """A name for a new VM: `name` is asked for, and is taken only when all are."""
        return next((n for n in NAMES if not any(n in m.volumes for m in self.world.nodes.values())), name)

    def guests_write(self) -> None:
        self.world.guests_write()

    def task(self, what: str, work: Task, trouble: Trouble, sure: bool = True, apart: bool = False) -> str:
        """How a task ends: done, refused (then nothing was touched), failed, left (not all undone), died. `sure`: where
        nothing is in the way it does not fail, what can be known is refused before; `apart`: nor are sides that stand
        alone."""
        self.guests_write()
        self.world.now += timedelta(seconds=1)
        end = self._ended(what, work, trouble, sure and (apart or not any(self.world.alone(name) for name in NAMES)))
        if not self.ending:
            count(f"{what}: {end}")
        return end

    def drawn(self, trouble: Trouble) -> Trouble:
        """What this sequence has in its place."""
        return trouble

    def overtake(self, manager: Manager, other: str) -> None:
        """Another manager does `other` while this one is silent."""

    def _ended(self, what: str, work: Task, trouble: Trouble, sure: bool) -> str:
        manager = Manager(self.world, self.drawn(trouble), what, self.overtake)
        self.managers.append(manager)
        well = (
            sure
            and not self.second
            and not (manager.trouble.kind or self.world.off or self.world.cut or self.world.hung)
        )
        try:
            work(manager)
        except Refused:
            assert manager.calls == 0, "refused after the first step"
            return "refused"
        except PmcError as error:
            if well:
                raise AssertionError(f"nothing was in the way: {error}") from error
            # A trouble that meets an undo, after a cut link has failed the task: what is left is told, as commands.
            return "left" if "NOT undone" in str(error) else "failed"
        except Died:
            return "died"
        return "failed" if manager.lost else "done"

    def made(self, what: str, work: Task, trouble: Trouble) -> None:
        """A task that makes a VM: it is whole, or what was there before is. But for a snapshot that a clone or a backup
        left behind which was interrupted: the next clone takes it away, and that is not undone."""
        before, mine = deepcopy(self.world.nodes), len(self.managers)
        end = self.task(what, work, trouble)
        trouble = self.managers[mine].trouble  # the one that it had
        if end == "refused" or (
            end == "failed" and not trouble.then and trouble.kind in ("fails", "lost before", "lost after")
        ):
            for name, machine in before.items():
                for left in [each for each in machine.volumes if each.endswith(LEFT)]:
                    if left not in self.world.nodes[name].volumes:
                        del machine.volumes[left]
            assert self.world.nodes == before
