"""A developer's own tasks: inv --list."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task
from tabulate import tabulate

from lab.demo import demo
from lab.tasks import ns as lab

# The one that runs this, whatever `python` is in PATH.
PYTHON = shlex.quote(sys.executable)


@task(name="test", help={"fast": "leave out the tests that need the lab", "long": "only those of many rounds: hours"})
def run_tests(c: Context, fast: bool = False, long: bool = False) -> None:
    """Lint, types, unit tests, and the tests on the lab."""
    if long:
        c.run(f"{PYTHON} -m pytest -v -m long tests", pty=False)
        return
    lint(c)
    c.run(f"{PYTHON} -m pytest -n 2 -m 'not long' tests/unit", pty=False)
    if not fast:
        # Two labs side by side. A file's tests stay together, and with them what they share.
        options = "-n 2 --dist loadfile --durations=0 --durations-min=5"
        c.run(f"{PYTHON} -m pytest -v -m 'not long' {options} tests/lab", pty=False)


@task
def reliability(c: Context) -> None:
    """Write docs/reliability.md: what the test runs in this checkout showed, over what docs/reliability.json kept."""
    kept, latest_runs = Path("docs/reliability.json"), Path(".reliability.json")
    found: dict[str, dict[str, Any]] = json.loads(kept.read_text())
    if latest_runs.exists():
        found |= json.loads(latest_runs.read_text())
    kept.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    rows = []
    for fault in sorted({row["fault"] for row in found.values()}):
        tests = [(test, row) for test, row in sorted(found.items()) if row["fault"] == fault]
        tried = sum(row["rounds"] for _, row in tests)
        failed = [test for test, row in tests if not row["passed"]]
        names = sorted({test.partition("[")[0].removeprefix("tests/") for test, _ in tests})
        latest = max(row["date"] for _, row in tests)
        held = "held each time" if not failed else f"FAILED: {', '.join(failed)}"
        rows.append([fault, tried, held, latest, "<br>".join(f"`{name}`" for name in names)])
    head = Path("docs/reliability.head.md").read_text()
    table = tabulate(rows, headers=["fault", "tried", "result", "latest", "tests"], tablefmt="github")
    Path("docs/reliability.md").write_text(f"{head}\n{table}\n")


@task
def lint(c: Context) -> None:
    """ruff and mypy --strict."""
    c.run(f"{PYTHON} -m ruff check .", pty=False)
    c.run(f"{PYTHON} -m ruff format --check .", pty=False)
    c.run(f"{PYTHON} -m mypy", pty=False)


ns = Collection(demo, lint, reliability, run_tests)
ns.add_collection(lab)
