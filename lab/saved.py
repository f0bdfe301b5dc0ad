# SPDX-License-Identifier: GPL-3.0-or-later
"""Booted states of nodes, one per node number.

Before anything is set up the nodes do not know of each other, so each can be saved by itself, once. A lab
then starts with new overlays over these disks, and wakes in a second.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from lab import paths, reach, recipe
from lab.errors import LabError
from lab.image import Image
from lab.machine import Machine, each, qemu_version
from lab.ports import free_ports
from lab.progress import phase

NOWHERE = Path("/")
DEADLINE = 180  # seconds for a first boot


def folder(machine: Machine) -> Path:
    """Keyed by all that a saved machine's devices and memory depend on, and not by where this lab lies."""
    anywhere = replace(machine, port=0, run=NOWHERE, disks=NOWHERE)
    host = cpu_model() if machine.accel == "kvm" else ""
    key = recipe.digest(machine.image.key, qemu_version(), host, *anywhere.command())
    return paths.folder(paths.cache() / "states") / f"{machine.image.key}-{machine.name}-{key}"


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith(("model name", "flags"))), "")


def ensure(image: Image, accel: str, count: int) -> None:
    """Boot and save the nodes 1 to `count` that have no saved state yet; all at once."""
    with (
        paths.locked(paths.cache() / "lock", "saves booted nodes"),
        tempfile.TemporaryDirectory(prefix="save-", dir=paths.base()) as name,
    ):
        run = Path(name)
        ports = enumerate(free_ports(count), start=1)
        machines = [Machine(node, image, accel, port, run, run) for node, port in ports]
        missing = [machine for machine in machines if not folder(machine).exists()]
        if not missing:
            return
        missing = [replace(one, disks=scratch(folder(one))) for one in missing]
        found = reach.write(run, missing)
        try:
            names = ", ".join(one.name for one in missing)
            with phase(f"first boot of {names}, with {accel}"):
                each(lambda machine: boot(machine, found), missing)
            with phase(f"save the booted state of {names}"):
                each(keep, missing)
        except LabError:
            console(missing)
            raise
        finally:
            for machine in missing:
                machine.kill()
                shutil.rmtree(machine.disks, ignore_errors=True)


def scratch(final: Path) -> Path:
    path = final.with_suffix(".tmp")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def boot(machine: Machine, found: reach.Conf) -> None:
    machine.make_disks()
    machine.start()
    reach.wait(found, machine, f"{reach.READY} && sync", DEADLINE)


def keep(machine: Machine) -> None:
    machine.save(machine.disks / "state")
    machine.disks.rename(folder(machine))


def console(machines: list[Machine]) -> None:
    """The run folder of a failed first boot goes away; what the nodes said stays in the cache."""
    for machine in machines:
        for kind in ("console", "log"):
            if machine.file(kind).exists():
                shutil.copy(machine.file(kind), paths.cache() / f"failed-{machine.name}.{kind}")
