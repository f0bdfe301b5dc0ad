"""Two things that invoke's command line lacks: a positional argument that may be left out (`pm.ready_drbd [NODE]`,
`vm.mv NAME | --all-from NODE`), and exit status 2 for a line that it cannot parse (it says 1).

Invoke offers no way to put in a parser of one's own under `fab`, so its ParseMachine is extended (`install`); the tests
hold this against the pinned invoke 2.
"""

from __future__ import annotations

import re
from typing import Any

from invoke.parser.argument import Argument
from invoke.parser.parser import ParseMachine
from invoke.tasks import Task

from pmc.errors import Refused

PLACED = "may_be_given_by_place"


class ClusterTask(Task[Any]):
    """A task whose first parameter after the context, when named in `place`, may be given without its flag."""

    place: str = ""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        arguments: list[Argument] = super().get_arguments(ignore_unknown_help)
        for argument in arguments:
            setattr(argument, PLACED, self.place in (argument.attr_name, argument.name))
        return arguments


def _handle(machine: Any, token: str, original: Any = ParseMachine.handle) -> None:
    context = machine.context
    if context is not None and machine.current_state == "context" and not machine.waiting_for_flag_value:
        free = [a for a in context.args.values() if getattr(a, PLACED, False) and a.raw_value is None]
        if free and not token.startswith("-") and token not in machine.contexts:
            free[0].value = token
            return
    original(machine, token)


def _error(machine: Any, message: str) -> None:
    context = getattr(machine.context, "name", None)
    if len(message) > 200:  # a word that was never meant to be one
        message = f"{message[:150]}... {message[-30:]}"
    message = re.sub(r"<Argument: (\w+)[^>]*>", lambda flag: "--" + flag[1].replace("_", "-"), message)
    raise Refused(f"{message} Try: {f'--help {context}' if context else '--list'}")


def install() -> None:
    """For a command line: by `pmc`, and by what `fab` loads. A program that imports the tasks is left alone."""
    ParseMachine.handle = _handle  # type: ignore[method-assign,assignment]
    ParseMachine.error = _error  # type: ignore[method-assign,assignment]
