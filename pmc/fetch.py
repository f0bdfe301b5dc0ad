"""A file of the manager that comes from a node: under another name until it is whole, with holes where it is zeros."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pmc.errors import CommandFailed
from pmc.plan import Fetch


@contextmanager
def fetched(node: str, action: Fetch) -> Iterator[Callable[[bytes], int]]:
    """Takes its blocks in order, each as many bytes as it says. Raises CommandFailed when the manager has no room."""
    target = Path(action.target)
    part = target.with_name(f".{target.name}.part")
    try:
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:

            def take(block: bytes) -> int:
                try:
                    if block.count(0) == len(block):
                        file.seek(len(block), os.SEEK_CUR)
                    else:
                        file.write(block)
                except OSError as error:  # or it would be taken for an error of the connection
                    raise CommandFailed(node, str(action), 1, f"{part}: {error.strerror or error}") from None
                return len(block)

            yield take
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
            if action.size and file.tell() != action.size:
                raise CommandFailed(node, str(action), 1, f"{file.tell()} bytes came, not {action.size}")
        part.replace(target)
    except OSError as error:
        raise CommandFailed(node, str(action), 1, f"{part}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
