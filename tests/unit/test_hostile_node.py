"""A node whose root is hostile, or whose login shell is broken: over a real ssh connection, to each listing. It is one
line, and the other node is shown."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.hostile import COMMAND, EVIL, WAYS, Say, endless, good, hung, nodes, plain
from tests.unit.test_plain import fit
from tests.unit.test_tasks import Pmc, pmc  # noqa: F401

LISTINGS = ("vm.ls", "pm.ls", "vm.backups", "pm.verify")


def told(task: str, status: int, out: str, err: str) -> None:
    """What holds for each: one line on stderr, what the other node said on stdout."""
    assert status == 1, (out, err)
    for text in (out, err):
        fit(text)
        assert "Traceback" not in text
        assert len(text) < 500_000
    assert len(err) < 5000
    lines = err.strip("\n").split("\n")
    assert len(lines) == 1, err
    if task == "pm.verify":
        assert any("pm-1" in line for line in out.splitlines()), out
        assert "on 2 nodes: " in err
    else:
        assert lines[0].startswith("pm-1: "), err


def test_two_good_nodes(tmp_path: Path, pmc: Pmc) -> None:  # noqa: F811
    """Or the others would prove nothing."""
    with nodes(tmp_path, good(), good()) as conf:
        for task, found in (("vm.ls", "web"), ("pm.ls", "pm-1"), ("vm.backups", "web.")):
            status, out, err = pmc(task, "--conf", str(conf))
            assert (status, err) == (0, "")
            assert found in out


@pytest.mark.parametrize("way", WAYS)
def test_what_a_hostile_node_says(way: str, tmp_path: Path, pmc: Pmc) -> None:  # noqa: F811
    with nodes(tmp_path, WAYS[way], good()) as conf:
        for task in LISTINGS:
            status, out, err = pmc(task, "--conf", str(conf))
            told(task, status, out, err)
            if task != "pm.verify":
                assert ("web" if task == "vm.ls" else "pm-2") in out, out
        status, out, err = pmc("vm.ls", "--json", "--conf", str(conf))
        told("vm.ls", status, out, err)
        assert "web" in {row["vm"] for row in json.loads(out, parse_constant=pytest.fail)}


SLOW: dict[str, Say] = {
    "endless answers": endless("out", b"x" * 65536, 0.02),
    "endless zeros": endless("out", bytes(65536), 0.02),
    "endless lines": endless("out", b"Domain: 'x'\n" * 5000, 0.02),
    "endless complaints": endless("err", EVIL * 500),
    "a byte now and then": endless("out", b"x", 0.05),
    "no answer": hung,
    "huge complaints": plain(b"", EVIL * 400_000, 1),
}


@pytest.mark.timeout(300)
def test_what_has_no_end_ends(tmp_path: Path) -> None:
    """All of it at once: by the deadline, and within some memory. In a process of its own, which would end without."""
    with nodes(tmp_path, *SLOW.values(), good()) as conf:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("pmc")), "vm.ls", "--conf", str(conf)],
            capture_output=True, text=True, timeout=COMMAND + 10 + 200, check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)),
        )  # fmt: skip
    fit(done.stderr)
    fit(done.stdout)
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [f"pm-{n}" for n in range(1, len(SLOW) + 1)]
    assert "web" in done.stdout
