# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab says when it cannot do what was asked: one line, exit status 2, never a traceback."""

from invoke.exceptions import Exit


class LabError(Exit):
    """Invoke prints the message on stderr and leaves with the code."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=2)
