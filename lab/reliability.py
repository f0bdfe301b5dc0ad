"""The table of docs/reliability.md: each fault that a test injects, with what its runs showed, or that none was."""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HEADERS = ("fault", "tried", "result", "bound", "latest", "tests")
Row = dict[str, Any]  # fault ("": it injects none), rounds, passed, date, commit: of one test


def known(*files: Path) -> dict[str, Row]:
    """What these files kept of each test; a later file counts more."""
    return {test: row for file in files if file.exists() for test, row in json.loads(file.read_text()).items()}


def done(found: Mapping[str, Row], current: Callable[[str], bool]) -> set[str]:
    """The tests that have passed with pmc as it is now."""
    seen = {commit: current(commit) for commit in {row.get("commit", "") for row in found.values()}}
    return {test for test, row in found.items() if row["passed"] and seen[row.get("commit", "")]}


def unchanged_since(commit: str) -> bool:
    """Whether pmc itself is what it was then. (A commit with a "+" was not what ran.)"""
    same = ("git", "diff", "--quiet", commit, "HEAD", "--", "pmc", "fabfile")
    return bool(commit) and subprocess.run(same, stderr=subprocess.DEVNULL, cwd=ROOT).returncode == 0


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


def rows(found: Mapping[str, Row], marks: Mapping[str, str], current: Callable[[str], bool]) -> list[list[str]]:
    """By fault. `found` has a test once for each of its parameters. `current` says of a commit whether what it tested
    is what is there now."""
    found = {test: row for test, row in found.items() if row["fault"]}
    tried = {test.partition("[")[0] for test in found}
    untried = {test: fault for test, fault in marks.items() if test not in tried}
    faults = sorted({*(row["fault"] for row in found.values()), *untried.values()})
    return [_row(fault, found, untried, current) for fault in faults]


def bound(rounds: int) -> str:
    """When so many rounds in a row held: the share of failures that would show none of them in one case of twenty."""
    return f"{100 * (1 - 0.05 ** (1 / rounds)):.0f} %" if rounds else ""


def _row(fault: str, found: Mapping[str, Row], untried: Mapping[str, str], current: Callable[[str], bool]) -> list[str]:
    tests = {test: row for test, row in sorted(found.items()) if row["fault"] == fault}
    failed = [test for test, row in tests.items() if not row["passed"]]
    never = sorted(test for test, its in untried.items() if its == fault)
    rounds = sum(row["rounds"] for row in tests.values())
    latest = max(tests.values(), key=lambda row: (row["date"], row.get("commit", "")), default=Row())
    old = sorted(test for test, row in tests.items() if not current(row.get("commit", "")))
    held = f"FAILED: {_named(failed)}" if failed else "held each time" if tests else "not tried"
    if tests and never:
        held += f"; not tried: {_named(never)}"
    if old:
        held += "; on older code" + ("" if len(old) == len(tests) else f": {_named(old)}")
    return [
        fault,
        str(rounds),
        held,
        "" if failed else bound(rounds),
        f"{latest.get('date', '')} {latest.get('commit', '')}".strip(),
        "<br>".join(
            f"`{name.removeprefix('tests/')}`" for name in sorted({*(t.partition("[")[0] for t in tests), *never})
        ),
    ]


def _named(tests: list[str]) -> str:
    """Their functions and cases: the files stand in the last column."""
    return ", ".join(f"`{each.partition('::')[2]}`" for each in tests)
