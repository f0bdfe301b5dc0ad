"""Many simulated nodes on one machine: real sshd's and real framing, only the tools on the nodes are stand-ins.

`python -m bench.fleet --nodes 300 --vms 20` starts one and says how to use it; `Fleet` is the same for programs.
"""

from bench.fleet.fleet import Fleet
from bench.fleet.spec import Spec

__all__ = ["Fleet", "Spec"]
