"""No secret is shown: not in a plan, not in the words of a tool that fails. A story's secret is `hunter2`, its XML's
password `VNC-PASS`; both are looked for in everything that a person could see when any step fails."""

from __future__ import annotations

import json
import re
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.sax import saxutils

import pytest

from pmc import backup_pipeline, drbd, virsh
from pmc.actions import Action, Relay, Transfer, Wait, Watch
from pmc.backup_pipeline import How
from pmc.command import Answer, Command, Query, bash, command, masked
from pmc.errors import CommandFailed, PmcError, StepFailed
from pmc.plan import Plan, Step, apply
from pmc.plans.node_files import receive
from pmc.transport.node import Node, command_line
from tests.unit.samples import SETTINGS, XML
from tests.unit.stories import BASE, STORIES, backed_up, with_web

PASSWORD = "VNC-PASS"
SECRETS = ("hunter2", PASSWORD)
WITH_PASSWORD = XML.replace("</devices>", f'<graphics type="vnc" passwd="{PASSWORD}"/></devices>')
REAL = "0123456789abcdef" * 3  # in the form that pmc gives a resource's secret


class Echo(Node):
    """A node all of whose tools fail and print what they were given: their arguments and their stdin."""

    def __init__(self, words: str = "") -> None:
        super().__init__(SETTINGS.nodes["pm-1"], SETTINGS, None)
        self.words = words

    @property
    def connection(self) -> Any:
        return SimpleNamespace(user="root")

    def _exchange(self, line: str, shown: str, limit: float, *, data: bytes = b"", **more: Any) -> Answer:
        said = f"{line}\n{data.decode()}\n{self.words}\nend"
        marks = re.findall(r"^echo (pmc-[0-9a-f]{16}) 0;", data.decode(), re.M)
        if not marks:
            return Answer(1, said, said)
        mark, said = marks[0], self.words
        return Answer(0, f"{mark} 0\n{said}\n{mark} 0 1\n", f"{mark} 0\n{said}\n{mark}\n")


def commands(plan: Plan) -> Iterator[Command]:
    for step in plan.steps:
        for action in (step.do, step.undo, step.check):
            if isinstance(action, Command):
                yield action
            elif isinstance(action, Wait):
                yield action.ask
            elif isinstance(action, Transfer | Relay):
                yield action.target


def plans() -> dict[str, Plan]:
    found = {name: tell().plan for name, tell in STORIES.items()}
    world = with_web()
    found["define"] = Plan("define", (Step("pm-1", "define", virsh.define(WITH_PASSWORD)),))
    kept = replace(BASE, xml=WITH_PASSWORD)
    found["seal"] = Plan("seal", (Step("pm-1", "seal", backup_pipeline.seal("/b", "/b/.part", kept)),))
    return found | {"vm.backup again": backed_up(())(world)}


PLANS = plans()


def texts(error: PmcError) -> str:
    parts = [str(error), repr(error), *(str(value) for value in vars(error).values())]
    return "\n".join(parts + ([texts(error.__cause__)] if isinstance(error.__cause__, PmcError) else []))


@pytest.mark.parametrize("name", PLANS)
def test_no_plan_and_no_argument_holds_a_secret(name: str) -> None:
    plan = PLANS[name]
    for secret in SECRETS:
        assert secret not in f"{plan}{plan!r}"
        assert not any(secret in word for each in commands(plan) for word in each.argv)


@pytest.mark.parametrize("sudo", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_no_line_that_is_run_on_a_node_holds_a_secret(name: str, sudo: bool) -> None:
    """ps shows a command's line to everyone on its node."""
    for each in commands(PLANS[name]):
        assert not any(secret in command_line(each.argv, sudo) for secret in SECRETS)


@pytest.mark.parametrize("name", PLANS)
def test_a_tool_that_echoes_what_it_was_given_shows_no_secret(name: str) -> None:
    """Each step fails in its turn, on a node whose tools print all they get; so do the undos."""
    plan = PLANS[name]
    given = [secret for each in commands(plan) for secret in each.secrets]
    node = Echo()

    def run(at: str, action: Action, watch: Watch | None) -> None:
        node.run(action if isinstance(action, Command) else command("true"))

    for step in plan.steps:
        with pytest.raises(StepFailed) as caught:
            apply(Plan(plan.title, (step,)), run)
        shown = texts(caught.value)
        assert not any(secret in shown for secret in [*SECRETS, *given])


def test_the_stories_have_secrets_to_find() -> None:
    stdins = "".join(each.stdin or "" for plan in PLANS.values() for each in commands(plan))
    assert all(secret in stdins for secret in SECRETS)


@pytest.mark.parametrize(
    "words",
    [
        # drbdadm names the whole call that it could not carry out.
        f"Command 'drbdsetup new-peer web 1 --_name=pm-2 --cram-hmac-alg=sha256 --shared-secret={REAL} --protocol=C' "
        "terminated with exit code 10",
        f"Command 'drbdsetup-84 connect web ipv4:10.0.0.1:7800 --shared-secret={REAL}' terminated with exit code 10",
        "drbd.d/old.res:9: Parse error: ';' expected\n  shared-secret \"typed by hand\" verify-alg crc32c;",
        "shared-secret by-hand;",
        "shared-secret 'by-hand';",
        'shared-secret "cut short by-hand',
        f"drbd.d/web.res:8: Parse error: '<option>' expected, but got '{REAL}'",
        "<graphics type='vnc' passwd='by-hand' passwdValidTo='2026-01-01'/>",
        'error: XML error: <graphics type="vnc" passwd="typed by hand">',
        "ERROR    Unknown --graphics options: ['passwordd=by-hand']",
        "ERROR    Error: --graphics vnc,password=by-hand,prot=1: Unknown options",
        'manifest: {"xml": "<graphics passwd=\\"by-hand\\"/>"}',
    ],
)
def test_a_secret_that_a_tool_read_elsewhere_is_not_shown(words: str) -> None:
    """It came from a file that another command wrote: the command that fails has no `secrets` to compare with."""
    node = Echo(words)
    errors = []
    for ask in (lambda: node.run(drbd.up("web")), lambda: node.ask(drbd.status()), lambda: node.ask(broken)):
        with pytest.raises(CommandFailed) as caught:
            ask()
        errors.append(texts(caught.value))
    assert not any(part in shown for shown in errors for part in (REAL, "by-hand", "by hand"))
    assert all("***" in shown for shown in errors)


def test_the_secret_of_a_question_is_not_shown_in_its_answer() -> None:
    asked = Query(command("cat", stdin="hunter2", secrets=("hunter2",)), str)
    with pytest.raises(CommandFailed) as caught:
        Echo("cat: hunter2: no such file").ask(asked)
    assert "hunter2" not in texts(caught.value)


def _cannot(text: str) -> str:
    raise ValueError(text)


broken = Query(command("true"), _cannot, fine=(0, 1))


@pytest.mark.parametrize(
    "password",
    ["a", "ab\\cd", 'a"b', "it's", "x&y<z", "\\", "ends in \\", "hunter2 & more", "ü\u20acx", "\\u0041bc'\""],
)
@pytest.mark.parametrize("quote", ['"', "'"])
def test_any_password_of_a_console_is_hidden_and_nothing_else(password: str, quote: str) -> None:
    text = saxutils.escape(password, {quote: "&quot;" if quote == '"' else "&apos;"})
    xml = XML.replace("</devices>", f"<graphics type='vnc' passwd={quote}{text}{quote} port='-1'/></devices>")
    shown = str(virsh.define(xml))
    assert f"<graphics type='vnc' passwd={quote}***{quote} port='-1'/>" in shown
    assert shown.replace(f"passwd={quote}***{quote}", f"passwd={quote}{text}{quote}").count(text) == xml.count(text)
    kept = str(backup_pipeline.seal("/b", "/b/.part", replace(BASE, xml=xml)))
    assert "***" in kept
    assert json.dumps(text)[1:-1] not in kept.replace(r"\"", "") or len(password) == 1
    said = masked(
        f"error: password {password!s} is not right: <graphics passwd={quote}{text}{quote}>", virsh.define(xml)
    )
    assert said.startswith("error: password *** is not right: <graphics passwd=")


def test_what_is_no_secret_is_shown_whole() -> None:
    for text in (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "52:54:00:77:00:01 cram-hmac-alg sha256;",
        "8b7df143d91c716ecfa5fc1730022f6b421b05ce",
    ):
        assert masked(text) == text


def test_a_drbd_secret_made_by_pmc_has_the_form_that_is_recognised() -> None:
    source = (Path(__file__).parents[2] / "pmc" / "tasks/lookups.py").read_text()
    assert "secrets.token_hex(24)" in source
    assert masked(f"x {REAL} y") == "x *** y"


@pytest.mark.parametrize(
    "made",
    [
        lambda path: replace(
            drbd.write_file("web", "{}", "x"), argv=(*drbd.write_file("web", "x", "x").argv[:-1], path)
        ),
        lambda path: replace(receive(path, "600"), stdin="x"),
        lambda path: command("install", "-m", "600", "/dev/null", path),
    ],
)
def test_a_file_that_may_hold_a_secret_is_for_its_owner_only(made: Any, tmp_path: Path) -> None:
    """Resource files, uploads, and a backup while it is written; whatever the node's umask is."""
    target = tmp_path / "file"
    each: Command = made(str(target))
    script = bash('umask 000; exec "$@"', *each.argv)
    subprocess.run(script.argv, input=each.stdin or "", text=True, check=True)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@pytest.mark.parametrize("came", ["", "ISO", "ISO9660, and more"])
def test_an_upload_that_does_not_come_whole_is_not_there(came: str, tmp_path: Path) -> None:
    """The manager died: its stdin ends early."""
    target = tmp_path / "web.iso"
    for text, there in ((came, False), ("ISO9660", True)):
        each = receive(str(target), "644", size=7)
        done = subprocess.run(each.argv, input=text, text=True, check=False, capture_output=True)
        assert (done.returncode == 0, target.exists()) == (there, there)
        assert list(tmp_path.iterdir()) == [target] * there


def test_a_backup_is_for_its_owner_only_with_all_that_lies_beside_it(tmp_path: Path) -> None:
    part, kept = tmp_path / "disk.part", tmp_path / "kept"
    kept.mkdir()
    whole = replace(BASE, size=4096, xml=WITH_PASSWORD)
    (tmp_path / "volume").write_bytes(b"x" * 4096)
    disk = backup_pipeline.Disk(str(tmp_path / "volume"), 4096)
    for each in (
        command("install", "-m", "600", "/dev/null", str(part)),
        backup_pipeline.bring(),
        backup_pipeline.store_base(disk, str(part), How()),
        backup_pipeline.seal(str(kept), str(part), whole),
    ):
        script = bash('umask 000; exec "$@"', *each.argv)
        subprocess.run(script.argv, input=each.stdin or "", text=True, check=True, capture_output=True)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (*tmp_path.glob("disk*"), *kept.iterdir())}
        assert set(modes.values()) == {0o600}, modes
