# SPDX-License-Identifier: GPL-3.0-or-later
"""ssh keys, made once for a user's cache, so that images and known_hosts agree."""

from __future__ import annotations

from pathlib import Path

from lab import paths
from lab.recipe import NODES
from lab.run import run


def folder() -> Path:
    """Holds id_ed25519 (opens every node) and host1 ... host4 (what the nodes prove themselves with)."""
    found = paths.folder(paths.cache() / "ssh")
    with paths.locked(found / "lock", "makes ssh keys"):
        make(found / "id_ed25519", "pmc-lab")
        for node in range(1, NODES + 1):
            make(found / f"host{node}", f"pm-{node}")
    return found


def make(file: Path, comment: str) -> None:
    if not file.with_suffix(".pub").exists():
        file.unlink(missing_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(file)])


def public() -> str:
    return "".join(file.read_text() for file in sorted(folder().glob("*.pub")))
