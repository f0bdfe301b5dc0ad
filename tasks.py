"""A developer's own tasks: inv --list."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task
from tabulate import tabulate

from lab import reliability as lab_reliability
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
    """Write docs/reliability.md: what the test runs in this checkout showed, over what docs/reliability.json kept, and
    which of the tests that inject a fault have not run."""
    kept, latest_runs = Path("docs/reliability.json"), Path(".reliability.json")
    found: dict[str, dict[str, Any]] = json.loads(kept.read_text())
    if latest_runs.exists():
        found |= json.loads(latest_runs.read_text())
    kept.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    head = Path("docs/reliability.head.md").read_text()

    def current(commit: str) -> bool:
        same = ("git", "diff", "--quiet", commit, "HEAD", "--", "pmc", "fabfile")
        return bool(commit) and subprocess.run(same, stderr=subprocess.DEVNULL).returncode == 0

    rows = lab_reliability.rows(found, lab_reliability.marked(Path("tests")), current)
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
