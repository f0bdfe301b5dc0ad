# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tick guest wrote, read from outside: past pmc, straight from the nodes' disks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from lab.cluster import Lab
from lab.errors import LabError
from lab.reach import ssh
from lab.tick import HEAD, SECTORS, Tick, TickError, check, read_head

ROOT = Path(__file__).resolve().parent.parent


def fab(lab: Lab, *argv: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Runs pmc's tasks as a person would: `fab vm.ls` in the repository, against this lab."""
    program = str(Path(sys.executable).parent / "fab")
    environment = {**os.environ, "PMC_CONF": str(lab.conf().pmc)}
    return subprocess.run(
        [program, *argv], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip


class Guest:
    """The tick guest in the VM `name`."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name = lab, name

    def facts(self) -> dict[str, object]:
        listed = fab(self.lab, "vm.ls", "--json")
        for row in json.loads(listed.stdout):
            if row["vm"] == self.name:
                return dict(row)
        raise LabError(f"{self.name} is not listed: {listed.stdout} {listed.stderr}")

    def read(self, node: str, command: str) -> bytes:
        done = subprocess.run(ssh(self.lab.conf(), node, command), capture_output=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise LabError(f"{node}: {command}: {done.stderr.decode()}")
        return done.stdout

    def now(self) -> Tick:
        """The head sector of the live disk: below DRBD, so on any node that has it; one sector is never torn."""
        volume = f"/dev/vg/{self.name}"
        read = f"[ -e {volume} ] || exit 0; dd if={volume} bs=512 skip={HEAD} count=1 iflag=direct status=none"
        for machine in self.lab.machines():
            if machine.process() and (sector := self.read(machine.name, read)):
                return read_head(sector)
        raise LabError(f"no node has {volume}")

    def ticking(self, after: int = 0, boots: int = 1, seconds: float = 180) -> Tick:
        """Waits until the guest has counted past `after`, in its start number `boots` or later. (Until a guest that
        is started again writes, the disk shows what it was before.)"""
        deadline = time.monotonic() + seconds
        while True:
            try:
                tick = self.now()
                if tick.counter > after and tick.boots >= boots:
                    return tick
            except (LabError, TickError) as error:
                last: object = error
            else:
                last = tick
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} does not count past {after} in start {boots}: {last}")
            time.sleep(0.5)

    def checked(self, node: str) -> Tick:
        """The whole disk as it is on `node` at one moment (a snapshot of the volume): no write lost or torn."""
        volume, kept = f"vg/{self.name}", f"vg/{self.name}.witness"
        read = (
            f"case $(lvs --noheadings -o lv_attr {volume}) in *V*) s=-kn;; *) s=-L16M;; esac; "
            f"lvcreate -qq -y -s $s -n {self.name}.witness {volume} >/dev/null && "
            f"dd if=/dev/{kept} bs=512 count={SECTORS} status=none; s=$?; lvremove -qq -y {kept} >/dev/null; exit $s"
        )
        return check(self.read(node, read))
