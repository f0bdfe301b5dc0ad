"""What a backup costs, against the plain tools: runs that alternate, medians of the ratios of pairs.

    python -m bench.backup files                     on files of this machine (in its page cache)
    python -m bench.backup slow --folder DIRECTORY   the same pairs in this directory, on a disk that is slower
    python -m bench.backup lab --node pm-2           on a node of a running lab (PMC_LAB names the lab)
    python -m bench.backup guest                     a guest's writes per second while it is backed up, on a running lab
    python -m bench.backup report                    the tables and plots of docs/performance.md

Each but the last writes what it found into bench/data/backup.json. The two of a pair have the same priority, and
end when what they wrote is on the disk. The content is that of files under /usr, so it compresses like a system's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import backup_guest, backup_report
from bench.disk import Disk
from bench.places import Place, Run, on_lab

RESULTS = Path(__file__).parents[1] / "bench" / "data" / "backup.json"
KINDS = ("usr", "random", "moved", "blocks")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.backup", description="see the docstring of this module")
    parser.add_argument("what", choices=("files", "slow", "lab", "guest", "report"))
    parser.add_argument("--size", type=int, default=1024, help="MiB of the disk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--node", default="pm-2", help="of the lab")
    parser.add_argument("--folder", default="/var/tmp", help="with files, slow: where they are made")  # noqa: S108
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(argv)
    if given.what in ("files", "slow"):
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            place = Place("files", folder)
            keep(given.results, given.what, pairs(place, given.size, given.rounds))
            if given.what == "files":
                keep(given.results, "growth", growth(place, given.size))
    elif given.what == "lab":
        with on_lab(given.node, given.size) as place:
            keep(given.results, "lab", pairs(place, given.size, given.rounds))
    elif given.what == "guest":
        keep(given.results, "guest", backup_guest.measured(given.size, given.rounds))
    else:
        backup_report.write(json.loads(given.results.read_text()))


def pairs(place: Place, size: int, rounds: int) -> dict[str, Any]:
    """Each of ours against its peer."""
    found: dict[str, Any] = {"size": size, "rounds": rounds, "on": machine(place)}
    place.bring()
    empty = Disk(place, size, full=10, part=min(16, -(-size // 20)))
    found["base, 90 % empty"] = alternating(rounds, empty.base_of_pmc, empty.copy)
    found["base, 90 % empty, thin"] = alternating(rounds, empty.thin_base, empty.copy)
    found["sparse, 90 % empty"] = alternating(rounds, empty.sparse_base, empty.copy)
    found["sparse, 90 % empty, thin"] = alternating(rounds, empty.sparse_thin_base, empty.copy)
    disk = Disk(place, size, full=70)
    found["base"] = alternating(rounds, disk.base_of_pmc, disk.plain_base)
    disk.keep_old()
    disk.place.said(f"rm -f {disk.file('plain')}")
    for kind in KINDS:
        disk.put_back()
        disk.change(disk.bytes // 4096 // 100, kind)
        found[f"delta, {kind}"] = alternating(rounds, disk.delta_of_pmc, disk.xdelta3)
        found[f"delta, {kind}, thin"] = alternating(rounds, disk.thin_delta, disk.xdelta3)
        found[f"size, {kind}"] = disk.sizes()
    found["restore"] = alternating(rounds, disk.give_back, disk.plain_back)
    found["load"] = os.getloadavg()[2]  # of the last 15 minutes
    return found


def alternating(rounds: int, ours: Callable[[], Run], theirs: Callable[[], Run]) -> dict[str, float]:
    """Medians of both and of the ratios of pairs (ours / theirs), the first of which takes turns; our most memory."""
    runs = list[tuple[Run, Run]]()
    for number in range(rounds):
        second = theirs() if number % 2 else None
        runs.append((ours(), second or theirs()))
    return {
        "ours": statistics.median(a.seconds for a, _ in runs),
        "theirs": statistics.median(b.seconds for _, b in runs),
        "ratio": statistics.median(a.seconds / b.seconds for a, b in runs),
        "processor": statistics.median(a.processor / b.processor for a, b in runs),
        "read": statistics.median(a.read for a, _ in runs),
        "memory": max(a.memory for a, _ in runs),
    }


def growth(place: Place, size: int) -> dict[str, Any]:
    """Of a delta: by the disk's size at 4 MiB of changes (of a small disk, less), and by what changed."""
    changed = min(1024, size << 4)
    by_size = [{"MiB": mib, **deltas(place, mib, changed)} for mib in (size // 4, size // 2, size, size * 2)]
    percents = (0.25, 0.5, 1, 2, 4)
    by_change = [{"percent": each, **deltas(place, size, int(size * 256 * each / 100))} for each in percents]
    return {"size": by_size, "change": by_change, "MiB": size, "changed": changed >> 8}


def deltas(place: Place, mib: int, pages: int) -> dict[str, float]:
    """A processor's seconds, the least of two runs (they depend less than time on what else runs); bytes of the largest
    process of base, deltas and restore."""
    disk = Disk(place, mib, full=70)
    base = disk.base_of_pmc()
    disk.keep_old()
    disk.change(pages)
    classic, thin, xdelta3 = ([run(), run()] for run in (disk.delta_of_pmc, disk.thin_delta, disk.xdelta3))
    back = disk.give_back()
    return {
        "classic": min(run.processor for run in classic),
        "thin": min(run.processor for run in thin),
        "xdelta3": min(run.processor for run in xdelta3),
        "memory base": base.memory,
        "memory classic": max(run.memory for run in classic),
        "memory thin": max(run.memory for run in thin),
        "memory restore": back.memory,
    }


def keep(results: Path, name: str, found: dict[str, Any]) -> None:
    known = json.loads(results.read_text()) if results.exists() else {}
    results.write_text(json.dumps({**known, name: found}, indent=1) + "\n")


def machine(place: Place) -> dict[str, str]:
    # grep reads to the end: with -m 1 it may leave xdelta3 writing into a closed pipe, which pipefail makes a failure.
    tools = f"xdelta3 -V 2>&1 | grep version; zstd --version; uname -r; nproc; {place.python} --version; dd --version"
    xdelta3, zstd, kernel, cores, python, dd, *_ = place.said(tools).splitlines()
    return {
        "cores": cores,
        "kernel": kernel,
        "python": python.split()[-1],
        "xdelta3": xdelta3.split()[2].strip(","),
        "zstd": zstd.split("v")[-1].split(",")[0],
        "dd": dd.split()[-1],
    }


if __name__ == "__main__":
    main()
