"""Nodes whose parts fail while the machine lives: libvirtd, sshd, a guest's QEMU, the kernel; and a pmc.conf that takes
one node for another."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import reach
from lab.errors import LabError

from .conftest import Pmc, broken_invariants
from .rig import failed, instead, read_until, started, until
from .test_careless import with_conf

Clean = Callable[[], list[str]]
LONG = 600.0
STOP, CONT, KILL = ("-STOP", "-CONT", "-KILL")


def libvirtd(lab: Pmc, node: str, signal: str) -> None:
    lab.ssh(node, f"kill {signal} $(pgrep -x libvirtd)")


def one_line(done: subprocess.CompletedProcess[str], status: int, says: str) -> None:
    assert done.returncode == status, done.stderr
    assert says in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def hurried(lab: Pmc, folder: Path) -> Path:
    """A pmc.conf whose deadlines end within the test."""
    conf = folder / "pmc.conf"
    conf.write_text(
        lab.conf.read_text().replace("command = 120", "command = 45").replace("migrate = 180", "migrate = 40")
    )
    return conf


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.fault("libvirtd hangs (SIGSTOP) or crashes (SIGKILL) while a VM moves, on either side")
@pytest.mark.parametrize("node", ["pm-2", "pm-1"])
def test_libvirtd_hangs_or_crashes_while_a_vm_moves(lab: Pmc, clean: Clean, tmp_path: Path, node: str) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5, seconds=LONG)
    conf = str(hurried(lab, tmp_path))
    for signal in (STOP, KILL):
        with started(lab, "vm.mv", "web", "--conf", conf) as process:
            seen = read_until(process, "migrate web to")
            libvirtd(lab, node, signal)
            try:
                assert process.stderr is not None
                seen += process.stderr.read()
                status = process.wait(LONG)
                print(signal, node, status, seen)
                tick = guest.ticking(tick.counter, seconds=LONG)
                if signal == STOP:
                    told = lab.fab("vm.ls", "--conf", conf)
                    one_line(told, 1, f"{node}: libvirt")
                    assert "had no answer from libvirtd" in told.stderr
                    assert (f"unknown (libvirt on {node}" in told.stdout) == (node == "pm-1"), told.stdout
                    if node == "pm-1":  # (where web runs; on the other node nothing of libvirt is needed to stop it)
                        one_line(lab.fab("vm.stop", "web", "--conf", conf), 2, "does not answer")
            finally:
                if signal == STOP:
                    libvirtd(lab, node, CONT)
        assert "Traceback" not in seen
        assert (signal == KILL and status == 0) or failed(status, seen), seen
        lab.ok("vm.mv", "web", "--cleanup")
        state = lab.state()
        assert len(state.active_on("web")) == 1
        assert state.active_on("web") == state.primaries("web")
        assert broken_invariants(state) == []
        tick = guest.ticking(tick.counter, seconds=LONG)
        assert tick.boots == 1
        if state.active_on("web") == ["pm-2"]:
            lab.ok("vm.mv", "web")


# A guest agent that answers as long as libvirtd does.
AGENT = (
    '"$real" -c qemu:///system domid web >/dev/null && case " $* " in '
    "*guest-ping*) echo '{\"return\":{}}';; *domfsfreeze*) touch /run/frozen;; "
    "*domfsthaw*) rm -f /run/frozen;; esac; exit"
)


def frozen(lab: Pmc) -> bool:
    return lab.ssh("pm-1", "[ -e /run/frozen ] && echo y || :") != ""


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.fault(
    "libvirtd hangs (SIGSTOP) or crashes (SIGKILL) while a backup has the guest frozen: the node thaws it"
)
def test_libvirtd_hangs_or_crashes_while_a_guest_is_frozen(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5, seconds=LONG)
    conf = str(hurried(lab, tmp_path))
    agent = f'case " $* " in *guest-ping*|*domfsfreeze*|*domfsthaw*) {AGENT};; esac; exec "$real" "$@"'
    with instead(lab, "pm-1", "virsh", " ", agent):
        for signal in (STOP, KILL):
            with started(lab, "vm.backup", "web", "--base", "--conf", conf) as process:
                seen = read_until(process, "take the snapshot")
                assert frozen(lab), seen
                libvirtd(lab, "pm-1", signal)
                try:
                    assert process.stderr is not None
                    seen += process.stderr.read()
                    status = process.wait(LONG)
                    print(signal, status, seen)
                finally:
                    if signal == STOP:
                        libvirtd(lab, "pm-1", CONT)
            assert "Traceback" not in seen
            assert signal == KILL or failed(status, seen), seen
            until(lambda: not frozen(lab), "the guest is thawed")
            lab.ok("vm.backup", "web", "--base")
            assert not frozen(lab)
            assert broken_invariants(lab.state()) == []
    assert guest.ticking(tick.counter, seconds=LONG).boots == 1


@pytest.mark.long
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
    return subprocess.run(reach.ssh(lab.lab.conf(), node, "true")).returncode == 0


@pytest.mark.long
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
        one_line(with_conf(lab, tmp_path, text, *argv), 2, "DRBD looks for 'pm-")
    assert clean() == there
    assert guest.ticking(tick.counter, seconds=LONG).boots == 1


@pytest.mark.long
@pytest.mark.fault("a manager whose pmc.conf lacks one of a VM's nodes: what it does not see it does not touch")
@pytest.mark.parametrize("known", ["pm-2", "pm-1"])
def test_a_configuration_that_lacks_a_node(lab: Pmc, clean: Clean, tmp_path: Path, known: str) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5, seconds=LONG)
    there = clean()
    head, _, _ = lab.conf.read_text().partition("[nodes.")
    text = f'{head}[nodes.{known}]\nreplication = "10.77.0.{known[-1]}"\n'
    verbs = [
        ("vm.mv", "web"), ("vm.rm", "web", "--yes"), ("vm.failover", "web"),
        ("vm.repair", "web", "--new-disk", "--yes"),
        ("vm.restore", "web", "--backup", "web.20260101T000000Z.base", "--in-place", "--yes"), ("vm.start", "web"),
    ]  # fmt: skip
    if known == "pm-2":  # where it does not run
        verbs += [("vm.stop", "web", "--force"), ("vm.backup", "web")]
    for argv in verbs:
        done = with_conf(lab, tmp_path, text, *argv)
        assert done.returncode == 2, f"{argv}: {done.stderr}"
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert clean() == there
    assert guest.ticking(tick.counter, seconds=LONG).boots == 1
    assert broken_invariants(lab.state()) == []


@pytest.mark.long
@pytest.mark.fault("kernel panic of the primary, its network card alive: no failover until its power is off")
def test_a_kernel_that_panics(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5, seconds=LONG)
    lab.ssh(
        "pm-1",
        "sysctl -q kernel.panic=0 kernel.panic_on_oops=0; (sleep 1; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &",
    )
    try:
        until(lambda: "Connected" not in lab.ssh("pm-2", "drbdadm cstate web"), "pm-2 misses it")
        done = lab.fab("vm.failover", "web")
        assert done.returncode == 2, done.stderr
        print(done.stderr)
        assert lab.state().active_on("web") == []
    finally:
        lab.lab.kill("pm-1")
    lab.ok("vm.failover", "web", "--dead", "pm-1")
    tick = guest.ticking(max(tick.counter, guest.now().counter), boots=2, seconds=LONG)
    lab.lab.start("pm-1")
    lab.ok("pm.ready_drbd")
    assert lab.state().active_on("web") == ["pm-2"]
    assert broken_invariants(lab.state()) == []
    assert guest.checked("pm-1").counter >= tick.counter


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.fault("a node that reboots in the middle of a resync, and one that loses power twice while it boots")
def test_a_node_that_boots_and_boots_again(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5, seconds=LONG)
    for node in ("pm-1", "pm-2"):
        lab.ssh(node, "drbdadm disk-options --c-plan-ahead=0 --resync-rate=1M web")
    lab.ssh("pm-2", "drbdadm invalidate web")
    boot = lab.ssh("pm-2", "cat /proc/sys/kernel/random/boot_id")
    lab.ssh(
        "pm-2",
        "systemctl reboot || :",
    )

    def again() -> bool:
        try:
            return lab.ssh("pm-2", "cat /proc/sys/kernel/random/boot_id") != boot
        except LabError:
            return False

    until(again, "pm-2 has booted", LONG)
    (machine,) = lab.lab.need("pm-2")
    for _ in range(2):
        lab.lab.kill("pm-2")
        machine.start()  # and nobody waits for it
        time.sleep(0.5)
    lab.lab.kill("pm-2")
    lab.lab.start("pm-2")
    state = lab.state()
    assert state.active_on("web") == ["pm-1"], "nothing starts by itself"
    # (It waits for a minute, and says how far the copy is.)
    until(lambda: lab.fab("pm.ready_drbd").returncode == 0, "both sides are equal", LONG)
    assert lab.state().active_on("web") == ["pm-1"]
    assert broken_invariants(lab.state()) == []
    tick = guest.ticking(tick.counter, seconds=LONG)
    assert tick.boots == 1
    assert guest.checked("pm-2").counter >= tick.counter
