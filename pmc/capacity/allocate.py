"""The lowest free minor and port, and a MAC address, over all nodes. Pure: chance comes in as an argument."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from pmc.errors import Refused
from pmc.model import ClusterState
from pmc.settings import Settings


def minor(state: ClusterState) -> int:
    """From 1 on; taken are those of the kernel and of the resource files of any node, also of those that cannot be
    read whole."""
    taken = {minor for n in state for r in n.resources.values() for minor in (r.minor, *r.more_minors)}
    taken |= {minor for n in state for f in n.files.values() for minor in (f.minor, *f.more_minors)}
    taken |= {minor for n in state for minor in n.minors}
    return next(number for number in range(1, 1 << 20) if number not in taken)


def port(state: ClusterState, settings: Settings) -> int:
    """Taken are those of the resource files and those that anything listens on, on any node."""
    taken = {port for n in state for f in n.files.values() for port in f.ports}
    taken |= {port for n in state for port in (*n.ports, *n.file_ports)}
    for number in settings.port_range:
        if number not in taken:
            return number
    raise Refused(f"{settings.source}: ports = '{settings.ports}': all are taken; widen the range")


def mac(state: ClusterState, settings: Settings, address: str, chance: Callable[[int], int]) -> str:
    """The prefix and the last two bytes of the VM's address; without an address two random bytes that are free."""
    taken = {mac for node in state for mac in node.macs}
    if address:
        tail = ipaddress.IPv4Address(address).packed[2:]
        wanted = _join(settings, tail)
        if wanted in taken:
            raise Refused(
                f"--address {address}: its MAC address {wanted} belongs to another VM; choose another address"
            )
        return wanted
    for _ in range(1000):
        wanted = _join(settings, chance(1 << 16).to_bytes(2, "big"))
        if wanted not in taken:
            return wanted
    raise Refused(f"{settings.source}: mac_prefix = '{settings.mac_prefix}': no free MAC address found; use another")


def _join(settings: Settings, tail: bytes) -> str:
    return f"{settings.mac_prefix}:{tail[0]:02x}:{tail[1]:02x}"
