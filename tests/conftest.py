"""What each fault test showed, for docs/reliability.md: `@pytest.mark.fault("what happens")`, and
`record_property("rounds", n)` in a test that tries more than once."""

from __future__ import annotations

import json
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[1] / ".reliability.json"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    mark = item.get_closest_marker("fault")
    if mark and (report.when == "call" or report.failed):
        rounds = dict(item.user_properties).get("rounds", 1)
        kind = "long" if item.get_closest_marker("long") else "each run"
        _add(item.nodeid, {"fault": mark.args[0], "rounds": rounds, "passed": report.passed, "when": kind})
    return report


def _add(test: str, row: dict[str, object]) -> None:
    """Kept from run to run, one entry a test: the latest."""
    try:
        known = json.loads(RESULTS.read_text())
    except (OSError, ValueError):
        known = {}
    known[test] = {**row, "date": datetime.now(UTC).date().isoformat()}
    RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
