"""Does a test notice when one thing is taken out of pmc (tests/mutants.py)?

    python -m tests.mutate list                     how many there are, by kind and file
    python -m tests.mutate run                      tries all, with the unit tests
    python -m tests.mutate run --seed 7 --most 50   fifty of them, drawn by the seed
    python -m tests.mutate run --shard 1/4          the first of four parts; --kind undo, --file vm.py: these only
    python -m tests.mutate run --tests plan,peer    with the unit tests of these files only
    python -m tests.mutate run --model              and what they do not notice on the model, which is slow
    python -m tests.mutate table                    writes docs/mutants.md, with the reasons of tests/data/mutants.json

First each file of unit tests runs once, and it is written down which functions each test calls (.mutants-map.json;
again when the file has changed). Then for each mutant a child of this process, which has all modules loaded and all
tests collected, puts the changed function in place and runs the tests that call it, those of its own name and the
quick ones first. With --model what none of them notices is tried on the model. Results are in .mutants.json: what was
noticed is not tried again, what was not is when the commit or --tests are others.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import contextlib
import functools
import hashlib
import importlib
import json
import os
import random
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from tests.mutants import ROOT, Mutant, all_of, counted

RESULTS, MAP = ROOT / ".mutants.json", ROOT / ".mutants-map.json"
# Not run for a mutant: the model, which comes last, and what takes long without calling what is changed.
LATE = (
    "test_machine.py",
    "test_every_step.py",
    "test_hostile_answers.py",
    "test_hostile_node.py",
    "test_mutants.py",
    "test_lab_",
    "test_tick.py",
    "test_bench_",
    "test_fleet.py",
    "test_guards.py",
)
# What these tests run as a program of its own: it is changed on the disk while they run.
PROGRAM = "pmc/remote/stream.py"
NOT = "::test_the_program_is_brought_once"  # which compares it with what it was when this began
RUN_IT = ("test_backup.py", "test_base_snapshot.py", "test_clone.py", "test_verify_backup.py")
QUIET = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore", "--no-header", "-m", "not long"]
# For one mutant: tests of so many seconds (as measured for the map), and so many times as long before it is ended.
SECONDS, PATIENCE, SEEDS = 8.0, 6.0, 40
Found = dict[str, Any]
Map = dict[str, dict[str, float]]


class Session:
    """A plugin of pytest: once the tests are collected, `work` is done with this in place of running them."""

    def __init__(self, work: Callable[[Session], None]) -> None:
        self.work = work
        self.items: dict[str, pytest.Item] = {}
        self.failed = ""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        self.work(self)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def run(self, tests: Iterable[str]) -> str:
        """The first that fails; in a child."""
        items = [self.items[test] for test in tests]
        for item, after in zip(items, [*items[1:], None], strict=False):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if self.failed:
                break
        return self.failed


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


def mapped(session: Session) -> Map:
    """By function: the tests that call it, with the seconds each takes. One that fails without any change, as on a
    machine that is busy, is left out: fewer mutants are noticed then, never more."""
    known: dict[str, Any] = json.loads(MAP.read_text()) if MAP.exists() else {}
    tests: Map = {}
    for file in sorted({test.partition("::")[0] for test in session.items}):
        now = hashlib.sha256((ROOT / file).read_bytes()).hexdigest()
        if known.get(file, {}).get("of") != now:
            mine = [test for test in session.items if test.startswith(f"{file}::")]
            found = in_child(lambda mine=mine: calls(session, mine), 1800)  # type: ignore[misc]
            if found["by"]:
                pytest.exit(f"it fails without any change: {found['by']}")
            known[file] = {"of": now, "tests": found["tests"]}
            MAP.write_text(json.dumps(known))
            print(f"{file}: {len(mine)} tests, {sum(each[0] for each in found['tests'].values()):.1f} s", flush=True)
            for test in found["without"]:
                print(f"left out, it fails without any change: {test}", flush=True)
        for test, (seconds, functions) in known[file]["tests"].items():
            for function in [*functions, *([PROGRAM] if file.endswith(RUN_IT) and NOT not in test else [])]:
                tests.setdefault(function, {})[test] = seconds
    return tests


def calls(session: Session, tests: list[str]) -> Found:
    """What each test calls: every function says so, by a word put before its first."""
    called: set[str] = set()
    builtins.__called__ = called.add  # type: ignore[attr-defined]
    for file in {mutant.file for mutant in all_of()}:
        tree = ast.parse((ROOT / file).read_text())
        names = list(telling(tree, f"{file} "))
        code = compile(ast.fix_missing_locations(tree), str(ROOT / file), "exec")
        for name in names:
            put_in_place(file, name, code)
    found: Found = {"by": "", "tests": {}, "without": []}
    for test in tests:
        called.clear()
        began = time.monotonic()
        if session.run([test]):
            session.failed = ""
            found["without"].append(test)
            continue
        found["tests"][test] = (round(time.monotonic() - began, 3), sorted(called))
    return found


def telling(node: ast.AST, prefix: str, name: str = "") -> Iterable[str]:
    for child in ast.iter_child_nodes(node):
        inner = f"{name}.{child.name}".strip(".") if isinstance(child, ast.FunctionDef | ast.ClassDef) else name
        yield from telling(child, prefix, inner)
        if isinstance(child, ast.FunctionDef):
            child.body.insert(0, ast.parse(f"__called__({prefix + inner!r})").body[0])
            yield inner


def put_in_place(file: str, function: str, code: CodeType) -> bool:
    """The function that everybody has gets its code from `code`, the module's; false: it is not a function's."""
    name = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    thing: Any = importlib.import_module(name)
    path: list[str] = []
    for word in function.split("."):
        thing = vars(thing).get(word)
        path.append(word)
        thing = getattr(thing, "fget", getattr(thing, "func", thing))
        thing = getattr(thing, "__func__", thing)
        while hasattr(thing, "__wrapped__"):
            thing = thing.__wrapped__
        if isinstance(thing, FunctionType):
            break
        if thing is None:
            return False
    if not isinstance(thing, FunctionType):
        return False
    found = found_in(code, ".".join(path))
    if found is None or found.co_freevars != thing.__code__.co_freevars:
        return False
    thing.__code__ = found
    return True


def found_in(code: CodeType, name: str) -> CodeType | None:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            if each.co_qualname == name:
                return each
            if found := found_in(each, name):
                return found
    return None


@functools.cache
def text_of(file: str) -> str:
    """As it was when this was first asked."""
    return (ROOT / file).read_text()


def changed(mutant: Mutant) -> bool:
    code = compile(mutant.source(text_of(mutant.file)), str(ROOT / mutant.file), "exec")
    return put_in_place(mutant.file, mutant.function, code)


def tried(mutant: Mutant, session: Session, tests: list[str]) -> Found:
    """Who notices; empty: nobody."""
    return {"by": session.run(tests)} if changed(mutant) else {"by": "", "skipped": True}


def tried_on_model(mutant: Mutant) -> Found:
    return {**by_model(), "model": True} if changed(mutant) else {"by": "", "skipped": True}


def in_order(mutant: Mutant, called: dict[str, float]) -> dict[str, float]:
    """Those of the file's own name and the golden plans first, then the quick ones, as long as there is time."""
    own = (f"test_{Path(mutant.file).stem}", "test_plans.py")
    order = sorted(called, key=lambda test: (not any(word in test for word in own), called[test]))
    together, some = 0.0, dict[str, float]()
    most = SECONDS * (3 if mutant.file == PROGRAM else 1)
    for test in order:
        together += called[test]
        if together < most or len(some) < 10:
            some[test] = called[test]
    return some


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
    import tests.unit.test_machine  # noqa: F401  (loaded before any fork)

    def work(session: Session) -> None:
        tests = mapped(session)
        if given.model and (said := in_child(by_model, 3600)["by"]):
            pytest.exit(f"it fails without any change: {said}")
        for mutant in chosen(given):
            one(mutant, session, tests, given)

    session = Session(work)
    pytest.main([*QUIET, *files(given.tests)], plugins=[session])


def one(mutant: Mutant, session: Session, tests: Map, given: argparse.Namespace) -> None:
    known: dict[str, Found] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    before, now = known.get(mutant.id, {"by": "", "of": [], "model": False}), [commit(), given.tests]
    if before["by"] or (before["of"] == now and (before["model"] or not given.model)):
        return
    began = time.monotonic()
    called = tests.get(f"{mutant.file} {mutant.function}") or tests.get(_outer(mutant, tests), {})
    program, whole = ROOT / PROGRAM, text_of(PROGRAM)
    if mutant.file == PROGRAM:
        called = called | tests.get(PROGRAM, {})
        program.write_text(mutant.source(whole))
    some = in_order(mutant, called)
    try:
        found = by_tests(mutant, session, some) if before["of"] != now else {"by": ""}
    finally:
        if mutant.file == PROGRAM:
            program.write_text(whole)
    if found["by"] not in ("", *some) and not found["by"].startswith("no end"):
        print(f"{mutant.id} could not be tried: {found['by']}", flush=True)
        return
    if given.model and not found["by"] and not found.get("skipped"):
        found = in_child(lambda: tried_on_model(mutant), 1800)
    took = round(time.monotonic() - began, 1)
    known[mutant.id] = {
        "model": False, **found, "of": now, "file": mutant.file, "function": mutant.function, "line": mutant.line,
        "kind": mutant.kind, "old": mutant.old, "seconds": took, "tests": len(some),
    }  # fmt: skip
    RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    said = f"killed by {found['by'][:90]}" if found["by"] else "skipped" if found.get("skipped") else "SURVIVES"
    where = f"{mutant.file}:{mutant.line} {mutant.kind}: {mutant.old[:70]}"
    print(f"{mutant.id} {took:5.1f} s  {where}  {said}", flush=True)


def by_tests(mutant: Mutant, session: Session, some: dict[str, float]) -> Found:
    while True:
        found = in_child(lambda: tried(mutant, session, list(some)), 30 + PATIENCE * sum(some.values()))
        by = found["by"]
        if by not in some or in_child(lambda by=by: tried(mutant, session, [by]), 30 + PATIENCE * some[by])["by"]:  # type: ignore[misc]
            return found
        del some[by]  # It failed once and not again: that was not the mutant.


def _outer(mutant: Mutant, tests: Map) -> str:
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
    parser.add_argument("--model", action="store_true")
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
