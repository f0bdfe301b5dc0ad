"""What all tasks share: the decorator, the cluster of the configuration, carrying out a plan or showing it."""

from __future__ import annotations

import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import fabric
from invoke.context import Context
from invoke.tasks import task as invoke_task

from pmc import audit, settings
from pmc.cluster import Beside, Cluster
from pmc.errors import Interrupted, NodeDown, PmcError, Refused, at_the_end
from pmc.model import ClusterState
from pmc.plan import Plan
from pmc.settings import Settings
from pmc.tasks import lookups, vm_lock
from pmc.tasks.arguments import ClusterTask
from pmc.transport.lock import Lock
from pmc.view.output import Row, document, note, show, show_script, table

_line: ContextVar[str] = ContextVar("line", default="a program of your own")
# The namespace of the tasks that are not in a module of its name.
SPACES = {
    **dict.fromkeys(("failover", "peer", "repair", "backup", "backups", "verify_backup", "restore", "prune"), "vm"),
    **dict.fromkeys(("evacuate", "verify", "balance"), "pm"),
    **dict.fromkeys(("conf", "doc"), ""),
}

HELP = {
    "conf": "the configuration file (default: $PMC_CONF, else /etc/pmc.conf)",
    "dry_run": "change nothing; print the plan as lines to paste into bash here",
    "json": "print JSON; sizes in bytes",
    "yes": "do not ask for confirmation",
}


def task(place: str = "", **help: str) -> Callable[[Callable[..., Any]], ClusterTask]:
    """A task of the cluster. `place` is the parameter that may be given without its flag, `help` of its flags. No short
    flags (they would depend on the order of the arguments), and not per host: `fab -H` would run a task of the
    whole cluster once for each."""

    def wrap(body: Callable[..., Any]) -> ClusterTask:
        @functools.wraps(body)
        def guarded(c: Context, *args: Any, **kwargs: Any) -> Any:
            if isinstance(c, fabric.Connection):
                raise Refused("-H: these tasks are the cluster's; name the node as an argument (see --help)")
            token = _line.set(_typed(body, place, args, kwargs))
            try:
                return body(c, *args, **kwargs)
            finally:
                _line.reset(token)

        names = inspect.signature(body).parameters
        texts = {**{name: text for name, text in HELP.items() if name in names}, **help}
        # invoke knows a flag by its dashed name.
        made: Any = invoke_task(
            guarded,
            klass=ClusterTask,
            positional=[],
            auto_shortflags=False,
            help={name.strip("_").replace("_", "-"): text for name, text in texts.items()},
        )
        made.place = place
        made_task: ClusterTask = made
        return made_task

    return wrap


def _typed(body: Callable[..., Any], place: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The task as it was called, for the audit log and for those who wait for a lock. virt-install's arguments may hold
    passwords, and what is too long is no name."""
    module = body.__module__.rpartition(".")[2]
    signature = inspect.signature(body)
    given = signature.bind_partial(None, *args, **kwargs).arguments
    name = body.__name__.strip("_")
    words = [f"{SPACES.get(name, module)}.{name}".strip(".")]
    for key, value in list(given.items())[1:]:
        if value in (None, signature.parameters[key].default) or key == "conf":
            continue
        shown = "***" if key == "virt_install" else shlex.quote(str(value)[:80])
        flag = f"--{key.strip('_').replace('_', '-')}"
        words.append(shown if key == place else flag if value is True else f"{flag} {shown}")
    return " ".join(words)


@contextmanager
def opened(conf: str | None, change: Callable[[Settings], Settings] = lambda read: read) -> Iterator[Cluster]:
    """The cluster of the configuration, with what this command's flags `change` in it. The audit log is told when
    something begins to be applied to it, and what was at the end."""
    with Cluster(change(settings.load(conf))) as cluster:
        record = audit.Record(cluster.settings.audit_log, _line.get())
        cluster.on_begin = record.begin
        if said := settings.exposed(cluster.settings):
            note(said)
        try:
            yield cluster
        except KeyboardInterrupt as error:
            record.write(cluster.applied, error)
            touched = any(plan.steps for plan in cluster.applied)
            end = Interrupted(f"interrupted; {'look what was done before' if touched else 'nothing was touched'}")
            at_the_end(end, touched, bool(cluster.half))
            raise end from None
        except BaseException as error:
            record.write(cluster.applied, error)
            if isinstance(error, PmcError):
                at_the_end(error, any(plan.steps for plan in cluster.applied), bool(cluster.half))
            raise
        record.write(cluster.applied, None)
        if cluster.stop.is_set():
            # An error, so that no task after this one begins, nor what a shell has behind &&.
            end = Interrupted(f"interrupted after the last step; {_line.get()} is done, and stays")
            at_the_end(end, True, bool(cluster.half))
            raise end


def lock(c: Context, cluster: Cluster, dry_run: bool, *names: str, but: str = "") -> None:
    """Keeps other managers away from these VMs until the task ends; before the look, so that what is seen stays true.
    A dry run changes nothing and waits for nobody. `but`: not on this node, which hangs and would not answer."""
    if names and not (dry_run or c.config.run.dry):
        on = [node for node in cluster.nodes if node != but]
        cluster.until_closed(cluster.lock(_line.get(), *names, on=on))


def located(
    c: Context,
    cluster: Cluster,
    dry_run: bool,
    *names: str,
    first: ClusterState | None = None,
    also: Sequence[str] = (),
    beside: Beside | None = None,
) -> ClusterState:
    """The state, with the locks of these VMs held until the task ends: one look over all nodes finds them (unless it
    was made before: `first`), then they are locked on their own nodes (and on those in `also`), and looked at again.
    `beside`: see Cluster.state."""
    state = first or cluster.state(beside=beside)
    if not names or dry_run or c.config.run.dry:
        return state
    return cluster.until_closed(vm_lock.locked(cluster, _line.get(), names, state, also, beside))[1]


def located_with_backups(c: Context, cluster: Cluster, dry_run: bool, name: str, *more: str) -> ClusterState:
    """As `located`, for one VM and with its backups; the nodes that keep some, and `more`, are its own as well."""
    beside = {**lookups.backups(cluster, name), **lookups.RUNNING}
    first = cluster.state(beside=beside)
    also = [*dict.fromkeys((*(each.node for each in lookups.stored(first)), *filter(None, more)))]
    return located(c, cluster, dry_run, name, first=first, also=also, beside=beside)


# Of a dry run: a line before a plan that makes a VM.
CHOSEN = "# the MAC address, if no --address gives it, and the UUID are drawn for these lines; a run draws others"


def carry_out(
    c: Context,
    cluster: Cluster,
    plan: Plan,
    dry_run: bool,
    under: Sequence[Lock] | None = None,
    first: Sequence[str] = (),
) -> bool:
    """Applies the plan (`under`: see Cluster.apply), or prints it (--dry-run, or fab's own --dry; `first`: lines before
    it). True when it was applied."""
    if dry_run or c.config.run.dry:
        show_script(cluster.script(plan, first=first))
        return False
    if plan.steps:
        cluster.apply(plan, under=under)
    return True


def listed(rows: Sequence[Row], as_json: bool, columns: Sequence[str], state: ClusterState) -> None:
    """Shows a listing. Where no node answered there is none: an empty table would say that there is nothing."""
    if as_json or rows or state.answering:
        show(document(rows) if as_json else table(rows, columns))


def complain(state: ClusterState) -> None:
    """After a listing: the nodes that did not answer, or not all, on stderr and in the exit status."""
    if trouble := [f"{node.name}: {node.trouble}" for node in state if node.trouble]:
        raise PmcError("\n".join([*([] if state.answering else ["no node answered"]), *trouble]))


def heard(state: ClusterState) -> None:
    """Refuses where no node answered: then it is not known what there is."""
    if not state.answering:
        said = "; ".join(f"{node.name}: {node.trouble}" for node in state)
        raise NodeDown(f"no node answered: {said}")


def confirm(question: str, answer: str, otherwise: str = "give --yes if you are sure") -> None:
    """Goes on when the person types `answer`; refuses otherwise, and where nobody can be asked."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise Refused(f"{question}: this is no terminal, so nobody can confirm it; {otherwise}")
    note(f"{question}. Type {answer} to go on:")
    if typed() != answer:
        raise Refused("not confirmed; nothing was touched")


def typed() -> str:
    """The answer to a question. What is no text (the terminal has another character set), or a terminal that is gone,
    is none."""
    try:
        return sys.stdin.readline().strip()
    except (OSError, ValueError):
        return ""
