"""Node-to-node ssh as root, which migration and backup use. Pure.

Each node must know the other's host keys and be let in by its own key. Host keys come over the manager's connection to
the node, which it has verified; they are never asked of the network (ssh-keyscan) nor accepted unseen, and one that is
known and differs is never replaced: a person must look.

A node's key is worth root on the others, so it lets in from that node's addresses only, and for commands only (sshd(8),
AUTHORIZED_KEYS: `restrict`): a migration runs virt-ssh-helper or nc, also a tunnelled one; a backup dd.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pmc.actions import Relay
from pmc.command import Command, Query, bash, command, operation
from pmc.health.node_checks import Finding, Verdict, bad, good
from pmc.plan import Step
from pmc.plans import node_files
from pmc.settings import NodeSettings, Settings
from pmc.units import count

AUTHORIZED, KNOWN, KEY = "/root/.ssh/authorized_keys", "/root/.ssh/known_hosts", "/root/.ssh/id_ed25519"
_PUBLIC = re.compile(
    r"((?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]{1,60}) ([A-Za-z0-9+/]{1,8000}={0,3})(?= |$)", re.ASCII
)


@dataclass(frozen=True)
class Keys:
    """What one node said. A key is 'TYPE BASE64', without its comment."""

    own: tuple[str, ...] = ()  # root's, those that ssh can use without a passphrase
    locked: tuple[str, ...] = ()  # root's key files that it cannot use
    host: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()  # lines of authorized_keys
    known: Mapping[str, frozenset[str]] = field(default_factory=dict)  # host keys by address or name
    tried: Mapping[str, tuple[int, str]] = field(default_factory=dict)  # peer -> ssh's exit status, what it said
    comes: Mapping[str, str] = field(default_factory=dict)  # peer -> the address from which it reaches that one


# How many peers a node tries at the same time: their sshd turns some away when too many come at once (MaxStartups).
AT_ONCE = 8
# Seconds that a peer may take to speak, and to answer.
SPEAK, ANSWER = 5, 20


def longest(peers: Sequence[NodeSettings]) -> float:
    """Seconds after which all peers have been tried, even if each of them hangs."""
    return -(-len(peers) // AT_ONCE) * (ANSWER + 1)


def query(peers: Sequence[NodeSettings]) -> Query[Keys]:
    """The keys of a node, and whether ssh from it to its peers works. One that is down keeps only itself waiting."""
    script = """
        most=$1 speak=$2 answer=$3; shift 3
        for f in /root/.ssh/id_ed25519 /root/.ssh/id_ecdsa /root/.ssh/id_rsa; do
            [ -e $f ] || continue
            if p=$(ssh-keygen -y -P "" -f $f 2>/dev/null </dev/null); then echo "own $p"; else echo "locked $f"; fi
        done
        sed "s/^/host /" /etc/ssh/ssh_host_*_key.pub
        if [ -e /root/.ssh/authorized_keys ]; then sed "s/^/allowed /" /root/.ssh/authorized_keys; echo; fi
        for peer; do
            echo "comes ${peer%%=*} $({ ip -o route get "${peer#*=}" 2>/dev/null || :; } | grep -o " src [^ ]*" || :)"
            for who in "${peer%%=*}" "${peer#*=}"; do
                for f in /root/.ssh/known_hosts /etc/ssh/ssh_known_hosts; do
                    { ssh-keygen -F "$who" -f $f 2>/dev/null || :; } | sed -e "/^[#@]/d" -e "s/^/known $who /"
                done
            done
        done
        [ $# -eq 0 ] || printf "%s\\n" "$@" | xargs -d "\\n" -P $most -n 1 bash -c '
            s=0
            said=$(timeout -k 1 $2 ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o UpdateHostKeys=no \\
                -o ConnectTimeout=$1 "root@${3#*=}" true 2>&1 </dev/null) || s=$?
            [ $s -ne 124 ] || said="no answer within $2 s"
            echo "tried ${3%%=*} $s $(tr -s "[:space:]" " " <<<"$said")"
        ' peer $speak $answer
    """
    how = map(str, (AT_ONCE, SPEAK, ANSWER))
    return Query(bash(script, *how, *(f"{peer.name}={peer.replication}" for peer in peers)), parse)


def parse(text: str) -> Keys:
    found: dict[str, list[str]] = {"own": [], "locked": [], "host": [], "allowed": []}
    known: dict[str, frozenset[str]] = {}
    tried: dict[str, tuple[int, str]] = {}
    comes: dict[str, str] = {}
    for line in text.splitlines():
        kind, _, rest = line.strip().partition(" ")
        if kind == "known":
            who, _, rest = rest.partition(" ")
            known[who] = known.get(who, frozenset()) | set(public(rest))
        elif kind == "tried":
            peer, status, said = f"{rest} ".split(" ", 2)
            tried[peer] = (count(status), said.strip())
        elif kind == "comes":
            peer, _, said = rest.partition(" ")
            if address := _address(said.strip().removeprefix("src ")):
                comes[peer] = address
        elif kind in ("own", "host"):
            found[kind] += public(rest)
        elif kind in found:
            found[kind].append(rest)
    if not found["host"]:
        raise ValueError("the node shows no host key")
    return Keys(
        tuple(found["own"]), tuple(found["locked"]), tuple(found["host"]), tuple(found["allowed"]), known, tried, comes
    )  # fmt: skip


def _address(text: str) -> str:
    """Empty when it is none: what stands in authorized_keys may be a pattern, too, and Python takes any text for the
    zone behind a %."""
    if "%" in text:
        return ""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def public(line: str) -> list[str]:
    """The key in a line of a .pub file, of authorized_keys or known_hosts."""
    match = _PUBLIC.search(line)
    return [f"{match[1]} {match[2]}"] if match else []


@dataclass(frozen=True)
class Way:
    """ssh from one node to another. `why` is empty when it works."""

    why: str = ""
    advice: str = ""
    steps: tuple[Step, ...] = ()


def judged(node: str, peer: str, keys: Mapping[str, Keys | str], settings: Settings) -> Finding:
    """One line for both directions. A node whose keys are not known has in their place why."""
    name = f"ssh with {peer}"
    mine, other = keys[node], keys[peer]
    if isinstance(mine, str) or isinstance(other, str):
        who, why = (node, mine) if isinstance(mine, str) else (peer, other)
        return Finding(node, name, bad(f"{who} could not be asked: {why}", "correct that first"))
    ways = [way(settings.nodes[node], settings.nodes[peer], mine, other),
            way(settings.nodes[peer], settings.nodes[node], other, mine)]  # fmt: skip
    if not any(each.why for each in ways):
        return Finding(node, name, good("root, both ways"))
    steps = tuple(step for each in ways for step in each.steps)
    text = "; ".join(each.why for each in ways if each.why)
    advice = "; ".join(each.advice for each in ways if each.advice)
    return Finding(node, name, Verdict(False, text, advice, steps, partly=any(w.why and not w.steps for w in ways)))


def way(origin: NodeSettings, target: NodeSettings, mine: Keys, other: Keys) -> Way:
    status, said = mine.tried.get(target.name, (255, "not tried"))
    if status == 0:
        limited = let_in(origin, target, mine, other) if _ours(origin, other) else []
        why = f"{target.name} lets the key of {origin.name} in from more than its addresses, or for more than commands"
        return Way(why, "", tuple(limited)) if limited else Way()
    why = f"{origin.name} to {target.name}: {_shortly(said) or f'status {status}'}"
    if mine.known.get(target.replication, frozenset()) - set(other.host):
        return Way(
            f"{origin.name} knows another host key of {target.replication} than {target.name} has",
            f"if {target.name} was installed anew, on {origin.name}: ssh-keygen -R {target.replication} -f {KNOWN}",
        )
    if "host key is known for" not in said and "Permission denied" not in said:
        return Way(why, f"does the link between the nodes work? on {origin.name}: ssh root@{target.replication}")
    if KEY in mine.locked and not mine.own:
        return Way(why, f"{KEY} on {origin.name} has a passphrase, or is no key: take it off, or the key away")
    if steps := tuple([*know(origin, target, mine, other), *let_in(origin, target, mine, other)]):
        return Way(why, "", steps)
    return Way(
        why,
        f"sshd on {target.name} must let root in by key: PermitRootLogin prohibit-password, and no from= in "
        f"{AUTHORIZED} may keep it out",
    )


def _shortly(said: str) -> str:
    if "host key is known for" in said:
        return "its host key is not known"
    return "root is not let in" if "Permission denied" in said else said[-200:]


def know(origin: NodeSettings, target: NodeSettings, mine: Keys, other: Keys) -> list[Step]:
    """The target's host keys into the origin's known_hosts, under the address and, if it is free, the name."""
    missing = sorted(set(other.host) - mine.known.get(target.replication, frozenset()))
    hosts = target.replication if mine.known.get(target.name) else f"{target.replication},{target.name}"
    text = "".join(f"{hosts} {key}\n" for key in missing)
    if not text:
        return []
    return [
        Step(
            origin.name,
            f"let it know the host keys of {target.name}, as the manager got them from there",
            append(KNOWN, text),
            undo=take_out(KNOWN, text),
        )
    ]


def let_in(origin: NodeSettings, target: NodeSettings, mine: Keys, other: Keys) -> list[Step]:
    """The origin's public key into the target's authorized_keys, in place of what pmc wrote there before; a key is made
    if there is none. A line that somebody else wrote is left as it is, and then there is nothing to do."""
    mark, note = f"pmc-{origin.name}", f"let root of {origin.name} in, from its addresses and for commands only"
    limits = _limits(origin, mine.comes.get(target.name, ""))
    if mine.own:
        line = f"{limits} {mine.own[0]} {mark}"
        old = [each for each in _ours(origin, other) if each != line]
        known = any(key in each for key in mine.own for each in other.allowed)
        if not old and known:
            return []
        return [Step(target.name, note, edit(AUTHORIZED, old, [line]), undo=edit(AUTHORIZED, [line], old))]
    make = bash('mkdir -p -m 700 /root/.ssh; exec ssh-keygen -q -t ed25519 -N "" -C "$1" -f "$2"', mark, KEY)
    before = "".join(f"{line}\n" for line in _ours(origin, other))
    return [
        Step(origin.name, "make an ssh key for root", make, undo=node_files.remove(KEY, f"{KEY}.pub"),
             check=node_files.exists(f"{KEY}.pub")),
        Step(target.name, note, Relay(origin.name, command("cat", f"{KEY}.pub"), append_key(AUTHORIZED, limits, mark)),
             undo=take_out_marked(AUTHORIZED, mark, before)),
    ]  # fmt: skip


def _ours(origin: NodeSettings, other: Keys) -> list[str]:
    return [line for line in other.allowed if line.endswith(f" pmc-{origin.name}")]


def _limits(origin: NodeSettings, comes: str) -> str:
    """`comes`: the address that the origin says it has on its way to the target, when that is another one."""
    return f'restrict,from="{",".join(dict.fromkeys(filter(None, (origin.replication, comes))))}"'


# A file that decides who may log in is never half written: another one is, beside it, and takes its place at once.
_SWAP = (
    'umask 077; mkdir -p -m 700 "${{1%/*}}"; f=$(readlink -f "$1"); [ -e "$f" ] || install -m 600 /dev/null "$f"; '
    't=$f.pmc; trap \'rm -f "$t"\' EXIT; cp --preserve=mode,ownership "$f" "$t"; {{ {filter}; }} >"$t"; '
    'sync "$t"; mv "$t" "$f"; sync "${{f%/*}}"'
)
_ADD = (
    'cat "$f"; [ -z "$(tail -c 1 "$f")" ] || echo; '
    'while IFS= read -r line; do grep -qxF -- "$line" "$f" || printf "%s\\n" "$line"; done <<<"$add"'
)
_TAKE_OUT = '{ grep -vxF -- "$out" "$f" || [ $? = 1 ]; }'


def append(path: str, text: str) -> Command:
    """The lines given, those that are not there yet; a last line without its end gets it first. An empty input is an
    error: there is always something to add."""
    return bash(f'add=$(cat); [ "$add" ]; {_SWAP.format(filter=_ADD)}', path, stdin=text)


# As ssh-keygen writes the key that it was told to make.
_NEW = "^(ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI[A-Za-z0-9+/]{43}) "


@operation
def append_key(path: str, limits: str, mark: str) -> Command:
    """A line with these limits for the public key that comes on stdin, which another node shows: whatever else comes is
    no key, and nothing of it is written."""
    script = (
        'LC_ALL=C; said=$(head -c 1000) new=$4; [[ $said =~ $new && $said = "${BASH_REMATCH[1]} $3" ]] || '
        '{ echo "what came is not the public key that was made" >&2; exit 1; }; '
        f'add="$2 ${{BASH_REMATCH[1]}} $3"; {_SWAP.format(filter=_ADD)}'
    )
    return bash(script, path, limits, mark, _NEW)


def take_out(path: str, text: str) -> Command:
    return bash(f'out=$(cat); [ "$out" ]; {_SWAP.format(filter=_TAKE_OUT)}', path, stdin=text)


_EDIT = f'{_TAKE_OUT}; [ -z "$add" ] || printf "%s\\n" "$add"'


def edit(path: str, out: Sequence[str], into: Sequence[str]) -> Command:
    """Lines out and others in, at once; none of them is there twice."""
    script = f"out=$2 add=$3; {_SWAP.format(filter=_EDIT)}"
    return bash(script, path, "\n".join([*out, *into]), "\n".join(into))


def take_out_marked(path: str, mark: str, before: str) -> Command:
    """The lines that end in `mark`, but for those that were there before."""
    some = (
        'while IFS= read -r line; do case $line in *" $2") grep -qxF -- "$line" <<<"$before" || continue;; esac; '
        'printf "%s\\n" "$line"; done <"$f"'
    )
    return bash(f"before=$(cat); {_SWAP.format(filter=some)}", path, mark, stdin=before)
