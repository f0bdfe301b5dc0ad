"""What each fault test showed, for docs/reliability.md: `@pytest.mark.fault("what happens")`, and
`record_property("rounds", n)` in a test that tries more than once. And which tests of many rounds have passed, so that
a run of hours can be gone on with: `--left`."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab import reliability

RESULTS = Path(__file__).parents[1] / ".reliability.json"
KEPT = RESULTS.parent / "tests/data/reliability.json"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--left", action="store_true", help="not what has passed with pmc as it is now")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--left"):
        done = reliability.done(reliability.known(KEPT, RESULTS), reliability.unchanged_since)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
        items[:] = [item for item in items if item.nodeid not in done]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if mark := item.get_closest_marker("fault"):
        item.user_properties.append(("fault", mark.args[0]))
    elif item.get_closest_marker("long"):
        item.user_properties.append(("fault", ""))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    known = dict(report.user_properties)
    # Tests run in several processes (xdist); all reports come together in the one that has no number.
    if "PYTEST_XDIST_WORKER" in os.environ or "fault" not in known or not (report.when == "call" or report.failed):
        return
    _add(report.nodeid, {"fault": known["fault"], "rounds": known.get("rounds", 1), "passed": report.passed})


def _add(test: str, row: dict[str, object]) -> None:
    """Kept from run to run, one entry a test: the latest; rounds that held on one commit add up."""
    try:
        known = json.loads(RESULTS.read_text())
    except (OSError, ValueError):
        known = {}
    commit = _commit()
    before = known.get(test, {})
    if row["passed"] and before.get("passed") and before.get("commit") == commit:
        row = {**row, "rounds": before["rounds"] + row["rounds"]}
    known[test] = {**row, "date": datetime.now(UTC).date().isoformat(), "commit": commit}
    RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def _commit() -> str:
    """What is tested; with a "+" when the files are not those of the commit."""
    done = [
        subprocess.run(["git", *words], cwd=RESULTS.parent, capture_output=True, text=True)
        for words in (("rev-parse", "--short=9", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    ]
    return done[0].stdout.strip() + ("+" if done[1].stdout else "")
