"""The sum that a manifest has over itself. Pure; runs on the nodes, too, as pmc/remote/stream.py does."""

from __future__ import annotations

import hashlib
import json

DAMAGED = 65  # exit status (EX_DATAERR of sysexits.h) of who read a disk that is not the one that its manifest names


def manifest_sum(table: dict[str, object]) -> str:
    """SHA-256 of all else that it says, in one fixed form of JSON."""
    rest = {key: value for key, value in table.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
