"""Steps that fail or are killed on a node, and Ctrl-C: what was made is gone again, what runs goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from .conftest import Pmc, broken_invariants
from .rig import failed, instead, read_until, started

Clean = Callable[[], list[str]]
NEW = ("vm.add", "web", "--primary", "pm-1", "--secondary", "pm-2", "--size", "16M", "--memory", "16M")


def killed(after: bool) -> str:
    """A tool that is killed with SIGKILL: before or `after` it did its work."""
    return '"$real" "$@" >/dev/null; kill -9 $$' if after else "kill -9 $$"


@pytest.mark.parametrize(
    ("node", "tool", "word", "after"),
    [
        pytest.param("pm-2", "drbdadm", "up", True, marks=pytest.mark.long),
        ("pm-1", "virsh", "start", True),
        pytest.param("pm-2", "lvcreate", "web", True, marks=pytest.mark.long),
        pytest.param("pm-1", "drbdadm", "create-md", False, marks=pytest.mark.long),
        pytest.param("pm-1", "drbdadm", "primary", True, marks=pytest.mark.long),
        pytest.param("pm-2", "virsh", "define", False, marks=pytest.mark.long),
    ],
)
def test_a_killed_step_of_vm_add_leaves_nothing(
    lab: Pmc, clean: Clean, node: str, tool: str, word: str, after: bool
) -> None:
    with instead(lab, node, tool, f" {word} ", killed(after)):
        done = lab.fab(*NEW)
    assert failed(done.returncode, done.stderr), done.stderr
    assert f"on {node}" in done.stderr
    assert "NOT undone" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert clean() == []


@pytest.mark.long
def test_a_migration_that_fails_is_closed_again(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5)
    with instead(lab, "pm-1", "virsh", " migrate ", killed(after=False)):
        done = lab.fab("vm.mv", "web")
    assert failed(done.returncode, done.stderr), done.stderr
    assert "web runs on pm-1" in done.stderr
    assert broken_invariants(lab.state()) == []
    again = guest.ticking(tick.counter)
    assert again.boots == 1
    # The kill came after it went through: the VM is on the other node, and that is found out, not guessed.
    with instead(lab, "pm-1", "virsh", " migrate ", killed(after=True)):
        done = lab.fab("vm.mv", "web")
    assert failed(done.returncode, done.stderr), done.stderr
    assert "web runs on pm-2" in done.stderr
    assert broken_invariants(lab.state()) == []
    assert guest.ticking(again.counter).boots == 1


def test_ctrl_c_undoes_what_was_made(lab: Pmc, clean: Clean) -> None:
    with started(lab, *NEW) as process:
        seen = read_until(process, "bring up web")
        process.send_signal(signal.SIGINT)
        seen += read_until(process, "no line has this")
        assert failed(process.wait(300), seen), seen
    assert "interrupted" in seen
    assert "Undone" in seen
    assert clean() == []


@pytest.mark.long
@pytest.mark.fault("standby killed while idle")
def test_a_node_that_loses_power(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5)
    lab.lab.kill("pm-2")
    try:
        done = lab.fab("vm.ls")
        assert done.returncode == 1
        assert "web" in done.stdout
        assert "pm-2: no ssh" in done.stderr
        # The guest writes on, alone; what needs the peer is refused.
        assert guest.ticking(tick.counter).boots == 1
        assert lab.fab("vm.mv", "web").returncode == 2
        assert lab.fab("vm.rm", "web", "--yes").returncode == 2
    finally:
        lab.lab.start("pm-2")
    lab.ok("pm.ready_drbd")
    row = guest.facts()
    assert (row["connection"], row["peer_disk"]) == ("Connected", "UpToDate")
    tick = guest.ticking(tick.counter)
    # After a boot the standby is a standby again: the VM moves to it.
    lab.ok("vm.mv", "web")
    assert guest.ticking(tick.counter).boots == 1
    assert guest.checked("pm-2").boots == 1
