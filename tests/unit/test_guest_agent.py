"""A guest frozen and thawed: the commands of a node, run here by the real bash, with a stand-in for virsh."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pmc import guest_agent
from pmc.command import Command

# Says what it was called for; `broken` makes it fail so many times, `slow` makes it take so many seconds.
VIRSH = """#!/bin/bash
echo "$3" >>{folder}/log
sleep $(cat {folder}/slow 2>/dev/null || echo 0)
n=$(cat {folder}/broken 2>/dev/null || echo 0)
[ "$n" = 0 ] || {{ echo $((n - 1)) >{folder}/broken; exit 1; }}
"""


@dataclass(frozen=True)
class Node:
    folder: Path

    def run(self, command: Command, seconds: int = 60) -> subprocess.CompletedProcess[str]:
        """With the folder in place of /run/pmc, and `seconds` of the watch."""
        argv = [str(seconds) if word == str(guest_agent.SECONDS) else word.replace("/run/pmc", str(self.folder / "run"))
                for word in command.argv]  # fmt: skip
        env = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"}
        return subprocess.run(argv, capture_output=True, text=True, env=env, timeout=30)

    @property
    def log(self) -> list[str]:
        return (self.folder / "log").read_text().split()

    @property
    def frozen(self) -> bool:
        return (self.folder / "run" / "web.frozen").exists()

    def thawed(self) -> None:
        """Waits until the watch has done so."""
        deadline = time.monotonic() + 60
        while self.frozen or "domfsthaw" not in self.log:
            assert time.monotonic() < deadline, "the node does not thaw"
            time.sleep(0.05)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    (tmp_path / "virsh").write_text(VIRSH.format(folder=tmp_path))
    (tmp_path / "virsh").chmod(0o755)
    return Node(tmp_path)


def test_frozen_and_thawed_in_time(node: Node) -> None:
    assert node.run(guest_agent.freeze("web", "one")).returncode == 0
    assert node.frozen
    done = node.run(guest_agent.thaw_in_time("web", "one"))
    assert (done.returncode, done.stderr) == (0, "")
    assert not node.frozen
    assert node.log == ["domfsfreeze", "domfsthaw"]


def test_the_node_thaws_when_the_manager_is_gone(node: Node) -> None:
    """Also when libvirt fails at first. What comes later is told that it is too late."""
    node.run(guest_agent.freeze("web", "one"), seconds=1)
    (node.folder / "broken").write_text("1")
    node.thawed()
    assert node.log.count("domfsthaw") == 2
    done = node.run(guest_agent.thaw_in_time("web", "one"))
    assert done.returncode == 1
    assert "the snapshot took too long" in done.stderr


def test_the_node_thaws_when_the_manager_could_not(node: Node) -> None:
    node.run(guest_agent.freeze("web", "one"), seconds=1)
    (node.folder / "broken").write_text("2")
    assert node.run(guest_agent.thaw_in_time("web", "one")).returncode == 1
    assert node.run(guest_agent.thaw("web")).returncode == 1
    node.thawed()
    assert node.log.count("domfsthaw") == 3


def test_the_watch_over_one_freeze_leaves_the_next_alone(node: Node) -> None:
    node.run(guest_agent.freeze("web", "one"), seconds=1)
    node.run(guest_agent.thaw("web"))
    node.run(guest_agent.freeze("web", "two"))
    time.sleep(1.5)  # the first watch ends meanwhile; when it does not, this sees less, and does not fail
    assert node.frozen
    assert node.run(guest_agent.thaw_in_time("web", "two")).returncode == 0
    assert node.log == ["domfsfreeze", "domfsthaw", "domfsfreeze", "domfsthaw"]


def test_a_watch_that_thaws_right_then_is_waited_for(node: Node) -> None:
    """Else the next snapshot may be of a guest that writes, and nobody knows."""
    node.run(guest_agent.freeze("web", "one"), seconds=1)
    (node.folder / "slow").write_text("2")
    deadline = time.monotonic() + 60
    while "domfsthaw" not in node.log:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    node.run(guest_agent.freeze("web", "two"))
    assert node.log == ["domfsfreeze", "domfsthaw", "domfsfreeze"]
    assert node.frozen
    assert node.run(guest_agent.thaw_in_time("web", "two")).returncode == 0


def test_one_that_cannot_be_frozen_fails_and_is_thawed_all_the_same(node: Node) -> None:
    (node.folder / "broken").write_text("1")
    assert node.run(guest_agent.freeze("web", "one")).returncode == 1
    assert node.run(guest_agent.thaw("web")).returncode == 0
    assert not node.frozen
