"""What invoke's command line lacks: a positional argument that may be left out (`pm.ready_drbd [NODE]`, `vm.mv NAME |
--all-from NODE`); exit status 2, and words that help, for a line that it cannot parse; a flag whose value reads like
what it is (--size=SIZE).

Invoke offers no way to put in a parser of one's own under `fab`, so its ParseMachine is extended (`install`); the tests
hold this against the pinned invoke 2.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

import invoke.program
from invoke.completion.complete import complete
from invoke.exceptions import Exit
from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext
from invoke.parser.parser import ParseMachine
from invoke.tasks import Task

from pmc.errors import Refused
from pmc.plain import program, then

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
    task = getattr(machine.context, "name", None) or ""
    if unknown := re.fullmatch(r"No idea what (.+) is!", message, re.S):
        message = _unknown(machine, task, unknown[1])
    elif flag := re.fullmatch(r"Flag <Argument: (\w+)[^>]*> needed value and was not given one!", message):
        message = f"{task}: --{flag[1].strip('_').replace('_', '-')} needs a value"
    if len(message) > 300:  # a word that was never meant to be one
        message = f"{message[:200]}... {message[-80:]}"
    raise Refused(then(message, f"{program()} {f'{task} --help' if task else '--list'}"))


def _unknown(machine: Any, task: str, said: str) -> str:
    """`said`: the word as Python writes it."""
    word, flags = said[1:-1], [*machine.context.flags] if task else []
    if word.startswith("-"):
        text, known = f"{task or 'pmc'} has no flag {said}", flags
    elif task:
        text, known = f"{task}: {said} is one word too many", []
        if node := next((flag for flag in ("--to", "--on", "--secondary") if flag in flags), ""):
            text += f" (a node is given as {node} {word[:70]})"
    else:
        text, known = f"there is no task {said}", [*machine.contexts]
    alike = get_close_matches(word, known, 3) or [name for name in known if name.partition(".")[2] == word]
    return text + (f"; is it {' or '.join(alike)}?" if alike else "")


# What a flag's value is; what is not here is a number.
_VALUES = {
    **dict.fromkeys(("name", "clone", "as", "vm"), "NAME"),
    **dict.fromkeys(("primary", "secondary", "on", "all-from", "node", "keep", "dead"), "NODE"),
    **dict.fromkeys(("size", "memory", "bandwidth", "limit"), "SIZE"),
    **dict.fromkeys(("conf", "image", "iso"), "FILE"),
    "names": "NAME[,NAME...]", "nodes": "NODE[,NODE...]", "backup": "ID", "from": "DIRECTORY", "drop": "SNAPSHOT",
    "page": "PAGE",
    "address": "IPV4", "virt-install": "ARGUMENTS", "sync": "skip|full", "pause-after": "SECONDS",
}  # fmt: skip
_TO = {"vm.mv": "NODE", "vm.backup": "NODE|DIRECTORY", "vm.restore": "FILE"}


def _help_for(context: Any, flag: str, original: Any = ParserContext.help_for) -> tuple[str, str]:
    spec, text = original(context, flag)
    name = flag.lstrip("-")
    value = _TO.get(context.name, "NODE") if name == "to" else _VALUES.get(name, "NUMBER")
    return (spec.replace("=STRING", f"={value}") if _ours(context) else spec), text


def _ours(context: Any) -> bool:
    return any(hasattr(argument, PLACED) for argument in context.args.values())


_INVOKES = ParseMachine.error


def _complete(*args: Any, original: Any = complete, **how: Any) -> None:
    """For a line that is still being typed, into which nothing may be printed but words that go on with it. Invoke's
    own error tells it how far the line is understood; a quote may be open."""
    ParseMachine.error = _INVOKES  # type: ignore[method-assign]
    try:
        original(*args, **how)
    except ValueError:
        raise Exit from None
    finally:
        ParseMachine.error = _error  # type: ignore[method-assign,assignment]


def install() -> None:
    """For a command line: by `pmc`, and by what `fab` loads. A program that imports the tasks is left alone."""
    ParseMachine.handle = _handle  # type: ignore[method-assign,assignment]
    ParseMachine.error = _error  # type: ignore[method-assign,assignment]
    ParserContext.help_for = _help_for  # type: ignore[method-assign,assignment]
    invoke.program.complete = _complete  # type: ignore[attr-defined,assignment]
