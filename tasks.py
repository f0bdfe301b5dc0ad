"""A developer's own tasks: inv --list."""

from __future__ import annotations

import shlex
import sys

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

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
    c.run(f"{PYTHON} -m pytest -m 'not long' tests/unit", pty=False)
    if not fast:
        c.run(f"{PYTHON} -m pytest -v -m 'not long' --durations=0 --durations-min=5 tests/lab", pty=False)


@task
def lint(c: Context) -> None:
    """ruff and mypy --strict."""
    c.run(f"{PYTHON} -m ruff check .", pty=False)
    c.run(f"{PYTHON} -m ruff format --check .", pty=False)
    c.run(f"{PYTHON} -m mypy", pty=False)


ns = Collection(demo, lint, run_tests)
ns.add_collection(lab)
