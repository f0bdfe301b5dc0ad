"""What a survivor tells of a node that does not answer: since when its link is lost, and signs that it lives. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pmc.command import Command, Query, bash, operation
from pmc.settings import Settings

FRESH = 900  # seconds; a node that was alive longer after the link was lost may have written much alone


@dataclass(frozen=True)
class LostLink:
    """A VM's link to the peer: when it was lost, in ISO 8601 as the survivor's clock goes now (empty: it is not, or not
    known when); how many seconds ago, infinite when that is not known; whether the VM's disk was in use there."""

    since: str
    ago: float
    in_use: bool

    @property
    def old(self) -> bool:
        """What the peer wrote alone since then, if it lived, may be much."""
        return not 0 <= self.ago <= FRESH


@dataclass(frozen=True)
class PeerSigns:
    """What the survivor tells of its silent peer. `life`: each sign of it. `lost`: the VMs whose link to it was lost
    since the survivor's boot."""

    life: tuple[str, ...] = ()
    lost: Mapping[str, LostLink] = field(default_factory=dict)


# Says `life` of each sign of it, and what came of ssh.
_REACHED = """
        if p=$(command -v ping || command -v busybox); then
            [ "${p##*/}" = ping ] || p="$p ping"
            $p -c 2 -W 1 "$1" >/dev/null 2>&1 && echo "life it answers ping" || :
        fi
        s=0
        said=$(timeout -k 1 15 ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o UpdateHostKeys=no \\
            -o ConnectTimeout=5 "root@$1" true 2>&1 </dev/null) || s=$?
        [ $s -ne 124 ] || said="it lets in, and hangs"
        echo "ssh $s $(tr -s "[:space:]" " " <<<"$said")"
"""


# What ssh says (with status 255) of one that is silent: a regular expression of Python's and of bash.
_SILENCE = "timed? ?out|No route to host|unreachable|Host is down"


@operation
def silent(dead: str, settings: Settings) -> Command:
    """As `peer`, no more than whether it gives no sign of life: succeeds then, and ends 1 when it gives one. Judged by
    bash alone: a grep that could not be run would else look like one that found no sign."""
    script = f"""
        said=$({_REACHED})
        [[ $'\\n'$said != *$'\\nlife '* ]] || exit 1
        shopt -s nocasematch
        silence=$'\\nssh 255 [^\\n]*({_SILENCE})'
        [[ $'\\n'$said =~ $silence && $said != *"banner exchange"* ]]
    """
    return bash(script, settings.nodes[dead].replication)


def peer(dead: str, settings: Settings) -> Query[PeerSigns]:
    """Asked on the survivor, of `dead` over the replication network. A connection that is refused is an answer too:
    only a machine that is on refuses, or lets in and hangs (ssh's own timeout ends with the exchange of keys). What the
    kernel wrote when DRBD lost the peer tells since when."""
    script = f"""{_REACHED}
        {{ journalctl --quiet --no-pager -k -b -o json --output-fields=MESSAGE,_SOURCE_MONOTONIC_TIMESTAMP || :; }} |
            {{ grep -F "conn( " || :; }} | tail -n 4000 | sed "s/^/kernel /"
        echo "now $(cut -d " " -f 1 /proc/uptime) $(date +%s)"
    """
    return Query(bash(script, settings.nodes[dead].replication), parse_peer)


_LOST = re.compile(
    r"drbd ([A-Za-z0-9_-]+)(?: [^:]+)?: (.*conn\( (?:Connected|Sync\w+|Paused\w+|Verify\w) -> "
    r"(?!Disconnecting|Connected|Sync|Paused|Verify).*)"
)


def parse_peer(text: str) -> PeerSigns:
    life: list[str] = []
    last: dict[str, tuple[dict[str, str], bool]] = {}
    tried, now = False, (math.nan, math.nan)
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "life":
            life.append(rest)
        elif kind == "ssh":
            tried = True
            status, _, said = rest.partition(" ")
            if status != "255" or not re.search(_SILENCE, said, re.I) or "banner exchange" in said:
                life.append(f"ssh there says: {said.strip()[-120:] or f'status {status}'}")
        elif kind == "now":
            up, _, wall = rest.partition(" ")
            now = _number(up), _number(wall)
        elif kind == "kernel":
            entry = _entry(rest)
            if found := _LOST.match(entry.get("MESSAGE", "")):
                last[found[1]] = (entry, "peer( Primary ->" in found[2])
    if not tried:
        raise ValueError("the peer was not tried")
    return PeerSigns(tuple(life), {name: _lost(entry, in_use, *now) for name, (entry, in_use) in last.items()})


def _entry(line: str) -> dict[str, str]:
    """One of the journal, those of its fields that are text. One that cannot be read says nothing: what was before it
    is older."""
    try:
        table = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return {key: value for key, value in table.items() if isinstance(value, str)} if isinstance(table, dict) else {}


def _lost(entry: Mapping[str, str], in_use: bool, up: float, wall: float) -> LostLink:
    """How long ago the kernel said this, `up` seconds after its boot, when the clock says `wall`. The clock may have
    been set since then. So what counts is the time since the boot: the kernel's own, and that at which the journal had
    it (it may have been late, and the kernel's runs a little ahead or behind). Of all that is said the longest counts,
    which is the clock's, too, when it was set forward. What contradicts itself is not known."""
    heard, said, clock = (
        _number(entry.get(f"_{field}_TIMESTAMP", "")) / 1e6 for field in ("_MONOTONIC", "SOURCE_MONOTONIC", "_REALTIME")
    )
    ago = up - heard
    if not -1 <= ago < math.inf:
        return LostLink("", math.inf, in_use)
    ago = max(0.0, ago, *(other for other in (up - said, wall - clock) if math.isfinite(other)))
    try:
        return LostLink(datetime.fromtimestamp(wall - ago, UTC).isoformat(timespec="seconds"), ago, in_use)
    except (ValueError, OverflowError, OSError):
        return LostLink("", ago, in_use)


def _number(text: object) -> float:
    """NaN when it is none."""
    return float(text) if isinstance(text, str) and re.fullmatch(r"\d{1,18}(\.\d{1,9})?", text, re.ASCII) else math.nan
