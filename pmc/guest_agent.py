"""A guest's file systems, frozen for the moment of a snapshot by its guest agent. Pure. Source: virsh(1), domfsfreeze.

The node itself thaws when nobody did in time: a manager that dies in between must not leave a guest that cannot write.
That watch runs under nobody's lock, maybe while another command freezes the guest anew: so who looks whose freeze it is
and then acts on it does both alone (flock).
"""

from __future__ import annotations

from pmc.command import Command, Query, bash, operation
from pmc.virsh import CONNECT, virsh

SECONDS = 30  # after which the node thaws
VIRSH = " ".join(CONNECT)


def agent(name: str) -> Query[bool]:
    """Whether a guest agent answers in the running guest. One that is not there says so at once; a busy one may
    take its time."""
    ping = virsh("qemu-agent-command", name, '{"execute": "guest-ping"}', "--timeout", "20")
    return Query(ping, lambda text: '"return"' in text, fine=(0, 1))


def path(name: str) -> str:
    return f"/run/pmc/{name}.frozen"


def _alone(path: str) -> str:
    """Shell text (bash): from here on, until the end of the command."""
    return f'exec {{own}}>>"{path}.lock"; flock $own'


@operation
def freeze(name: str, token: str) -> Command:
    """The watch over it begins first. `token` tells this freeze from any other."""
    watch = (
        f'sleep "$1"; for n in {{1..20}}; do {_alone("$2")}; [ "$(cat "$2" 2>/dev/null)" = "$3" ] || exit 0; '
        f'if {VIRSH} domfsthaw "$4"; then rm -f "$2"; exit 0; fi; exec {{own}}>&-; sleep 3; done'
    )
    script = (
        f'umask 077; mkdir -p "${{2%/*}}"; {_alone("$2")}; printf "%s\\n" "$3" >"$2"; '
        f'setsid -f bash -c "$5" pmc "$@" </dev/null >/dev/null 2>&1 {{own}}>&-; exec {VIRSH} domfsfreeze "$4"'
    )
    return bash(script, str(SECONDS), path(name), token, name, watch)


@operation
def thaw(name: str) -> Command:
    """On every way out, also while something else hangs; of one that is not frozen it thaws nothing. When it fails the
    watch is still there."""
    return bash(f'{VIRSH} domfsthaw "$2"; rm -f "$1"', path(name), name)


@operation
def thaw_in_time(name: str, token: str) -> Command:
    """Fails when the node had thawed already: then the snapshot may be of a guest that wrote."""
    script = (
        f'late=; mkdir -p "${{1%/*}}"; {_alone("$1")}; [ "$(cat "$1" 2>/dev/null)" = "$3" ] || late=1; '
        f'{VIRSH} domfsthaw "$2"; rm -f "$1"; '
        '[ -z "$late" ] || { echo "the snapshot took too long, the guest was thawed before" >&2; exit 1; }'
    )
    return bash(script, path(name), name, token)
