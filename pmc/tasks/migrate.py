"""Moving VMs, each from the first look to the closed end: what vm.mv, pm.evacuate and pm.balance share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pmc import virsh
from pmc.cluster import Cluster
from pmc.errors import PmcError, Refused, StepFailed
from pmc.model import ClusterState
from pmc.plain import then
from pmc.plans import close_migration, interrupted_migration, migrate
from pmc.plans.evacuate import Move, Outcome
from pmc.settings import Settings
from pmc.tasks import vm_lock
from pmc.tasks.lookups import RUNNING
from pmc.transport.lock import Lock
from pmc.units import parse_rate
from pmc.view.output import note, show, table

# A line of the report when several move.
COLUMNS = ("vm", "from", "to", "result", "stood still")
Work = Callable[[Move], tuple[str, str]]  # its result and how long it stood still

# Of the flags that `parse_parallel` and `with_overrides` read.
PARALLEL = "migrations at the same time (default: 2)"
BANDWIDTH = "bytes a second of each migration, such as 50M (default: migration_bandwidth of pmc.conf, else no limit)"
PAUSE = "suspend a guest that has not moved after so many seconds; 0: never (default: migration_pause of pmc.conf)"


@dataclass(frozen=True)
class Moved:
    name: str
    on: str  # where it runs now
    still: float | None  # seconds that the guest stood still; None when libvirt does not tell

    @property
    def stood_still(self) -> str:
        return "an unknown time" if self.still is None else f"{self.still:.2f} s"

    def __str__(self) -> str:
        return f"{self.name} runs on {self.on}; the guest stood still for {self.stood_still}"


def moved(cluster: Cluster, name: str, first: ClusterState, to: str = "", prefix: str = "") -> Moved:
    """Moves, then looks where the VM really is and closes two primaries: on every way out. `first` is what a look
    without the lock saw. `prefix` marks the lines of progress when several move at once."""
    with (
        vm_lock.locked(cluster, f"vm.mv {name}", [name], first, beside=RUNNING) as (held, state),
        cluster.interruptible(),
    ):
        plan = migrate.move(name, to, state, cluster.settings)
        try:
            cluster.apply(plan, prefix=prefix, under=[held])
        except PmcError as error:
            try:
                on, unseen = closed(cluster, name, state, held, prefix, interrupted=True)
            except PmcError as second:
                raise StepFailed(f"{second}\n  {error}", half=True) from None
            raise ended(cluster, error, f"{name} runs on {on}, two primaries closed", unseen) from None
        on, unseen = closed(cluster, name, state, held, prefix)
        if unseen:
            note(f"{name} runs on {on}{unseen}")
    try:
        still = cluster.ask(plan.steps[-1].node, virsh.downtime(name))[0]
    except PmcError:
        still = None  # it has moved all the same
    return Moved(name, on, still)


def ended(cluster: Cluster, error: PmcError, true: str, unseen: str) -> StepFailed:
    """What to say of a move that failed and was closed: first what is true now. When nothing is unseen, what could not
    be undone then was done after all."""
    if unseen:
        cluster.half.append(left := StepFailed(f"{true}{unseen}\n  {error}", half=True))
        return left
    cluster.half = [each for each in cluster.half if each is not error]
    said, _, rest = str(error).partition("\n  NOT undone")
    late = "\n  What could not be undone at once was done since; nothing is left to do." if rest else ""
    return StepFailed(f"{true}\n  {said}{late}")


def parse_parallel(parallel: str) -> int:
    """What --parallel says."""
    if not (parallel.isascii() and parallel.isdigit() and len(parallel) <= 4 and 1 <= int(parallel) <= 32):
        raise Refused(f"--parallel {parallel[:70]!r}: must be a number from 1 to 32")
    return int(parallel)


def with_overrides(settings: Settings, bandwidth: str, pause: str) -> Settings:
    """The settings with what --bandwidth and --pause-after say, where they are given."""
    if bandwidth:
        try:
            parse_rate(bandwidth)
        except ValueError as error:
            raise Refused(f"--bandwidth {error}") from None
        settings = replace(settings, migration_bandwidth=bandwidth)
    if pause:
        if not (pause.isascii() and pause.isdigit() and len(pause) <= 5 and int(pause) <= 86400):
            raise Refused(f"--pause-after {pause[:40]!r:.60}: seconds, 86400 at most; 0: never")
        settings = replace(settings, migration_pause=int(pause))
    if settings.migration_pause >= (end := settings.deadlines.migrate):
        what = "--pause-after" if pause else "migration_pause in pmc.conf,"
        raise Refused(
            f"{what} {settings.migration_pause}: a migration is given up after {end:g} s (migrate in [deadlines] of "
            f"pmc.conf), so it must be less"
        )
    return settings


def overrides(bandwidth: str, pause: str, live: bool = True) -> Callable[[Settings], Settings]:
    """For `base.opened`: these flags. Not `live`: nothing migrates, and pmc.conf stays as it is."""
    return lambda read: with_overrides(read, bandwidth, pause) if live else read


def attempt(name: str, source: str, target: str, work: Callable[[], tuple[str, str]]) -> Outcome:
    """The row of the report; the whole of an error goes on the terminal when it happens."""
    try:
        result, still = work()
    except PmcError as error:
        note(str(error))
        result, still = str(error).splitlines()[0], ""
    return Outcome(name, source, target, result, still)


def move_many(cluster: Cluster, moves: Sequence[Move], parallel: int, work: Work) -> list[Outcome]:
    """So many at the same time, going on past one that fails."""
    return cluster.at_once(
        lambda each: attempt(each.name, each.source, each.target, lambda: work(each)), moves, parallel
    )


def move_each(cluster: Cluster, first: ClusterState) -> Work:
    """A move as `move_many` makes it; `first` is what a look without the lock saw."""
    return lambda each: moved_unless_stopped(cluster, each.name, first, each.target, prefix=each.name)


def moved_unless_stopped(
    cluster: Cluster, name: str, first: ClusterState, to: str, prefix: str = ""
) -> tuple[str, str]:
    """Its result and how long it stood still, for the report."""
    if cluster.stop.is_set():
        return "not begun: interrupted", ""
    return "moved", moved(cluster, name, first, to, prefix).stood_still


def failed(rows: list[Outcome]) -> list[str]:
    return [each.vm for each in rows if not each.done]


def report(rows: list[Outcome], verb: str = "move") -> None:
    """Raises PmcError when one failed."""
    show(table(rows, COLUMNS))
    see_done(rows, verb)


def see_done(rows: list[Outcome], verb: str = "move") -> None:
    if names := failed(rows):
        raise PmcError(f"{len(names)} of {len(rows)} did not {verb}: {', '.join(names)}")


def closed(
    cluster: Cluster, name: str, before: ClusterState, held: Lock, prefix: str = "", interrupted: bool = False
) -> tuple[str, str]:
    """Only the node where the VM runs stays primary. `before` tells which nodes to look at: no others can have it.
    `interrupted`: the migration failed, and libvirt may take its time to end what is left of it. Returns that node, and
    what could not be seen."""
    try:
        state = (
            at_rest(cluster, name, before, [held], prefix) if interrupted else vm_lock.refresh_vm(cluster, before, name)
        )
        plan = close_migration.close(name, state)
        if plan.steps:
            cluster.apply(plan, to_the_end=True, prefix=prefix, under=[held])
            if interrupted:  # libvirt lets a guest go on that could not before its writes did
                state = at_rest(cluster, name, before, [held], prefix)
        # Also after a migration that went well: the link may be lost between its end and the close.
        now = vm_lock.refresh_vm(cluster, before, name)
        for rest in (close_migration.resume_after_close(name, now), interrupted_migration.rejoin(name, now)):
            if rest.steps:
                cluster.apply(rest, to_the_end=True, prefix=prefix, under=[held])
        return (state.active_on(name) or ["no node"])[0], close_migration.unreachable_note(
            name, state
        ) + close_migration.paused_note(name, state)
    except PmcError as error:
        said = f"{name} was NOT closed, two primaries may still be allowed: {error}"
        cluster.half.append(left := StepFailed(then(said, f"fab vm.mv {name} --cleanup"), half=True))
        raise left from None


def at_rest(
    cluster: Cluster, name: str, before: ClusterState, under: Sequence[Lock] | None = None, prefix: str = ""
) -> ClusterState:
    """The state once no second, half-born domain is left, or as it is at the deadline."""
    source = interrupted_migration.source_of(name, before) or before.active_on(name)[0]
    deadline, tried = time.monotonic() + cluster.settings.deadlines.peer, list[PmcError]()
    while True:
        state = vm_lock.refresh_vm(cluster, before, name)
        if (half := interrupted_migration.half_received(name, source, state)).steps:
            try:
                cluster.apply(half, to_the_end=True, prefix=prefix, under=under)
            except PmcError as error:
                tried.append(error)  # it is seen below whether it is gone
            state = vm_lock.refresh_vm(cluster, before, name)
        if not interrupted_migration.in_progress(name, state):
            cluster.half = [each for each in cluster.half if each not in tried]
        if not interrupted_migration.in_progress(name, state) or time.monotonic() > deadline:
            return state
        time.sleep(0.5)
