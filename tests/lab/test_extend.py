"""What README promises to those who write Python: the tasks are functions, and a task of one's own is short."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import witness

from .conftest import Pmc

Clean = Callable[[], list[str]]


def test_the_task_in_the_readme(lab: Pmc, tmp_path: Path, clean: Clean) -> None:
    readme = (witness.ROOT / "README.md").read_text()
    found = re.search(r"## A task of your own\n.*?```python\n(.*?)```", readme, re.S)
    assert found is not None
    assert len(found[1].splitlines()) < 20
    # As README says: below what fabfile/__init__.py holds already.
    (tmp_path / "fabfile.py").write_text((witness.ROOT / "fabfile/__init__.py").read_text() + "\n\n" + found[1])
    (tmp_path / "fabric.yaml").write_text((witness.ROOT / "fabric.yaml").read_text())
    guest = lab.add("web")
    tick = guest.ticking(5)
    done = subprocess.run(
        [str(Path(sys.executable).parent / "fab"), "refresh", "web"],
        cwd=tmp_path, env=witness.environment(lab.conf),
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "pm-1: up " in done.stdout
    assert guest.ticking(tick.counter, boots=2).boots == 2
    assert '"kind": "base"' in lab.ok("vm.backups", "web", "--json")


@pytest.mark.long
def test_the_examples_of_the_page_on_python(lab: Pmc, tmp_path: Path, clean: Clean) -> None:
    """docs/python.md: a program that calls tasks, and a task that changes something."""
    program, own = re.findall(r"```python\n(.*?)```", (witness.ROOT / "docs/python.md").read_text(), re.S)
    guest = lab.add("web")
    tick = guest.ticking(5)

    def run(*argv: str) -> str:
        done = subprocess.run(
            argv, cwd=tmp_path, env=witness.environment(lab.conf),
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    run(sys.executable, "-c", program, "pm-1")
    assert lab.state().active_on("web") == ["pm-2"]
    assert '"kind": "base"' in lab.ok("vm.backups", "web", "--json")
    assert guest.ticking(tick.counter).boots == 1
    (tmp_path / "fabfile.py").write_text((witness.ROOT / "fabfile/__init__.py").read_text() + "\n\n" + own)
    (tmp_path / "fabric.yaml").write_text((witness.ROOT / "fabric.yaml").read_text())
    fab = str(Path(sys.executable).parent / "fab")
    assert "sync" in run(fab, "flush", "web", "--dry-run")
    assert "[2/2] pm-2: write what is in memory" in run(fab, "flush", "web")


def test_behind_a_jump_host(lab: Pmc, tmp_path: Path) -> None:
    folder = lab.conf.parent
    blocks = (folder / "ssh_config").read_text().split("\n\n")
    far = re.sub(r"HostName .*\n +Port .*", "HostName 10.77.0.2\n    ProxyJump pm-1", blocks[1])
    assert "ProxyJump" in far
    (tmp_path / "ssh_config").write_text(f"{blocks[0]}\n\n{far}")
    text = lab.conf.read_text().replace(str(folder / "ssh_config"), str(tmp_path / "ssh_config"))
    (tmp_path / "pmc.conf").write_text(text)
    assert "pm-2    up" in lab.ok("pm.ls", "--conf", str(tmp_path / "pmc.conf"))
