"""Draws docs/performance-list.svg of the sizes given as JSON on stdin: list_plot.py FILE, with bench/.venv's Python."""

import json
import sys

from matplotlib import pyplot, rcParams

rcParams["svg.hashsalt"] = "pmc"  # the same figures give the same file
sizes = json.load(sys.stdin)
names = ["vm.ls", "pm.ls", "limit", "pyinfra exec", "xargs ssh", "ansible raw"]
styles = {"vm.ls": "o-", "pm.ls": "s-", "limit": "k--"}
figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
for name in names:
    has = [size for size in sizes if name in size["seconds"]]
    label = "limit (asyncssh, no output)" if name == "limit" else name
    left.plot([s["nodes"] for s in has], [s["seconds"][name] for s in has], styles.get(name, ".:"), label=label)
    right.plot([s["nodes"] for s in has], [s["memory"][name] / 2**20 for s in has], styles.get(name, ".:"), label=label)
for axes, title, unit in ((left, "from start to end", "seconds"), (right, "peak memory of the largest process", "MiB")):
    axes.set(xscale="log", yscale="log", xlabel="nodes", ylabel=unit, title=title)
    axes.set_xticks([s["nodes"] for s in sizes], [str(s["nodes"]) for s in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
left.legend()
figure.tight_layout()
figure.savefig(sys.argv[1], metadata={"Date": None})
