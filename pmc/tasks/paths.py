"""Paths of this machine, as a person writes them. What cannot be one is refused in a line, with the flag."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pmc.errors import Refused


def here(flag: str, path: str) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:  # pathlib's, for ~ and for ~USER
        why = "this machine does not know whose home folder is meant"
    except OSError:
        why = "the folder that you are in is not there any more"
    raise Refused(f"{flag} {path[:200]!r}: {why}")


def is_folder(flag: str, path: Path) -> bool:
    return (seen := about(flag, path)) is not None and stat.S_ISDIR(seen.st_mode)


def is_file(flag: str, path: Path) -> bool:
    return (seen := about(flag, path)) is not None and stat.S_ISREG(seen.st_mode)


def about(flag: str, path: Path) -> os.stat_result | None:
    """None: there is no such thing. Refused is what cannot be told: of a name that is too long for a file, or in a
    folder that this user may not look into. (Path.exists and the like raise OSError, or say no, as Python's version
    has it.)"""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise Refused(f"{flag} {str(path)[:200]!r}: {why}") from None
