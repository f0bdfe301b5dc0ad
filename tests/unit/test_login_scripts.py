"""Login scripts that print, or that do not let a command run: against a real ssh server with a real shell."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import paramiko
import pytest

from pmc.actions import Fetch
from pmc.cluster import Cluster
from pmc.command import Query, bash, command
from pmc.errors import CommandFailed, PmcError, Refused
from pmc.health import node_checks, node_machine, verify
from pmc.health.node_checks import About
from pmc.lock_files import Holder
from pmc.plans import migrate
from pmc.settings import parse
from pmc.transport import node as pmc_node
from pmc.transport.fetch import fetched
from pmc.transport.lock import Hold
from pmc.transport.node import Node
from tests.unit import sshd, wire
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, changed, cluster, node, running
from tests.unit.test_verify import healthy

BYTES = bytes(range(256)) * 4000
PRINTING = {
    "a line": ("echo Welcome to pm-1.", "Welcome to pm-1."),
    "without an end": ("printf Welcome", "Welcome"),
    "lines": ("echo; echo a; echo b >&2; echo", "a"),
    "marks": ("echo pmc-0123456789abcdef 0; echo locked", "pmc-0123456789abcdef 0\\nlocked"),
    "escape codes": ("printf '\\033[2J\\007x'", "\\x1b[2J\\x07x"),
    "much": ("head -c 60000 /dev/zero | tr '\\0' x", "x" * 70 + "..."),
}
NOT_RUN = {
    "nologin": ("echo This account is not available.; exit 1", "did not run the command (it said 'This account"),
    "nothing": ("exit 0", "did not run the command (it said '')"),
    "an error": ("echo 'fish: Unknown command' >&2; exit 127", "(it said 'fish: Unknown command')"),
    "another shell": ("exec true", "did not run the command"),
    "without end": ("yes", "prints without end before the command ('y"),
}


@pytest.fixture
def logged_in(tmp_path: Path) -> Iterator[Any]:
    """A node, with a script for its logins."""
    hosts: list[sshd.Sshd] = []
    clusters: list[Cluster] = []

    def made(script: str) -> Node:
        bashrc = tmp_path / ".bashrc"
        bashrc.write_text(f"{script}\n")
        hosts.append(sshd.Sshd(tmp_path, lambda: wire.Shell(bashrc)))
        text = sshd.configured(tmp_path, hosts[-1].port) + sshd.nodes([hosts[-1].port])
        clusters.append(Cluster(parse(text, "pmc.conf")))
        return clusters[-1].nodes["pm-1"]

    yield made
    for each in clusters:
        each.__exit__(None, None, None)
    for host in hosts:
        host.close()


@pytest.mark.parametrize("kind", ["", *PRINTING])
def test_what_a_login_script_prints_is_no_part_of_any_answer(kind: str, logged_in: Any, tmp_path: Path) -> None:
    script, printed = PRINTING.get(kind, ("", ""))
    there: Node = logged_in(script)
    assert there.ask(Query(command("echo", "x y"), str), Query(bash("echo a; echo b >&2"), str)) == ["x y\n", "a\n"]
    assert there.prints == printed
    assert there.run(command("cat", stdin="given")) == "given"
    (tmp_path / "disk").write_bytes(BYTES)
    blocks: list[bytes] = []
    there.run(command("cat", str(tmp_path / "disk")), sink=blocks.append)
    assert b"".join(blocks) == BYTES
    with open(tmp_path / "disk", "rb") as source:
        there.run(bash('cat >"$1"', str(tmp_path / "copy")), source=source)
    assert (tmp_path / "copy").read_bytes() == BYTES
    action = Fetch(command("cat", str(tmp_path / "disk")), str(tmp_path / "fetched"), len(BYTES))
    with fetched("pm-1", action) as take:
        there.run(action.source, sink=take)
    assert (tmp_path / "fetched").read_bytes() == BYTES
    with pytest.raises(CommandFailed, match="status 3: why"):
        there.run(bash("echo why >&2; exit 3"))
    # A bash of its own reads .bashrc, too, unless it sees that there is a shell above it.
    inner = command("bash", "-c", 'cat "$1"', "cat", str(tmp_path / "disk"))
    there.run(inner, sink=blocks.append)
    assert b"".join(blocks) == BYTES * 2
    assert there.ask(Query(inner, len)) == [len(BYTES.decode(errors="replace"))]


def test_a_lock_is_given_where_a_login_script_prints(
    logged_in: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pmc.lock_files.FOLDER", str(tmp_path / "run"))
    there: Node = logged_in("echo held web; printf Welcome")
    hold = Hold(there, ["web"], Holder("root@m", 1, "2026-01-01T00:00:00+00:00", "vm.mv web"))
    assert hold.refusal is None
    second = Hold(there, ["web"], Holder("root@n", 2, "2026-01-01T00:00:00+00:00", "vm.mv web"))
    assert second.refusal is not None
    assert second.refusal.kind == "held"
    hold.release()


@pytest.mark.parametrize("kind", NOT_RUN)
def test_a_command_that_never_ran_is_no_empty_answer(kind: str, logged_in: Any, tmp_path: Path) -> None:
    script, said = NOT_RUN[kind]
    there: Node = logged_in(script)
    for ask in (
        lambda: there.ask(Query(command("true"), str)),
        lambda: there.run(command("touch", str(tmp_path / "ran"))),
        lambda: there.run(command("true"), sink=lambda block: None),
        lambda: Hold(there, ["web"], Holder("root@m", 1, "now", "x")),
    ):
        with pytest.raises(PmcError) as caught:
            ask()
        assert said in str(caught.value)
        assert "root's ~/.bashrc there should begin with: case $- in *i*) ;; *) return;; esac" in str(caught.value)
        assert str(caught.value).isprintable()
    assert not (tmp_path / "ran").exists()


def test_an_end_that_comes_between_two_looks_is_an_end(logged_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The channel closes after one has looked whether the command has ended, and before one has read what it said."""

    def late(channel: paramiko.Channel, *rest: Any) -> bool:
        while not (drained(channel, *rest) and channel.closed):
            time.sleep(0.01)
        return True

    drained = pmc_node._drain
    monkeypatch.setattr(pmc_node, "_drain", late)
    near = logged_in("")
    assert near.run(command("true")) == ""
    with pytest.raises(CommandFailed) as caught:
        near.run(command("false"))
    assert caught.value.exit == 1


@pytest.mark.parametrize("word", [BrokenPipeError, EOFError, ValueError, paramiko.SSHException])
def test_a_client_that_leaves_is_no_fault_of_the_tests_server(word: type[Exception]) -> None:
    """A fault in its thread would be counted against whichever test runs then."""
    raises = mock.Mock(side_effect=word)
    wire._pass(lambda size: b"said", raises)
    wire._pass(raises, print)
    assert raises.call_count == 2


def test_it_is_found_and_what_to_mend_is_said() -> None:
    verdict = node_machine.prints("Welcome")
    assert not verdict.ok
    assert "'Welcome'" in verdict.text
    assert ".bashrc" in verdict.advice
    assert node_machine.prints("").ok
    answers = tuple(CommandFailed("pm-1", "x", 1, "no") for _ in node_checks.CHECKS)
    found = node_checks.judged(node_checks.Seen(About("pm-1", SETTINGS), answers, prints="Welcome"))
    assert [each.verdict for each in found if each.check == "login script"] == [verdict]
    facts = replace(healthy(), state=cluster(node("pm-1", prints="Welcome")))
    assert "LOGIN_PRINTS" in {each.code for each in verify.findings(facts)}


@pytest.mark.parametrize(("shell", "ok"), [("/bin/bash", True), ("/usr/bin/zsh", True), ("/bin/sh", True),
                                           ("/usr/bin/fish", False), ("/bin/tcsh", False), ("", False),
                                           ("/usr/sbin/nologin", False)])  # fmt: skip
def test_login_shells(shell: str, ok: bool) -> None:
    check = next(each for each in node_checks.CHECKS if each.name == "login shell")
    verdict = check.judge(shell, About("pm-1", SETTINGS))
    assert verdict.ok is ok
    assert ok or "chsh -s /bin/bash" in verdict.advice


def test_a_vm_does_not_move_where_libvirt_would_take_it_for_an_answer() -> None:
    state = changed(running(), "pm-2", prints="Welcome")
    with raises(Refused, "requirements.quiet_login", "pm-2", "'Welcome'") as caught:
        migrate.move("web", "", state, SETTINGS)
    assert str(caught.value).endswith("fab pm.init pm-2")
    assert migrate.move("web", "", changed(running(), "pm-1", prints="Welcome"), SETTINGS).steps, "nobody logs in there"
    other = changed(running(), "pm-2", prints="Welcome", prints_to="admin")
    assert migrate.move("web", "", other, SETTINGS).steps, "root's own login may be silent"
