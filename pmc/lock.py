"""Locks that live on the nodes: flock(1) files in /run, held by an ssh session as long as the command runs. Pure.

Two files for each lock. NAME.lock is held, exclusively, by the session of the manager; when the manager dies the
session ends and the lock is free. NAME.busy is held, shared, by every command that a step runs on the node: a dead
manager's last command may run on, and whoever comes next waits for its end, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pmc.command import Command, bash

FOLDER = "/run/pmc"
# A VM's name begins with a letter, so no VM's lock has these names.
ALLOCATION = "0-allocation"  # of what must be unique in the cluster: minor, port, MAC address
INIT = "0-init"  # of what the nodes are set up with
WORDS = {ALLOCATION: "the numbers for new VMs", INIT: "pm.init --fix"}
SILENCE = 60  # seconds without a sign of the manager after which a node lets go: it lost power, or its network
BEAT = 5.0  # seconds between two signs


@dataclass(frozen=True)
class Holder:
    """Who has a lock. `since` is ISO 8601, UTC."""

    who: str
    pid: int
    since: str
    what: str

    def __str__(self) -> str:
        return f"{self.who} (process {self.pid}) since {self.since} for: {self.what}"


def to_line(holder: Holder) -> str:
    return json.dumps({"who": holder.who, "pid": holder.pid, "since": holder.since, "what": holder.what})


def hold(holder: Holder, names: Sequence[str], again: bool = False) -> Command:
    """Takes all the locks `names` or none, says `locked`, and keeps them until its stdin ends or is silent. Otherwise
    it says `held NAME HOLDER` or `busy NAME HOLDER`, and ends. `again`: the holder had them and lost them; when
    somebody else had one since, who may have changed all that the holder saw, it says `since NAME HOLDER`."""
    script = (
        'umask 077; mkdir -p "$1"; cd "$1"; said=$2 again=$3; shift 3; for n; do '
        'exec {lock}>>"$n.lock" {busy}>>"$n.busy"; '
        'flock -n $lock || { echo "held $n $(head -c 2000 "$n.lock")"; exit 0; }; '
        'flock -n $busy || { echo "busy $n $(head -c 2000 "$n.lock")"; exit 0; }; '
        'was=$(<"$n.lock"); [[ -z $again || -z $was || $was = "$said" ]] || { echo "since $n $was"; exit 0; }; '
        "exec {busy}>&-; done; "
        'for n; do printf "%s\\n" "$said" >"$n.lock"; done; '
        f"echo locked; while read -r -t {SILENCE} _; do :; done"
    )
    return bash(script, FOLDER, to_line(holder), "again" if again else "", *names)


def file(name: str) -> str:
    return f"{FOLDER}/{name}.lock"


def busy(names: Sequence[str]) -> tuple[str, ...]:
    """What stands before a command's argv, so that its end is waited for. -o: a daemon that the command starts does not
    inherit the lock."""
    return tuple(word for name in names for word in ("flock", "--shared", "--close", f"{FOLDER}/{name}.busy"))


def pattern(name: str) -> str:
    """For pgrep(1), of procps: the timeout(1) that a step's command runs under. Sent a signal, it passes it on. (To end
    the flock(1) instead, which fuser and lslocks name, would only let the lock go.)"""
    return f"'^timeout .*/{name}[.]busy '"


@dataclass(frozen=True)
class Refusal:
    """`kind` is held (another manager is at work), busy (it is gone, its last command still runs) or since (another one
    was at work while this one's connection was lost)."""

    kind: str
    name: str
    holder: str


def parse(line: str) -> Refusal | None:
    """The answer of `hold`; None when the locks are taken. Raises ValueError for anything else."""
    kind, _, rest = line.strip().partition(" ")
    if kind == "locked" and not rest:
        return None
    if kind not in ("held", "busy", "since"):
        raise ValueError(f"neither locked nor refused: {line[:200]!r}")
    name, _, said = rest.partition(" ")
    try:
        table = json.loads(said)
        holder = str(Holder(str(table["who"]), int(table["pid"]), str(table["since"]), str(table["what"])))
    except (ValueError, KeyError, TypeError):
        holder = "somebody who has not yet said who"
    return Refusal(kind, name, holder)


def twice(node: str, source: str) -> str:
    """When it is this very command that has the lock: it asked the same machine before, under another name."""
    return (
        f"{node}: is the same machine as another node of {source}, where this command has the lock already; leave one "
        f"of the two names out (ssh {node} hostname tells which is right)"
    )


def told(refusal: Refusal, node: str) -> str:
    name = WORDS.get(refusal.name, refusal.name)
    if refusal.kind == "busy":
        return (
            f"{name}: a command on {node} still runs, of a manager that is gone: {refusal.holder}; it has a deadline; "
            f"to see it there: pgrep -af {pattern(refusal.name)}; to end it: pkill -INT -f {pattern(refusal.name)}"
        )
    if refusal.kind == "since":
        return f"{name}: was locked on {node}, while the connection was lost, by {refusal.holder}; look what it did"
    return f"{name}: locked on {node} by {refusal.holder}"
