"""The nodes of the configuration: looked at all at once, and where plans are applied."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from types import TracebackType
from typing import Any, Literal, TypeVar

from pmc import audit, lock_files, paste
from pmc import plan as planning
from pmc.actions import Action, Fetch, Relay, Transfer, Wait, Watch
from pmc.command import Command, Query
from pmc.errors import CommandFailed, Interrupted, NodeDown, PmcError, Refused, StepFailed
from pmc.lock_files import Holder
from pmc.model import ClusterState, NodeState
from pmc.node_state import cluster_state, node_state, state_queries
from pmc.paste import Way
from pmc.plan import Plan
from pmc.settings import Settings
from pmc.transport import fanout, migration
from pmc.transport.connection import allow_connections, configuration
from pmc.transport.fetch import fetched, given
from pmc.transport.local import MANAGER, PYTHON
from pmc.transport.lock import Lock, proved
from pmc.transport.node import WORKERS, Node
from pmc.view.output import Progress

T = TypeVar("T")
R = TypeVar("R")
Beside = Mapping[Literal["running", "backups"], Callable[[str], Query[object]]]  # for the node of that name


class Cluster:
    """Use as a context manager: it closes its connections."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        allow_connections(len(settings.nodes))
        config = configuration(settings)
        # Each its own: Fabric's configuration is empty for a moment while another thread reads it in anew.
        self.nodes = {name: Node(spec, settings, config.clone()) for name, spec in settings.nodes.items()}
        self.stop = threading.Event()
        # What was done by this command, for the audit log, which is told before the first step of each plan.
        self.applied: list[Plan] = []
        self.half: list[StepFailed] = []  # of its plans, those that may be half done
        self.on_begin: Callable[[Plan], object] = lambda plan: None
        self._beginning = threading.Lock()  # of plans side by side none goes on before that is told
        self.locked: list[Lock] = []
        self._until_closed = ExitStack()
        self._held = False  # signals are ours now

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._until_closed.close()
        self.at_once(Node.close, self.nodes.values(), WORKERS)

    @contextmanager
    def lock(self, what: str, *names: str, on: Iterable[str] | None = None) -> Iterator[Lock]:
        """Keeps other managers away from these (VMs, or ALLOCATION) on the nodes `on` (all) that answer. `what` is
        told to those who wait. Names that this command has locked already are its own."""
        mine = {name: each for each in self.locked for name in each.names}
        wanted = sorted(set(names) - set(mine))
        if not wanted:
            yield mine[names[0]]
            return
        holder = Holder(audit.who(), os.getpid(), audit.now(), what[:200], secrets.token_hex(8))
        with Lock(wanted, holder).taken(partial(self.on_all, names=on), self.settings.deadlines.lock) as taken:
            self.locked.append(taken)
            try:
                yield taken
            finally:
                self.locked.remove(taken)

    def until_closed(self, context: AbstractContextManager[T]) -> T:
        return self._until_closed.enter_context(context)

    def on_all(self, work: Callable[[Node], T], names: Iterable[str] | None = None) -> list[T]:
        """`work` on the nodes named (all) at once, one thread a node; results in the same order."""
        return fanout.run_on_all([self.nodes[name] for name in (self.nodes if names is None else names)], work)

    def state(
        self,
        names: Iterable[str] | None = None,
        allocating: bool = False,
        beside: Beside | None = None,
        last: bool = False,
    ) -> ClusterState:
        """One look at the nodes (all, or those named). A node that does not answer is in it, as such. `beside`: what
        else to ask, in the same round trip (of NodeState: `running`, `backups`). `last`: nothing more is asked, so each
        connection is closed at once (paramiko wakes up ten times a second for each that is open)."""

        def look(node: Node) -> NodeState:
            try:
                return self._look(node, allocating, beside or {})
            finally:
                if last:
                    node.close()

        found = {node.name: node for node in self.on_all(look, names)}
        # Whose a domain is shows only among all nodes.
        return cluster_state(found) if names is None else ClusterState(found)

    def _look(self, node: Node, allocating: bool, beside: Beside) -> NodeState:
        queries = state_queries(self.settings, allocating) | {what: ask(node.name) for what, ask in beside.items()}
        try:
            answers = dict(zip(queries, node.ask_each(*queries.values()), strict=True))
        except PmcError as error:
            silent = isinstance(error, NodeDown) and not error.answered
            return NodeState(node.name, down=str(error).removeprefix(f"{node.name}: "), answers=not silent)
        state = node_state(node.name, self.settings, answers)
        return replace(state, prints=node.prints, prints_to=node.prints_to)

    def ask(self, node: str, *queries: Query[object]) -> list[Any]:
        return self.nodes[node].ask(*queries)

    def at_once(self, work: Callable[[T], R], things: Iterable[T], most: int) -> list[R]:
        """`work` on all the things, `most` of them at the same time; results in the same order."""
        with ThreadPoolExecutor(max_workers=most) as pool:
            return list(pool.map(work, things))

    def script(self, *plans: Plan, first: Sequence[str] = ()) -> str:
        """What `apply` would do with these plans, as lines for bash on the manager; `first` are lines to begin with."""
        way = cache(lambda name: Way() if name == MANAGER else self.nodes[name].by_hand())
        return paste.script(plans, way, PYTHON, first)

    def begin(self, plan: Plan) -> None:
        """For the audit log: this is about to be done."""
        with self._beginning:
            self.applied.append(plan)
            self.on_begin(plan)

    def apply(
        self, plan: Plan, to_the_end: bool = False, prefix: str = "", under: Sequence[Lock] | None = None
    ) -> None:
        """Carries the plan out, shows progress (lines that begin with `prefix`), undoes it on failure and on Ctrl-C;
        `to_the_end`: Ctrl-C waits. For each step the node must hold the locks `under` which it is done: all that
        this command has. None at all is refused, unless `under` says so: then the steps are fit to run beside any other
        command."""
        held = list(self.locked) if under is None else under
        if not held and under is None:
            raise Refused(
                f"{plan.title}: nothing is locked; lock what it changes before looking at it (tasks.base.lock)"
            )
        self.begin(plan)
        claimed = max((number for number, step in enumerate(plan.steps) if step.claims), default=-1)
        with Progress(prefix) as progress, self.interruptible():

            def report(number: int, plan: Plan) -> None:
                if number > claimed:
                    self._release(lock_files.ALLOCATION)
                progress.step(number, plan)

            def run(whole: bool, node: str, action: Action, watch: Watch | None) -> None:
                self._carry_out(node, action, watch, progress, whole, held)

            # Ctrl-C, which made the plan fail, is still on when it is walked back.
            stopped = (lambda: False) if to_the_end else self.stop.is_set
            try:
                planning.apply(plan, partial(run, to_the_end), report, stopped, self._together, partial(run, True))
            except StepFailed as error:
                self.half += [error] if error.half else []
                raise

    def _release(self, name: str) -> None:
        for taken in self.locked:
            if name in taken.names:
                taken.release()

    def _together(self, calls: planning.Calls) -> list[PmcError | None]:
        if len(calls) == 1:
            return [calls[0]()]
        with ThreadPoolExecutor(max_workers=min(WORKERS, len(calls))) as pool:
            return list(pool.map(lambda call: call(), calls))

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end a long step and stop before the next one, so that what was done is undone; a second
        one changes nothing. In the last step they come too late: all is done, which is no failure. They are remembered
        for what would follow: the next plan is not begun, see `go_on`. Within another such block it does nothing.
        (Only the main thread may set handlers.)"""
        if self._held or threading.current_thread() is not threading.main_thread():
            yield
            return
        self._held = True
        signals = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # or nohup(1) said that a logout is no reason to end
            signals.append(signal.SIGHUP)
        before = [signal.signal(each, lambda *_: self.stop.set()) for each in signals]
        try:
            yield
        finally:
            self._held = False
            for each, handler in zip(signals, before, strict=True):
                signal.signal(each, handler)

    def go_on(self, *rest: str) -> None:
        """Before each of several things. Raises Interrupted when Ctrl-C came; `rest`: what is not begun then."""
        if self.stop.is_set():
            raise Interrupted(f"interrupted; not begun: {', '.join(rest)}" if rest else "interrupted")

    def _carry_out(
        self,
        name: str,
        action: Action,
        watch: Watch | None,
        progress: Progress,
        to_the_end: bool,
        held: Sequence[Lock],
    ) -> None:
        node = self.nodes[name]
        stopped = (lambda: False) if to_the_end else self.stop.is_set
        if isinstance(action, Wait):
            self._wait(node, action, stopped)
            return
        proved(node, held, lambda: self._act(node, action, watch, progress, stopped, held))

    def _act(
        self,
        node: Node,
        action: Command | Transfer | Fetch | Relay,
        watch: Watch | None,
        progress: Progress,
        stopped: Callable[[], bool],
        held: Sequence[Lock],
    ) -> None:
        proofs = [proof for each in held for proof in each.proofs]
        run = partial(node.run, stopped=stopped, locks=proofs)
        if isinstance(action, Transfer):
            with given(node.name, action) as source, progress.bytes(watch, action.size) as bar:
                run(action.target, source=source, on_sent=bar.add)
        elif isinstance(action, Fetch):
            with fetched(node.name, action) as sink, progress.bytes(watch, action.size) as bar:
                run(action.source, sink=lambda block: bar.add(sink(block)))
        elif isinstance(action, Relay):
            there, reader = self.nodes[action.source], action.reader
            said = proved(there, held, lambda: there.run(reader, locks=proofs))
            run(replace(action.target, stdin=said))
        elif watch is not None and watch.kind == "migration":
            from pmc.transport import hypervisor  # here: to load libvirt takes 15 of the 210 ms that pmc needs to start

            with hypervisor.watch(node, watch.subject, progress):
                migration.run(node, action, watch.subject, stopped, self.settings.deadlines.migrate, proofs)
        elif watch is not None:
            with progress.bytes(watch, watch.total) as bar:
                run(action, on_stderr=bar.dd)
        else:
            run(action)

    def _wait(self, node: Node, wait: Wait, stopped: Callable[[], bool]) -> None:
        deadline = time.monotonic() + wait.seconds
        while not _holds(node, wait):
            if stopped() or time.monotonic() > deadline:
                said = "interrupted" if stopped() else f"{wait.otherwise} (waited {wait.seconds:g} s)"
                raise CommandFailed(node.name, str(wait.ask), 1, said)
            time.sleep(0.3)


def _holds(node: Node, wait: Wait) -> bool:
    """Raises CommandFailed when it cannot be asked."""
    (answer,) = node.ask_each(Query(wait.ask, str))
    if isinstance(answer, CommandFailed) and answer.exit != 1:
        raise answer
    return not isinstance(answer, CommandFailed)
