"""Checks of the network: bridge, replication address, ports. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from pmc import drbd
from pmc.command import Query, bash, command
from pmc.facts import drbd_files
from pmc.health.check import About, Verdict, bad, good
from pmc.units import count


def query_bridge(about: About) -> Query[str]:
    script = (
        'n=/sys/class/net/$1; if [ -d "$n/bridge" ]; then echo "bridge $(cat "$n/operstate")"; '
        'elif [ -e "$n" ]; then echo other; else echo none; fi'
    )
    return Query(bash(script, about.settings.bridge), str.strip)


def judge_bridge(found: str, about: About) -> Verdict:
    name = about.settings.bridge
    if found.startswith("bridge "):
        state = found.removeprefix("bridge ")
        return good(name) if state != "down" else bad(f"{name} is down", f"ip link set {name} up, and at boot too")
    advice = (
        f"make one in /etc/network/interfaces: auto {name}, iface {name} inet static, address ..., bridge_ports eth0 "
        f"(Debian: apt install bridge-utils), or with nmcli or netplan"
    )
    return bad(f"{name} is not a bridge" if found == "other" else f"no bridge {name}", advice)


def query_replication(about: About) -> Query[frozenset[str]]:
    return Query(command("ip", "-o", "addr"), parse_addresses)


def parse_addresses(text: str) -> frozenset[str]:
    found = frozenset(re.findall(r"\sinet6?\s+([0-9a-fA-F.:]+)/", text))
    for address in found:
        ipaddress.ip_address(address)  # raises ValueError
    return found


def judge_replication(found: frozenset[str], about: About) -> Verdict:
    wanted = about.settings.nodes[about.node].replication
    if ipaddress.ip_address(wanted) in {ipaddress.ip_address(address) for address in found}:
        return good(wanted)
    return bad(
        f"no interface has {wanted}",
        f"give it to the interface that links the nodes, at boot too, or correct nodes.{about.node}.replication",
    )


@dataclass(frozen=True)
class Ports:
    listening: frozenset[int]  # TCP, DRBD's own among them
    drbd: frozenset[int]  # those of the resource files


def query_ports(about: About) -> Query[Ports]:
    script = f"ss -Hltn | awk '{{print $4}}'; echo --; {drbd_files.READ}"
    return Query(bash(script, drbd.DIRECTORY, drbd_files.CUT), parse_ports)


def parse_ports(text: str) -> Ports:
    listening, mark, rest = text.partition("--\n")
    if not mark:
        raise ValueError("cut short")
    heard = (count(row.rpartition(":")[2]) for row in listening.split())
    files = drbd_files.parse(rest)
    taken = {port for file in files.resources.values() for port in file.ports}
    return Ports(frozenset(heard), frozenset(taken | files.ports))


def judge_ports(found: Ports, about: About) -> Verdict:
    wanted = about.settings.port_range
    ours = found.drbd & set(wanted)
    others = sorted((found.listening - found.drbd) & set(wanted))
    free = len(wanted) - len(ours) - len(others)
    shown = ", ".join(map(str, others[:5])) + (", ..." if len(others) > 5 else "")
    text = f"{free} of {len(wanted)} free in {about.settings.ports}" + (f"; others listen on {shown}" if others else "")
    if free:
        return good(text)
    return bad(text, f"widen ports in {about.settings.source}, or stop what listens there")
