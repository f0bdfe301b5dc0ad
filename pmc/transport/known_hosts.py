"""Lines of known_hosts(5), as sshd(8) describes them. What a line says of another host, or what paramiko does not take,
is no reason to refuse a node: paramiko's own reader gives up at the first such line, and knows no markers or patterns.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import re
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import paramiko

REVOKED, AUTHORITY = "@revoked", "@cert-authority"


@dataclass(frozen=True)
class Line:
    """One line. `names` are as they stand there: names, patterns, or one that is hashed; in lower case."""

    path: Path
    number: int
    marker: str
    names: tuple[str, ...]
    kind: str
    blob: bytes

    def about(self, host: str) -> bool:
        """As ssh matches it: one of the names does, and none of those behind a '!'."""
        host = host.lower()
        if self.names[0].startswith("|1|"):
            return _hashed(self.names[0], host)
        said = [(name.removeprefix("!"), name.startswith("!")) for name in self.names]
        hits = [denied for name, denied in said if name == host or _pattern(name).fullmatch(host)]
        return bool(hits) and not any(hits)

    def key(self) -> paramiko.PKey | None:
        """None when paramiko does not take it."""
        try:
            return paramiko.PKey.from_type_string(self.kind, self.blob)
        except Exception:
            return None

    def remedy(self, host: str) -> str:
        """What takes the line out."""
        place = f"line {self.number} of {self.path}"
        if host.lower() in self.names or self.names[0].startswith("|1|"):
            return f"ssh-keygen -f {shlex.quote(str(self.path))} -R {shlex.quote(host)} ({place})"
        return f"take its key out of {place}"


@dataclass(frozen=True)
class Known:
    """A file. Most lines are about plain names, and are found by them."""

    by_name: Mapping[str, Sequence[Line]] = field(default_factory=dict)
    others: Sequence[Line] = ()

    def about(self, host: str) -> list[Line]:
        found = [line for line in (*self.by_name.get(host.lower(), ()), *self.others) if line.about(host)]
        return sorted(found, key=lambda line: line.number)


@lru_cache
def _pattern(name: str) -> re.Pattern[str]:
    """Only * and ? have a meaning there."""
    return re.compile(fnmatch.translate(name.replace("[", "[[]")))


def _hashed(name: str, host: str) -> bool:
    try:
        salt, wanted = (base64.b64decode(part, validate=True) for part in name.split("|")[2:4])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.digest(salt, host.encode(), hashlib.sha1), wanted)


def known(path: Path) -> Known:
    """Nothing when there is no such file. Read once for all nodes."""
    if not path.is_file():
        return Known()
    with _reading:
        return _read(path, path.stat().st_mtime_ns)


_reading = threading.Lock()  # the first of many threads reads


@lru_cache
def _read(path: Path, changed: int) -> Known:
    by_name: dict[str, list[Line]] = {}
    others: list[Line] = []
    for line in lines(path, path.read_bytes().decode(errors="replace")):
        if any(set(name) & set("*?!|") for name in line.names):
            others.append(line)
        else:
            for name in set(line.names):
                by_name.setdefault(name, []).append(line)
    return Known(by_name, others)


def lines(path: Path, text: str) -> Iterator[Line]:
    """Those that can be read. What follows the key is a comment."""
    for number, row in enumerate(text.split("\n"), 1):
        words = row.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#") or marker not in ("", REVOKED, AUTHORITY):
            continue
        names = tuple(name for name in words[0].split(",") if name)
        hashed = words[0].startswith("|")
        try:
            blob = base64.b64decode(words[2], validate=True)
        except (binascii.Error, ValueError):
            continue
        if names:
            yield Line(path, number, marker, names if hashed else tuple(map(str.lower, names)), words[1], blob)
