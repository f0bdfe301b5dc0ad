"""One thing has one word: those that docs/glossary.md rejects stand in no text of pmc's, and in no name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/glossary.md"
# They quote others, or are written by a program.
FREE = {"glossary.md", "mutants.md", "mutants.head.md", "reliability.md", "performance.md"}
ROWS = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")][2:]
REJECTED = [word for *_, words in ROWS for word in words.split(", ")]


def texts() -> Iterator[tuple[str, str]]:
    """Where it stands, and what people read there: in code its names, too."""
    for path in sorted((ROOT / "pmc").rglob("*.py")):
        for part in ast.walk(ast.parse(path.read_text())):
            where = f"{path.relative_to(ROOT)}:{getattr(part, 'lineno', 0)}"
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield where, part.value
            name = getattr(part, "name", None) or getattr(part, "arg", None) or getattr(part, "id", None)
            if isinstance(name, str):
                yield where, name.replace("_", " ")
    pages = [ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "etc/pmc.conf")]
    for path in [*pages, *sorted((ROOT / "docs").glob("*.md"))]:
        if path.name not in FREE:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                yield f"{path.relative_to(ROOT)}:{number}", line


TEXTS = list(texts())


def test_the_page_is_read() -> None:
    assert [row[0] for row in ROWS if row[0] in ("stale copy", "interrupted")] == ["stale copy", "interrupted"]
    assert len(REJECTED) > 30
    assert len(TEXTS) > 10_000


@pytest.mark.parametrize("word", REJECTED)
def test_a_rejected_word_stands_nowhere(word: str) -> None:
    pattern = re.compile(rf"\b{re.escape(word)}(s|ed|ing)?\b", re.I)
    assert [f"{where}: {text[:99]!r}" for where, text in TEXTS if pattern.search(text)] == []
