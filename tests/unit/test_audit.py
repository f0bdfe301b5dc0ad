"""The audit log: what it holds, and that it never stands in the way."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from invoke.config import Config
from invoke.context import Context

from pmc.audit import Record, who
from pmc.command import Command, command
from pmc.node import Node
from pmc.plan import Plan, Step, plan
from pmc.tasks.base import carry_out, opened

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
        carry_out(Context(Config()), cluster, PLAN, False)
        carry_out(Context(Config()), cluster, plan("more", *PLAN.steps), False)
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


@pytest.mark.parametrize("path", ["/nonexistent/log", "/dev/full", "/", "x\0y"])
def test_it_never_makes_a_command_fail(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    Record(path, "vm.stop").begin(PLAN)
    assert "audit log" in capsys.readouterr().err
    Record(path, "vm.stop").write([PLAN], None)
    assert "audit log" in capsys.readouterr().err
