"""A developer's own tasks: inv --list."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task
from tabulate import tabulate

from lab import reliability as lab_reliability
from lab.demo import demo
from lab.tasks import ns as lab

# The one that runs this, whatever `python` is in PATH.
PYTHON = shlex.quote(sys.executable)
# Two labs side by side. A file's tests stay together, and with them what they share.
LABS = "-n 2 --dist loadfile --durations=0 --durations-min=5"


@task(
    name="test",
    help={
        "fast": "leave out the tests that need the lab",
        "long": "only those of many rounds: hours",
        "left": "with --long: go on with it, without what has passed with pmc as it is now",
    },
)
def run_tests(c: Context, fast: bool = False, long: bool = False, left: bool = False) -> None:
    """Lint, types, unit tests, and the tests on the lab."""
    if long:
        rest = "--left" if left else ""
        c.run(f"{PYTHON} -m pytest -v -m long {rest} {LABS} tests", pty=False)
        return
    lint(c)
    c.run(f"{PYTHON} -m pytest -n 2 -m 'not long' tests/unit", pty=False)
    if not fast:
        c.run(f"{PYTHON} -m pytest -v -m 'not long' {LABS} tests/lab", pty=False)


@task
def reliability(c: Context) -> None:
    """Write docs/reliability.md: what the test runs in this checkout showed, over what tests/data/reliability.json
    kept, and which of the tests that inject a fault have not run."""
    kept, latest_runs = Path("tests/data/reliability.json"), Path(".reliability.json")
    found = lab_reliability.known(kept, latest_runs)
    kept.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    head = Path("docs/reliability.head.md").read_text()
    marked = lab_reliability.marked(Path("tests"))
    rows = lab_reliability.rows(found, marked, lab_reliability.unchanged_since)
    table = tabulate(rows, headers=lab_reliability.HEADERS, tablefmt="github")
    Path("docs/reliability.md").write_text(f"{head}\n{table}\n")


@task
def lint(c: Context) -> None:
    """ruff and mypy --strict."""
    c.run(f"{PYTHON} -m ruff check .", pty=False)
    c.run(f"{PYTHON} -m ruff format --check .", pty=False)
    c.run(f"{PYTHON} -m mypy", pty=False)


ns = Collection(demo, lint, reliability, run_tests)
ns.add_collection(lab)
