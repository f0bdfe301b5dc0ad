"""Files of the manager that go to a node, or come from one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pmc.actions import Fetch, Transfer, identity
from pmc.errors import CommandFailed


@contextmanager
def given(node: str, action: Transfer) -> Iterator[IO[bytes]]:
    """The file, open. Raises CommandFailed unless it is still the one that was checked, before and after it was read:
    its owner may exchange it meanwhile."""
    try:
        file = open(action.source, "rb")  # noqa: SIM115
    except OSError as error:
        raise CommandFailed(node, str(action), 1, f"{action.source}: {error.strerror or error}") from None
    with file:
        _unchanged(node, action, file)
        yield file
        _unchanged(node, action, file)
        if file.tell() != action.size:
            said = f"{action.source} has changed: {file.tell()} bytes, not {action.size}"
            raise CommandFailed(node, str(action), 1, said)


def _unchanged(node: str, action: Transfer, file: IO[bytes]) -> None:
    if action.file and identity(os.fstat(file.fileno())) != action.file:
        raise CommandFailed(node, str(action), 1, f"{action.source} has changed since it was looked at; try again")


@contextmanager
def fetched(node: str, action: Fetch) -> Iterator[Callable[[bytes], int]]:
    """Takes its blocks in order, each as many bytes as it says: under another name until it is whole, with holes where
    it is zeros. Raises CommandFailed when the manager has no room, or as soon as more comes than was promised."""
    target, most = Path(action.target), action.size or action.most
    part = target.with_name(f".{target.name}.part")
    try:
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:

            def take(block: bytes) -> int:
                if file.tell() + len(block) > most:
                    raise CommandFailed(node, str(action), 1, f"more than {most} bytes came, which is too much")
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
