# SPDX-License-Identifier: GPL-3.0-or-later
"""A line a phase, with its seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def phase(text: str) -> Iterator[None]:
    print(f"  {text} ...", end="", flush=True)
    begin = time.monotonic()
    try:
        yield
    except BaseException:
        print(" failed", flush=True)
        raise
    print(f" {time.monotonic() - begin:.1f} s", flush=True)
