"""Who takes part: for each the command line, which lists nothing of its own but runs the same script on all nodes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from bench import venv
from bench.fleet import Fleet
from pmc import settings
from pmc.command import frame
from pmc.node_state import state_queries

PEERS = ("limit", "xargs ssh", "ansible raw", "pyinfra exec")
OURS = ("vm.ls", "pm.ls")
PMC = str(Path(sys.executable).with_name("pmc"))
AT_ONCE = 100  # for those who must be told; their own defaults (5 for ansible, 1 for xargs) would be slower


@dataclass(frozen=True)
class Contender:
    name: str
    argv: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


def contenders(fleet: Fleet) -> list[Contender]:
    """The script is what `vm.ls` runs on each node. `limit` and xargs give it on stdin, as pmc does; ansible and
    pyinfra, which have no stdin to give, find it on the node."""
    folder = fleet.folder
    queries = state_queries(settings.load(str(fleet.conf)))
    script = folder / "look.sh"
    script.write_text(frame([query.command for query in queries.values()], "pmc-0123456789abcdef"))
    addresses = folder / "addresses"
    addresses.write_text("".join(f"{address}\n" for address in fleet.addresses))
    at_once = str(min(AT_ONCE, fleet.spec.nodes))
    ssh = f"ssh -F {fleet.ssh_config} {{}} timeout -k 5 60 sh -s <{script}"
    ansible = folder / "ansible"
    ansible.mkdir(exist_ok=True)
    login = {
        "ssh_user": "root",
        "ssh_port": fleet.port,
        "ssh_key": str(folder / "key"),
        "ssh_known_hosts_file": str(folder / "known_hosts"),
        "ssh_strict_host_key_checking": "yes",
    }
    hosts = [(address, login) for address in fleet.addresses]
    (folder / "inventory.py").write_text(f"hosts = {hosts!r}\n")
    return [
        *(Contender(task, (PMC, task), {"PMC_CONF": str(fleet.conf)}) for task in OURS),
        Contender(
            "limit",
            (venv.program("python"), str(venv.HERE / "fanout.py"), str(addresses), str(script), str(folder / "key"),
             str(folder / "known_hosts"), str(fleet.port), at_once),
        ),
        Contender("xargs ssh", ("xargs", "-a", str(addresses), "-P", at_once, "-I{}", "sh", "-c", ssh)),
        Contender(
            "ansible raw",
            (venv.program("ansible"), "all", "-i", str(addresses), "-m", "raw", "-a", f"sh {script}", "-f", at_once),
            {
                "ANSIBLE_HOME": str(ansible),
                # New connections each time, as for all others: no master connection that outlives the command.
                "ANSIBLE_SSH_ARGS": f"-F {fleet.ssh_config} -o ControlMaster=no -o ControlPath=none",
                "PATH": f"{venv.VENV}/bin:/usr/bin:/bin",
            },
        ),
        Contender(
            "pyinfra exec",
            (venv.program("pyinfra"), "-y", "--parallel", at_once, str(folder / "inventory.py"),
             "exec", "--", "sh", str(script)),
        ),
    ]  # fmt: skip
