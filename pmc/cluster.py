"""The nodes of the configuration: looked at all at once, and where plans are applied."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

from pmc import drbd, hypervisor, lvm, virsh
from pmc import plan as planning
from pmc.command import Query, command
from pmc.errors import CommandFailed, Interrupted, PmcError
from pmc.model import ClusterState, NodeState
from pmc.node import Node
from pmc.plan import Action, Plan, Relay, Transfer, Wait, Watch
from pmc.settings import Settings
from pmc.ssh import configuration
from pmc.view import Progress

# On a busy machine more threads only fight for the interpreter; measured: 32 are as good as 100.
WORKERS = 32


def state_queries(settings: Settings, allocating: bool = False) -> dict[str, Query[Any]]:
    """What one look asks each node, by the name under which a failure is reported. What only a new VM needs to know
    (`allocating`: the MAC addresses and ports in use) is not asked otherwise."""
    queries: dict[str, Query[Any]] = {
        "hostname": Query(command("uname", "-n"), str.strip),
        "memory": Query(command("cat", "/proc/meminfo"), parse_meminfo),
        "libvirt": virsh.domains(),
        "drbd version": drbd.version(),
        "drbd status": drbd.status(),
        "drbd two-primaries": drbd.open_resources(),
        "drbd files": drbd.files(),
        "volume group": lvm.group(settings.volume_group),
        "volumes": lvm.volumes(),
    }
    if allocating:
        queries["macs"] = virsh.macs()
        queries["ports"] = Query(command("ss", "-Hltn"), parse_ports)
    return queries


def parse_meminfo(text: str) -> tuple[int, int]:
    """(total, available) in bytes, of /proc/meminfo."""
    rows = {name: int(rest.split()[0]) * 1024 for name, _, rest in (row.partition(":") for row in text.splitlines())}
    return rows["MemTotal"], rows["MemAvailable"]


def parse_ports(text: str) -> frozenset[int]:
    """Of `ss -Hltn`: the fourth column is address:port."""
    return frozenset(int(row.split()[3].rpartition(":")[2]) for row in text.splitlines())


class Cluster:
    """Use as a context manager: it closes its connections."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        config = configuration(settings)
        # Each its own: Fabric's configuration is empty for a moment while another thread reads it in anew.
        self.nodes = {name: Node(spec, settings, config.clone()) for name, spec in settings.nodes.items()}
        self.stop = threading.Event()
        self._held = False  # signals are ours now

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes.values():
            node.close()

    def on_all(self, work: Callable[[Node], Any], names: Iterable[str] | None = None) -> list[Any]:
        """`work` on the nodes named (all) at once, one thread a node; results in the same order."""
        chosen = [self.nodes[name] for name in (self.nodes if names is None else names)]
        with ThreadPoolExecutor(max_workers=max(1, min(WORKERS, len(chosen)))) as pool:
            return list(pool.map(work, chosen))

    def state(self, names: Iterable[str] | None = None, allocating: bool = False) -> ClusterState:
        """One look at the nodes (all, or those named). A node that does not answer is in it, as such."""
        found = self.on_all(lambda node: self._look(node, allocating), names)
        return ClusterState({node.name: node for node in found})

    def _look(self, node: Node, allocating: bool) -> NodeState:
        queries = state_queries(self.settings, allocating)
        try:
            answers = dict(zip(queries, node.ask_each(*queries.values()), strict=True))
        except PmcError as error:
            return NodeState(node.name, down=str(error).removeprefix(f"{node.name}: "))
        failures = {what: said_by(error) for what, error in answers.items() if isinstance(error, CommandFailed)}
        good = {what: answer for what, answer in answers.items() if what not in failures}
        opened = good.get("drbd two-primaries", frozenset())
        memory, available = good.get("memory", (0, 0))
        size, free = good.get("volume group", (0, 0))
        mine = (v for v in good.get("volumes", {}).values() if v.group == self.settings.volume_group)
        return NodeState(
            node.name,
            failures=failures,
            hostname=good.get("hostname", ""),
            drbd=good.get("drbd version", ""),
            memory=memory,
            memory_available=available,
            group_size=size,
            group_free=free,
            domains=good.get("libvirt", {}),
            resources={n: replace(r, two_primaries=n in opened) for n, r in good.get("drbd status", {}).items()},
            files=good.get("drbd files", {}),
            volumes={volume.name: volume for volume in mine},
            ports=good.get("ports", frozenset()),
            macs=good.get("macs", frozenset()),
        )

    def ask(self, node: str, *queries: Query[Any]) -> list[Any]:
        return self.nodes[node].ask(*queries)

    def apply(self, plan: Plan, to_the_end: bool = False) -> None:
        """Carries the plan out, shows progress, undoes it on failure and on Ctrl-C; `to_the_end`: Ctrl-C waits."""
        with Progress() as progress, self.interruptible():
            planning.apply(
                plan,
                lambda node, action, watch: self._carry_out(node, action, watch, progress, to_the_end),
                progress.step,
                (lambda: False) if to_the_end else self.stop.is_set,
                self._together,
            )

    def _together(self, calls: planning.Calls) -> list[PmcError | None]:
        if len(calls) == 1:
            return [calls[0]()]
        with ThreadPoolExecutor(max_workers=min(WORKERS, len(calls))) as pool:
            return list(pool.map(lambda call: call(), calls))

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end a long step and stop before the next one, so that what was done is undone; a second
        one changes nothing. Within another such block it does nothing. (Only the main thread may set handlers.)"""
        if self._held or threading.current_thread() is not threading.main_thread():
            yield
            return
        self.stop.clear()
        self._held = True
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [signal.signal(each, lambda *_: self.stop.set()) for each in signals]
        try:
            yield
        finally:
            self._held = False
            for each, handler in zip(signals, before, strict=True):
                signal.signal(each, handler)
        if self.stop.is_set():
            raise Interrupted()

    def _carry_out(self, name: str, action: Action, watch: Watch | None, progress: Progress, to_the_end: bool) -> None:
        node = self.nodes[name]
        stopped = (lambda: False) if to_the_end else self.stop.is_set
        if isinstance(action, Wait):
            self._wait(node, action)
        elif isinstance(action, Transfer):
            with open(action.source, "rb") as source, progress.bytes(watch, action.size) as bar:
                node.run(action.target, stopped=stopped, source=source, on_sent=bar.add)
                if source.tell() != action.size:
                    said = f"{action.source} has changed: {source.tell()} bytes, not {action.size}"
                    raise CommandFailed(name, str(action), 1, said)
        elif isinstance(action, Relay):
            node.run(replace(action.target, stdin=self.nodes[action.source].run(action.reader)))
        elif watch is not None and watch.kind == "migration":
            with hypervisor.watch(node, watch.subject, progress):
                node.run(action, stopped=stopped, seconds=self.settings.deadlines.migrate)
        elif watch is not None:
            with progress.bytes(watch, watch.total) as bar:
                node.run(action, stopped=stopped, on_stderr=bar.dd)
        else:
            node.run(action, stopped=stopped)

    def _wait(self, node: Node, wait: Wait) -> None:
        deadline = time.monotonic() + wait.seconds
        while True:
            if node.ask(wait.query)[0]:
                return
            if time.monotonic() > deadline or self.stop.wait(0.3):
                said = "interrupted" if self.stop.is_set() else f"{wait.otherwise} (waited {wait.seconds:g} s)"
                raise CommandFailed(node.name, str(wait.query.command), 1, said)


def said_by(error: CommandFailed) -> str:
    return error.stderr.splitlines()[-1] if error.stderr else f"status {error.exit}"
