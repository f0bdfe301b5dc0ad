"""Nodes whose parts fail while the machine lives: sshd, a guest's QEMU; and a pmc.conf that takes one node for
another."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import reach
from lab.errors import LabError

from .conftest import Pmc
from .rig import until
from .test_careless import with_conf

Clean = Callable[[], list[str]]
LONG = 600.0


def one_line(done: subprocess.CompletedProcess[str], status: int, says: str) -> None:
    assert done.returncode == status, done.stderr
    assert says in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.fault("a guest's QEMU is killed on its node (OOM): nothing starts by itself, and vm.start goes on")
def test_a_guest_that_is_killed_is_off(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5, seconds=LONG)
    lab.ssh("pm-1", "kill -9 $(cat /run/libvirt/qemu/web.pid)")

    def off() -> bool:
        (row,) = json.loads(lab.ok("vm.ls", "--json"))
        return bool(row["state"] == "shut off")

    until(off, "vm.ls says that it is off")
    state = lab.state()
    assert (state.active_on("web"), state.primaries("web")) == ([], ["pm-1"])
    lab.ok("vm.start", "web")
    tick = guest.ticking(max(tick.counter, guest.now().counter), boots=2, seconds=LONG)
    assert tick.boots == 2
    assert lab.state().active_on("web") == ["pm-1"]


# Logins that do not come to their end, until sshd closes one at once.
HOLD = """
import socket, time
held = []
while True:
    try:
        held.append(socket.create_connection(("127.0.0.1", 22), 9))
        if not held[-1].recv(99).startswith(b"SSH-"):  # it says that it is not allowed at this time
            break
    except ConnectionRefusedError:  # it reads its configuration
        time.sleep(0.2)
print("held", flush=True)
input()
"""


@contextmanager
def turned_away(lab: Pmc, node: str) -> Iterator[None]:
    """Its sshd takes no login any more (MaxStartups)."""
    conf = "/etc/ssh/sshd_config"
    hold = (
        f"cp -p {conf} /root/kept; printf 'MaxStartups 1:100:1\\nLoginGraceTime 0\\n' >>{conf}; systemctl reload ssh; "
        f"python3 -c {shlex.quote(HOLD)}; mv /root/kept {conf}; systemctl reload ssh; echo free"
    )
    with subprocess.Popen(
        reach.ssh(lab.lab.conf(), node, hold), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "free\n"
    until(lambda: lets_in(lab, node), "its sshd has read its own configuration again")


def lets_in(lab: Pmc, node: str) -> bool:
    try:
        return lab.ssh(node, "true") == ""
    except LabError:
        return False


@pytest.mark.fault("a sshd that turns away (MaxStartups): refused in one line, and never taken for dead")
def test_a_sshd_that_turns_away(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5, seconds=LONG)
    with turned_away(lab, "pm-1"):
        told = "pm-1: no ssh: it took the connection and closed it at once"
        one_line(lab.fab("vm.ls"), 1, told)
        one_line(lab.fab("vm.stop", "web"), 2, "closed it at once")
        done = lab.fab("vm.failover", "web", "--dead", "pm-1")
        one_line(done, 2, "pm-1: does not answer the manager, but lives: pm-2 reaches it: it answers ping")
        assert lab.ssh("pm-2", "drbdadm role web").startswith("Secondary")
    assert guest.ticking(tick.counter, seconds=LONG).boots == 1


@pytest.mark.long
@pytest.mark.fault("two nodes exchanged in pmc.conf: every verb is refused in one line")
def test_nodes_that_are_exchanged_in_the_configuration(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5, seconds=LONG)
    there = clean()
    text = lab.conf.read_text()
    for node, other in (("pm-1", "pm-2"), ("pm-2", "pm-1")):
        text = text.replace(f"[nodes.{node}]\n", f'[nodes.{node}]\nhost = "{other}"\n')
    for argv in (
        ("vm.mv", "web"), ("vm.stop", "web", "--force"), ("vm.rm", "web", "--yes"), ("vm.failover", "web"),
        ("vm.repair", "web", "--keep", "pm-1"), ("pm.evacuate", "pm-1"),
    ):  # fmt: skip
        one_line(with_conf(lab, tmp_path, text, *argv), 2, "DRBD needs it to be 'pm-")
    assert clean() == there
    assert guest.ticking(tick.counter, seconds=LONG).boots == 1
