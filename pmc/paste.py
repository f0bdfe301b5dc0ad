"""Plans as lines for bash on the manager: what --dry-run prints. Pure.

Each line reaches its node by itself. ssh gives what stands behind `--` to the node's shell; it is quoted for that one
as pmc quotes it, and then once more for the shell here. Locks, deadlines and progress are pmc's own and are not in it,
and nothing is undone when a line fails: then all of it ends.

A line is shown as it is: only in comments is a command of ours advised, and made fit for a terminal. What is unfit in a
command stands there as its bytes ($'\\x1b'), so that what is pasted is what runs.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from pmc.actions import Fetch, Relay, Transfer, Wait
from pmc.command import SHORT, Command, given
from pmc.plain import advice, plain, word
from pmc.plan import Plan, Step

# As pmc makes a secret of DRBD's.
MADE = "$(head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \\n')"


@dataclass(frozen=True)
class Way:
    """How the manager's shell reaches a node: ssh with its options and the address. Without `ssh` it is the manager.
    `sudo`: it logs in as somebody else than root."""

    ssh: tuple[str, ...] = ()
    sudo: bool = False


def script(plans: Sequence[Plan], way: Callable[[str], Way], python: str, first: Sequence[str] = ()) -> str:
    """In a subshell of its own, which ends with the first line that fails; a terminal's shell stays. `way` is asked for
    each node, `python` runs pmc's modules here, `first` are lines to begin with."""
    if not any(plan.steps for plan in plans):
        return "\n".join(_title(plan) for plan in plans)
    names = _names([step for plan in plans for step in plan.steps])
    lines = ["(set -e", *first, *(_secret(name) for name in names.values())]
    for plan in plans:
        lines.append(_title(plan))
        for number, step in enumerate(plan.steps, 1):
            lines += [comment(f"{number}. {step.node}: {step.note}"), *_lines(step, _Shell(way, python, names))]
    return "\n".join([*lines, ")"])


def _title(plan: Plan) -> str:
    return comment(f"{plan.title}: {len(plan.steps)} steps")


def comment(text: str) -> str:
    """Of one line, whatever the text has in it: what followed would be run."""
    return f"# {advice(plain(' '.join(text.split())))}"


@dataclass(frozen=True)
class _Shell:
    way: Callable[[str], Way]
    python: str
    names: dict[str, str]  # of the variables in place of secrets

    def on(self, node: str, command: Command, fed: bool = False) -> str:
        """The command on the node, without its stdin. `fed`: something is its stdin; else ssh would take the lines that
        are still to be pasted."""
        way, argv = self.way(node), command.argv
        if not way.ssh:
            return " ".join(map(word, argv))
        if {"bash", "sh"} & set(argv):  # a script may read what a tool says: in English
            argv = ("env", "LC_ALL=C", *argv)
        argv = ("sudo", "-n", "--", *argv) if way.sudo else argv
        line = shlex.join(argv)
        ssh = shlex.join([way.ssh[0], *(() if fed else ("-n",)), *way.ssh[1:], "--"])
        return f"{ssh} {line if line == ' '.join(argv) else word(line)}"

    def run(self, node: str, command: Command) -> str:
        if command.stdin is None:
            return self.on(node, command)
        line = self.on(node, command, fed=True)
        if command.printer:
            return f"{self.python} -m {command.printer} | {line}"
        names = {each: self.names[each] for each in command.secrets if each in self.names}
        if plain(command.stdin) != command.stdin:  # a here-document has no way to write what is unfit
            return f"{line} <<<{_joined(command.stdin.removesuffix(chr(10)), names)}"
        if not names:
            return given(line, command.stdin)
        return given(line, _expanding(command.stdin, names), True)


def _lines(step: Step, shell: _Shell) -> Iterator[str]:
    action = step.do
    if isinstance(action, Command):
        yield shell.run(step.node, action)
    elif isinstance(action, Wait):
        yield action.line(shell.on(step.node, action.ask))
    elif isinstance(action, Transfer):
        yield f"{shell.on(step.node, action.target, fed=True)} <{word(action.source)}"
    elif isinstance(action, Fetch):
        target = PurePath(action.target)
        part, whole = word(str(target.with_name(f".{target.name}.part"))), word(str(target))
        size = f'[ "$(stat -c %s {part})" = {action.size} ] && ' if action.size else ""
        alone = f"umask 077; set -C; rm -f {part}"  # nobody reads it, nor has put something else in its place
        yield f"({alone}; {shell.on(step.node, action.source)} >{part} && {size}mv {part} {whole})"
    elif isinstance(action, Relay):
        yield f"said=$({shell.on(action.source, action.reader)})"
        yield f'{shell.on(step.node, action.target, fed=True)} <<<"$said"'


def _names(steps: Sequence[Step]) -> dict[str, str]:
    """Of each secret that is in a text of theirs: its variable."""
    found: dict[str, str] = {}
    for step in steps:
        if isinstance(step.do, Command) and step.do.stdin:
            for secret in _words(step.do.secrets).findall(step.do.stdin) if any(step.do.secrets) else ():
                kind = "secret" if f'shared-secret "{secret}"' in step.do.stdin else "password"
                many = sum(name.startswith(kind) for name in found.values())
                found.setdefault(secret, kind + (str(many + 1) if many else ""))
    return found


def _secret(name: str) -> str:
    """DRBD's are chosen by who makes the resource. Those in a domain's definition are a person's."""
    if name.startswith("secret"):
        return f"{name}={MADE}"
    said = "is a password in the definition of the VM, which is not shown; set this variable to it, as it stands there"
    return f': "${{{name}:?{said} (&amp; for &)}}"'


def _words(secrets: Iterable[str]) -> re.Pattern[str]:
    """(Of a short secret see command.hidden.)"""
    words = (
        rf"(?<!\w){re.escape(each)}(?!\w)" if len(each) < SHORT else re.escape(each)
        for each in sorted(filter(None, secrets), key=len, reverse=True)
    )
    return re.compile(f"({'|'.join(words)})")


def _expanding(text: str, names: dict[str, str]) -> str:
    """For a here-document in which variables stand for the secrets, and nothing else is expanded."""
    return "".join(
        f"${{{names[part]}}}" if number % 2 else re.sub(r"([\\$`])", r"\\\1", part)
        for number, part in enumerate(_words(names).split(text))
    )


def _joined(text: str, names: dict[str, str]) -> str:
    """As `_expanding`, as one word."""
    parts = _words(names).split(text) if names else [text]
    return "".join(f'"${{{names[part]}}}"' if number % 2 else word(part) for number, part in enumerate(parts) if part)
