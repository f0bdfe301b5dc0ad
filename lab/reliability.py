"""The table of docs/reliability.md: each fault that a test injects, with what its runs showed, or that none was."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HEADERS = ("fault", "tried", "result", "latest", "tests")
Row = dict[str, Any]  # fault, rounds, passed, date: of one test


def marked(folder: Path) -> dict[str, str]:
    """Test -> fault, of each `@pytest.mark.fault("...")` in the folder; read from the source, so no lab is begun."""
    return {
        f"{path.relative_to(folder.parent).as_posix()}::{test.name}": fault
        for path in sorted(folder.rglob("test_*.py"))
        for test in ast.walk(ast.parse(path.read_text()))
        if isinstance(test, ast.FunctionDef)
        for fault in _faults(test)
    }


def _faults(test: ast.FunctionDef) -> Iterator[str]:
    for each in test.decorator_list:
        if isinstance(each, ast.Call) and ast.unparse(each.func) == "pytest.mark.fault":
            yield ast.literal_eval(each.args[0])


def rows(found: Mapping[str, Row], marks: Mapping[str, str]) -> list[list[str]]:
    """By fault. `found` has a test once for each of its parameters."""
    tried = {test.partition("[")[0] for test in found}
    untried = {test: fault for test, fault in marks.items() if test not in tried}
    return [_row(fault, found, untried) for fault in sorted({*(r["fault"] for r in found.values()), *untried.values()})]


def _row(fault: str, found: Mapping[str, Row], untried: Mapping[str, str]) -> list[str]:
    tests = {test: row for test, row in sorted(found.items()) if row["fault"] == fault}
    failed = [test for test, row in tests.items() if not row["passed"]]
    never = sorted(test for test, its in untried.items() if its == fault)
    held = f"FAILED: {', '.join(failed)}" if failed else "held each time" if tests else "not tried"
    if tests and never:
        held += f"; not tried: {', '.join(never)}"
    return [
        fault,
        str(sum(row["rounds"] for row in tests.values())),
        held,
        max((row["date"] for row in tests.values()), default=""),
        "<br>".join(
            f"`{name.removeprefix('tests/')}`" for name in sorted({*(t.partition("[")[0] for t in tests), *never})
        ),
    ]
