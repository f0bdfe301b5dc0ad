"""Hostile values: each is refused in one line with exit status 2, or arrives on the node unchanged, as one argument.

What runs on a node is the line that `Node` gives to the login shell; here a real sh and a real bash get it."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from pmc import backup, backup_pipeline, lvm, virsh
from pmc import settings as configuration
from pmc.command import Command, bash, command, frame, unframe
from pmc.errors import PmcError, Refused, SettingsError
from pmc.facts import domain_xml
from pmc.plans import request, requirements, restore
from pmc.remote.manifest import manifest_sum
from pmc.transport.node import WRAPPER, command_line
from tests.sim.fake import World
from tests.unit.samples import SETTINGS
from tests.unit.stories import BASE, NEW, STORED, UUID
from tests.unit.test_tasks import TASKS, Pmc, pmc  # noqa: F401

MARK = "pmc-0123456789abcdef"
SHOW = ("env", "printf", "%s\\0")
BITS = st.sampled_from([
    ";", "&", "|", "$(touch HACKED)", "`touch HACKED`", "${HOME}", "\n", "\r", "'", '"', "\\", " ", "\t", "-", "--",
    "..", "/", "*", "~", "!", "#", "<", ">", "EOF", MARK, "\0", "\x1b[2J", "ä", "😀", "\u2028", "\u202e", "web", "1",
    "G", "=", "--shared-secret=x", "\x7f", ",", "%s", "x" * 10_000, "\udcff",
])  # fmt: skip
HOSTILE = st.one_of(st.text(max_size=40), st.lists(BITS, min_size=1, max_size=4).map("".join))
# What a program can get as an argument at all: no NUL, and characters that have bytes.
PASSABLE = HOSTILE.filter(lambda text: "\0" not in text and text.encode(errors="replace").decode() == text)
FEW = profile(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = profile(FEW, max_examples=200)


def one_line(error: PmcError) -> None:
    text = str(error)
    assert "\n" not in text, text
    assert "\x1b" not in text
    assert len(text) < 1000, "the value is shown shortened"
    assert error.code == 2


# -- what arrives --


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, str]:
    """A folder with a sudo that only runs what it is given, so that its line can be tried here."""
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\n[ "$1 $2" = "-n --" ] || exit 99\nshift 2; exec "$@"\n')
    sudo.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def logged_in(shell: str, line: str, tools: dict[str, str]) -> bytes:
    """sshd gives the line to the user's login shell with -c."""
    got = subprocess.run(
        [shell, "-c", line], capture_output=True, env=tools, cwd=tools["HOME"], timeout=30, check=False
    )
    assert got.returncode == 0, got.stderr
    assert not Path(tools["HOME"], "HACKED").exists()
    return got.stdout


def as_node_runs(each: Command, sudo: bool) -> str:
    return command_line(("sh", "-c", WRAPPER, "pmc", "20", *each.argv), sudo)


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("sudo", [False, True])
@given(words=st.lists(PASSABLE, min_size=1, max_size=5))
@FEW
def test_arguments_of_a_step_arrive_unchanged(shell: str, sudo: bool, tools: dict[str, str], words: list[str]) -> None:
    wanted = b"".join(word.encode() + b"\0" for word in words)
    for each in (command(*SHOW, *words), bash('env printf "%s\\0" "$@"', *words)):
        assert logged_in(shell, as_node_runs(each, sudo), tools) == wanted


@pytest.mark.parametrize("sudo", [False, True])
@given(words=st.lists(PASSABLE, min_size=1, max_size=5), text=PASSABLE)
@FEW
def test_arguments_and_stdin_of_questions_arrive_unchanged(
    sudo: bool, tools: dict[str, str], words: list[str], text: str
) -> None:
    if MARK in text:  # chance, new for each look: 64 bits
        text = text.replace(MARK, "")
    asked = [command(*SHOW, *words), command("cat", stdin=text), bash('env printf "%s\\0" "$@"', *words)]
    line = command_line(("timeout", "-k", "5", "20", "sh", "-s"), sudo)
    got = subprocess.run(
        ["sh", "-c", line], input=frame(asked, MARK).encode(), capture_output=True, env=tools, cwd=tools["HOME"],
        timeout=30, check=False,
    )  # fmt: skip
    if any(MARK in word for word in words):
        return  # then the answer is mixed up and refused, or right: never run as something else
    first, second, third = unframe(got.stdout.decode(), got.stderr.decode(), MARK, 3)
    assert first.stdout == third.stdout == "".join(f"{word}\0" for word in words)
    assert second.stdout == f"{text}\n"
    assert not Path(tools["HOME"], "HACKED").exists()


@given(text=PASSABLE)
@FEW
def test_what_is_nested_for_another_node_arrives_unchanged(tools: dict[str, str], text: str) -> None:
    """The one place where a value is put into shell text: what one node runs on another by ssh."""
    quoted = f"env printf '%s\\0' {shlex.quote(text)}"
    ssh = Path(tools["HOME"], "ssh")
    ssh.write_text('#!/bin/sh\nfor line; do :; done\nexec sh -c "$line"\n')
    ssh.chmod(0o755)
    each = bash(backup_pipeline.remotely("10.0.0.1", quoted))
    assert logged_in("sh", as_node_runs(each, False), tools) == text.encode() + b"\0"


@given(text=PASSABLE)
@FEW
def test_a_pasted_plan_gives_the_same_arguments(tools: dict[str, str], text: str) -> None:
    for each in (command(*SHOW, text), lvm.create("vg", text, 1), virsh.define(text)):
        assert shlex.split(str(command(*each.argv))) == list(each.argv)
    assert logged_in("sh", str(command(*SHOW, text)), tools) == text.encode() + b"\0"


# -- what is refused --


@given(text=HOSTILE)
@example("-rf")
@example("web\n")
@MANY
def test_a_name_is_plain_or_refused(text: str) -> None:
    try:
        assert requirements.check_name("vm.add", text) == text
    except Refused as error:
        one_line(error)
        return
    assert text.isascii()
    assert shlex.quote(text) == text
    assert not text.startswith("-")


FLAGS = ("name", "primary", "secondary", "size", "memory", "cpus", "iso", "image", "clone", "address", "virt_install")


@given(flag=st.sampled_from(FLAGS), text=HOSTILE)
@MANY
def test_a_flag_of_vm_add_is_understood_or_refused(flag: str, text: str) -> None:
    flags = {"name": "web", "primary": "pm-1", "secondary": "pm-2", "size": "1G", "memory": "1G", flag: text}
    try:
        wanted = request.add(SETTINGS, flags)
    except Refused as error:
        one_line(error)
        return
    assert {wanted.primary, wanted.secondary} <= {*SETTINGS.nodes, ""}
    assert wanted.virt_install.isprintable()
    assert all(isinstance(number, int) and number >= 0 for number in (wanted.size, wanted.memory, wanted.cpus))


KEYS = ("volume_group", "bridge", "backup_dir", "image_dir", "iso_dir", "mac_prefix", "ports", "virt_type", "migration")


@given(key=st.sampled_from(KEYS), text=HOSTILE)
@MANY
def test_a_configured_value_is_plain_or_refused(key: str, text: str) -> None:
    quoted = '"' + "".join(f"\\U{ord(letter):08x}" for letter in text) + '"'
    try:
        found = configuration.parse(f'{key} = {quoted}\n[nodes.pm-1]\nreplication = "10.0.0.1"\n', "pmc.conf")
    except SettingsError as error:
        one_line(error)
        return
    assert getattr(found, key) == text
    if key != "iso_dir":  # a path on the manager, never in a command
        assert shlex.quote(text) in (text, f"'{text}'")
        assert not text.startswith("-")
        assert text.isprintable()


@given(text=HOSTILE)
@MANY
def test_any_text_as_configuration_is_refused_in_one_line(text: str) -> None:
    for form in (text, f"[nodes.{text}]\nreplication='10.0.0.1'", f"[nodes.a]\nreplication='''{text}'''"):
        try:
            configuration.parse(form, "pmc.conf")
        except SettingsError as error:
            one_line(error)


@given(text=HOSTILE)
@MANY
def test_the_id_of_a_backup_is_one_or_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        restore.find(text, STORED)
    one_line(caught.value)


@given(key=st.sampled_from(sorted(asdict(BASE))), value=st.one_of(HOSTILE, st.integers(), st.none(), st.lists(HOSTILE)))
@MANY
def test_a_manifest_from_a_stranger_is_plain_or_no_manifest(key: str, value: object) -> None:
    """Whoever can write into a backup directory writes what ends in commands."""
    table = {**backup.to_table(BASE), key: value}
    text = json.dumps({**table, "manifest_sha256": manifest_sum(table)})
    try:
        found = backup.from_json(text)
    except ValueError:
        return
    for word in (found.id, found.vm, found.kind, found.base, found.file, found.device):
        assert shlex.quote(word) in (word, "''")
        assert ".." not in word.split("/")


@given(junk=HOSTILE)
@FEW
def test_the_xml_of_a_backup_is_a_domains_or_refused(junk: str) -> None:
    stored = replace(STORED[0], backup=replace(BASE, xml=BASE.xml.replace("<name>", f"<name>{junk}")))
    found = restore.find(BASE.id, [stored])
    try:
        plan = restore.as_new(found, "new", ("pm-1", "pm-2"), World().state(), SETTINGS, NEW, UUID)
    except Refused as error:
        one_line(error)
        return
    text = next(step.do.stdin for step in plan.steps if isinstance(step.do, Command) and "define" in step.do.argv)
    assert domain_xml.name_of(text or "") == "new"


def test_a_time_makes_a_plain_id() -> None:
    assert backup.ID.fullmatch(backup.new_id("web", "base", datetime(2026, 1, 2, tzinfo=UTC)))


# -- whole tasks, on nodes that cannot be reached --


@pytest.fixture
def unreachable(pmc: Pmc, tmp_path: Path) -> Pmc:  # noqa: F811
    """Two nodes whose ssh ports are closed: a port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    ssh = tmp_path / "ssh_config"
    ssh.write_text(f"Host *\n HostName 127.0.0.1\n Port {port}\n User root\n")
    nodes = "".join(f'[nodes.pm-{n}]\nreplication = "10.0.0.{n}"\n' for n in (1, 2))
    (tmp_path / "pmc.conf").write_text(f'ssh_config = "{ssh}"\n[deadlines]\nconnect = 1\n{nodes}')
    return pmc


WORDS = st.one_of(
    st.sampled_from([
        "web", "pm-1", "pm-2", "--primary", "--secondary", "--size", "1G", "--memory", "--force", "--yes", "--json",
        "--base", "--backup", "--as", "--to", "--all-from", "--on", "--fix", "--cleanup", "all",
        "web.20260101T000000Z.base",
    ]),
    PASSABLE,
)  # fmt: skip


@given(task=st.sampled_from(TASKS), words=st.lists(WORDS, max_size=5))
@profile(FEW, max_examples=60)
@example(task="vm.rm", words=["web", "--yes"])
@example(task="vm.mv", words=["web", "--cleanup"])
@example(task="vm.add", words=["web", "--primary", "pm-1", "--size", "1G", "--memory", "1G"])
def test_no_line_ends_in_a_traceback(unreachable: Pmc, tmp_path: Path, task: str, words: list[str]) -> None:
    status, _, err = unreachable(task, *(word for word in words if word not in TASKS))
    assert status in (0, 1, 2), (task, words, err)
    assert status or "--help" in words or not err.strip() or task in ("pm.init", "pm.ready_drbd"), (task, words, err)
    assert "Traceback" not in err
    assert "site-packages" not in err
    assert str(Path(configuration.__file__).parent) not in err, "no path of pmc's own code"
    if status == 2:
        assert len(err.strip().splitlines()) <= 2, err
    assert len(err) < 20_000
