"""What a check is, and what it finds. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pmc.command import Query
from pmc.plan import Step
from pmc.settings import Settings


@dataclass(frozen=True)
class About:
    """What a check is made for: the node as pmc.conf has it, and between which two moments of the manager's clock
    (seconds since 1970) it was asked."""

    node: str
    settings: Settings
    asked: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Verdict:
    ok: bool
    text: str
    advice: str = ""  # what a person does about it
    steps: tuple[Step, ...] = ()  # what --fix does about it
    partly: bool = False  # the steps are not all that is needed


def good(text: str) -> Verdict:
    return Verdict(True, text)


def bad(text: str, advice: str, *steps: Step) -> Verdict:
    return Verdict(False, text, advice, steps)


@dataclass(frozen=True)
class Check:
    """`missing` is the advice when the question itself failed: mostly a tool that is not installed."""

    name: str
    query: Callable[[About], Query[object]]
    judge: Callable[[Any, About], Verdict]
    missing: str = ""


@dataclass(frozen=True)
class Finding:
    """One line of pm.init."""

    node: str
    check: str
    verdict: Verdict

    def json(self) -> dict[str, object]:
        its = self.verdict
        return {
            "node": self.node, "check": self.check, "ok": its.ok, "text": its.text, "advice": its.advice,
            "fix": [str(step.do) for step in its.steps],
        }  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """One node as it was asked: the answers in the order of CHECKS, or why there are none."""

    about: About
    answers: tuple[Any, ...] = field(default=(), repr=False)
    down: str = ""
    prints: str = ""  # what a login script printed


def parse_yes(text: str) -> bool:
    if text.strip() not in ("yes", "no"):
        raise ValueError("neither yes nor no")
    return text.strip() == "yes"
