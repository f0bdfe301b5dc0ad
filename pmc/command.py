"""Commands as values: made in one place, quoted in one place, many questions framed into one round trip. Pure."""

from __future__ import annotations

import functools
import inspect
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, ParamSpec, TypeVar

T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")


@dataclass(frozen=True)
class Op:
    """What a command is: the function that made it (`lvm.remove`), and what that was given, by name."""

    make: Callable[..., Command]
    given: Mapping[str, Any]


@dataclass(frozen=True)
class Command:
    """One program with its arguments, never a shell string.

    `stdin` is text given to it. `secrets` are parts of `stdin` that print as ***: a secret travels only there,
    never in `argv`, which everyone on the node can see in ps. `long` marks a command that may take minutes and
    only changes what an earlier step made, so that Ctrl-C may end it midway. `printer` is a module of pmc that prints
    `stdin` (python -m), shown in its place where it is long. `op` is for who has to tell commands apart and must not
    read shell text for that, as the tests' model of the nodes; it changes nothing of what is run or shown.
    """

    argv: tuple[str, ...]
    stdin: str | None = field(default=None, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    long: bool = False
    printer: str = ""
    op: Op | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        """A line, or a here-document, that a person can paste into a shell on the node."""
        line = shlex.join(self.argv)
        if self.stdin is None:
            return line
        if self.printer:
            return f"python3 -m {self.printer} | {line}"
        return given(line, hidden(self.stdin, self.secrets))


def operation(make: Callable[P, Command]) -> Callable[P, Command]:
    """The commands that `make` makes say so (Command.op)."""
    names = inspect.signature(make)

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Command:
        bound = names.bind(*args, **kwargs)
        bound.apply_defaults()
        return replace(make(*args, **kwargs), op=Op(made, bound.arguments))

    return made


def given(line: str, text: str, expands: bool = False) -> str:
    """Shell text: the line with the text as its stdin, in which the shell `expands` variables."""
    end = "EOF"
    while end in text.split("\n"):  # or what follows it would be run as commands
        end += "_"
    word = end if expands else f"'{end}'"
    return f"{line} <<{word}\n{text.removesuffix(chr(10))}\n{end}"


def hidden(text: str, secrets: Iterable[str]) -> str:
    """Without them. A short one is hidden where it is a word of its own: else a password of one letter would take that
    letter out of all that is shown, and so be told."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        if len(secret) < SHORT:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
        else:
            text = text.replace(secret, "***")
    return text


SHORT = 6

# What a tool may say of a secret in its error: the line of a resource file, the drbdsetup call that drbdadm could not
# carry out (it names all its options), an attribute of a domain's XML, an option of virt-install's, and a secret as pmc
# makes them (48 hex digits).
_TOLD = re.compile(
    r"""(shared-secret(?:\s*=\s*|\s+)|\bpassw\w*=)(?:\\*"[^"\n]*"?|\\*'[^'\n]*'?|[^\s;>]+)|\b[0-9a-f]{48}\b"""
)


def masked(text: str, command: Command | None = None) -> str:
    """What a tool printed, fit to be shown: without the secrets of the command, and without any that can be told by
    its form, since a tool may read one from a file that an earlier command wrote."""
    text = hidden(text, command.secrets if command else ())
    return _TOLD.sub(lambda found: f"{found[1] or ''}***", text)


def command(*argv: str, stdin: str | None = None, secrets: tuple[str, ...] = (), long: bool = False) -> Command:
    return Command(argv, stdin, secrets, long)


def bash(
    script: str, *arguments: str, stdin: str | None = None, secrets: tuple[str, ...] = (), long: bool = False
) -> Command:
    """A pipeline. Values come only as `arguments` ($1, $2, ...), so that they need no quoting inside `script`;
    bash because `pipefail` is not in every /bin/sh, and a pipeline that hides a failed reader loses data."""
    return Command(("bash", "-euo", "pipefail", "-c", script, "pmc", *arguments), stdin, secrets, long)


def whole(path: str) -> str:
    """Shell text: the file at `path`, written from stdin, ends with a brace. When the manager dies the stdin of its
    last command ends early, which looks to the command like the end of the text."""
    return f'[[ $(tail -c 2 "{path}") = *"}}" ]] || {{ echo "its text did not come whole" >&2; exit 1; }}'


@dataclass(frozen=True)
class Query(Generic[T_co]):
    """A command that changes nothing, and the pure parser of its output.

    A tool that is missing or that fails is an error, never an empty answer; `fine` lists the exit statuses that
    are an answer (grep's 1 for "no line matched").
    """

    command: Command
    parse: Callable[[str], T_co]
    fine: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Answer:
    exit: int
    stdout: str
    stderr: str


# Sets what every command of ours expects: tools in sbin, and messages in English for the parsers.
ENVIRONMENT = "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin LC_ALL=C; export PATH LC_ALL"


def frame(commands: Sequence[Command], mark: str) -> str:
    """One script (for `sh -s`) that runs all `commands` in turn and says on both streams where each begins and
    ends. `mark` is a word that does not occur in their output."""
    parts = [ENVIRONMENT]
    for number, each in enumerate(commands):
        run = shlex.join(each.argv)
        source = "</dev/null" if each.stdin is None else f"<<'{mark}'\n{each.stdin}\n{mark}"
        parts += [
            f"echo {mark} {number}; echo {mark} {number} >&2",
            f"{run} {source}",
            f"status=$?; echo; echo {mark} {number} $status; {{ echo; echo {mark}; }} >&2",
        ]
    return "\n".join(parts) + "\n"


def begun(stdout: str, mark: str, count: int) -> int:
    """Of a script of `frame` that was ended: the command that it was at, by its number."""
    return max((n for n in range(count) if f"\n{mark} {n}\n" in f"\n{stdout}"), default=0)


def unframe(stdout: str, stderr: str, mark: str, count: int) -> list[Answer]:
    """The answers to the `count` commands of `frame`. Raises ValueError when the output is cut short or mixed with
    something else, as when a login script prints: better no answer than a wrong one."""
    stdout, stderr = f"\n{stdout}", f"\n{stderr}\n"
    answers = []
    for number in range(count):
        out, rest = _between(stdout, f"\n{mark} {number}\n", f"\n{mark} {number} ")
        status, newline, _ = rest.partition("\n")
        if out is None or not newline or not status.isdecimal():
            raise ValueError(f"the answer to question {number + 1} of {count} is incomplete: {stderr.strip()[-200:]}")
        err, _ = _between(stderr, f"\n{mark} {number}\n", f"\n{mark}\n")
        answers.append(Answer(int(status), out, err or ""))
    return answers


def _between(text: str, begin: str, end: str) -> tuple[str | None, str]:
    """What stands between these two, which may share a newline, and what follows; (None, "") when one is missing.
    (Regular expressions take ten times as long, for hundreds of nodes that is seconds.)"""
    start = text.find(begin)
    first = start + len(begin)
    stop = text.find(end, first - 1) if start >= 0 else -1
    return (text[first:stop], text[stop + len(end) : stop + len(end) + 8]) if stop >= 0 else (None, "")
