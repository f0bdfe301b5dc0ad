"""How long vm.add takes to a running guest, against the sum of what its tools themselves take on the nodes.

    python -m bench.add --rounds 3          on a lab that is up (inv lab.up)

Both make the same VM: `fab vm.add`, and the commands that it prints with --dry-run, one after the other, each timed on
its node (so without ssh), with virt-install, which vm.add asks for the domain. They take turns.
"""

from __future__ import annotations

import argparse
import re
import shlex
import statistics
import subprocess
import time

from bench.backup_guest import do
from lab.cluster import Lab
from lab.reach import ssh
from pmc import virsh
from pmc.units import MiB

NAME = "new"
TASK = ("vm.add", NAME, "--primary", "pm-1", "--secondary", "pm-2", "--size", "64M", "--memory", "16M")
INSTALL = virsh.virt_install(
    name=NAME, memory=16 * MiB, cpus=1, bridge="br0", mac="52:54:00:77:00:99", virt_type="qemu", boot="", extra=""
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.add", description="see the docstring of this module")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    lab = Lab()
    do(lab, "pm.init", "pm-1,pm-2", "--fix")
    pairs = []
    for number in range(rounds):
        ways = (ours, bare) if number % 2 else (bare, ours)
        took = {way.__name__: way(lab) for way in ways}
        pairs.append((took["ours"], took["bare"]))
        print(f"vm.add {took['ours']:.2f} s, its tools {took['bare']:.2f} s")
    print(f"median of the ratios: {statistics.median(mine / theirs for mine, theirs in pairs):.2f}")


def ours(lab: Lab) -> float:
    began = time.monotonic()
    do(lab, *TASK)
    took = time.monotonic() - began
    do(lab, "vm.rm", NAME, "--yes")
    return took


def bare(lab: Lab) -> float:
    """Seconds, in all."""
    _, *parts = re.split(r"^# \d+\. (\S+): .*\n", do(lab, *TASK, "--dry-run"), flags=re.M)
    steps = [("pm-1", shlex.join(INSTALL.command.argv)), *zip(parts[::2], parts[1::2], strict=True)]
    took = sum(timed(lab, node, line) for node, line in steps)
    do(lab, "vm.rm", NAME, "--yes")
    return took


def timed(lab: Lab, node: str, line: str) -> float:
    """Seconds on the node's own clock. `drbdadm wait-sync` of what needs no sync ends with 1 (DRBD 8.4)."""
    line = f"{line.rstrip()} || :" if "drbdadm wait-sync" in line else line
    script = shlex.quote(f"set -e; began=$(date +%s%N)\n{line}\necho; echo $(( $(date +%s%N) - began ))\n")
    done = subprocess.run(
        ssh(lab.conf(), node, f"bash -c {script}"),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout.split()[-1]) / 1e9


if __name__ == "__main__":
    main()
