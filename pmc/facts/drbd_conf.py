"""The text of DRBD's configuration files as sections and statements. Pure. Sources: drbd.conf-8.4(5), drbd.conf-9.0(5),
and what drbdadm of drbd-utils 9.22 takes (its dump-xml was compared on every example there and in drbd.conf.example).

pmc reads the files itself: `drbdadm dump-xml` says nothing of any resource when one file is not right, names no
resource that is skipped, and has no secret cut out before it leaves the node.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

# A comment, a string (in which \\ keeps what follows), a mark, a word; a quote alone has no end on its line.
_TOKEN = re.compile(r'#[^\n]*|"(?:[^"\\\n]|\\[^\n])*"|[{};]|[^\s{};"#]+|"')
_ESCAPED = re.compile(r"\\(.)")
LONGEST = 1 << 20  # characters of a file: what is made of it takes some seventy times their room
DEEPEST = 16  # sections within each other; drbd.conf(5) knows five


@dataclass(slots=True)
class Part:
    """A statement, or a section (its `body` is not None). `words` are without quotes."""

    words: tuple[str, ...]
    body: list[Part] | None = None
    at: int = 0  # where it begins in the text

    @property
    def key(self) -> str:
        return self.words[0] if self.words else ""

    def inside(self, *but: str) -> Iterator[Part]:
        """All that is in it, at any depth, in order; but no section whose first word is one of these."""
        for part in self.body or ():
            yield part
            if part.body and part.key not in but:
                yield from part.inside(*but)


@dataclass(frozen=True)
class Read:
    """What stands at the top of a text. `why` says what is not right, and `last` is what was not complete then."""

    parts: Sequence[Part] = field(default_factory=tuple)
    why: str = ""
    last: Part | None = None


def read(text: str) -> Read:
    """Never raises, and takes time in proportion to the text: it ends at the first thing that is not right."""
    if len(text) > LONGEST:
        return Read(why=f"it has more than {LONGEST >> 20} MiB")
    open_: list[Part] = []  # sections that have no end yet
    bodies: list[list[Part]] = [[]]
    words: list[str] = []
    at = 0

    def broken(where: int, why: str) -> Read:
        """Nothing of the text is quoted: it may be a secret."""
        last = open_[0] if open_ else Part(tuple(words), None, at)
        whole = [part for part in bodies[0] if part is not last]
        return Read(whole, f"line {text.count(chr(10), 0, where) + 1}: {why}", last)

    for token in _TOKEN.finditer(text):
        word = token[0]
        first = word[0]
        if first == "#":
            continue
        if not words:
            at = token.start()
        if word == ";":
            if words:
                bodies[-1].append(Part(tuple(words), None, at))
                words = []
        elif word == "{":
            if len(open_) >= DEEPEST:
                return broken(token.start(), "sections nested too deeply")
            section = Part(tuple(words), [], at)
            bodies[-1].append(section)
            open_.append(section)
            bodies.append(section.body or [])
            section.body = bodies[-1]
            words = []
        elif word == "}":
            if not open_ or words:
                return broken(token.start(), "a statement without its semicolon" if words else "a brace too many")
            open_.pop()
            bodies.pop()
        elif word == '"':
            return broken(token.start(), "a quote without its end")
        elif first == '"':
            words.append(_ESCAPED.sub(r"\1", word[1:-1]) if "\\" in word else word[1:-1])
        else:
            words.append(word)
    if open_ or words:
        where, why = (open_[0].at, "a section without its end") if open_ else (at, "words that are no statement")
        return broken(where, why)
    return Read(bodies[0])
