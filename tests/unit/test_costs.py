"""What one look costs a node and the network: the programs that it starts, the bytes that are sent and come back. It is
counted, never timed: pmc's own script in a real shell, with stand-ins for the tools (bench/fleet).

Who asks for more changes the numbers here on purpose: what a look costs, each command costs on every node.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.fleet import content
from bench.fleet.spec import Spec
from pmc import backup
from pmc.command import ENVIRONMENT, Query, frame, unframe
from pmc.node_state import state_queries
from tests.unit.samples import SETTINGS
from tests.unit.stories import BASE
from tests.unit.test_fleet import install

# The programs of one look, however many VMs there are.
LOOK = Counter(uname=1, cat=2, virsh=1, ls=1, bash=4, timeout=1, drbdsetup=2, sed=3, grep=1, lvm=1)
ALLOCATING = LOOK + Counter(bash=1, cat=1, grep=2, ss=1)
# Bytes: the questions; of the answer what is there without a VM, and what each of a node's VMs (one that runs there and
# one that has its second copy there) adds. A few more are nothing; a question more is some 100.
SENT, BARE, EACH = 4_650, 2_600, 3_250
OTHERS = ("sed", "grep", "stat", "base64", "timeout")  # the machine's own
MARK = "pmc-0123456789abcdef"
COUNT = """#!/bin/sh
echo "${0##*/}" >>"$COUNTED/log"
exec "$COUNTED/tools/${0##*/}" "$@"
"""


@dataclass(frozen=True)
class Cost:
    programs: Counter[str]
    sent: int
    received: int


def cost(folder: Path, vms: int, queries: Iterable[Query[Any]]) -> Cost:
    """Of these questions to a node on which so many VMs run, and as many have their second copy."""
    environment = install(folder, content.outputs(Spec(2, vms))[0])
    tools, counting = folder / "tools", folder / "count"
    (folder / "bin").rename(tools)
    (folder / "bin").mkdir()
    counting.write_text(COUNT)
    counting.chmod(0o755)
    for tool in OTHERS:
        (tools / tool).symlink_to(shutil.which(tool) or "")
    for tool in os.listdir(tools):
        (folder / "bin" / tool).symlink_to(counting)
    asked = [query.command for query in queries]
    script = frame(asked, MARK)
    # A program that is not counted is not found.
    environment |= {"PATH": f"{folder}/bin", "COUNTED": str(folder), "LC_ALL": "C"}
    own = script.replace(ENVIRONMENT, ":")
    got = subprocess.run(["/bin/sh", "-s"], input=own, env=environment, capture_output=True, text=True, check=True)
    assert [each.exit for each in unframe(got.stdout, got.stderr, MARK, len(asked))] == [0] * len(asked), got.stderr
    programs = Counter((folder / "log").read_text().split())
    return Cost(programs, len(script), len(got.stdout) + len(got.stderr))


@pytest.mark.parametrize("vms", [1, 20])
@pytest.mark.parametrize(("allocating", "programs"), [(False, LOOK), (True, ALLOCATING)])
def test_the_programs_of_a_look(tmp_path: Path, vms: int, allocating: bool, programs: Counter[str]) -> None:
    assert cost(tmp_path, vms, state_queries(SETTINGS, allocating).values()).programs == programs


def test_the_bytes_of_a_look(tmp_path: Path) -> None:
    found = {}
    for vms in (10, 20):
        (folder := tmp_path / str(vms)).mkdir()
        found[vms] = cost(folder, vms, state_queries(SETTINGS).values())
    each = (found[20].received - found[10].received) / 10
    assert found[20].sent == found[10].sent
    assert SENT * 0.9 < found[10].sent < SENT
    assert EACH * 0.9 < each < EACH
    assert BARE * 0.9 < found[10].received - 10 * each < BARE


@pytest.mark.parametrize("count", [0, 1, 30])
def test_the_programs_of_a_listing_of_backups(tmp_path: Path, count: int) -> None:
    """A process for each backup: nodes have hundreds."""
    (folder := tmp_path / "backups").mkdir()
    for number in range(count):
        id = BASE.id.replace("20260101", f"202601{number + 1:02}")
        for end in ("json", "img.zst", "verified"):
            (folder / f"{id}.{end}").write_text("{}")
    few = Counter(bash=1, stat=min(count, 1), base64=count)
    assert cost(tmp_path, 1, [backup.listing(str(folder), "pm-1")]).programs == few
