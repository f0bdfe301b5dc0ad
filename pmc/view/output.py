"""What people see: tables, JSON, progress."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol

from tabulate import tabulate

from pmc.actions import Watch
from pmc.errors import Refused
from pmc.plain import advice, one_line, plain
from pmc.plan import Plan


class Line(Protocol):
    """Of a table."""

    def cells(self) -> dict[str, object]:
        """By column, for people."""


class Fact(Protocol):
    """For programs: all that is known; bytes, numbers."""

    def json(self) -> dict[str, object]: ...


class Row(Line, Fact, Protocol):
    """Of a listing."""


class Plain:
    """Base of a dataclass whose fields are its columns."""

    def json(self) -> dict[str, object]:
        return dict(vars(self))

    cells = json


def table(rows: Sequence[Line], columns: Sequence[str]) -> str:
    lines = [[_cell(cells.get(name, "")) for name in columns] for cells in (row.cells() for row in rows)]
    return tabulate(lines, headers=list(columns), disable_numparse=True)


def document(rows: Sequence[Fact]) -> str:
    return json.dumps([row.json() for row in rows], indent=2)


def _cell(value: object) -> object:
    return one_line(value) if isinstance(value, str) else value


def show(text: str) -> None:
    """On stdout, fit for a terminal. A reader that has seen enough (`fab vm.ls | head -1`) is no error, nor is one that
    has no letter for what a node says."""
    _print(advice(text))


def show_script(text: str) -> None:
    """As `show`, letter by letter: what is pasted is what runs. (pmc/paste.py leaves nothing that is unfit.)"""
    letters = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(letters)
    except UnicodeEncodeError:
        raise Refused(f"stdout has no letters for these lines ({letters}); set LC_ALL=C.UTF-8") from None
    _print(text)


def _print(text: str) -> None:
    text, letters = plain(text), getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(letters, "replace").decode(letters), flush=True)
    except BrokenPipeError:
        nobody_reads()


def nobody_reads() -> None:
    """Or Python would complain when it closes stdout at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(text: str) -> None:
    """For the person at the terminal: on stderr, so that a listing's stdout stays clean."""
    # A closed terminal or pipe must not end a command that has begun to change nodes.
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            # One write: several threads may note at once.
            print(f"{advice(plain(text))}\n", end="", file=sys.stderr, flush=True)


class Progress:
    """Each step as a line on stderr, long ones with a bar (on a terminal) of rate and time left. With a `prefix` the
    lines of several plans stand between each other, so each says whose it is, and there are no bars."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def step(self, number: int, plan: Plan) -> None:
        if number < len(plan.steps):
            step = plan.steps[number]
            before = f"{self.prefix} " if self.prefix else ""
            note(f"{before}[{number + 1}/{len(plan.steps)}] {step.node}: {step.note}")

    def bytes(self, watch: Watch | None, total: int) -> Bar:
        return Bar(watch.subject if watch else "", total, hidden=bool(self.prefix))


class Bar:
    """A tqdm bar, made when first used: importing tqdm costs a listing 30 ms that it does not need."""

    def __init__(self, subject: str, total: int, hidden: bool = False) -> None:
        self.subject, self.total, self.hidden = subject, total, hidden
        self._bar: Any = None
        self._text = ""

    def __enter__(self) -> Bar:
        from tqdm import tqdm

        self._bar = tqdm(
            total=self.total or None, desc=f"  {one_line(self.subject)}", unit="B", unit_scale=True, unit_divisor=1024,
            leave=False, mininterval=0.5, disable=self.hidden or sys.stderr is None or not sys.stderr.isatty(),
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def add(self, count: int) -> None:
        self._bar.update(count)

    def at(self, count: int, total: int) -> None:
        self._bar.total = total or self._bar.total
        self._bar.update(count - self._bar.n)

    def dd(self, text: str) -> None:
        """Takes what dd with status=progress prints: '123456 bytes (123 kB, 121 KiB) copied, ...'."""
        self._text = (self._text + text)[-400:]
        if found := re.findall(r"(?<!\d)(\d{1,18}) bytes", self._text):
            self.at(int(found[-1]), self.total)
