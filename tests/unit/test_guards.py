"""The guards that tests/guards.py takes out are there, and so are the tests that must notice."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from tests.guards import GUARDS, ROOT, Guard, taken_out


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.what for guard in GUARDS])
def test_it_fits(guard: Guard) -> None:
    text = (ROOT / guard.file).read_text()
    there = {getattr(part, "name", getattr(part, "id", "")) for part in ast.walk(ast.parse(text))}
    new = ast.parse(guard.without)
    for part in new.body:
        if isinstance(part, ast.FunctionDef):
            assert part.name in there
        if isinstance(part, ast.Assign) and isinstance(target := part.targets[0], ast.Attribute):
            assert target.attr in there
    for call in ast.walk(new):  # what it takes out of a text is in it
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "replace":
            old: Any = call.args[0]
            assert old.value.replace("=no", "={answer}") in text
    compile(taken_out(guard, text), guard.file, "exec")
    file, name = guard.test.split("[")[0].split("::")
    assert f"def {name}(" in (ROOT / "tests" / "lab" / file).read_text()
