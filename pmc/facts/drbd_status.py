"""`drbdsetup events2 --now --statistics`, of DRBD 8.4 and 9, as Resources. Pure. Source: drbdsetup(8), events2.

pmc's own resources have one volume and one peer. Resources of 9 may have several of both, and a Resource then says the
worst of them: the worst connection, the worst disk of this side, the worst copy on a peer. So one that is listed as
healthy is healthy towards every peer. A peer that is diskless on purpose (a tiebreaker: `peer-client:yes`) has no copy
to speak of; its connection counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pmc.model import Resource
from pmc.units import MiB, bounded, count

# Each from the best to the worst; a word that is not here is worse than all.
CONNECTIONS = (
    "Connected", "Connecting", "Unconnected", "Timeout", "BrokenPipe", "NetworkFailure", "ProtocolError", "TearDown",
    "Disconnecting", "StandAlone",
)  # fmt: skip
DISKS = (
    "UpToDate", "Consistent", "Outdated", "Inconsistent", "Negotiating", "Attaching", "Detaching", "DUnknown", "Failed",
    "Diskless",
)  # fmt: skip
REPLICATIONS = ("Established", "Off")
ROLES = ("Unknown", "Secondary", "Primary")  # a peer that is Primary is the one to know of

Fact = dict[str, str]

LONGEST = 8 * MiB  # some 500 characters for each resource
# Facts that are words of DRBD's own; what is none is not known. (Why it is suspended may be several words.)
_STATES = {"role", "disk", "connection", "replication", "peer-disk", "suspended"}
_WORDS = re.compile(r"[A-Za-z][A-Za-z,-]{0,31}", re.ASCII)


@dataclass
class _Seen:
    """The lines of one resource."""

    role: str = "Unknown"
    suspended: str = ""
    connections: dict[str, Fact] = field(default_factory=dict)  # by peer
    devices: list[Fact] = field(default_factory=list)
    peer_devices: list[tuple[str, Fact]] = field(default_factory=list)  # the peer, one of its volumes


def parse_status(text: str) -> dict[str, Resource]:
    """Sizes come in KiB. The last line is `exists -`; without it (and without any, when no module is loaded) the answer
    is cut short."""
    bounded(text, LONGEST)
    if text.strip() and text.split()[-2:] != ["exists", "-"]:
        raise ValueError("the list of DRBD's resources is cut short")
    found: dict[str, _Seen] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 3 or words[0] != "exists":
            continue
        fact = {key: _state(key, said) for key, _, said in (word.partition(":") for word in words[2:])}
        now = found.setdefault(fact.get("name", ""), _Seen())
        peer = fact.get("peer-node-id", fact.get("conn-name", ""))
        if words[1] == "resource":
            now.role = fact["role"]
            now.suspended = "" if (why := fact.get("suspended", "no")) == "no" else why
        elif words[1] == "connection":
            now.connections[peer] = fact
        elif words[1] == "device":
            now.devices.append(fact)
        elif words[1] == "peer-device":
            now.peer_devices.append((peer, fact))
    return {name: _resource(name, seen) for name, seen in found.items()}


def _state(key: str, said: str) -> str:
    return said if key not in _STATES or _WORDS.fullmatch(said) else "Unknown"


def _resource(name: str, seen: _Seen) -> Resource:
    copies = [(peer, fact) for peer, fact in seen.peer_devices if fact.get("peer-client") != "yes"]
    told = {peer for peer, _ in seen.peer_devices}
    disks = [fact["peer-disk"] for _, fact in copies] + ["DUnknown" for peer in seen.connections if peer not in told]
    behind = {peer: 0 for peer in told}
    for peer, fact in copies:
        behind[peer] += count(fact.get("out-of-sync", "0")) * 1024
    minors = sorted(count(device["minor"]) for device in seen.devices)
    return Resource(
        name,
        minor=minors[0] if minors else -1,
        role=seen.role,
        disk=_worst(DISKS, (device["disk"] for device in seen.devices), "Unknown"),
        connection=_worst(CONNECTIONS, (fact["connection"] for fact in seen.connections.values()), "StandAlone"),
        replication=_worst(REPLICATIONS, (fact["replication"] for _, fact in copies), "Off"),
        peer_role=_worst(ROLES, (fact.get("role", "Unknown") for fact in seen.connections.values()), "Unknown"),
        peer_disk=_worst(DISKS, disks, "DUnknown"),
        size=sum(count(device.get("size", "0")) for device in seen.devices) * 1024,
        out_of_sync=max(behind.values(), default=0),
        more_minors=tuple(minors[1:]),
        suspended=seen.suspended,
    )


def _worst(order: Sequence[str], words: Iterable[str], none: str) -> str:
    """`none` when there are no words at all."""
    return max(words, key=lambda word: order.index(word) if word in order else len(order), default=none)
