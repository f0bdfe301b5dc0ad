"""What docs/performance.md shows of bench/data/list.json: the tables, between its two marks, and the plot."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench import venv

PAGE = venv.HERE.parent / "docs" / "performance.md"
PLOT = venv.HERE.parent / "docs" / "performance-list.svg"
BEGIN, END = "<!-- made by python -m bench.list report -->", "<!-- end of listings -->"


def write(results: dict[str, Any]) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(results)}\n{END}{after}")
    plot = str(venv.HERE / "list_plot.py")
    subprocess.run([venv.program("python"), plot, str(PLOT)], input=json.dumps(sized(results)), text=True, check=True)


def sized(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [results[key] for key in sorted((key for key in results if key.isdigit()), key=int)]


def tables(results: dict[str, Any]) -> str:
    rows = sized(results)
    names = list(dict.fromkeys(name for row in rows for name in row["seconds"]))
    first = ("vm.ls", "pm.ls", "limit")
    names = [*first, *(name for name in sorted(names) if name not in first)]
    seconds = [
        [row["nodes"], row["vms"], *(f"{row['seconds'][name]:.2f}" if name in row["seconds"] else "" for name in names)]
        for row in rows
    ]
    limits = [
        [
            row["nodes"],
            f"{row['ratio']['vm.ls']:.2f}",
            f"{row['ratio']['pm.ls']:.2f}",
            f"{row['processor']['vm.ls']:.2f}",
            f"{row['processor']['limit']:.2f}",
            f"{row['memory']['vm.ls'] / 2**20:.0f}",
            f"{row['memory']['limit'] / 2**20:.0f}",
            row["rounds"],
        ]
        for row in rows
    ]
    parts = [
        "![Seconds and memory by the number of nodes](performance-list.svg)",
        "Seconds, medians:",
        _table(("nodes", "VMs", *names), seconds),
        "Against the limit (medians of the ratios of paired runs), the manager's processor seconds, its peak memory:",
        _table(
            ("nodes", "vm.ls / limit", "pm.ls / limit", "CPU vm.ls", "CPU limit", "MiB vm.ls", "MiB limit", "rounds"),
            limits,
        ),
    ]  # fmt: skip
    if "ill" in results:
        ill = results["ill"]
        rows_ = [(name, f"{seconds:.1f}") for name, seconds in ill["seconds"].items()]
        parts += [
            f"vm.ls of {ill['nodes']} nodes, `connect = {ill['connect']}`, `command = {ill['command']}` in pmc.conf:",
            _table(("nodes that do not answer", "seconds"), rows_),
        ]
    if "lab" in results:
        lab = results["lab"]
        seconds, ratio = lab["seconds"], lab["ratio"]["vm.ls"]
        parts.append(
            f"On the lab ({lab['nodes']} nodes, {lab['vms']} VMs): vm.ls {seconds['vm.ls']:.2f} s, one `ssh node true` "
            f"{seconds['limit']:.2f} s, ratio {ratio:.2f} ({lab['rounds']} rounds)."
        )
    if rows:
        lines = "\n".join(f"- {name}: `{line}`" for name, line in rows[-1]["lines"].items())
        on = ", ".join(f"{name} {value}" for name, value in rows[-1]["on"].items())
        parts += [f"Commands (of {rows[-1]['nodes']} nodes):\n\n{lines}", f"On: {on}."]
    return "\n\n".join(parts) + "\n"


def _table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def typed(argv: Sequence[str], folder: Path) -> str:
    """The command line as one would type it."""
    line = shlex.join(argv).replace(f"{folder}/", "")
    for path, short in (
        (f"{venv.VENV}/bin/", ""),
        (f"{venv.HERE}/", "bench/"),
        (f"{Path(sys.executable).parent}/", ""),
    ):
        line = line.replace(path, short)
    return line
