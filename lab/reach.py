# SPDX-License-Identifier: GPL-3.0-or-later
"""How one reaches the nodes: ssh configuration, known_hosts, pmc.conf; and waiting until one does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import keys, paths
from lab.errors import LabError
from lab.machine import Machine

# libvirtd comes up a little after sshd; vgs fails without the volume group.
READY = (
    "systemctl is-system-running --wait >/dev/null || :; "
    "until virsh -c qemu:///system version >/dev/null 2>&1; do sleep 0.2; done; vgs vg"
)


@dataclass(frozen=True)
class Conf:
    pmc: Path
    ssh: Path
    known_hosts: Path
    key: Path


def conf(run: Path) -> Conf:
    return Conf(run / "pmc.conf", run / "ssh_config", run / "known_hosts", keys.folder() / "id_ed25519")


def write(run: Path, machines: list[Machine]) -> Conf:
    found = conf(run)
    found.known_hosts.write_text("".join(known_host(machine) for machine in machines))
    found.ssh.write_text("\n".join(ssh_host(machine, found) for machine in machines))
    found.pmc.write_text(pmc_conf(found, machines))
    return found


def known_host(machine: Machine) -> str:
    """Under both names: OpenSSH looks for the HostKeyAlias; paramiko, and so Fabric, for [host]:port."""
    kind, key = (keys.folder() / f"host{machine.node}.pub").read_text().split()[:2]
    return f"{machine.name},[127.0.0.1]:{machine.port} {kind} {key}\n"


def ssh_host(machine: Machine, found: Conf) -> str:
    return f"""Host {machine.name}
    HostName 127.0.0.1
    Port {machine.port}
    User root
    HostKeyAlias {machine.name}
    IdentityFile "{found.key}"
    IdentitiesOnly yes
    UserKnownHostsFile "{found.known_hosts}"
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    HostKeyAlgorithms ssh-ed25519
    LogLevel ERROR
"""


def pmc_conf(found: Conf, machines: list[Machine]) -> str:
    nodes = "".join(f'[nodes.{one.name}]\nreplication = "10.77.0.{one.node}"\n' for one in machines)
    iso = paths.folder(paths.cache() / "iso")
    return f"""ssh_config = "{found.ssh}"
volume_group = "vg"
bridge = "br0"
backup_dir = "/var/lib/pmc/backups"
iso_dir = "{iso}"
audit_log = "{found.pmc.parent / "audit.jsonl"}"
mac_prefix = "52:54:00:77"
ports = "7800-7899"
virt_type = "qemu"
migration_emulated = "live"
[deadlines]
connect = 30
command = 120
shutdown = 120
migrate = 180
sync = 180
{nodes}"""


def ssh(found: Conf, node: str, command: str = "", options: Sequence[str] = ()) -> list[str]:
    return ["ssh", "-F", str(found.ssh), *options, node, *([command] if command else [])]


def shared(found: Conf) -> list[str]:
    """Options: over the connection of the one before, which an emulated node takes seconds to make. It ends with the
    machine; a node that booted anew resets it, and ssh makes another one."""
    return ["-o", "ControlMaster=auto", "-o", f"ControlPath={found.ssh.parent}/%n.ssh", "-o", "ControlPersist=yes"]


def wait(found: Conf, machine: Machine, command: str, deadline: float) -> None:
    """Set the node's clock (it stood still while saved) and run `command`, as soon as ssh answers."""
    end = time.monotonic() + deadline
    said = ""
    while (left := end - time.monotonic()) > 0:
        machine.check()
        timed = f"date -u -s @{time.time():.3f} >/dev/null && {command}"
        argv = ssh(found, machine.name, timed, ["-o", "ConnectTimeout=2", "-o", "BatchMode=yes"])
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=left)
        except subprocess.TimeoutExpired:
            break
        if done.returncode == 0:
            return
        said = done.stderr.strip()
        time.sleep(0.1)
    log = machine.file("console")
    raise LabError(f"{machine.name} is not ready after {deadline:.0f} s ({said}); see {log}")
