"""Does a test notice when one thing is taken out of pmc (tests/mutants.py)?

    python -m tests.mutate list                     how many there are, by kind and file
    python -m tests.mutate run                      tries all; what was tried on this commit is not tried again
    python -m tests.mutate run --seed 7 --most 50   fifty of them, drawn by the seed
    python -m tests.mutate run --shard 1/4          the first of four parts; --kind undo, --file vm.py: these only
    python -m tests.mutate run --tests plan,peer    with the unit tests of these files only, and the model
    python -m tests.mutate table                    writes docs/mutants.md, with the reasons of docs/mutants.json

First the unit tests run once, and it is written down which functions each calls. Then for each mutant a child of this
process, which has all modules loaded already, puts the changed function in place and runs the tests that call it, the
quick ones first; when none notices, the model. A mutant takes a second or two. Results are in .mutants.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

import pytest

from tests.mutants import ROOT, Mutant, all_of, counted

RESULTS, MAP = ROOT / ".mutants.json", ROOT / ".mutants-map.json"
# Not run for a mutant: the model, which comes last, and what takes long without calling what is changed.
LATE = (
    "test_machine.py",
    "test_mutants.py",
    "test_lab_",
    "test_tick.py",
    "test_bench_",
    "test_fleet.py",
    "test_guards.py",
)
QUIET = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore", "--no-header", "-m", "not long"]
SECONDS, TESTS, SEEDS = 180.0, 400, 40
Found = dict[str, Any]


class Calls:
    """A plugin of pytest: which functions of pmc each test calls, and how long it takes."""

    def __init__(self) -> None:
        self.of: dict[str, set[str]] = {}
        self.seconds: dict[str, float] = {}
        self.now: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self.now = self.of.setdefault(item.nodeid, set())
        began = time.monotonic()
        threading.setprofile(self._called)
        sys.setprofile(self._called)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            self.seconds[item.nodeid] = time.monotonic() - began

    def _called(self, frame: Any, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and "/pmc/" in code.co_filename and code.co_filename.startswith(str(ROOT)):
            file = code.co_filename[len(str(ROOT)) + 1 :]
            self.now.add(f"{file} {code.co_qualname.partition('.<locals>')[0]}")


class First:
    """A plugin of pytest: the first test that fails."""

    failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def files(words: str) -> list[str]:
    """Those whose names have one of the words (all)."""
    every = [each for each in sorted((ROOT / "tests/unit").glob("test_*.py")) if not each.name.startswith(LATE)]
    chosen = [each for each in every if not words or any(word in each.name for word in words.split(","))]
    return [str(each.relative_to(ROOT)) for each in chosen]


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()


def in_child(work: Callable[[], Found], seconds: float) -> Found:
    """What `work` returns, done in a copy of this process; it is told when it does not end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        try:
            os.write(writing, json.dumps(work()).encode() + b"\n")
        except BaseException as error:
            os.write(writing, json.dumps({"by": f"{type(error).__name__}: {error}"[:200]}).encode() + b"\n")
        finally:
            os._exit(0)
    os.close(writing)
    said, deadline = b"", time.monotonic() + seconds
    while not said.endswith(b"\n") and (left := deadline - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0]:
            block = os.read(reading, 1 << 16)
            if not block:
                break
            said += block
    os.close(reading)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    found: Found = json.loads(said) if said.endswith(b"\n") else {"by": f"no end within {seconds:g} s"}
    return found


def mapped(words: str) -> dict[str, list[str]]:
    """By function: the tests that call it, the quick ones first. All must pass."""
    if MAP.exists() and (known := json.loads(MAP.read_text()))["of"] == [commit(), words]:
        tests: dict[str, list[str]] = known["tests"]
        return tests

    def work() -> Found:
        calls, first = Calls(), First()
        pytest.main([*QUIET, *files(words)], plugins=[calls, first])
        tests: dict[str, list[str]] = {}
        for test in sorted(calls.of, key=lambda each: calls.seconds[each]):
            for function in calls.of[test]:
                tests.setdefault(function, []).append(test)
        MAP.write_text(json.dumps({"of": [commit(), words], "tests": tests, "failed": first.failed}))
        return {"by": first.failed}

    if failed := in_child(work, 3600)["by"]:
        raise SystemExit(f"it fails without any change: {failed}")
    return mapped(words)


def put_in_place(mutant: Mutant) -> bool:
    """The changed code in the function that everybody has already; false: it is not a function's."""
    name = mutant.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    thing: Any = sys.modules[name]
    path: list[str] = []
    for word in mutant.function.split("."):
        thing = vars(thing).get(word)
        path.append(word)
        thing = getattr(thing, "fget", thing)
        thing = getattr(thing, "__func__", thing)
        while hasattr(thing, "__wrapped__"):
            thing = thing.__wrapped__
        if isinstance(thing, FunctionType):
            break
        if thing is None:
            return False
    if not isinstance(thing, FunctionType):
        return False
    text = (ROOT / mutant.file).read_text()
    code = found_in(compile(mutant.source(text), thing.__code__.co_filename, "exec"), ".".join(path))
    if code is None or code.co_freevars != thing.__code__.co_freevars:
        return False
    thing.__code__ = code
    return True


def found_in(code: CodeType, name: str) -> CodeType | None:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            if each.co_qualname == name:
                return each
            if found := found_in(each, name):
                return found
    return None


def tried(mutant: Mutant, tests: list[str]) -> Found:
    """Who notices; empty: nobody."""
    if not put_in_place(mutant):
        return {"by": "", "skipped": True}
    for some in (tests[:60], tests[60:TESTS]):
        first = First()
        if some and pytest.main([*QUIET, *some], plugins=[first]) not in (0, 5):
            return {"by": first.failed or "pytest itself"}
    return by_model()


def by_model() -> Found:
    """The same sequences in each child: what they come to depends on how this process orders sets."""
    from tests.unit.test_machine import FEW, sequences

    for seed in range(SEEDS):
        try:
            sequences(FEW, seed, shrink=False)
        except Exception as error:
            return {"by": f"the model: {type(error).__name__}: {error}"[:160].partition("\n")[0]}
    return {"by": ""}


def chosen(given: argparse.Namespace) -> list[Mutant]:
    every = [m for m in all_of() if given.kind in ("", m.kind) and given.file in m.file]
    every = [each for each in every if not given.id or each.id in given.id]
    random.Random(given.seed).shuffle(every)
    part, parts = map(int, given.shard.split("/"))
    return every[part - 1 :: parts][: given.most]


def run(given: argparse.Namespace) -> None:
    known: dict[str, Found] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    pytest.main(
        [*QUIET, "--collect-only", "-qq", *files(given.tests), "tests/unit/test_machine.py"]
    )  # loads all, before any fork
    tests, now = mapped(given.tests), commit()
    if said := in_child(by_model, 3600)["by"]:
        raise SystemExit(f"it fails without any change: {said}")
    for mutant in chosen(given):
        if known.get(mutant.id, {}).get("commit") == now and not given.id:
            continue
        began = time.monotonic()
        called = tests.get(f"{mutant.file} {mutant.function}") or tests.get(_outer(mutant, tests), [])
        found = in_child(lambda mutant=mutant, called=called: tried(mutant, called), SECONDS)  # type: ignore[misc]
        took = round(time.monotonic() - began, 1)
        known[mutant.id] = {
            **found, "commit": now, "file": mutant.file, "function": mutant.function, "line": mutant.line,
            "kind": mutant.kind, "old": mutant.old, "seconds": took, "tests": len(called),
        }  # fmt: skip
        RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        what = f"{mutant.file}:{mutant.line} {mutant.kind}: {mutant.old[:70]}"
        print(
            f"{mutant.id} {took:5.1f} s  {'SURVIVES' if not found['by'] else 'killed'}  {what}  {found['by'][:90]}",
            flush=True,
        )


def _outer(mutant: Mutant, tests: dict[str, list[str]]) -> str:
    """A function inside another one is called by whom that is called by."""
    words = mutant.function.split(".")
    names = [f"{mutant.file} {'.'.join(words[:count])}" for count in range(len(words), 0, -1)]
    return next((name for name in names if name in tests), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("list", "run", "table"))
    for flag in ("kind", "file", "tests"):
        parser.add_argument(f"--{flag}", default="")
    parser.add_argument("--id", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=10**6)
    parser.add_argument("--shard", default="1/1")
    given = parser.parse_args()
    if given.what == "run":
        run(given)
    elif given.what == "table":
        from tests.mutants_table import write

        write(json.loads(RESULTS.read_text()))
    else:
        every = all_of()
        print(len(every), counted(every))


if __name__ == "__main__":
    main()
