# SPDX-License-Identifier: GPL-3.0-or-later
"""Free TCP ports, below the range from which the kernel takes ports for outgoing connections."""

from __future__ import annotations

import random
import socket

RANGE = range(20000, 32000)


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    found: list[int] = []
    for port in random.sample(RANGE, len(RANGE)):
        if len(found) == count:
            break
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
        found.append(port)
    return found
