"""Locks that live on the nodes: flock(1) files in /run, held by an ssh session as long as the command runs. Pure.

Two files for each lock. NAME.lock is held, exclusively, by the session of the manager; when the manager dies the
session ends and the lock is free. NAME.busy is held, shared, by every command that a step runs on the node: a dead
manager's last command may run on, and whoever comes next waits for its end, too.

A link that is cut holds a step up on its way, and the node lets go meanwhile. So each step proves, when it runs there,
that its manager has the lock: NAME.lock says whose it is, by a token that no other lock ever had, and the step compares
it while it holds NAME.busy. Who takes the lock holds NAME.busy alone until its own token stands in NAME.lock. Hence:

- a step that began is waited for (busy), one that comes too late does nothing (another token, or `-`: let go);
- what undoes a step is a step, and so is the question whether one took effect.

What a step reads on another node, by ssh from the one where it runs (a backup's snapshot, a backup), needs no token
there: it changes nothing, and what it read is proved afterwards, by a step on that node or by a checksum. A migration
changes its target through libvirt: the step before it is the target's own, and nobody gets a VM's lock without the
source, which answers to the manager that migrates.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pmc.command import Command, bash
from pmc.plain import one_line

FOLDER = "/run/pmc"
# No VM has these names (names.py), so no VM's lock has them.
ALLOCATION = "0-allocation"  # of what must be unique in the cluster: minor, port, MAC address
INIT = "0-init"  # of what the nodes are set up with
METADATA = "0-metadata"  # of a thin pool's metadata, while they are read
WORDS = {ALLOCATION: "the numbers for new VMs", INIT: "pm.init --fix", METADATA: "a thin pool's metadata"}
SILENCE = 60  # seconds without a sign of the manager after which a node lets go: it lost power, or its network
BEAT = 5.0  # seconds between two signs


@dataclass(frozen=True)
class Holder:
    """Who has a lock. `since` is ISO 8601, UTC; `token` is of one lock of one command."""

    who: str
    pid: int
    since: str
    what: str
    token: str = ""

    def __str__(self) -> str:
        return f"{self.who} (process {self.pid}) since {self.since} for: {self.what}"


def to_line(holder: Holder) -> str:
    """The token comes first: a step finds it at the begin of the line, where nothing else can stand."""
    return json.dumps(
        {"token": holder.token, "who": holder.who, "pid": holder.pid, "since": holder.since, "what": holder.what}
    )


# Two open files for a lock are held, one for a lock is proved, and the usual limit (getrlimit(2)) is 1,024.
_MANY = 'ulimit -Sn "$(ulimit -Hn)" 2>/dev/null || :; '


def hold(holder: Holder, names: Sequence[str], again: bool = False) -> Command:
    """Takes all the locks `names` or none, says `locked`, and keeps them until its stdin ends or is silent; then its
    line in NAME.lock gets a `-` before it. Otherwise it says `held NAME HOLDER` or `busy NAME HOLDER`, and ends.
    `again`: the holder had them and lost them; when somebody else had one since, who may have changed all that the
    holder saw, it says `since NAME HOLDER`."""
    script = (
        f"{_MANY}"
        'umask 077; mkdir -p "$1"; cd "$1"; said=$2 again=$3 all=(); shift 3; for n; do '
        'exec {lock}>>"$n.lock" {busy}>>"$n.busy"; all+=($busy); '
        'flock -n $lock || { echo "held $n $(head -c 2000 "$n.lock")"; exit 0; }; '
        'flock -n $busy || { echo "busy $n $(head -c 2000 "$n.lock")"; exit 0; }; '
        'was=$(<"$n.lock"); [[ -z $again || -z $was || ${was#-} = "$said" ]] || { echo "since $n $was"; exit 0; }; '
        "done; "
        # No step of another manager begins before it can see that this one has the lock.
        'for n; do printf "%s\\n" "$said" >"$n.lock"; done; for busy in "${all[@]}"; do exec {busy}>&-; done; '
        f"echo locked; while read -r -t {SILENCE} _; do :; done; "
        'for n; do printf "%s\\n" "-$said" >"$n.lock"; done'
    )
    return bash(script, FOLDER, to_line(holder), "again" if again else "", *names)


def file(name: str) -> str:
    return f"{FOLDER}/{name}.lock"


Proof = tuple[str, str]  # the name of a lock and the token of who has it

FENCED = 97  # exit status: the lock is not this manager's, and nothing ran
# The locks come as pairs FILE TOKEN, their number before them. Not flock(1) COMMAND: a signal ends that before its
# command, whose end is waited for here. A daemon that the command starts does not inherit the locks.
FENCE = (
    f"n=$1 all=(); shift; [ $n -lt 200 ] || {{ {_MANY}}}; "
    'for ((; n; n--)); do exec {busy}>>"$1" && flock --shared $busy || exit; all+=($busy); '
    'was=$(<"${1%.busy}.lock") || exit; '
    """[[ $was = '{"token": "'"$2"'"'* ]] || { printf 'fenced %s %s\\n' "$1" "${was:0:2000}" >&2; """
    f"exit {FENCED}; }}; shift 2; done; "
    '(for busy in "${all[@]}"; do exec {busy}>&-; done; exec "$@"); exit $?'
)


def fence(proofs: Sequence[Proof]) -> tuple[str, ...]:
    """What stands before a command's argv: it runs only when its manager has these locks on the node (else it ends
    with FENCED), and who takes one of them later waits for its end."""
    if not proofs:
        return ()
    pairs = (word for name, token in proofs for word in (f"{FOLDER}/{name}.busy", token))
    return ("bash", "-c", FENCE, "pmc", str(len(proofs)), *pairs)


def fenced(stderr: str) -> Refusal | None:
    """Who has the lock, in the words of a command that ended with FENCED; None: it was its own status."""
    found = re.search(rf"^fenced {re.escape(FOLDER)}/(\S+)[.]busy ?(.*)$", stderr, re.M)
    return _refusal("lost", found[1], found[2]) if found else None


def pattern(name: str) -> str:
    """For pgrep(1), of procps: the timeout(1) that a step's command runs under. Sent a signal, it passes it on. (To end
    the shell below it, which fuser and lslocks name, would only let the lock go.)"""
    return shlex.quote(f"^timeout .*/{name}[.]busy ")


@dataclass(frozen=True)
class Refusal:
    """`kind` is held (another manager is at work), busy (it is gone, its last command still runs), since (another one
    was at work while this one's connection was lost) or lost (a step came too late). `token` is the holder's."""

    kind: str
    name: str
    holder: str
    token: str = ""


def parse(line: str) -> Refusal | None:
    """The answer of `hold`; None when the locks are taken. Raises ValueError for anything else."""
    kind, _, rest = line.strip().partition(" ")
    if kind == "locked" and not rest:
        return None
    if kind not in ("held", "busy", "since"):
        raise ValueError(f"neither locked nor refused: {line[:200]!r}")
    name, _, said = rest.partition(" ")
    return _refusal(kind, name, said)


def _refusal(kind: str, name: str, said: str) -> Refusal:
    token = ""
    try:
        table = json.loads(said.removeprefix("-"))
        token = str(table.get("token", ""))
        holder = one_line(str(Holder(str(table["who"]), int(table["pid"]), str(table["since"]), str(table["what"]))))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        holder = "somebody who has not yet said who"
    return Refusal(kind, one_line(name), holder, token)


def twice(node: str, source: str) -> str:
    """When it is this very command that has the lock: it asked the same machine before, under another name."""
    return (
        f"{node}: is the same machine as another node of {source}, where this command has the lock already. Leave one "
        f"of the two names out (ssh {node} hostname tells which is right)"
    )


def told(refusal: Refusal, node: str) -> str:
    name = WORDS.get(refusal.name, refusal.name)
    if refusal.kind == "busy":
        return (
            f"{name}: a command of a manager that is gone still runs on {node}: {refusal.holder}. It ends at its "
            f"deadline. To see it there: pgrep -af {pattern(refusal.name)}; to end it: pkill -INT -f "
            f"{pattern(refusal.name)}"
        )
    if refusal.kind == "since":
        return f"{name}: was locked on {node}, while the connection was lost, by {refusal.holder}. Look what it did"
    if refusal.kind == "lost":
        return (
            f"nothing ran: {name} is not locked for this command any more on {node}, which heard nothing of it for "
            f"{SILENCE} s. The latest to have it: {refusal.holder}. Look what it did"
        )
    return f"{name}: locked on {node} by {refusal.holder}"
