"""docs/reliability.md lists each fault that a test injects: what the runs showed, or that there was none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lab.reliability import bound, done, marked, rows, unchanged_since

TESTS = Path(__file__).parents[1]
SOURCE = """
@pytest.mark.long
@pytest.mark.fault("node killed")
@pytest.mark.parametrize("step", [1, 2])
def test_one(step): ...

@pytest.mark.fault("link cut")
def test_two(): ...

def test_three(): ...
"""


def test_marks_are_found_in_the_source(tmp_path: Path) -> None:
    (tmp_path / "tests/lab").mkdir(parents=True)
    (tmp_path / "tests/lab/test_x.py").write_text(SOURCE)
    found = marked(tmp_path / "tests")
    assert found == {"tests/lab/test_x.py::test_one": "node killed", "tests/lab/test_x.py::test_two": "link cut"}


def test_no_mark_of_ours_is_missed() -> None:
    """One in a form that is not read from the source would never be told as not tried."""
    files = [path for path in TESTS.rglob("test_*.py") if path != Path(__file__)]
    assert len(marked(TESTS)) == sum(path.read_text().count("mark.fault(") for path in files) > 20


def ran(fault: str, passed: bool = True, rounds: int = 1, date: str = "2026-01-02", on: str = "new") -> dict[str, Any]:
    return {"fault": fault, "passed": passed, "rounds": rounds, "date": date, "commit": on}


def test_what_ran_and_what_did_not() -> None:
    found = {
        "tests/lab/test_x.py::test_one[1]": ran("node killed", rounds=3, date="2026-01-01", on="old"),
        "tests/lab/test_x.py::test_one[2]": ran("node killed"),
        "tests/lab/test_y.py::test_old": ran("disk full", passed=False),
        "tests/lab/test_y.py::test_once": {**ran("disk slow"), "commit": ""},
    }
    marks = {
        "tests/lab/test_x.py::test_one": "node killed",
        "tests/lab/test_x.py::test_two": "link cut",
        "tests/lab/test_y.py::test_more": "node killed",
    }
    more = "not tried: `test_more`; on older code: `test_one[1]`"
    assert rows(found, marks, lambda commit: commit == "new") == [
        ["disk full", "1", "FAILED: `test_old`", "", "2026-01-02 new", "`lab/test_y.py::test_old`"],
        ["disk slow", "1", "held each time; on older code", "95 %", "2026-01-02", "`lab/test_y.py::test_once`"],
        ["link cut", "0", "not tried", "", "", "`lab/test_x.py::test_two`"],
        ["node killed", "4", f"held each time; {more}", "53 %", "2026-01-02 new",
         "`lab/test_x.py::test_one`<br>`lab/test_y.py::test_more`"],
    ]  # fmt: skip
    assert rows({}, {}, bool) == []


def test_what_held_so_often_may_fail_so_often() -> None:
    """0.86 to the power of 20 is one in twenty."""
    assert (bound(0), bound(1), bound(20), bound(400)) == ("", "95 %", "14 %", "1 %")


def test_a_long_run_is_gone_on_with() -> None:
    """What failed, and what passed with another pmc, is still to be run."""
    found = {"a": ran("x"), "b": ran("", passed=False), "c": ran("", on="old"), "d": ran("")}
    assert done(found, lambda commit: commit == "new") == {"a", "d"}
    assert rows({"d": ran("")}, {}, lambda commit: True) == [], "it injects no fault"
    assert [unchanged_since(commit) for commit in ("HEAD", "", "0" * 40, "HEAD+")] == [True, False, False, False]
