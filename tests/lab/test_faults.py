"""Steps that fail or are killed on a node, and Ctrl-C: what was made is gone again, what runs goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import witness

from .conftest import Pmc, broken_invariants

Clean = Callable[[], list[str]]


@contextmanager
def killed(lab: Pmc, node: str, tool: str, word: str, after: bool) -> Iterator[None]:
    """On the node `tool` is killed with SIGKILL when called with `word` in its arguments: before or `after` it did its
    work. (A script in /usr/local/sbin, which comes first in root's PATH; the tool itself is the real one.)"""
    path = f"/usr/local/sbin/{tool}"
    real = lab.ssh(node, f"command -v {tool}").strip()
    act = f'"{real}" "$@" >/dev/null; kill -9 $$' if after else "kill -9 $$"
    script = f'#!/bin/sh\\ncase " $* " in *" {word} "*) {act};; esac\\nexec {real} "$@"\\n'
    lab.ssh(node, f"printf '{script}' >{path} && chmod 755 {path}")
    try:
        yield
    finally:
        lab.ssh(node, f"rm -f {path}")


@pytest.mark.parametrize(
    ("node", "tool", "word", "after"),
    [
        ("pm-2", "lvcreate", "web", True),
        ("pm-1", "drbdadm", "create-md", False),
        ("pm-2", "drbdadm", "up", True),
        ("pm-1", "drbdadm", "primary", True),
        ("pm-2", "virsh", "define", False),
        ("pm-1", "virsh", "start", True),
    ],
)
def test_a_killed_step_of_vm_add_leaves_nothing(
    lab: Pmc, clean: Clean, node: str, tool: str, word: str, after: bool
) -> None:
    with killed(lab, node, tool, word, after):
        done = lab.fab("vm.add", "web", "--primary", "pm-1", "--secondary", "pm-2", "--size", "16M", "--memory", "16M")
    assert done.returncode == 1, done.stderr
    assert f"on {node}" in done.stderr
    assert "NOT undone" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert clean() == []


def test_a_migration_that_fails_is_closed_again(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5)
    with killed(lab, "pm-1", "virsh", "migrate", after=False):
        done = lab.fab("vm.mv", "web")
    assert done.returncode == 1, done.stderr
    assert "web runs on pm-1" in done.stderr
    assert broken_invariants(lab.state()) == []
    again = guest.ticking(tick.counter)
    assert again.boots == 1
    # The kill came after it went through: the VM is on the other node, and that is found out, not guessed.
    with killed(lab, "pm-1", "virsh", "migrate", after=True):
        done = lab.fab("vm.mv", "web")
    assert done.returncode == 1, done.stderr
    assert "web runs on pm-2" in done.stderr
    assert broken_invariants(lab.state()) == []
    assert guest.ticking(again.counter).boots == 1


@contextmanager
def adding(lab: Pmc) -> Iterator[subprocess.Popen[str]]:
    program = str(Path(sys.executable).parent / "fab")
    argv = ["vm.add", "web", "--primary", "pm-1", "--secondary", "pm-2", "--size", "16M", "--memory", "16M"]
    with subprocess.Popen(
        [program, *argv], cwd=witness.ROOT, env={**os.environ, "PMC_CONF": str(lab.conf)},
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        yield process


def read_until(process: subprocess.Popen[str], word: str) -> str:
    seen = ""
    assert process.stderr is not None
    for line in process.stderr:
        seen += line
        if word in line:
            break
    return seen


def test_ctrl_c_undoes_what_was_made(lab: Pmc, clean: Clean) -> None:
    with adding(lab) as process:
        seen = read_until(process, "bring up web")
        process.send_signal(signal.SIGINT)
        seen += read_until(process, "no line has this")
        assert process.wait(300) == 1, seen
    assert "interrupted" in seen
    assert "Undone" in seen
    assert clean() == []


@pytest.mark.parametrize("step", ["zero the volume", "make web primary"])
def test_a_manager_that_dies_leaves_what_vm_rm_removes(lab: Pmc, clean: Clean, step: str) -> None:
    with adding(lab) as process:
        read_until(process, step)
        process.kill()
        process.wait(60)
    assert clean() != []
    lab.ok("vm.rm", "web", "--yes")
    assert clean() == []


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
