"""A developer's own tasks: inv --list."""

from __future__ import annotations

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from lab.demo import demo
from lab.tasks import ns as lab


@task(name="test", help={"fast": "leave out the tests that need the lab"})
def run_tests(c: Context, fast: bool = False) -> None:
    """Lint, types, unit tests, and the tests on the lab."""
    lint(c)
    c.run("python -m pytest tests/unit", pty=False)
    if not fast:
        c.run("python -m pytest -v tests/lab", pty=False)


@task
def lint(c: Context) -> None:
    """ruff and mypy --strict."""
    c.run("python -m ruff check .", pty=False)
    c.run("python -m ruff format --check .", pty=False)
    c.run("python -m mypy", pty=False)


ns = Collection(demo, lint, run_tests)
ns.add_collection(lab)
