"""How tests tell errors apart: by the rule that refused and the facts that a person needs, not by its words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from pmc.errors import PmcError

E = TypeVar("E", bound=PmcError)


@contextmanager
def raises(kind: type[E], rule: str, *facts: str) -> Iterator[pytest.ExceptionInfo[E]]:
    """As pytest.raises: the error is of this kind, its `rule` is this one, and its message has each fact: a name, a
    value, a state in DRBD's words, a flag, a command to paste."""
    with pytest.raises(kind) as caught:
        yield caught
    said = str(caught.value)
    assert caught.value.rule == rule, f"{caught.value.rule} refused: {said}"
    assert not [fact for fact in facts if fact not in said], f"not in: {said}"
