"""The audit log: what it holds, and that it never stands in the way."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest
from invoke.config import Config
from invoke.context import Context

from pmc.audit import Record, who
from pmc.command import Command, command
from pmc.plan import Plan, Step, plan
from pmc.tasks.base import carry_out, opened
from pmc.transport.node import Node

PLAN = plan("vm.stop web", Step("pm-1", "ask web to shut down", command("virsh", "shutdown", "web", stdin="hunter2")))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_for_each_command(tmp_path: Path) -> None:
    path = tmp_path / "log"
    Record(str(path), "vm.stop --name web").write([PLAN], None)
    Record(str(path), "vm.stop --name web").write([PLAN], ValueError("a\nb"))
    first, second = lines(path)
    assert (first["what"], first["result"], first["who"]) == ("vm.stop --name web", "done", who())
    assert first["plan"] == ["pm-1: ask web to shut down"]
    assert second["result"] == "a\nb"
    assert {"time", "seconds"} < set(first)
    assert first["pid"] == os.getpid()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "hunter2" not in path.read_text()


def test_a_first_line_is_on_the_disk_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that is killed in the middle of a step leaves it; its pid and time are those of the line at the end."""
    path, seen = tmp_path / "log", list[dict[str, Any]]()

    def run(node: Node, command: Command, **how: Any) -> str:
        seen.extend(lines(path))
        return ""

    monkeypatch.setattr(Node, "run", run)
    conf = tmp_path / "pmc.conf"
    conf.write_text(f'audit_log = "{path}"\n[nodes.pm-1]\nreplication = "10.0.0.1"\n')
    with opened(str(conf)) as cluster:
        carry_out(Context(Config()), cluster, Plan("vm.stop web", ()), False)
        assert not path.exists(), "a plan without steps is in the audit log"
        carry_out(Context(Config()), cluster, PLAN, False, under=())
        carry_out(Context(Config()), cluster, plan("more", *PLAN.steps), False, under=())
    begun, end = lines(path)
    assert seen == [begun, begun], "each of the two steps finds that one line"
    assert begun | {"result": "done", "plan": begun["plan"] * 2, "seconds": end["seconds"]} == end
    assert (begun["result"], begun["plan"]) == ("begun", ["pm-1: ask web to shut down"])


def test_what_changed_nothing_is_not_in_it(tmp_path: Path) -> None:
    Record(str(tmp_path / "log"), "vm.ls").write([], None)
    Record(str(tmp_path / "log"), "vm.stop").write([Plan("vm.stop web", ())], None)
    Record("", "vm.stop").write([PLAN], None)
    assert not (tmp_path / "log").exists()


def test_a_pipe_that_nobody_reads_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "log")
    record = Record(str(tmp_path / "log"), "vm.stop")
    record.begin(PLAN)
    record.write([PLAN], None)
    assert capsys.readouterr().err.count("audit log") == 1, "said once"


def test_a_record_that_a_full_disk_cut_does_not_take_the_next_one_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, write = tmp_path / "log", os.write
    Record(str(path), "vm.stop one").begin(PLAN)
    monkeypatch.setattr(os, "write", lambda handle, text: write(handle, text[:-9]))
    Record(str(path), "vm.stop two").begin(PLAN)
    assert "a part of the record only" in capsys.readouterr().err
    monkeypatch.setattr(os, "write", write)
    Record(str(path), "vm.stop three").begin(PLAN)
    first, cut, last = path.read_text().splitlines()
    assert [json.loads(each)["what"] for each in (first, last)] == ["vm.stop one", "vm.stop three"]
    assert "vm.stop two" in cut
    assert path.read_text().endswith("}\n")


def test_the_first_line_is_kept_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = list[str]()
    monkeypatch.setattr(os, "fsync", lambda handle: kept.append((tmp_path / "log").read_text()))
    record = Record(str(tmp_path / "log"), "vm.stop web")
    record.begin(PLAN)
    record.write([PLAN], None)
    assert [json.loads(text)["result"] for text in kept] == ["begun"]


@pytest.mark.parametrize(
    ("login", "sudo", "behind"),
    [
        ("4294967295", None, ""),
        ("4294967295", "bob", " (SUDO_USER='bob')"),  # whoever starts pmc can set it
        ("4294967295", "b\n\x1b[2J", " (SUDO_USER='b\\n\\x1b[2J')"),
        ("0", "bob", ""),
        ("1", "bob", " (daemon)"),
        ("987654", "bob", " (uid 987654)"),
        ("", "bob", " (SUDO_USER='bob')"),
    ],
)
def test_who_is_what_the_kernel_says(
    monkeypatch: pytest.MonkeyPatch, login: str, sudo: str | None, behind: str
) -> None:
    """getpass would take $LOGNAME."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "alice")
    monkeypatch.delenv("SUDO_USER", raising=False)
    if sudo:
        monkeypatch.setenv("SUDO_USER", sudo)
    read = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, *a, **k: login if str(path) == "/proc/self/loginuid" else read(path, *a, **k)
    )
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert who() == f"root{behind}@{platform.node()}"
    monkeypatch.setattr(os, "getuid", lambda: 987655)
    assert who().startswith("uid 987655")


@pytest.mark.parametrize("path", ["/nonexistent/log", "/dev/full", "/", "x\0y"])
def test_it_never_makes_a_command_fail(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    Record(path, "vm.stop").begin(PLAN)
    assert "audit log" in capsys.readouterr().err
    Record(path, "vm.stop").write([PLAN], None)
    assert "audit log" in capsys.readouterr().err
