"""What people are told: the cause as it is, who is left, and the one command that helps."""

from __future__ import annotations

import ast
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context
from invoke.parser import Parser
from invoke.parser.context import ParserContext
from invoke.parser.parser import ParseMachine

import pmc
from lab.ports import free_ports
from pmc.cluster import Cluster
from pmc.errors import NodeDown, PmcError, Refused
from pmc.model import ClusterState, Domain, NodeState
from pmc.plain import then
from pmc.plans import start as start_plan
from pmc.plans.saved_memory import FLAG
from pmc.settings import Settings, parse
from pmc.tasks import ns
from pmc.tasks.arguments import install
from pmc.transport.connection import configuration
from pmc.transport.login import reach
from pmc.units import GiB
from tests.unit.samples import SETTINGS, changed, stopped, with_resource


def test_what_is_true_then_the_command() -> None:
    assert then("web: is off", "fab vm.start web") == "web: is off. Next: fab vm.start web"
    assert then("Is it up?", "ssh pm-1 true") == "Is it up? Next: ssh pm-1 true"


def raised(path: Path) -> list[tuple[int, str]]:
    """What the errors of a module are raised with: the line, and the words before `next`."""
    found = []
    for each in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(each, ast.Raise) and isinstance(each.exc, ast.Call) and each.exc.args:
            words = [n.value for n in ast.walk(each.exc.args[0]) if isinstance(n, ast.Constant)]
            found.append((each.lineno, "".join(word for word in words if isinstance(word, str))))
    return found


def test_a_refusal_that_ends_in_a_command_gives_it_as_the_next_one() -> None:
    """In one form, "... Next: COMMAND", so that it is found at the end of any message."""
    for path in sorted(Path(pmc.__file__).parent.rglob("*.py")):
        for line, said in raised(path):
            end = re.search(r"(?:; |: )fab (?:pm|vm)\.\w+[\w -]*$", said)
            assert end is None, f"{path.name}:{line}: give {end and end[0]!r} as next="


def advised(path: Path) -> list[tuple[int, str]]:
    """Texts of a module with a command of ours in them; what is put into them is x."""
    found = []
    every = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    inside = {id(part) for each in every if isinstance(each, ast.JoinedStr) for part in each.values}
    for each in every:
        parts = each.values if isinstance(each, ast.JoinedStr) else [each]
        words = []
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                words.append(part.value)
            elif isinstance(part, ast.FormattedValue):
                words.append(FLAG if ast.unparse(part.value).endswith("FLAG") else "x")
        if isinstance(each, ast.expr) and id(each) not in inside and "fab " in (text := "".join(words)):
            found.append((each.lineno, text))
    return found


@pytest.fixture
def parser(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As under `fab`; all is put back afterwards. (A task gives its flags' help away when it is asked for them.)"""
    for what, name in ((ParseMachine, "handle"), (ParseMachine, "error"), (ParserContext, "help_for")):
        monkeypatch.setattr(what, name, getattr(what, name))
    install()
    for task in ns.task_names:
        monkeypatch.setattr(ns[task], "help", dict(ns[task].help))
    return Parser(contexts=ns.to_contexts())


def test_commands_that_are_advised_exist_with_their_flags(parser: Any) -> None:
    """Whatever is pasted from a message is a line that the real parser takes."""
    contexts, whole = parser.contexts, 0
    for path in sorted(Path(pmc.__file__).parent.rglob("*.py")):
        for line, text in advised(path):
            where = f"{path.name}:{line}: {text!r}"
            for found in re.findall(r"\bfab ((?:(?:pm|vm)\.|conf\b|doc\b)[\w., -]*)", text):
                task, *words = (word.rstrip(".") for word in found.replace(",", "").split())
                task = task if task in contexts else task.removesuffix("x")  # something is put in behind it
                assert task in contexts, where
                for word in words:
                    task = word if word in contexts else task
                    assert not word.startswith("--") or word in contexts[task].flags, where
            if re.fullmatch(r"fab (?:pm|vm)\.[\w. -]*", text):
                parser.parse_argv(text.split()[1:])
                whole += 1
    assert whole > 40, "the commands were found"


DESTROYS = r"(?<!vm\.)\brm |lvremove|virsh (?:destroy|undefine)|drbdadm down|--force|--backups|--deltag|set-hostname"


def test_the_next_command_destroys_nothing() -> None:
    """It is what is pasted unread. What a person must decide first stands before it, in the sentence."""
    found = []
    for path in sorted(Path(pmc.__file__).parent.rglob("*.py")):
        for each in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(each, ast.Call):
                given = [key.value for key in each.keywords if key.arg == "next"]
                if isinstance(each.func, ast.Name) and each.func.id == "then":
                    given += each.args[1:]
                found += [f"{path.name}: {text}" for text in map(ast.unparse, given) if re.search(DESTROYS, text)]
    assert found == [
        # Of a VM that is off, whose file was just changed: else it is refused.
        "vm_files.py: f'on each: drbdadm down {names[-1]} && drbdadm up {names[-1]}'",
        "unfinished_restore.py: f'on {node}: lvremove {kept.group}/{kept.name}'",  # asks, and nothing else helps
    ]


# -- ssh --


def settings(host: str, ssh_config: str = "") -> Settings:
    named = f'ssh_config = "{ssh_config}"\n' if ssh_config else ""
    return parse(f'{named}[deadlines]\nconnect = 3\n[nodes.pm-1]\nhost = "{host}"\nreplication = "10.0.0.1"\n', "conf")


def reached(known: Settings) -> str:
    with pytest.raises(NodeDown) as caught:
        reach(known.nodes["pm-1"], known, configuration(known))
    return str(caught.value)


def test_a_refused_connection_is_no_node_that_is_silent() -> None:
    (port,) = free_ports(1, "127.0.0.1")
    said = reached(settings(f"127.0.0.1:{port}"))
    assert said.startswith("pm-1: no ssh: the connection is refused (Connection refused); a machine is up at")
    assert said.endswith(f"try: ssh -p {port} 127.0.0.1 true")
    assert "3 s" not in said, "no deadline has passed"


def test_a_name_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("pmc.transport.login.socket.getaddrinfo", unknown)
    assert "pm-1: no ssh: the name nowhere has no address (Name or service not known); name it in" in reached(
        settings("nowhere")
    )


def test_a_file_that_this_machine_does_not_let_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", "/root/.ssh/id")

    monkeypatch.setattr("pmc.transport.login._spoken_to", closed)
    said = reached(settings("pm-1"))
    assert "no ssh: this machine does not let you read /root/.ssh/id (Permission denied); try: ssh pm-1 true" in said


def test_what_to_try_by_hand_has_the_same_configuration(tmp_path: Path) -> None:
    """`ssh pm-1 true` would try another one than pmc has."""
    (port,) = free_ports(1, "127.0.0.1")
    (tmp_path / "my config").write_text("")
    said = reached(settings(f"127.0.0.1:{port}", f"{tmp_path}/my config"))
    assert said.endswith(f"try: ssh -F '{tmp_path}/my config' -p {port} 127.0.0.1 true")


# -- where no node answers --


DEAD = ClusterState({name: NodeState(name, down=f"no ssh to {name}", answers=False) for name in SETTINGS.nodes})


@pytest.mark.parametrize(
    ("task", "given", "error"),
    [
        ("vm.ls", {}, PmcError),
        ("vm.backups", {}, PmcError),
        ("vm.backup", {"all": True}, PmcError),
        ("vm.verify_backup", {"all": True}, NodeDown),
        ("vm.verify_backup", {"name": "web"}, NodeDown),
        ("vm.prune", {"all": True, "keep_last": "3"}, NodeDown),
    ],
)
def test_no_node_answers(
    task: str, given: dict[str, Any], error: type[PmcError], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """An empty table, or "there are no backups", would be taken for the truth."""
    conf = tmp_path / "pmc.conf"
    conf.write_text('audit_log = ""\n' + "".join(f'[nodes.{n}]\nreplication = "{s.replication}"\n' for n, s in
                                               SETTINGS.nodes.items()))  # fmt: skip
    monkeypatch.setattr(Cluster, "state", lambda self, *_, **how: DEAD)
    with pytest.raises(error) as caught:
        ns[task].body(Context(), conf=str(conf), **given)
    assert str(caught.value).startswith("no node answered")
    assert all(f"{name}: no ssh to {name}" in str(caught.value) for name in SETTINGS.nodes)
    assert capsys.readouterr() == ("", "")


# -- vm.start --


def start(state: ClusterState) -> None:
    start_plan.start("web", "", state, SETTINGS)


@pytest.mark.parametrize(
    ("state", "end"),
    [
        (with_resource(stopped(), "pm-1", connection="StandAlone", peer_disk="DUnknown"),
         "DRBD on pm-1 is StandAlone, UpToDate/DUnknown. It must be Connected, UpToDate/UpToDate. "
         "StandAlone is a split brain, or disconnected by hand. Next: fab vm.repair web"),
        (with_resource(stopped(), "pm-1", disk="Diskless"), "One copy is not whole. Next: fab vm.repair web"),
        (with_resource(stopped(), "pm-1", connection="Connecting", peer_disk="DUnknown"),
         "or the link between the nodes does not work. Next: fab pm.ready_drbd"),
    ],
)  # fmt: skip
def test_a_start_names_what_mends_the_link(state: ClusterState, end: str) -> None:
    with pytest.raises(Refused) as caught:
        start(state)
    assert str(caught.value).endswith(end)


def test_a_start_tells_of_definitions_that_differ() -> None:
    assert start_plan.unlike("web", "pm-1", stopped()) == ""
    other = changed(stopped(), "pm-2", domains={"web": Domain("web", "shut off", 2 * GiB, 4)})
    assert start_plan.unlike("web", "pm-1", other) == (
        "web: its definitions differ: memory 1 GiB on pm-1, 2 GiB on pm-2; cpus 1 on pm-1, 4 on pm-2. "
        "It starts with that of pm-1. Next: fab vm.repair web"
    )


def test_a_start_says_where_and_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from pmc.tasks import vm
    from tests.unit.counted import counted
    from tests.unit.stories import with_web

    for on, said in (("", "web runs on pm-1, where it was made (--on NODE chooses)\n"), ("pm-2", "web runs on pm-2\n")):
        world = with_web()
        world.nodes["pm-1"].domains["web"] = "shut off"
        for machine in world.nodes.values():
            for resource in machine.resources.values():
                resource.role = "Secondary"
        counted(monkeypatch, world)
        vm.start(Context(), "web", on=on)
        assert capsys.readouterr().err.endswith(said)


def test_a_start_tells_of_a_stale_copy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from pmc.tasks import vm
    from tests.unit.counted import counted
    from tests.unit.stories import with_stale_copy

    world = with_stale_copy()
    world.nodes["pm-1"].domains["web"] = "shut off"
    for machine in world.nodes.values():
        for resource in machine.resources.values():
            resource.role = "Secondary"
    counted(monkeypatch, world)
    vm.start(Context(), "web")
    assert "web: there is a stale copy on pm-2. If web ran there last" in capsys.readouterr().err
