"""A tool that hangs on a node that lives, over a real ssh connection to a server in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pmc.cluster import Cluster
from pmc.command import Command, Query, bash, command
from pmc.errors import CommandFailed
from pmc.transport.node import WRAPPER, Node

from .wire import Here


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    here = Here(tmp_path)
    try:
        with Cluster(here.settings(here.port, "[deadlines]\ncommand = 3")) as cluster:
            yield cluster.nodes["pm-1"]
    finally:
        here.close()


def test_the_question_that_hangs_is_named(node: Node) -> None:
    asked = [Query(command(*argv), str.strip) for argv in (("echo", "a"), ("sleep", "60"), ("echo", "b"))]
    with pytest.raises(CommandFailed, match=r"pm-1: 'sleep 60' ended with status 124: no answer within 3 s; does it h"):
        node.ask_each(*asked)
    assert node.ask(asked[0]) == ["a"]


@pytest.mark.parametrize("tool", [command("sleep", "60"), bash("trap '' INT; sleep 60 & wait; wait")])
def test_a_command_that_was_ended_at_its_deadline_says_so(
    node: Node, tool: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that SIGINT does not end."""
    monkeypatch.setattr("pmc.transport.node.WRAPPER", WRAPPER.replace("-k 20", "-k 0.5"))
    with pytest.raises(CommandFailed, match=r"it did not end within 1 s, and was ended$") as failed:
        node.run(tool, seconds=1)
    assert failed.value.exit in (124, 137, -1)
    with pytest.raises(CommandFailed, match="it said nothing"):
        node.run(bash("exit 124"))
