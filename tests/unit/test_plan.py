"""Applying a plan: progress, and what is left of the world when any step goes wrong in any way."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from pmc.actions import Action, Fetch, Relay, Transfer, Wait
from pmc.command import command
from pmc.errors import CommandFailed, InDoubt, Interrupted, PmcError, StepFailed
from pmc.plan import Calls, Plan, Step, apply, plan
from pmc.plans import close_migration, remove
from tests.lab import rig
from tests.sim.fake import Faulty, World, done
from tests.unit.samples import SETTINGS
from tests.unit.stories import STORIES, Story, pruned, removed_with_backups

# These change what nobody could put back; their steps are pivots, so nothing of them is undone.
ONE_WAY = {
    "vm.rm",
    "vm.rm-half",
    "vm.rm-saved",
    "vm.rm-backups",
    "vm.rm-backups-gone",
    "vm.rm-reused",
    "vm.mv-close",
    "vm.prune",
    "vm.repair-two-primaries",
}
# These have their point of no return in the middle.
HALF_WAY = {
    "vm.repair-split", "vm.repair-split-thin", "vm.repair-new-disk", "vm.repair-stalled",
    "vm.backup-base-thin", "vm.backup-base-thin-again", "vm.start-saved", "vm.failover-saved", "vm.restore-in-place",
    "vm.restore-in-place-thin",
}  # fmt: skip
# Stopping has no undo: what was shut down is not started again. A volume that is reused stays grown. What a migration
# left open is not opened again. To connect anew is what fixes blocks that differ, as a step and as an undo alike.
NOT_UNDONE = {"vm.stop", "vm.stop-force", "vm.add-reuse", "vm.failover-torn", "vm.repair-differs"}
# Of these the first steps take away what a run before left half made.
BEGUN_ANEW = {"vm.peer-again", "vm.peer-finish"}
# These are undone up to a point, and go on from it: test_peer holds them.
BOTH_WAYS = {name for name in STORIES if name.startswith("vm.peer")}
UNDONE = [name for name in STORIES if name not in ONE_WAY | HALF_WAY | NOT_UNDONE | BOTH_WAYS]


def broken(story: Story, at: int, how: str, stuck: bool = False) -> tuple[World, str]:
    """The world after step `at` went wrong, and what the person is told."""
    world = story.world.copy()
    with pytest.raises(StepFailed) as caught:
        apply(story.plan, Faulty(world, at, how, after_those_beside(story.plan, at) if stuck else None))
    return world, str(caught.value)


def after_those_beside(plan: Plan, at: int) -> int:
    """The first step that does not run at the same time as step `at`, or the number of steps."""
    later = [number for number in range(at + 1, len(plan.steps)) if not plan.steps[number].beside]
    return later[0] if later else len(plan.steps)


@pytest.mark.parametrize("name", UNDONE)
def test_whichever_step_fails_all_is_as_before(name: str) -> None:
    story = STORIES[name]()
    for at, step in enumerate(story.plan.steps):
        world, told = broken(story, at, "fails")
        assert world == story.world, told
        assert f"step {at + 1} of {len(story.plan.steps)} failed: {step.note}, on {step.node}" in told
        assert "it fails" in told
        assert "run by hand" not in told


@pytest.mark.parametrize("name", [name for name in STORIES if name not in NOT_UNDONE | BEGUN_ANEW])
def test_status_1_says_that_all_is_as_before(name: str) -> None:
    """And 3 that it may not be: nothing is half done without a word."""
    story = STORIES[name]()
    for at in range(len(story.plan.steps)):
        for how, stuck in (("fails", False), ("fails", True), ("lost before", False), ("lost after", False)):
            world = story.world.copy()
            try:
                apply(story.plan, Faulty(world, at, how, after_those_beside(story.plan, at) if stuck else None))
            except StepFailed as failed:
                error = failed
            else:
                continue  # a pivot that took effect is done
            assert error.half or world == story.world, f"step {at + 1} {how}: {error}"
            assert error.code == (3 if error.half else 1)
            assert rig.failed(error.code, str(error)), "what it says and its status are the same"


@pytest.mark.parametrize("name", UNDONE)
def test_a_step_that_was_lost_before_its_effect(name: str) -> None:
    story = STORIES[name]()
    for at, step in enumerate(story.plan.steps):
        world, told = broken(story, at, "lost before")
        assert world == story.world or str(step.undo).partition(" <<")[0] in by_hand(told), told


@pytest.mark.parametrize("name", UNDONE)
def test_a_step_that_was_lost_after_its_effect(name: str) -> None:
    """All is as before, or the undo is told for the hand. A pivot is looked at again, and what is done is done."""
    story = STORIES[name]()
    for at, step in enumerate(story.plan.steps):
        if step.pivot:
            world = story.world.copy()
            apply(story.plan, Faulty(world, at, "lost after"))
            assert world == done(story.world, story.plan)
            continue
        world, told = broken(story, at, "lost after")
        assert world == story.world or by_hand(told), told
        for undo in by_hand(told):
            assert undo in {
                str(each.undo).partition(" <<")[0] for each in story.plan.steps[: after_those_beside(story.plan, at)]
            }
        assert "doubt" in told or "Looked again" in told


def by_hand(told: str) -> list[str]:
    """The commands that a person is told to run."""
    rows = told.partition("NOT undone")[2].splitlines()[1:]
    text = re.sub(r" <<'EOF'.*?^\s*EOF$", "", "\n".join(rows), flags=re.M | re.S)
    return [row.strip() for row in text.splitlines() if not row.strip().startswith("#")]


def test_a_lost_step_with_a_check_is_never_left_to_the_hand() -> None:
    for name in UNDONE:
        story = STORIES[name]()
        for at, step in enumerate(story.plan.steps):
            for how in ("lost before", "lost after"):
                if step.check is not None and not step.pivot:
                    world, told = broken(story, at, how)
                    assert world == story.world, told
                    assert by_hand(told) == []


def test_a_lost_migration_is_not_guessed_at() -> None:
    """The VM may be on the target by now, so its disk there is not demoted: a person is told, and `settle` closes."""
    story = STORIES["vm.mv"]()
    world, told = broken(story, 4, "lost after")
    assert world.state().active_on("web") == ["pm-2"]
    assert "drbdadm secondary web" in by_hand(told)
    closed = done(world, close_migration.close("web", world.state())).state()
    assert closed.primaries("web") == ["pm-2"]
    assert not any(each.resources["web"].two_primaries for each in closed if "web" in each.resources)


@pytest.mark.parametrize("name", UNDONE)
def test_undos_that_fail_are_listed_and_do_not_hide_the_first_error(name: str) -> None:
    story = STORIES[name]()
    for at, step in enumerate(story.plan.steps):
        _, told = broken(story, at, "fails", stuck=True)
        assert told.splitlines()[0].endswith(f"failed: {step.note}, on {step.node}")
        assert "it fails" in told.splitlines()[1]
        ran = [each for each in story.plan.steps[: after_those_beside(story.plan, at)] if each is not step]
        last = next((each for each in reversed(ran) if each.undo), None)
        # A guard stays until what came after it is undone.
        undos = [
            str(each.undo).partition(" <<")[0]
            for each in reversed(ran)
            if each.undo and (each is last or not each.guard)
        ]
        assert by_hand(told) == undos
        assert told.count("the undo fails too") == len(undos)


@pytest.mark.parametrize("name", sorted(NOT_UNDONE))
def test_what_is_not_undone_is_harmless(name: str) -> None:
    """No volume, file, resource or domain is lost or left over."""
    story = STORIES[name]()
    for at in range(len(story.plan.steps)):
        world, _ = broken(story, at, "fails")
        for place, machine in world.nodes.items():
            before = story.world.nodes[place]
            assert list(machine.volumes) == list(before.volumes)
            assert list(machine.resources) == list(before.resources)
            assert list(machine.domains) == list(before.domains)
            assert machine.files == before.files


@pytest.mark.parametrize("name", sorted(HALF_WAY))
def test_up_to_the_pivot_all_is_as_before_and_from_there_on_nothing_is_undone(name: str) -> None:
    story = STORIES[name]()
    pivot = next(number for number, step in enumerate(story.plan.steps) if step.pivot)
    assert 0 < pivot < len(story.plan.steps) - 1
    for at in range(len(story.plan.steps)):
        world, told = broken(story, at, "fails")
        assert world == story.world or at > pivot, told
        assert ("Past the point of no return" in told) == (at > pivot), told


@pytest.mark.parametrize("name", sorted(HALF_WAY))
def test_a_pivot_that_is_in_doubt_takes_nothing_back(name: str) -> None:
    """It may have taken effect: the kept side of a split brain would be the only copy of what is overwritten now."""
    story = STORIES[name]()
    steps = story.plan.steps
    for at, step in enumerate(steps):
        if not step.pivot or step.check is not None:
            continue
        for how in ("lost before", "lost after"):
            ran = [
                each for each in steps[: after_those_beside(story.plan, at)] if how == "lost after" or each is not step
            ]
            world, told = broken(story, at, how)
            assert world == done(story.world, Plan("so far", tuple(ran))), told
            assert "in doubt whether this step took effect, so nothing before it is undone" in told
            assert "Run the same command again to go on; where that is refused, fab pm.verify names what to do." in told


@pytest.mark.parametrize("name", sorted(ONE_WAY))
def test_past_a_pivot_there_is_no_way_back_and_the_same_again_goes_on(name: str) -> None:
    story = STORIES[name]()
    for at in range(1, len(story.plan.steps)):
        world, told = broken(story, at, "fails")
        assert "Past the point of no return" in told
        assert world != story.world
        if world == done(story.world, story.plan):
            continue  # only files that were not there were left to remove
        state = world.state()
        if name == "vm.prune":
            again = pruned(world)
        elif name.startswith("vm.rm-backups"):
            again = removed_with_backups(world)
        else:
            again = (
                close_migration.close("web", state) if name == "vm.mv-close" else remove.remove("web", state, SETTINGS)
            )
        assert done(world, again) == done(story.world, story.plan)


# -- the machinery, on plans of three steps --


def step(name: str, undo: bool = True, **more: object) -> Step:
    return Step(
        f"node-{name}",
        f"do {name}",
        command("do", name),
        command("undo", name) if undo else None,
        **more,  # type: ignore[arg-type]
    )


class Recorder:
    """Writes down what it is asked to do; what is in `failing` raises."""

    def __init__(self, **failing: Exception) -> None:
        self.failing, self.lines = failing, list[str]()

    def __call__(self, node: str, action: object, watch: object) -> None:
        line = str(action)
        self.lines.append(line)
        if error := self.failing.get(line.replace(" ", "_")):
            raise error


A_B_C = plan("test", step("a"), [step("b"), step("c")])


def failed(given: Plan, run: Recorder, stopped: Callable[[], bool] = lambda: False) -> str:
    with pytest.raises(StepFailed) as caught:
        apply(given, run, stopped=stopped)
    assert caught.value.code == (3 if caught.value.half else 1)
    return str(caught.value)


def error(line: str = "do b", exit: int = 1, stderr: str = "no") -> CommandFailed:
    return CommandFailed("node-b", line, exit, stderr)


def test_steps_run_in_order_and_are_reported_before_and_at_the_end() -> None:
    run, reported = Recorder(), list[int]()
    apply(A_B_C, run, lambda number, plan: reported.append(number))
    assert run.lines == ["do a", "do b", "do c"]
    assert reported == [0, 1, 2, 3]


def test_an_empty_plan_does_nothing() -> None:
    reported = list[int]()
    apply(plan("nothing"), Recorder(), lambda number, plan: reported.append(number))
    assert reported == [0]


def test_undo_walks_back_from_before_the_step_that_failed() -> None:
    run = Recorder(do_c=error())
    told = failed(A_B_C, run)
    assert run.lines == ["do a", "do b", "do c", "undo b", "undo a"]
    assert "Undone: do b (node-b), do a (node-a)." in told


def test_an_undo_that_fails_does_not_stop_the_others() -> None:
    run = Recorder(do_c=error(stderr="first"), undo_b=error("undo b", stderr="second"))
    told = failed(A_B_C, run)
    assert run.lines[-2:] == ["undo b", "undo a"]
    assert told.index("first") < told.index("NOT undone; run by hand") < told.index("second")
    assert by_hand(told) == ["undo b"]
    assert "Undone: do a (node-a)." in told


def test_the_tools_own_words_are_told() -> None:
    told = failed(A_B_C, Recorder(do_b=error(stderr="line one\nline two\nline three")))
    assert told.count("line three") == 1
    assert told.index("line three") < told.index("line one") < told.index("line two")


def test_stopped_between_two_steps() -> None:
    run = Recorder()
    told = failed(A_B_C, run, stopped=lambda: "do b" in run.lines)
    assert run.lines == ["do a", "do b", "undo b", "undo a"]
    assert "interrupted" in told


def test_a_long_step_that_was_interrupted_is_undone_with_the_others() -> None:
    run = Recorder(do_c=Interrupted())
    assert "interrupted" in failed(A_B_C, run)
    assert run.lines == ["do a", "do b", "do c", "undo b", "undo a"]


def test_nothing_to_undo_is_said() -> None:
    assert "Nothing had to be undone" in failed(A_B_C, Recorder(do_a=error()))


def test_after_a_pivot_nothing_is_undone() -> None:
    run = Recorder(do_c=error())
    told = failed(plan("test", step("a"), step("b", pivot=True), step("c")), run)
    assert run.lines == ["do a", "do b", "do c"]
    assert "Past the point of no return" in told


def test_a_pivot_that_fails_itself_is_undone() -> None:
    run = Recorder(do_b=error())
    failed(plan("test", step("a"), step("b", pivot=True)), run)
    assert run.lines == ["do a", "do b", "undo a"]


LOST = InDoubt("node-b", "do b", "the connection was lost")
CHECKED = plan("test", step("a"), step("b", check=command("check", "b")))


@pytest.mark.parametrize("doubt", [LOST, error(exit=-1), error(exit=124), error(exit=137), error(exit=143)])
def test_in_doubt_the_check_is_asked(doubt: Exception) -> None:
    took = Recorder(do_b=doubt)
    assert "had taken effect" in failed(CHECKED, took)
    assert took.lines == ["do a", "do b", "check b", "undo b", "undo a"]
    not_taken = Recorder(do_b=doubt, check_b=error("check b"))
    assert "had not taken effect" in failed(CHECKED, not_taken)
    assert not_taken.lines == ["do a", "do b", "check b", "undo a"]


@pytest.mark.parametrize("doubt", [LOST, error("check b", exit=124)])
def test_a_check_that_cannot_answer_leaves_it_to_the_hand(doubt: Exception) -> None:
    run = Recorder(do_b=LOST, check_b=doubt)
    told = failed(CHECKED, run)
    assert run.lines == ["do a", "do b", "check b", "undo a"]
    assert by_hand(told) == ["undo b"]
    assert "only if the step took effect" in told


def test_in_doubt_without_a_check_it_is_left_to_the_hand() -> None:
    told = failed(A_B_C, Recorder(do_b=LOST))
    assert by_hand(told) == ["undo b"]
    assert "Undone: do a (node-a)." in told


def test_in_doubt_with_nothing_to_undo_nothing_is_left_to_the_hand() -> None:
    told = failed(plan("x", Step("node-a", "look", command("look"))), Recorder(look=LOST))
    assert by_hand(told) == []
    assert "it has nothing to undo" in told


def test_in_doubt_a_step_that_only_reads_leaves_nothing_half_done() -> None:
    looks = plan("x", step("a"), Step("node-b", "look", command("look"), reads=True))
    with pytest.raises(StepFailed, match="in doubt whether this step ran, which changes nothing") as caught:
        apply(looks, Recorder(look=LOST))
    assert not caught.value.half


def lasting(name: str, **more: object) -> Step:
    """As `step`, but what it does, and what undoes it, may take hours."""
    both = {"do": command("do", name, long=True), "undo": command("undo", name, long=True)}
    return replace(step(name), **both, **more)  # type: ignore[arg-type]


def test_of_a_long_step_in_doubt_it_is_said_that_it_may_still_run() -> None:
    told = failed(plan("test", step("a"), lasting("b")), Recorder(do_b=LOST))
    assert "  It may still run on node-b." in told.splitlines()
    assert "NOT undone; when nothing of it runs on node-b any more, run by hand on the node named:" in told
    assert by_hand(told) == ["undo b"]


@pytest.mark.parametrize(
    ("action", "may"),
    [
        (command("do", "b"), False),
        (Transfer("x", 1, command("do", "b", long=True)), True),
        (Fetch(command("do", "b", long=True), "x", 1), True),
        (Relay("node-a", command("look"), command("do", "b", long=True)), True),
        (Wait(command("do", "b", long=True), 1, "no"), False),
    ],
)
def test_whatever_a_long_step_does(action: Action, may: bool) -> None:
    told = failed(plan("test", replace(step("b"), do=action)), Recorder(**{str(action).replace(" ", "_"): LOST}))
    assert ("may still run on node-b" in told) == may


@pytest.mark.parametrize("ended", [error(exit=124), error(exit=137), error(exit=1)])
def test_what_its_node_has_ended_does_not_run(ended: Exception) -> None:
    assert "runs" not in failed(plan("test", lasting("b")), Recorder(do_b=ended))


def test_an_undo_that_is_in_doubt_may_still_run_too() -> None:
    """To paste it would be to run it twice at once."""
    told = failed(plan("test", lasting("a"), step("b")), Recorder(do_b=error(), undo_a=LOST))
    assert "NOT undone; when nothing of it runs on node-a any more, run by hand on the node named:" in told


def test_a_command_that_takes_all_back_is_told_in_place_of_the_undo() -> None:
    back = plan("test", lasting("a", instead="fab vm.restore web --put-back"), lasting("b"))
    for run in (Recorder(do_b=LOST, undo_a=error("undo a")), Recorder(do_a=LOST)):
        told = failed(back, run)
        assert "fab vm.restore web --put-back" in by_hand(told)
        assert "undo a" not in by_hand(told)
    run = Recorder(do_b=error())
    assert "Undone: do a (node-a)." in failed(back, run), "where it can be undone, it is"


@pytest.mark.parametrize("exit", [1, 2, 5, 127, 128])
def test_a_plain_failure_is_not_in_doubt(exit: int) -> None:
    run = Recorder(do_b=error(exit=exit))
    failed(CHECKED, run)
    assert "check b" not in run.lines


def test_an_error_of_the_program_itself_is_undone_too() -> None:
    """A file that is gone, a terminal that was closed: what was made before it is taken back all the same."""
    run = Recorder(do_b=FileNotFoundError("gone.iso"))
    told = failed(A_B_C, run)
    assert run.lines[-1] == "undo a"
    assert "FileNotFoundError: gone.iso" in told
    assert by_hand(told) == ["undo b"], "without a check it is in doubt"


def test_steps_beside_each_other_run_together_and_are_undone_together() -> None:
    """What succeeded beside a step that failed is undone as well; the next group never begins."""
    given = plan("test", step("a"), [step("b"), step("c", beside=True), step("d")])
    run, groups = Recorder(do_b=error()), list[int]()

    def together(calls: Calls) -> list[PmcError | None]:
        groups.append(len(calls))
        return [call() for call in calls]

    with pytest.raises(StepFailed) as caught:
        apply(given, run, together=together)
    assert groups == [1, 2]
    assert run.lines == ["do a", "do b", "do c", "undo c", "undo a"]
    assert "step 2 of 4 failed: do b" in str(caught.value)
