"""The audit log: what it holds, and that it never stands in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pmc.audit import Record, who
from pmc.command import command
from pmc.plan import Plan, Step, plan

PLAN = plan("vm.stop web", Step("pm-1", "ask web to shut down", command("virsh", "shutdown", "web", stdin="hunter2")))


def lines(path: Path) -> list[dict[str, object]]:
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
    assert path.stat().st_mode & 0o777 == 0o600
    assert "hunter2" not in path.read_text()


def test_what_changed_nothing_is_not_in_it(tmp_path: Path) -> None:
    Record(str(tmp_path / "log"), "vm.ls").write([], None)
    Record(str(tmp_path / "log"), "vm.stop").write([Plan("vm.stop web", ())], None)
    Record("", "vm.stop").write([PLAN], None)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("path", ["/nonexistent/log", "/dev/full", "/", "x\0y"])
def test_it_never_makes_a_command_fail(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    Record(path, "vm.stop").write([PLAN], None)
    assert "audit log" in capsys.readouterr().err
