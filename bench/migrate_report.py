"""What docs/performance.md shows of bench/data/migrate.json: a table between its two marks."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from bench import venv

PAGE = venv.HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- made by python -m bench.migrate report -->", "<!-- end of migrations -->"
COLUMNS = ("load", "way", "migration s", "stood still s", "MiB copied", "command s", "runs", "failed with")


def write(results: dict[str, Any]) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    parts = [table({name: found for name, found in results.items() if name != "evacuate"})]
    if "evacuate" in results:
        parts.append(evacuations(results["evacuate"]))
    text = "\n\n".join(parts)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def evacuations(found: dict[str, Any]) -> str:
    alone = found["seconds"]["1"]
    rows = [[parallel, f"{s:.1f}", f"{alone / s:.2f}"] for parallel, s in found["seconds"].items()]
    text = tabulate(rows, ("at the same time", "seconds", "times as fast"), tablefmt="github", disable_numparse=True)
    return f"`pm.evacuate` of {found['vms']} VMs, medians of {found['rounds']}:\n\n{text}"


def table(results: dict[str, Any]) -> str:
    rows = []
    for load, found in results.items():
        for way, one in found["ways"].items():
            figures = [f"{one[key]:.2f}" if key in one else "" for key in ("seconds", "still", "moved", "whole")]
            rows.append([load, way, *figures, f"{one['of']} of {found['rounds']}", "; ".join(one["failed"])[:120]])
    on = next(iter(results.values()))["on"]
    # disable_numparse: the figures are as they shall be shown already.
    text = tabulate(rows, COLUMNS, tablefmt="github", disable_numparse=True)
    return f"{text}\n\n{on['cores']} cores, libvirt {on['libvirt']}, QEMU {on['QEMU']}."
