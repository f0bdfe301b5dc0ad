"""DRBD's options that decide whether data can be lost, as files give them. Pure. Source: drbd.conf-8.4(5).

An option of the common section holds for every resource that does not give the same one itself: seen in the drbdsetup
calls of `drbdadm --dry-run up`. (`drbdadm dump` prints both as they stand.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pmc.facts.drbd_conf import Part, read

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

_NO = "no-"  # as in no-disk-flushes, a word of 8.3, which drbdadm still takes


def said(statements: Iterable[Part]) -> dict[str, str]:
    """The options above that these give. One without a value is a yes."""
    found = {}
    for each in statements:
        key = each.key.removeprefix(_NO)
        if each.body is None and (key in _RIGHT or key in SECRET):
            found[key] = "no" if each.key.startswith(_NO) else " ".join(each.words[1:]) or "yes"
    return found


def common(text: str) -> dict[str, str]:
    """Those of its common sections."""
    found = dict[str, str]()
    for part in read(text).parts:
        if part.key == "common":
            found |= said(part.inside("skip", "handlers"))
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
