"""One thing has one word: those that docs/glossary.md rejects stand in no text of pmc's, and in no name."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/glossary.md"
# They quote others, or are written by a program.
FREE = {"glossary.md", "mutants.md", "mutants.head.md", "reliability.md", "performance.md"}
INTERFACES = re.compile("VM_STRAY")  # a code of pm.verify, which scripts know
ROWS = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")][2:]
REJECTED = [word for *_, words in ROWS for word in words.split(", ")]


def code(path: Path) -> Iterator[tuple[str, str]]:
    text = path.read_text()
    yield "its name", path.stem
    for part in ast.walk(ast.parse(text)):
        where = str(getattr(part, "lineno", 0))
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield where, part.value
        name = getattr(part, "name", None) or getattr(part, "arg", None) or getattr(part, "id", None)
        if isinstance(name, str):
            yield where, name
    comments = [each for each in tokenize.generate_tokens(io.StringIO(text).readline) if each.type == tokenize.COMMENT]
    yield "comments", " ".join(each.string.strip("# ") for each in comments)


def texts() -> Iterator[tuple[str, str]]:
    """Where it stands, and what people read there: in code its names and comments, too."""
    for path in sorted((ROOT / "pmc").rglob("*.py")):
        for where, text in code(path):
            yield f"{path.relative_to(ROOT)}:{where}", text
    pages = [ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "etc/pmc.conf")]
    for path in [*pages, *sorted((ROOT / "docs").glob("*.md"))]:
        if path.name not in FREE:
            yield str(path.relative_to(ROOT)), path.read_text()


TEXTS = [(where, INTERFACES.sub("", text)) for where, text in texts()]


def pattern(word: str) -> re.Pattern[str]:
    """Over the end of a line, in the plural, and as a part of a name."""
    inner = re.sub(r"copy$", "cop(?:y|ies)", word)
    inner = r"[\s_#]+".join(re.escape(part) if "(" not in part else part for part in inner.split(" "))
    return re.compile(rf"(?<![A-Za-z]){inner}(?:s|ed|er|ing)?(?![A-Za-z0-9])", re.I)


def test_the_page_is_read() -> None:
    assert [row[0] for row in ROWS if row[0] in ("stale copy", "interrupted")] == ["stale copy", "interrupted"]
    assert len(REJECTED) > 30
    assert len(TEXTS) > 10_000


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("old copy", "two old copies"),
        ("old copy", "of an old\n    copy"),
        ("mend", "class Mender"),
        ("mend", "_mend_it"),
        ("stray", "stray_copy"),
        ("broke off", "it broke off"),
    ],
)
def test_a_rejected_word_is_seen(word: str, text: str) -> None:
    assert word in REJECTED
    assert pattern(word).search(text)
    assert not pattern(word).search("amend, astray, recommend")


@pytest.mark.parametrize("word", REJECTED)
def test_a_rejected_word_stands_nowhere(word: str) -> None:
    seen = pattern(word)
    found = [(where, its) for where, text in TEXTS for its in [seen.search(text)] if its]
    assert [f"{where}: {its.string[max(0, its.start() - 40) : its.end() + 40]!r}" for where, its in found] == []
