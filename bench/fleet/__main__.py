"""python -m bench.fleet --nodes 300 --vms 20: a fleet to try things on, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys

from bench.fleet import Fleet, Spec
from bench.fleet.spec import ILLS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--vms", type=int, default=20, help="that run on each node")
    for ill in ILLS:
        parser.add_argument(f"--{ill}", type=int, default=0, help=f"how many nodes are {ill}")
    parser.add_argument("--delay", type=float, default=1.0, help="seconds that a slow node takes longer")
    spec = Spec(**vars(parser.parse_args()))
    with Fleet(spec) as fleet:
        print(
            f"{spec.nodes} nodes, {len(spec.machines())} VMs: PMC_CONF={fleet.conf} pmc vm.ls\nCtrl-C ends it.",
            flush=True,
        )
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: sys.exit(0))
        signal.pause()


if __name__ == "__main__":
    main()
