"""How long a thin pool takes to tell what a volume has, and what has changed of it since a snapshot: on a running lab.

    python -m bench.thin --sizes 256,1024,4096

Of a volume of so many MiB the pool has 70 %; of that, or of 4 MiB of it, pages at random places are written after the
snapshot. What is timed is what a step of vm.backup runs on the node: thin_dump or thin_delta with all around it.
"""

from __future__ import annotations

import argparse
import shlex
import statistics

from bench.places import Place, line
from lab.cluster import Lab
from lab.reach import ssh
from pmc import lvm_thin
from pmc.units import MiB

GROUP, POOL, NAME, OLD = "vg", "bench-pool", "bench", "bench-old"
ROUNDS = 3
CHUNK = 64 * 1024
# argv: device, its chunks, of how many of them a page is written, where chance begins, and whether at random places.
# Only of the first seventy of each hundred chunks, so that what is mapped lies in stretches, as files do.
WRITE = """import os, random, sys
device, chunks, count, seed, spread = sys.argv[1], *map(int, sys.argv[2:])
disk = os.open(device, os.O_WRONLY)
mapped = [n for n in range(chunks) if n // 10 % 10 < 7]
for n in random.Random(seed).sample(mapped, count) if spread else mapped[:count]:
    os.pwrite(disk, os.urandom(4096), n * 65536)
os.fsync(disk)"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.thin", description="see the docstring of this module")
    parser.add_argument("--sizes", default="256,1024,4096", help="MiB")
    parser.add_argument("--node", default="pm-2")
    given = parser.parse_args()
    place = Place(f"{given.node} of the lab", "/run", tuple(ssh(Lab().conf(), given.node)), "")
    print("MiB   all that is there   1 % changed   4 MiB changed   (seconds, medians)")
    for size in map(int, given.sizes.split(",")):
        print(f"{size:<5} " + "   ".join(f"{seconds:.2f}" for seconds in measured(place, size)), flush=True)


def measured(place: Place, size: int) -> tuple[float, float, float]:
    chunks = size * MiB // CHUNK
    remove = f"lvremove -qq -y {GROUP}/{OLD} {GROUP}/{NAME} {GROUP}/{POOL} >/dev/null 2>&1 || :"
    snap = f"lvcreate -qq -y -s -kn -n {OLD} {GROUP}/{NAME}"
    try:
        place.said(
            f"{remove}; lvcreate -qq -y --type thin-pool -Zn -c 64K -L {size}M -n {POOL} {GROUP}; "
            f"lvcreate -qq -y --type thin -V {size}M --thinpool {POOL} -n {NAME} {GROUP}"
        )
        write(place, chunks, chunks * 7 // 10, spread=False)
        all_ = timed(place, line(lvm_thin.mapped(GROUP, NAME, size * MiB)))
        found = []
        for pages in (size * MiB // 4096 // 100, 4 * MiB // 4096):
            place.said(f"lvremove -qq -y {GROUP}/{OLD} >/dev/null 2>&1 || :; {snap}")
            write(place, chunks, min(pages, chunks * 7 // 10), spread=True)
            found.append(timed(place, line(lvm_thin.changed(GROUP, OLD, NAME, size * MiB))))
        return all_, found[0], found[1]
    finally:
        place.said(remove)


def write(place: Place, chunks: int, count: int, spread: bool) -> None:
    words = ("python3", "-c", WRITE, f"/dev/{GROUP}/{NAME}", str(chunks), str(count), str(count), str(int(spread)))
    place.said(shlex.join(words))


def timed(place: Place, script: str) -> float:
    return statistics.median(place.run(script).seconds for _ in range(ROUNDS))


if __name__ == "__main__":
    main()
