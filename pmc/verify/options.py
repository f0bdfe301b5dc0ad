"""DRBD's options that decide whether data can be lost, as files give them. Pure. Source: drbd.conf-8.4(5).

An option of the common section holds for every resource that does not give the same one itself: seen in the drbdsetup
calls of `drbdadm --dry-run up`. (`drbdadm dump` prints both as they stand.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# What is right, and what else is no danger. What none of them is: writes acknowledged too early (protocol), a side
# discarded by itself (after-sb-*, rr-conflict), both sides written, flushes that never reach the disk, a disk with
# errors that stays in use. disk-barrier is off by default and dangerous to turn on.
_RIGHT: Mapping[str, tuple[str, ...]] = {
    "protocol": ("C",),
    "allow-two-primaries": ("no",),
    "after-sb-0pri": ("disconnect",),
    "after-sb-1pri": ("disconnect",),
    "after-sb-2pri": ("disconnect",),
    "rr-conflict": ("disconnect", "retry-connect", "call-pri-lost"),
    "on-io-error": ("detach", "call-local-io-error"),
    "disk-flushes": ("yes",),
    "md-flushes": ("yes",),
    "disk-drain": ("yes",),
    "disk-barrier": ("no",),
}
# Without both of them any host that reaches the port may be the peer.
SECRET = ("cram-hmac-alg", "shared-secret")

Said = Mapping[str, str]

_OPTION = re.compile(rf"(?<![\w-])(no-)?({'|'.join((*_RIGHT, *SECRET))})(?![\w-])\s*([^;{{}}]*?)\s*;")


def said(text: str) -> dict[str, str]:
    """The options above that a text gives. One without a value is a yes; `no-disk-flushes` is the word of 8.3, which
    drbdadm still takes."""
    return {key: "no" if no else value.strip('"') or "yes" for no, key, value in _OPTION.findall(_bare(text))}


def _bare(text: str) -> str:
    """Without comments, and without what handlers are: commands in quotes."""
    words = re.compile(r'"[^"\n]*"|#.*')
    return words.sub(lambda found: found[0] if re.fullmatch(r'"[^;{}#]*"', found[0]) else "", text)


def common(text: str) -> dict[str, str]:
    """Those of its common sections."""
    text, found = _bare(text), dict[str, str]()
    for start in re.finditer(r"(?<![\w-])common\s*\{", text):
        depth, end = 1, start.end()
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        found |= said(text[start.end() : end])
    return found


def dangerous(options: Said) -> tuple[str, ...]:
    """The keys of those with which DRBD may lose data."""
    return tuple(key for key, value in options.items() if value not in _RIGHT.get(key, (value,)))


def shown(options: Said, *keys: str) -> str:
    return "; ".join(f"{key} {options[key]}" for key in keys)


def right(*keys: str) -> str:
    return "; ".join(f"{key} {_RIGHT[key][0]}" for key in keys)


def authenticated(options: Said) -> bool:
    return all(key in options for key in SECRET)
