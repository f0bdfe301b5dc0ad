"""Text that comes from nodes, guests, files and other people, made fit for a terminal. Pure."""

from __future__ import annotations

import re
import shlex
import sys

# Control characters but tab and newline, DEL, those of ISO 6429 (C1), lone surrogates, which no terminal can be sent,
# and what turns or breaks a line: a node must not draw another screen than the true one, nor write the clipboard.
_UNFIT = re.compile(
    "[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_OURS = re.compile(r"\bfab(?= (?:(?:pm|vm)\.|conf\b|doc\b))")
MOST = 1000  # characters of what one node, tool or file says in one line


def plain(text: str) -> str:
    """Keeps its lines and tabs; what a terminal would act on is �."""
    return text if text.isascii() and text.isprintable() else _UNFIT.sub("�", text)


def program() -> str:
    """What was started: a person who installed pmc has no fabfile."""
    return "pmc" if sys.argv[0].rpartition("/")[2] == "pmc" else "fab"


def advice(text: str) -> str:
    """For a person: commands of ours in it begin with the program that was started, so that they can be pasted."""
    return _OURS.sub(program(), text)


def then(said: str, command: str) -> str:
    """What a person reads who has to do something: what is true, then the one command to paste. An error that is told
    in another one's words leaves its own command out."""
    inner, found, last = said.rpartition(" Next: ")
    if found and "\n" not in last:
        said = inner
    return f"{said}{'' if said.endswith(('.', '?', '!')) else '.'} Next: {command}"


def one_line(text: str) -> str:
    """As `plain`, in one line, no longer than MOST."""
    line = plain(text).replace("\n", " ").replace("\t", " ")
    return line if len(line) <= MOST else f"{line[: MOST - 3]}..."


def escaped(text: str) -> str:
    """JSON text in which what is unfit stands as JSON's own escapes, so that nothing of it is lost."""
    return _UNFIT.sub(lambda found: "".join(f"\\u{ord(half):04x}" for half in _halves(found[0])), text)


def word(text: str) -> str:
    """A word for bash that is this text, and that `plain` leaves as it is: what is unfit stands in it as its bytes."""
    if plain(text) == text:
        return shlex.quote(text)
    text = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + _UNFIT.sub(lambda found: "".join(f"\\x{byte:02x}" for byte in _bytes(found[0])), text) + "'"


def _bytes(letter: str) -> bytes:
    """Of a file's name, Python reads a byte that is no letter as half a one."""
    return letter.encode(errors="surrogateescape" if "\udc80" <= letter <= "\udcff" else "surrogatepass")


def _halves(letter: str) -> list[str]:
    """UTF-16, as JSON writes it."""
    code = ord(letter)
    return [letter] if code < 0x10000 else [chr(0xD7C0 + (code >> 10)), chr(0xDC00 + (code & 0x3FF))]


def shown(text: str, most: int = 70) -> str:
    """A name that a node gave, fit to be shown: one line, without control characters, not long."""
    return repr(text[:most])[1:-1] + ("..." if len(text) > most else "")
