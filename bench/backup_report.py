"""What docs/performance.md shows of bench/data/backup.json: the tables, between its two marks, and the plot."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from bench import venv

PAGE = venv.HERE.parent / "docs" / "performance.md"
PLOT = venv.HERE.parent / "docs" / "performance-backup.svg"
BEGIN, END = "<!-- made by python -m bench.backup report -->", "<!-- end of backups -->"

KINDS = {
    "usr": "other files of /usr",
    "random": "random bytes",
    "moved": "what is elsewhere on it",
    "blocks": "other files, in blocks of 64 KiB",
}

PLACES = {
    "files": "Files of the manager's machine",
    "slow": "The same on a disk that takes 200 MB a second",
    "lab": "Volumes of a node of the lab",
}

# What is compared with what, and the most that ours may take of it.
ROWS: dict[str, tuple[str, str, float]] = {
    "base": ("base", "`dd \\| zstd -3`", 1.1),
    "base, 90 % empty": ("base, 90 % empty, classic", "`dd`", 1 / 2),
    "base, 90 % empty, thin": ("base, 90 % empty, thin", "`dd`", 1 / 5),
    "sparse, 90 % empty": ("base, 90 % empty, `--no-compress`, classic", "`dd`", 1 / 2),
    "sparse, 90 % empty, thin": ("base, 90 % empty, `--no-compress`, thin", "`dd`", 1 / 5),
    **{f"delta, {kind}": (f"delta, 1 %: {text}, classic", "xdelta3", 1 / 2) for kind, text in KINDS.items()},
    **{f"delta, {kind}, thin": (f"delta, 1 %: {text}, thin", "xdelta3", 1 / 10) for kind, text in KINDS.items()},
    "restore": ("restore of a delta", "`xdelta3 -d \\| dd`", 1.1),
}


def write(results: dict[str, Any]) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(results)}\n{END}{after}")
    plot = str(venv.HERE / "backup_plot.py")
    drawn = json.dumps(results["growth"])
    subprocess.run([venv.program("python"), plot, str(PLOT)], input=drawn, text=True, check=True)


def tables(results: dict[str, Any]) -> str:
    parts = list[str]()
    for name, title in PLACES.items():
        if name in results:
            parts += [f"### {title}", *_pairs(results[name])]
    if "growth" in results:
        parts += _memory(results["growth"])
    if "guest" in results:
        parts += _guest(results["guest"])
    return "\n\n".join(parts) + "\n"


def _pairs(found: dict[str, Any]) -> list[str]:
    rows = []
    for key, (what, peer, most) in ROWS.items():
        run = found[key]
        rows.append(
            [what, peer, f"{run['ours']:.2f}", f"{run['theirs']:.2f}", f"{run['ratio']:.2f}", f"{run['processor']:.2f}",
             f"{most:.2f}", "yes" if run["ratio"] <= most else "**no**", f"{run['memory'] / 2**20:.0f}"]
        )  # fmt: skip
    sizes = [
        [text, f"{found[f'size, {kind}']:.2f}", "yes" if found[f"size, {kind}"] <= 1.1 else "**no**"]
        for kind, text in KINDS.items()
    ]
    on = ", ".join(f"{name} {value}" for name, value in found["on"].items())
    passes = found["sparse, 90 % empty"]["read"] / (found["size"] << 20)
    return [
        f"A disk of {found['size']} MiB, {found['rounds']} pairs; {on}; load average {found['load']:.1f}. All that the "
        f"processes of an uncompressed base read, by the kernel's count, was {passes:.2f} times the disk.",
        _table(("pmc's", "against", "s", "its s", "ratio", "CPU ratio", "at most", "met", "MiB"), rows),
        _table(("size of a delta, changed to", "of xdelta3's", "at most 1.1"), sizes),
    ]


def _memory(growth: dict[str, Any]) -> list[str]:
    kinds = ("base", "classic", "thin", "restore")
    rows = [[row["MiB"], *(f"{row[f'memory {kind}'] / 2**20:.0f}" for kind in kinds)] for row in growth["size"]]
    return [
        "### As disk and change grow",
        "![A processor's seconds for a delta](performance-backup.svg)",
        "MiB of the largest of pmc's processes:",
        _table(("disk, MiB", "base", "delta, classic", "delta, thin", "restore"), rows),
    ]


def _guest(found: dict[str, Any]) -> list[str]:
    rows = [[f"{a:.2f}", f"{b:.2f}"] for a, b in found["pairs"]]
    return [
        "### The guest meanwhile",
        f"Writes a second; a VM of {found['size']} MiB, its {found['read on']} read in {found['seconds']:.0f} s; ratio "
        f"{found['ratio']:.2f}:",
        _table(("during a base", "without"), rows),
    ]


def _table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
