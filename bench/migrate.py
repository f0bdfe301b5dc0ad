"""How long a live migration takes and a guest stands still: pmc's, plain virsh's, and with what libvirt offers.

    python -m bench.migrate run --rounds 3          on a lab that is up (inv lab.up); the VMs are made and removed
    python -m bench.migrate evacuate --rounds 3     eight VMs, one after the other and several at the same time
    python -m bench.migrate report                  the table of docs/performance.md

One VM for each load: idle (the tick guest), paced (writes to its memory slower than it is copied), and hard (faster,
over a narrowed link). The ways take turns; each is one `virsh migrate` on the node, DRBD opened before and closed after
it (not timed). `pmc` is `fab vm.mv`, all of it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import busy, migrate_report
from bench.backup_guest import do
from bench.list import machine
from bench.sleepers import sleepers
from lab import guests
from lab.cluster import Lab
from lab.reach import ssh
from pmc import settings, virsh

RESULTS = Path(__file__).resolve().parent.parent / "bench" / "data" / "migrate.json"
MIB = 1 << 20


@dataclass(frozen=True)
class Load:
    """What the guest does: writes to `touched` bytes, `rate` of them a second (0: as fast as it can)."""

    memory: int  # MiB
    touched: int = 0
    rate: int = 0
    bandwidth: int = 0  # MiB a second that the migration may take; 0: all there is


LOADS = {
    "idle": Load(16),
    "paced": Load(96, 32 * MIB, 4 * MIB),
    "hard": Load(96, 32 * MIB, 16 * MIB, 8),
}
LIMIT = 90  # seconds; then virsh suspends the guest, so that the rest of its memory can be copied: virsh(1), --timeout
PLAIN = "plain"
WAYS: dict[str, tuple[str, ...]] = {
    PLAIN: (),
    "auto-converge": ("--auto-converge",),
    "compressed": ("--compressed",),
    "parallel 2": ("--parallel", "--parallel-connections", "2"),
    "parallel 2 zstd": ("--parallel", "--parallel-connections", "2", "--compressed", "--comp-methods", "zstd"),
    "post-copy": ("--postcopy", "--timeout", "10", "--timeout-postcopy"),
}
OURS: dict[str, tuple[str, ...]] = {"pmc": (), "pmc --pause-after 20": ("--pause-after", "20")}
VMS = 8
PARALLEL = (1, 2, 4)


@dataclass(frozen=True)
class Moved:
    seconds: float  # of the migration, by libvirt
    still: float  # seconds that the guest stood still
    moved: float  # MiB
    whole: float  # seconds of the command


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.migrate", description="see the docstring of this module")
    parser.add_argument("what", choices=("run", "evacuate", "report"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loads", default=",".join(LOADS))
    parser.add_argument("--ways", default=",".join((*OURS, *WAYS)))
    given = parser.parse_args()
    if given.what == "report":
        migrate_report.write(json.loads(RESULTS.read_text()))
        return
    lab = Lab()
    do(lab, "pm.init", "pm-1,pm-2", "--fix")
    if given.what == "evacuate":
        keep("evacuate", evacuations(lab, given.rounds))
        return
    for name in given.loads.split(","):
        keep(name, measured(lab, name, LOADS[name], given.ways.split(","), given.rounds))


def keep(name: str, found: dict[str, Any]) -> None:
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**before, name: found}, indent=1) + "\n")


def evacuations(lab: Lab, rounds: int) -> dict[str, Any]:
    """Seconds of pm.evacuate for each number of VMs that move at the same time; there and back in turn."""
    took: dict[int, list[float]] = {parallel: [] for parallel in PARALLEL}
    node = 0
    with sleepers(lab, VMS):
        for number in range(rounds):
            for parallel in PARALLEL[number % len(PARALLEL) :] + PARALLEL[: number % len(PARALLEL)]:
                began = time.monotonic()
                do(lab, "pm.evacuate", ("pm-1", "pm-2")[node], "--parallel", str(parallel))
                took[parallel].append(time.monotonic() - began)
                node = 1 - node
                print(f"evacuate --parallel {parallel}: {took[parallel][-1]:.1f} s", file=sys.stderr)
    medians = {str(parallel): statistics.median(seconds) for parallel, seconds in took.items()}
    return {"vms": VMS, "rounds": rounds, "seconds": medians, "on": about(lab)}


def measured(lab: Lab, name: str, load: Load, ways: list[str], rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        image = Path(folder, "disk.img")
        if load.touched:
            busy.build(image, load.touched, load.rate)
        else:
            guests.build_disk(image)
        where = ("--primary", "pm-1", "--secondary", "pm-2", "--memory", f"{load.memory}M")
        do(lab, "vm.add", name, *where, "--image", str(image))
    try:
        time.sleep(10)  # the BIOS shall be over, and the guest have written to all of its memory once
        rows: dict[str, list[Moved | str]] = {way: [] for way in ways}
        for number in range(rounds):
            for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                rows[way].append(result := tried(lab, name, way, load))
                print(f"{name}, {way}: {result}", file=sys.stderr)
        ways_ = {way: summed(row) for way, row in rows.items()}
        return {"load": asdict(load), "rounds": rounds, "ways": ways_, "on": about(lab)}
    finally:
        do(lab, "vm.stop", name, "--force", "vm.rm", name, "--yes")


def tried(lab: Lab, name: str, way: str, load: Load) -> Moved | str:
    """One migration to the other node; what virsh said when it failed. Closed at the end, however it ended."""
    source = "pm-1" if on(lab, "pm-1", f"virsh domstate {name}").strip() == "running" else "pm-2"
    target = "pm-2" if source == "pm-1" else "pm-1"
    if way in OURS:
        began = time.monotonic()
        do(lab, "vm.mv", name, *OURS[way], *(("--bandwidth", f"{load.bandwidth}M") if load.bandwidth else ()))
        return told(lab, name, source, time.monotonic() - began)
    two = "drbdadm net-options --allow-two-primaries=yes"
    on(lab, target, f"{two} {name}")
    on(lab, source, f"{two} {name}")
    on(lab, target, f"drbdadm primary {name}")
    address = settings.load(str(lab.conf().pmc)).nodes[target].replication
    limit = () if "--timeout" in WAYS[way] else ("--timeout", str(LIMIT))
    narrow = ("--bandwidth", str(load.bandwidth)) if load.bandwidth else ()
    words = ("virsh", "migrate", "--live", "--p2p", "--persistent", *WAYS[way], *limit, *narrow, name)
    line = " ".join((*words, f"qemu+ssh://root@{address}/system", "--migrateuri", f"tcp://{address}"))
    began = time.monotonic()
    try:
        on(lab, source, line)
        result: Moved | str = told(lab, name, source, time.monotonic() - began)
    except subprocess.CalledProcessError as error:
        result = str(error.stderr).strip().splitlines()[-1]
    do(lab, "vm.mv", name, "--cleanup")
    return result


def told(lab: Lab, name: str, source: str, whole: float) -> Moved:
    """What libvirt says of the migration (virsh(1), domjobinfo): milliseconds, and sizes with a unit."""
    return parsed(on(lab, source, f"virsh domjobinfo {name} --completed --keep-completed"), whole)


def parsed(text: str, whole: float) -> Moved:
    """Raises ValueError when a figure is missing."""
    units = {"B": 1 / MIB, "KiB": 1 / 1024, "MiB": 1, "GiB": 1024}
    took = re.search(r"^Time elapsed:\s+(\d+)", text, re.M)
    size = re.search(r"^Data processed:\s+([\d.]+) (\w+)", text, re.M)
    still = virsh.parse_downtime(text)
    if not took or not size or still is None:
        raise ValueError(f"not the statistics of a migration: {text[:200]!r}")
    return Moved(int(took[1]) / 1000, still, float(size[1]) * units[size[2]], whole)


def summed(found: list[Moved | str]) -> dict[str, Any]:
    good = [each for each in found if isinstance(each, Moved)]
    keys = ("seconds", "still", "moved", "whole")
    medians = {key: statistics.median(getattr(each, key) for each in good) for key in keys} if good else {}
    return {**medians, "of": len(good), "failed": sorted({each for each in found if isinstance(each, str)})}


def about(lab: Lab) -> dict[str, str]:
    versions = on(lab, "pm-1", "virsh --version; qemu-system-x86_64 --version | head -1").splitlines()
    return {**machine(), "libvirt": versions[0], "QEMU": versions[1].split()[3]}


def on(lab: Lab, node: str, line: str) -> str:
    done = subprocess.run(
        ssh(lab.conf(), node, line), capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    return done.stdout


if __name__ == "__main__":
    main()
