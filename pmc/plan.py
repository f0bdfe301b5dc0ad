"""A plan is data: steps in order, each with its undo. Printed by --dry-run, counted, applied, walked back. Pure
given `run`, which carries out one action on one node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pmc.actions import Action, Wait, Watch, long
from pmc.command import Command
from pmc.errors import CommandFailed, Fenced, InDoubt, Interrupted, PmcError, StepFailed


@dataclass(frozen=True)
class Step:
    """`undo` puts back what `do` did. `check` is a command that succeeds when `do` has taken effect: asked when the
    connection was lost or the command killed, instead of guessing. After a `pivot` there is no way back. `beside`: may
    run at the same time as the step before it, on another node. `claims`: from then on the nodes show what was
    allocated for a new VM, so that nobody else takes it. `guard`: it keeps others from what is half done, so it is only
    undone when all that came after it is. `reads`: it changes nothing of anybody's, so it is never half done.
    `instead`: a command of pmc's, for the manager, that takes all of the plan back. It is told in place of an `undo`
    that could not be done: it takes the lock first, so it never runs beside what may still run."""

    node: str
    note: str
    do: Action
    undo: Command | None = None
    check: Command | None = None
    pivot: bool = False
    beside: bool = False
    claims: bool = False
    guard: bool = False
    reads: bool = False
    watch: Watch | None = None
    instead: str = ""


@dataclass(frozen=True)
class Plan:
    title: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        """As commands, each under the node it is for. (--dry-run prints lines that reach their nodes: pmc/paste.py.)"""
        lines = [f"# {self.title}: {len(self.steps)} steps"]
        for number, step in enumerate(self.steps, 1):
            lines += [f"# {number}. {step.node}: {step.note}", str(step.do)]
        return "\n".join(lines)


Run = Callable[[str, Action, Watch | None], object]
Report = Callable[[int, Plan], object]
Calls = Sequence[Callable[[], PmcError | None]]
Together = Callable[[Calls], list[PmcError | None]]


def one_by_one(calls: Calls) -> list[PmcError | None]:
    return [call() for call in calls]


def plan(title: str, *steps: Step | Iterable[Step]) -> Plan:
    flat: list[Step] = []
    for entry in steps:
        flat += [entry] if isinstance(entry, Step) else entry
    return Plan(title, tuple(flat))


def on_each(nodes: Iterable[str], step: Callable[[str], Step]) -> list[Step]:
    """The same step on several nodes, at the same time."""
    return [replace(step(node), beside=number > 0) for number, node in enumerate(nodes)]


def apply(
    plan: Plan,
    run: Run,
    report: Report = lambda number, plan: None,
    stopped: Callable[[], bool] = lambda: False,
    together: Together = one_by_one,
    undo: Run | None = None,
) -> None:
    """Runs the steps in order, those `beside` each other by `together`. When one fails, or `stopped()` turns true
    between two, what was done is undone, last first, and StepFailed tells: the step, the node, the tool's message, what
    was undone, what was not. `undo` runs what undoes (by default `run`), and must not be stopped by what stopped the
    plan."""
    done: list[Step] = []
    for group in _groups(plan):
        for number in group:
            report(number, plan)
        errors = together([partial(_try, plan.steps[number], run, stopped) for number in group])
        failed = [(number, error) for number, error in zip(group, errors, strict=True) if error is not None]
        done += [plan.steps[number] for number, error in zip(group, errors, strict=True) if error is None]
        if failed:
            said, half = _walk_back(plan, failed, done, undo or run)
            raise StepFailed(said, half) from failed[0][1]
    report(len(plan.steps), plan)


def _groups(plan: Plan) -> list[list[int]]:
    groups: list[list[int]] = []
    for number, step in enumerate(plan.steps):
        if step.beside and groups:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def _try(step: Step, run: Run, stopped: Callable[[], bool]) -> PmcError | None:
    try:
        if stopped():
            raise Interrupted()
        run(step.node, step.do, step.watch)
    except PmcError as error:
        # There is no way back behind a pivot: one in doubt that took effect is simply done.
        if step.pivot and _unclear(error) and _took_effect(step, run):
            return None
        return error
    except Exception as error:  # whatever it is, what was done before must be undone
        return InDoubt(step.node, str(step.do), f"{type(error).__name__}: {error}")
    return None


def _walk_back(plan: Plan, failed: list[tuple[int, PmcError]], done: list[Step], run: Run) -> tuple[str, bool]:
    """What to say, and whether something may be half done."""
    lines: list[str] = []
    by_hand: list[str] = []
    undone: list[str] = []
    no_return, doubt = any(each.pivot for each in done), False
    late = False  # another command may have the lock by now
    runs = [plan.steps[number].node for number, error in failed if _may_run(plan.steps[number].do, error)]
    for number, error in failed:
        step = plan.steps[number]
        lines += [
            f"{plan.title}: step {number + 1} of {len(plan.steps)} failed: {step.note}, on {step.node}",
            f"  {error}",
            *(f"    {row}" for row in getattr(error, "stderr", "").splitlines()[-8:-1]),
        ]
        if step.pivot and _unclear(error) and _took_effect(step, run) is not False:
            # (Had its check said yes, it would not have failed.)
            lines.append("  It is in doubt whether this step took effect, so nothing before it is undone.")
            no_return = True
        elif _unclear(error):
            line, open_ = _look_again(step, run, done, by_hand)
            lines.append(line)
            doubt = doubt or open_
        if _may_run(step.do, error):
            lines.append(f"  It may still run on {step.node}.")
    if no_return:
        lines.append(
            "  Past the point of no return: what was done stays done. Run the same command again to go on; where that "
            "is refused, fab pm.verify names what to do."
        )
        done = []
    for each in reversed(done):
        if each.undo is None:
            continue
        if each.guard and by_hand:
            by_hand.append(f"# {each.node}: stays until that is done: {each.note}")
            continue
        try:
            run(each.node, each.undo, None)
            undone.append(f"{each.note} ({each.node})")
        except Exception as failure:
            late = late or isinstance(failure, Fenced)
            runs += [each.node] if _may_run(each.undo, failure) else []
            by_hand += [f"# {each.node}: {failure}", *_told(each)]
    if undone:
        lines.append("  Undone: " + ", ".join(undone) + ".")
    elif not by_hand:
        lines.append("  Nothing had to be undone.")
    if by_hand:
        advice = "NOT undone; run by hand on the node named"
        if late:
            advice = "NOT undone; see first what the other command did, then run by hand what is still right"
        elif runs:
            advice = f"NOT undone; when nothing of it runs on {runs[0]} any more, run by hand on the node named"
        lines += [f"  {advice}:", *(f"    {row}" for row in by_hand)]
    return "\n".join(lines), no_return or doubt or bool(by_hand)


def _told(step: Step) -> list[str]:
    """What a person is to run whose undo could not be done."""
    if step.instead:
        return ["# on the manager; it waits for what still runs, and takes all of it back:", step.instead]
    return [str(step.undo)]


def _may_run(action: Action, error: Exception) -> bool:
    """The node did not say that it has ended, and it may take hours. (Other commands end within their deadline.)"""
    return isinstance(error, InDoubt) and long(action)


def _unclear(error: PmcError) -> bool:
    """Lost, or killed by a signal (-1: ssh says so; 124: its deadline; 128 + n: a shell's word for signal n):
    it may have taken effect."""
    if isinstance(error, CommandFailed):
        return error.exit < 0 or error.exit == 124 or error.exit > 128
    return isinstance(error, InDoubt)


def _look_again(step: Step, run: Run, done: list[Step], by_hand: list[str]) -> tuple[str, bool]:
    """Finds out whether the step in doubt took effect; then it counts as done and is undone with the others. What to
    say, and whether something may be half done."""
    if step.reads or isinstance(step.do, Wait):
        return "  It is in doubt whether this step ran, which changes nothing.", False
    effect = _took_effect(step, run)
    if effect is not None:
        if effect:
            done.append(step)
        said = f"  Looked again: the step had {'' if effect else 'not '}taken effect."
        return (f"{said} It has nothing to undo.", True) if effect and step.undo is None else (said, False)
    if step.undo is None:
        return "  It is in doubt whether this step took effect; it has nothing to undo.", True
    by_hand += [f"# {step.node}: only if the step took effect, which could not be found out:", *_told(step)]
    return "  It is in doubt whether this step took effect.", True


def _took_effect(step: Step, run: Run) -> bool | None:
    """What the step's check says; None when there is none or it does not answer either."""
    if step.check is None:
        return None
    try:
        run(step.node, step.check, None)
        return True
    except CommandFailed as failure:
        return None if _unclear(failure) else False
    except PmcError:
        return None
