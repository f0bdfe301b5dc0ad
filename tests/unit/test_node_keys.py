"""How pm.init tries ssh between nodes: the very script, with an ssh of ours in its place, and who is tried at all."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pmc.cluster import Cluster
from pmc.command import Command, Query
from pmc.errors import CommandFailed, NodeDown
from pmc.health.node_checks import CHECKS
from pmc.plans import node_keys
from pmc.plans.node_keys import Keys
from pmc.settings import NodeSettings, parse
from pmc.tasks.pm import _examine
from pmc.transport.node import Node

PEERS = [NodeSettings(f"pm-{number}", f"10.0.0.{number}") for number in range(1, 41)]
# Peers 1, 9, 17, 25 and 33 end only when all five are being tried; 41 hangs. Says how many it sees under way.
SSH = """#!/bin/bash
cd "$FOLDER"; echo "$*" >>said; host=${@: -2:1}; number=${host##*.}
touch now/$number; set -- now/*; echo $# >>most
case $number in
    1|9|17|25|33)
        touch dead/$number
        for _ in $(seq 1200); do set -- dead/*; [ $# -ge 5 ] && break; sleep 0.05; done
        rm now/$number
        [ $# -ge 5 ] || { echo "waited alone"; exit 1; }
        echo "Connection timed out"; exit 255;;
    41) exec sleep 100;;
esac
sleep 0.01; rm now/$number
"""


def tried(folder: Path, peers: list[NodeSettings]) -> Mapping[str, tuple[int, str]]:
    """As a node would."""
    for name, text in {
        "ssh": SSH, "ssh-keygen": "#!/bin/sh\nexit 1\n", "sed": "#!/bin/sh\necho host ssh-ed25519 AAAA\n",
    }.items():  # fmt: skip
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    for name in ("now", "dead"):
        (folder / name).mkdir()
    query = node_keys.query(peers)
    path = {"PATH": f"{folder}:/usr/bin:/bin", "FOLDER": str(folder)}
    done = subprocess.run(query.command.argv, env=path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return query.parse(done.stdout).tried


def test_a_peer_that_is_down_keeps_only_itself_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_keys, "ANSWER", 100)  # on a machine that is busy
    told = tried(tmp_path, PEERS)
    assert sorted(told) == sorted(peer.name for peer in PEERS)
    dead = {peer for peer, (status, said) in told.items() if (status, said) == (255, "Connection timed out")}
    assert dead == {"pm-1", "pm-9", "pm-17", "pm-25", "pm-33"}
    assert [each for each in told.values() if each[0] == 0] == [(0, "")] * 35
    assert max(map(int, (tmp_path / "most").read_text().split())) <= node_keys.AT_ONCE
    lines = (tmp_path / "said").read_text().splitlines()
    assert len(lines) == 40
    assert all("StrictHostKeyChecking=yes" in line and "ConnectTimeout=5" in line for line in lines)


def test_a_peer_that_lets_in_and_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_keys, "ANSWER", 1)
    told = tried(tmp_path, [PEERS[1], NodeSettings("pm-41", "10.0.0.41"), PEERS[2]])
    assert told == {"pm-2": (0, ""), "pm-41": (124, "no answer within 1 s"), "pm-3": (0, "")}


def test_the_deadline_has_time_for_all_peers() -> None:
    """Those that hang all, and are killed a second later."""
    assert [node_keys.longest(PEERS[:count]) for count in (0, 1, 8, 9, 40)] == [0, 21, 21, 42, 105]


def examined(monkeypatch: pytest.MonkeyPatch, down: set[str], chosen: list[str], nodes: int = 4) -> dict[str, Any]:
    """Whom each node tries and how long it may take, and the findings."""
    told: dict[str, Any] = {"tried": {}, "seconds": {}}

    def connection(node: Node) -> Any:
        if node.name in down:
            raise NodeDown(f"{node.name}: no ssh within 10 s")
        return SimpleNamespace(open=lambda: None)

    def ask_each(node: Node, *queries: Query[Any], seconds: float | None = None) -> list[Any]:
        told["tried"][node.name] = [word.partition("=")[0] for word in queries[-1].command.argv if "=10.0." in word]
        told["seconds"][node.name] = seconds
        failed = [CommandFailed(node.name, "x", 1, "") for _ in queries[:-1]]
        return [*failed, Keys(tried=dict.fromkeys(told["tried"][node.name], (0, "")))]

    monkeypatch.setattr(Node, "connection", property(connection))
    monkeypatch.setattr(Node, "ask_each", ask_each)
    text = "".join(f'[nodes.pm-{n}]\nreplication = "10.0.0.{n}"\n' for n in range(1, nodes + 1))
    settings = replace(parse(text, "pmc.conf"), audit_log="")
    with Cluster(settings) as cluster:
        monkeypatch.setattr(cluster, "on_all", lambda work, names=None: [
            work(cluster.nodes[name]) for name in (cluster.nodes if names is None else names)
        ])  # fmt: skip
        told["found"] = {(each.node, each.check): each.verdict for each in _examine(cluster, chosen)}
    return told


def test_who_does_not_let_the_manager_in_is_not_tried_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    told = examined(monkeypatch, {"pm-2"}, ["pm-1", "pm-2"])
    assert told["tried"] == {"pm-1": ["pm-3", "pm-4"], "pm-3": ["pm-1"], "pm-4": ["pm-1"]}
    found = told["found"]
    assert found["pm-2", "answers"].text == "no ssh within 10 s"
    assert found["pm-1", "ssh with pm-2"].text == "pm-2 could not be asked: no ssh within 10 s"
    assert found["pm-1", "ssh with pm-3"].ok
    assert len([check for node, check in found if node == "pm-1"]) == len(CHECKS) + 4


def test_the_more_peers_the_longer_the_question_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    told = examined(monkeypatch, set(), ["pm-1"], nodes=100)
    assert told["seconds"] == {"pm-1": 60 + 13 * 21, **{f"pm-{number}": 60 + 21 for number in range(2, 101)}}


# -- the files that say who may log in --

OLD, NEW = "ssh-ed25519 AAAA1 pmc-pm-1", 'restrict,from="10.0.0.1" ssh-ed25519 AAAA1 pmc-pm-1'
HIS = "ssh-ed25519 AAAA2 him\n\n# \\t a note\n"


def run(command: Command, path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [str(path) if word == node_keys.AUTHORIZED else word for word in command.argv]
    return subprocess.run(argv, input=command.stdin or "", capture_output=True, text=True, env={**os.environ, **env})


EDITS: dict[str, tuple[Command, str, str]] = {
    "append": (node_keys.append(node_keys.AUTHORIZED, f"{OLD}\n"), HIS, f"{HIS}{OLD}\n"),
    "append to a line without its end": (node_keys.append(node_keys.AUTHORIZED, f"{OLD}\n"), HIS[:-1], f"{HIS}{OLD}\n"),
    "append what is there": (node_keys.append(node_keys.AUTHORIZED, f"{OLD}\n"), f"{OLD}\n{HIS}", f"{OLD}\n{HIS}"),
    "take out": (node_keys.take_out(node_keys.AUTHORIZED, f"{OLD}\n"), f"{OLD}\n{HIS}", HIS),
    "take out the only one": (node_keys.take_out(node_keys.AUTHORIZED, f"{OLD}\n"), f"{OLD}\n", ""),
    "take out the marked": (
        node_keys.take_out_marked(node_keys.AUTHORIZED, "pmc-pm-1", f"{OLD}\n"),
        f"{OLD}\n{NEW}\n{HIS}",
        f"{OLD}\n{HIS}",
    ),
    "in place of": (node_keys.edit(node_keys.AUTHORIZED, [OLD], [NEW]), f"{OLD}\n{HIS}", f"{HIS}{NEW}\n"),
    "in place of some": (node_keys.edit(node_keys.AUTHORIZED, [OLD, "x"], [NEW]), f"x\n{OLD}\n{NEW}\n", f"{NEW}\n"),
    "in": (node_keys.edit(node_keys.AUTHORIZED, [], [NEW]), HIS, f"{HIS}{NEW}\n"),
    "out": (node_keys.edit(node_keys.AUTHORIZED, [NEW], []), f"{NEW}\n{HIS}", HIS),
}


@pytest.mark.parametrize("what", EDITS)
def test_who_may_log_in_is_never_half_written(tmp_path: Path, what: str) -> None:
    """It is another file that takes the place of the old one; who dies before that has changed nothing."""
    edit, before, after = EDITS[what]
    path, tools = tmp_path / "keys", tmp_path / "tools"
    path.write_text(before)
    path.chmod(0o640)
    for tool in ("sync", "mv"):
        tools.mkdir(exist_ok=True)
        (tools / tool).write_text("#!/bin/sh\nexit 1\n")
        (tools / tool).chmod(0o755)
        assert run(edit, path, PATH=f"{tools}:{os.environ['PATH']}").returncode == 1
        (tools / tool).unlink()
        assert path.read_text() == before
    old = path.stat()
    assert run(edit, path).returncode == 0
    assert path.read_text() == after
    assert path.stat().st_ino != old.st_ino
    assert (path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) == (old.st_mode, old.st_uid, old.st_gid)
    assert {each.name for each in tmp_path.iterdir()} == {"keys", "tools"}


def test_where_there_is_none_it_is_made_for_root_only_and_a_link_stays_one(tmp_path: Path) -> None:
    made = tmp_path / "new" / "keys"
    assert run(node_keys.append(node_keys.AUTHORIZED, f"{OLD}\n"), made).returncode == 0
    assert (made.read_text(), made.stat().st_mode & 0o777) == (f"{OLD}\n", 0o600)
    assert made.parent.stat().st_mode & 0o777 == 0o700
    link = tmp_path / "link"
    link.symlink_to(made)
    assert run(node_keys.edit(node_keys.AUTHORIZED, [OLD], [NEW]), link).returncode == 0
    assert link.is_symlink()
    assert made.read_text() == f"{NEW}\n"
    assert run(node_keys.append(node_keys.AUTHORIZED, ""), link).returncode != 0, "nothing came"
    assert made.read_text() == f"{NEW}\n"


def test_a_line_that_is_no_key_takes_no_time_for_ever() -> None:
    began = time.process_time()
    assert node_keys.public("ssh-" * 50_000) == []
    assert node_keys.public(f"ssh-rsa {'A' * 5464} x") == [f"ssh-rsa {'A' * 5464}"]
    assert time.process_time() - began < 5


def given(path: Path, text: str) -> subprocess.CompletedProcess[str]:
    limits, mark = 'restrict,from="10.0.0.1"', "pmc-pm-1"
    return run(replace(node_keys.append_key(node_keys.AUTHORIZED, limits, mark), stdin=text), path)


def test_a_new_key_of_another_node_gets_its_limits_where_it_lets_in(tmp_path: Path) -> None:
    """As ssh-keygen makes it."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "pmc-pm-1", "-f", tmp_path / "key"], check=True
    )
    public, path = (tmp_path / "key.pub").read_text(), tmp_path / "keys"
    path.write_text(HIS)
    for _ in range(2):
        assert given(path, public).returncode == 0
        assert path.read_text() == f'{HIS}restrict,from="10.0.0.1" {public}'


KEY = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'x' * 43}"


@pytest.mark.parametrize("came", [
    "", "\n", KEY, f"{KEY} pmc-pm-2", f"{KEY} pmc-pm-1\n{KEY} pmc-pm-1", f"x\n{KEY} pmc-pm-1", f" {KEY} pmc-pm-1",
    f'from="*" {KEY} pmc-pm-1', f"{KEY}x pmc-pm-1", f"{KEY} x\n{KEY} pmc-pm-1", f"{KEY} pmc-pm-1{' ' * 1000}\nx",
    "ssh-ed25519 AAAA pmc-pm-1", KEY.replace("x", "ä") + " pmc-pm-1", f"{KEY}\r pmc-pm-1", f"# {KEY} pmc-pm-1",
])  # fmt: skip
def test_what_is_not_the_new_key_changes_nothing(tmp_path: Path, came: str) -> None:
    path = tmp_path / "keys"
    path.write_text(HIS)
    done = given(path, came)
    assert (done.returncode, done.stderr) == (1, "what came is not the public key that was made\n")
    assert path.read_text() == HIS
