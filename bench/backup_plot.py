"""Draws docs/performance-backup.svg of what is given as JSON on stdin. With the benchmark's own Python: FILE"""

import json
import sys

from matplotlib import pyplot, rcParams

rcParams["svg.hashsalt"] = "pmc"  # the same figures give the same file
found = json.load(sys.stdin)
styles = {"xdelta3": "k:.", "classic": "s-", "thin": "o-"}
figure, plots = pyplot.subplots(1, 2, figsize=(11, 4.2))
titles = (f"{found['changed']} MiB changed", f"a disk of {found['MiB']} MiB")
for axes, kind, key, title, label in zip(
    plots, ("size", "change"), ("MiB", "percent"), titles, ("disk, MiB", "changed, %"), strict=True
):
    rows = found[kind]
    for name, style in styles.items():
        shown = "xdelta3 -e -S djw" if name == "xdelta3" else f"pmc, {name} volume"
        axes.plot([row[key] for row in rows], [row[name] for row in rows], style, label=shown)
    axes.set(
        xlabel=label,
        ylabel="seconds of a processor",
        title=f"a delta of {title}" if kind == "change" else f"a delta, {title}",
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
plots[0].legend()
figure.tight_layout()
figure.savefig(sys.argv[1], metadata={"Date": None})
