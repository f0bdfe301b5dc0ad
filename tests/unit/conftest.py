"""What holds for all tests here."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest


@pytest.fixture(autouse=True)
def the_clock_by_which_backups_are_of_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backups of the tests are of 2026; this machine's clock may be behind."""
    monkeypatch.setattr("pmc.tasks.lookups.now", lambda: datetime(2027, 6, 1, tzinfo=UTC))
