"""VMs on a lab whose guests sleep nearly always, as most do: on emulated nodes many that work would leave nothing for
the commands that are measured."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import busy
from bench.backup_guest import do
from lab.cluster import Lab
from pmc.units import MiB


@contextmanager
def sleepers(lab: Lab, count: int, spread: bool = False, running: int = 8) -> Iterator[list[str]]:
    """The names of `count` VMs of pm-1 (`spread`: every other one of pm-2), of which so many run: a node of the lab has
    no memory for more. What was there is used; all are removed in the end."""
    names = [f"vm-{number}" for number in range(1, count + 1)]
    there = {row["vm"] for row in json.loads(do(lab, "vm.ls", "--json"))}
    try:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            busy.build(Path(folder, "disk.img"), MiB, rate=1)
            for number, name in enumerate(names):
                nodes = ("pm-2", "pm-1") if spread and number % 2 else ("pm-1", "pm-2")
                where = ("--primary", nodes[0], "--secondary", nodes[1], "--memory", "16M")
                if name not in there:
                    do(lab, "vm.add", name, *where, "--image", str(Path(folder, "disk.img")))
                    if number >= running:
                        do(lab, "vm.stop", name, "--force")
        yield names
    finally:
        for name in names:
            do(lab, "vm.rm", name, "--yes")
