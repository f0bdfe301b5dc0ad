"""The guards that tests/guards.py takes out are there, each once, and so are the tests that must notice."""

from __future__ import annotations

import pytest

from tests.guards import GUARDS, ROOT, Guard


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.what for guard in GUARDS])
def test_it_fits(guard: Guard) -> None:
    assert (ROOT / guard.file).read_text().count(guard.old) == 1
    assert guard.old != guard.new
    file, name = guard.test.split("[")[0].split("::")
    assert f"def {name}(" in (ROOT / "tests" / "lab" / file).read_text()
