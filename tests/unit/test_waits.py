"""What a Wait asks is judged by bash on the node: here by real bash, with tools that print what nodes printed. And the
fake world judges as bash does."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pmc import drbd, drbd_generations, virsh
from pmc.actions import Wait
from pmc.command import Command, command
from pmc.facts import dead_node
from tests.sim.fake import World
from tests.sim.machine import says
from tests.unit.queries import EVENTS, GENERATIONS
from tests.unit.samples import SETTINGS
from tests.unit.stories import STORIES

Asks = Callable[..., int]
WEB = EVENTS[0]
ASKED = {
    "connected": (drbd.CONNECTED,), "healthy": drbd.HEALTHY, "good peer": (drbd.CONNECTED, drbd.PEER_UP_TO_DATE),
    "good": (drbd.UP_TO_DATE,), "equal": (*drbd.HEALTHY, drbd.NOTHING_DIFFERS),
}  # fmt: skip
WHOLE = {"connected", "healthy", "good peer", "good", "equal"}


@pytest.fixture
def asks(tmp_path: Path) -> Asks:
    """The exit status of what a Wait asks, where tools print this (None: they fail)."""

    def ask(asked: Command, tools: Mapping[str, str | None]) -> int:
        for name, text in tools.items():
            script = "exit 20" if text is None else f"printf %s {shlex.quote(text)}"
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        path = {"PATH": f"{tmp_path}:/usr/bin:/bin", "LC_ALL": "C"}
        return subprocess.run(asked.argv, env=path, capture_output=True, timeout=30, check=False).returncode

    return ask


def changed(text: str, **facts: str) -> str:
    for fact, word in facts.items():
        text, count = re.subn(rf"(?<= ){fact.replace('_', '-')}:\S+", f"{fact.replace('_', '-')}:{word}", text)
        assert count
    return text


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        (WEB, WHOLE),
        (EVENTS[2], WHOLE),  # of DRBD 9, with two peers
        (changed(WEB, connection="Connecting"), {"good"}),
        (changed(WEB, disk="Inconsistent"), {"connected", "good peer"}),
        (changed(WEB, peer_disk="Outdated"), {"connected", "good"}),
        (changed(WEB, out_of_sync="4"), WHOLE - {"equal"}),
        (changed(WEB, out_of_sync="04", replication="VerifyS"), WHOLE),  # while a verify runs a mark is no knowledge
        (changed(WEB, out_of_sync="40", replication="Established"), WHOLE - {"equal"}),
        (changed(EVENTS[2], out_of_sync="0").replace("Connected", "Connecting", 1), {"good"}),
        (EVENTS[2].replace("peer-disk:UpToDate", "peer-disk:Diskless", 1), {"connected", "good"}),
        # A tiebreaker has no copy on purpose.
        (EVENTS[2].replace("peer-disk:UpToDate peer-client:no", "peer-disk:Diskless peer-client:yes", 1), WHOLE),
        ("exists -\n", set()),
    ],
)
def test_what_drbd_says_is_judged_on_the_node(asks: Asks, text: str, holds: set[str]) -> None:
    tools = {"drbdsetup": text}
    for what, facts in ASKED.items():
        asked = drbd.sees("web", *facts)
        assert asks(asked, tools) == (0 if what in holds else 1), what
        assert says(text, asked.argv[asked.argv.index("web") + 1 :]) == (what in holds), what
        assert asks(drbd.sees_not("web", *facts), tools) == (1 if what in holds else 0), what


@pytest.mark.parametrize("text", [None, "", WEB.removesuffix("exists -\n")])
def test_what_drbd_does_not_say_to_its_end_is_no_answer(asks: Asks, text: str | None) -> None:
    for asked in (drbd.sees("web", drbd.CONNECTED), drbd.sees_not("web", drbd.CONNECTED)):
        assert asks(asked, {"drbdsetup": text}) == 2


def test_what_cannot_be_run_is_never_a_side_that_is_alone(tmp_path: Path) -> None:
    """On a node with no process, or no file, to spare: nothing but drbdsetup is needed to judge what it says."""
    (tmp_path / "drbdsetup").write_text(f"#!/bin/bash\nprintf %s {shlex.quote(WEB)}\n")
    (tmp_path / "drbdsetup").chmod(0o755)
    for asked, status in ((drbd.sees("web", *drbd.HEALTHY), 0), (drbd.sees_not("web", drbd.CONNECTED), 1)):
        done = subprocess.run(["/bin/bash", *asked.argv[1:]], env={"PATH": str(tmp_path)}, capture_output=True)
        assert (done.returncode, done.stderr) == (status, b"")


@pytest.mark.parametrize(("text", "status"), [("shut off\n\n", 0), ("running\n", 1), ("paused\n", 1), (None, 2)])
def test_whether_a_guest_is_off(asks: Asks, text: str | None, status: int) -> None:
    assert asks(virsh.is_off("web"), {"virsh": text}) == status


@pytest.mark.parametrize(
    ("text", "status"), [(GENERATIONS[0], 0), (GENERATIONS[1], 0), ("no\n", 2), ("", 2), (None, 2), ("0" * 16, 2)]
)
@pytest.mark.parametrize("version", ["8.4.11", "9.2.4"])
def test_whether_a_side_went_on_alone(asks: Asks, text: str | None, status: int, version: str) -> None:
    asked = drbd_generations.went_on("web", "pm-2", version)
    assert asks(asked, {"drbdadm": text}) == status
    if status == 0 and text is not None:
        current = re.sub(r"(?m)^([0-9A-F]{16}):[0-9A-F]{16}", rf"\1:{1:016X}", text)  # its lowest bit is a flag
        assert asks(asked, {"drbdadm": current}) == 1
        assert drbd_generations.parse_generation(text).bitmap
        assert not drbd_generations.parse_generation(current).bitmap


@pytest.mark.parametrize(
    ("said", "status", "ping"),
    [
        ("ssh: connect to host 10.0.0.1 port 22: Connection timed out", 255, False),
        ("ssh: connect to host 10.0.0.1 port 22: No route to host", 255, False),
        ("ssh: connect to host 10.0.0.1 port 22: Connection refused", 255, False),
        ("Connection timed out during banner exchange", 255, False),
        ("ssh: connect to host 10.0.0.1 port 22: Connection timed out", 1, False),
        ("ssh: connect to host 10.0.0.1 port 22: Connection timed out", 255, True),
        ("", 0, False),
    ],
)
def test_a_node_that_is_silent(asks: Asks, tmp_path: Path, said: str, status: int, ping: bool) -> None:
    """The look, whose answer pmc reads, and the wait, which bash judges, agree."""
    for tool, text, ended in (("ping", "", 0 if ping else 1), ("ssh", said, status)):
        (tmp_path / tool).write_text(f"#!/bin/sh\necho {shlex.quote(text)}\nexit {ended}\n")
        (tmp_path / tool).chmod(0o755)
    silent = said.endswith(("timed out", "No route to host")) and status == 255 and not ping
    assert asks(dead_node.silent("pm-1", SETTINGS), {}) == (0 if silent else 1)
    looked = dead_node.peer("pm-1", SETTINGS)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(looked.command.argv, env=path, capture_output=True, text=True, check=True)
    assert (not looked.parse(done.stdout).life) == silent


def test_a_sign_of_life_counts_also_where_a_tool_cannot_be_run(asks: Asks, tmp_path: Path) -> None:
    """As when the node has no process left to give, for one moment: the first grep of all."""
    tools = {
        "ping": "exit 0",
        "ssh": "echo 'ssh: connect: Connection timed out'; exit 255",
        "grep": f'[ -e {tmp_path}/once ] && exec /usr/bin/grep "$@"; touch {tmp_path}/once; exit 126',
    }
    for tool, does in tools.items():
        (tmp_path / tool).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / tool).chmod(0o755)
    assert asks(dead_node.silent("pm-1", SETTINGS), {}) == 1


@pytest.mark.parametrize("name", STORIES)
def test_the_fake_world_judges_as_bash_does(asks: Asks, name: str) -> None:
    """Of what it says, before the plan begins."""
    story = STORIES[name]()
    for step in story.plan.steps:
        if not isinstance(step.do, Wait) or "root@$1" in str(step.do):
            continue
        asked, vm = step.do.ask, step.do.ask.argv[step.do.ask.argv.index("pmc") + 1]
        if vm not in story.world.nodes[step.node].resources:
            continue  # the plan makes it
        holds = story.world._holds(step.node, asked)
        assert asks(asked, said(story.world, step.node, vm)) == (0 if holds else 1)


def said(world: World, node: str, vm: str) -> dict[str, str | None]:
    return {
        "drbdsetup": world._say(node, drbd.status(vm).command),
        "drbdadm": world._say(node, command("drbdadm", "get-gi", vm)),
        "virsh": world.nodes[node].domains.get(vm, "") + "\n",
    }


def waits(line: str, seconds: int = 1) -> subprocess.CompletedProcess[str]:
    shown = Wait(command("true"), seconds, "it's never so").line(line)
    return subprocess.run(["bash", "-e"], input=f"{shown}\necho on\n", capture_output=True, text=True, check=False)


def test_the_line_of_a_wait_waits_and_fails_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "n").write_text("")
    third = f"bash -c 'echo x >>{tmp_path}/n; [ $(wc -l <{tmp_path}/n) -ge 3 ]'"
    assert waits(third, 20).stdout == "on\n"
    assert (tmp_path / "n").read_text() == "x\n" * 3
    never = waits("false")
    assert (never.returncode, never.stdout, never.stderr) == (1, "", "it's never so\n")
    cannot = waits("bash -c 'exit 255'", 20)
    assert (cannot.returncode, cannot.stdout, cannot.stderr) == (255, "", "")
