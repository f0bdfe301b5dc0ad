"""How long a listing takes, against what else one could use: whole processes, runs that alternate, medians.

    python -m bench.list run --sizes 1,5,20,100,300     all contenders, new connections each time
    python -m bench.list ill --nodes 100                dead and hanging nodes: what a listing waits for
    python -m bench.list lab --rounds 20                on a lab that is up (inv lab.up): vm.ls of 20 VMs against one
                                                        plain `ssh node true`
    python -m bench.list report                         the table and the plot of docs/performance.md

Each writes what it found into bench/data/list.json, by size, so that sizes can be measured in several goes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from bench import list_report, venv
from bench.backup_guest import do
from bench.contenders import PMC, Contender, contenders
from bench.fleet import Fleet, Spec
from bench.measure import Run, run
from bench.sleepers import sleepers
from lab.cluster import Lab
from lab.reach import ssh

RESULTS = venv.HERE.parent / "bench" / "data" / "list.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.list", description="see the docstring of this module")
    parser.add_argument("what", choices=("run", "ill", "lab", "report"))
    parser.add_argument("--sizes", default="1,5,20,100,300", help="numbers of nodes")
    parser.add_argument("--nodes", type=int, default=100, help="of `ill`")
    parser.add_argument("--vms", type=int, default=20, help="that run on each node")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="names of contenders, with commas between them")
    given = parser.parse_args()
    if given.what == "run":
        for size in map(int, given.sizes.split(",")):
            _keep(f"{size}", _sized(Spec(size, given.vms), given.rounds, given.only))
    elif given.what == "ill":
        _keep("ill", _ill(given.nodes, given.vms, given.rounds))
    elif given.what == "lab":
        _keep("lab", _lab(given.vms, given.rounds))
    else:
        list_report.write(json.loads(RESULTS.read_text()))


def _sized(spec: Spec, rounds: int, only: str) -> dict[str, Any]:
    with Fleet(spec) as fleet:
        chosen = [each for each in contenders(fleet) if not only or each.name in only.split(",")]
        found = alternating(chosen, rounds)
        lines = {each.name: list_report.typed(each.argv, fleet.folder) for each in chosen}
    return {"nodes": spec.nodes, "vms": spec.nodes * spec.vms, **found, "lines": lines, "on": machine()}


def alternating(chosen: list[Contender], rounds: int, fine: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """The medians, and of each contender the median of its ratio to the limit in the same round, so that what else the
    machine did meanwhile falls on both. The order changes from round to round; one round before all is not counted."""
    runs: dict[str, list[Run]] = {each.name: [] for each in chosen}
    for each in chosen:
        run(each.argv, each.environment, fine)
    for number in range(rounds):
        turn = number % len(chosen)
        for each in chosen[turn:] + chosen[:turn]:
            runs[each.name].append(run(each.argv, each.environment, fine))
            time.sleep(0.2)
    limit = runs.get("limit", [])
    return {
        "rounds": rounds,
        "seconds": {name: statistics.median(r.seconds for r in of) for name, of in runs.items()},
        "processor": {name: statistics.median(r.processor for r in of) for name, of in runs.items()},
        "memory": {name: max(r.memory for r in of) for name, of in runs.items()},
        "ratio": {
            name: statistics.median(a.seconds / b.seconds for a, b in zip(of, limit, strict=True))
            for name, of in runs.items()
            if limit
        },
    }


def _ill(nodes: int, vms: int, rounds: int) -> dict[str, Any]:
    """How much longer vm.ls takes when nodes do not answer, against the deadline that each such node may take."""
    found = {}
    some = max(1, nodes // 10)
    for name, spec in {
        "all well": Spec(nodes, vms, connect=5, command=15),
        f"{some} dead": Spec(nodes, vms, dead=some, connect=5, command=15),
        f"{some} mute": Spec(nodes, vms, mute=some, connect=5, command=15),
        "1 hung": Spec(nodes, vms, hung=1, connect=5, command=15),
        f"{some} hung": Spec(nodes, vms, hung=some, connect=5, command=15),
    }.items():
        with Fleet(spec) as fleet:
            task = Contender("vm.ls", (PMC, "vm.ls"), {"PMC_CONF": str(fleet.conf)})
            found[name] = alternating([task], rounds, fine=(0, 1))["seconds"]["vm.ls"]
    return {"nodes": nodes, "connect": 5, "command": 15, "seconds": found, "on": machine()}


def _lab(vms: int, rounds: int) -> dict[str, Any]:
    lab = Lab()
    conf = lab.conf()
    do(lab, "pm.init", "pm-1,pm-2", "--fix")
    task = Contender("vm.ls", (PMC, "vm.ls", "--conf", str(conf.pmc)))
    with sleepers(lab, vms, spread=True):
        found = alternating([task, Contender("limit", tuple(ssh(conf, "pm-1", "true")))], rounds)
    return {"nodes": 2, "vms": vms, **found, "on": machine()}


def machine() -> dict[str, str]:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    ours = ("fabric", "paramiko", "cryptography")
    return {
        "cores": str(os.cpu_count()),
        "processor": cpu[0].partition(":")[2].strip() if cpu else "",
        "Linux": platform.release(),
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in ours},
        **{name: venv.version(name) for name in ("asyncssh", "ansible-core", "pyinfra")},
    }


def _keep(key: str, found: dict[str, Any]) -> None:
    all_ = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**all_, key: found}, indent=1, sort_keys=True) + "\n")
    print(json.dumps({key: {name: found[name] for name in ("seconds", "ratio", "memory") if name in found}}, indent=1))


if __name__ == "__main__":
    main()
