"""tests/mutate.py takes out what it says, and a test that calls it notices."""

from __future__ import annotations

import ast
import signal
import textwrap
from typing import Any

import pytest

from pmc.errors import Refused
from pmc.plans.room import memory
from pmc.units import GiB
from tests import mutants, mutants_table, mutate
from tests.mutants import KINDS, ROOT, Mutant
from tests.unit.samples import node

PLAN = """\
def first(node) -> Step:
    return Step(node, "first", command("a"), undo=command("b"), check=command("c"), pivot=True, guard=True, claims=True)


def build(node, state):
    refuse.whole(state, "web")
    if not node:
        raise Refused("no")
    steps = [first(node), *([] if state else [Step(node, "second", command("d"))])]
    steps += on_each(["x"], first)
    held.ensure(node)
    return plan("title", steps, first(node))
"""
GONE = {
    ("step", "first(node),"), ("step", '*([] if state else [Step(node, "second", command("d"))])'),
    ("step", 'steps += on_each(["x"], first)'), ("step", "steps,"), ("step", "first(node)"),
    ("step", 'Step(node, "second", command("d"))'),
    ("requirement", 'refuse.whole(state, "web")'), ("refusal", "not node"), ("lock", "held.ensure(node)"),
    ("undo", 'command("b")'), ("check", 'command("c")'), ("pivot", "True"), ("guard", "True"), ("claims", "True"),
}  # fmt: skip


def of(text: str, careful: bool = False) -> list[Mutant]:
    tree = ast.parse(text)
    return list(mutants.of("pmc/plans/x.py", text, tree, mutants.makers([tree]), careful))


def test_what_is_taken_out() -> None:
    found = of(PLAN)
    assert {(each.kind, each.old) for each in found if each.old != "held.ensure(node)" or each.kind == "lock"} == GONE
    for each in found:
        ast.parse(each.source(PLAN))
    without = next(each for each in found if each.kind == "refusal")
    assert "if ((not node) and False):" in without.source(PLAN)


def test_a_condition_in_what_keeps_data() -> None:
    text = textwrap.dedent("""\
        def keep(block):
            if len(block) > 3:
                return "ä"
            return ""
        """)
    [mutant] = of(text, careful=True)
    assert (mutant.kind, mutant.function, mutant.old) == ("condition", "keep", "len(block) > 3")


def test_all_of_pmc_can_be_compiled_without_any_one_of_them() -> None:
    every = mutants.all_of()
    assert {each.kind for each in every} == set(KINDS)
    assert len({each.id for each in every}) == len(every) > 400
    texts = {each.file: (ROOT / each.file).read_text() for each in every}
    for each in every:
        ast.parse(each.source(texts[each.file]))


def test_the_change_is_made_in_a_child_alone() -> None:
    """Where it is made in the function that everybody has imported already."""
    there = [each for each in mutants.all_of() if (each.file, each.function) == ("pmc/plans/room.py", "memory")]
    [mutant] = there
    poor = node("pm-1", memory_available=0)

    def work() -> mutate.Found:
        placed = mutate.changed(mutant)
        memory(poor, "web", GiB)
        return {"by": "", "placed": placed}

    assert mutate.in_child(work, 60) == {"by": "", "placed": True}
    with pytest.raises(Refused):
        memory(poor, "web", GiB)


def test_every_function_says_that_it_is_called() -> None:
    text = """
class Outer:
    def first(self):
        def within():
            return 1
        return within()

def second():
    return Outer().first()
"""
    tree, called = ast.parse(text), list[str]()
    assert sorted(mutate.telling(tree, "x.py ")) == ["Outer.first", "Outer.first.within", "second"]
    names: dict[str, Any] = {"__called__": called.append}
    exec(compile(ast.fix_missing_locations(tree), "x.py", "exec"), names)
    assert names["second"]() == 1
    assert called == ["x.py second", "x.py Outer.first", "x.py Outer.first.within"]


def test_its_own_tests_come_first_then_the_quick_ones_and_few_of_the_slow() -> None:
    [mutant] = [each for each in mutants.all_of() if (each.file, each.function) == ("pmc/plans/room.py", "memory")]
    slow = {f"test_slow.py::{number}": 5.0 for number in range(20)}
    order = list(mutate.in_order(mutant, {**slow, "test_x.py::quick": 0.1, "test_room.py::own": 1.0}))
    assert order[:3] == ["test_room.py::own", "test_x.py::quick", "test_slow.py::0"]
    assert len(order) == 10


def test_a_child_that_fails_or_does_not_end_is_told() -> None:
    def fails() -> mutate.Found:
        raise ValueError("no")

    def waits() -> mutate.Found:
        signal.pause()
        return {"by": ""}

    assert mutate.in_child(fails, 60) == {"by": "ValueError: no"}
    assert mutate.in_child(waits, 0.1) == {"by": "no end within 0.1 s"}


def test_the_table_has_a_reason_for_each_that_nobody_notices() -> None:
    every = mutants.all_of()
    row = {
        "of": ["none", ""],
        "file": every[0].file,
        "function": every[0].function,
        "kind": every[0].kind,
        "old": "x | y",
    }
    found = {every[0].id: {**row, "by": ""}, every[1].id: {**row, "by": "tests/unit/test_x.py::test_y"}, "gone": row}
    text = mutants_table.text(found, {every[0].id: "equivalent: it is"})
    assert "x \\| y" in text
    assert "equivalent: it is" in text
    assert "1 equivalent." in text
    assert "Tried on none, without the model:" in text
