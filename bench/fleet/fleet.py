"""A fleet: its folder, its keys and configurations, its sshd's. All of it is gone when it is closed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from bench.fleet import content, deaf, sshd
from bench.fleet.spec import Spec
from lab.ports import free_ports

TOOL = Path(__file__).with_name("tool.sh")
TOOLS = ("bash", "cat", "drbdsetup", "ls", "lvm", "ss", "uname", "virsh")
FOREVER = 600.0  # seconds that a tool of a hung node takes


class Fleet:
    """Use as a context manager."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._folder = tempfile.TemporaryDirectory(prefix="pmc-fleet-")
        self.folder = Path(self._folder.name)
        (self.port,) = free_ports(1, spec.address(0))
        self.sshds: list[subprocess.Popen[bytes]] = []
        self._sockets: list[socket.socket] = []

    @property
    def conf(self) -> Path:
        return self.folder / "pmc.conf"

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def addresses(self) -> list[str]:
        return [self.spec.address(number) for number in range(self.spec.nodes)]

    def __enter__(self) -> Fleet:
        try:
            self._write()
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self) -> None:
        self.folder.chmod(0o755)
        ills = self.spec.ills()
        for number, files in enumerate(content.outputs(self.spec)):
            here = self.folder / "nodes" / self.spec.address(number)
            ill = ills.get(number, "")
            for name, text in (content.spoilt(files) if ill == "garbage" else files).items():
                path = here / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            if ill in ("slow", "hung"):
                (here / "delay").write_text(f"{self.spec.delay if ill == 'slow' else FOREVER:g}\n")
                (here / "pids").touch(0o666)
                (here / "pids").chmod(0o666)
        bin_ = self.folder / "bin"
        bin_.mkdir()
        (bin_ / "tool").write_text(TOOL.read_text())
        (bin_ / "tool").chmod(0o755)
        for tool in TOOLS:
            (bin_ / tool).symlink_to("tool")
        self.conf.write_text(self._settings())
        self.ssh_config.write_text(
            f"Host 127.0.*\n    User root\n    Port {self.port}\n    IdentityFile {self.folder}/key\n"
            f"    IdentitiesOnly yes\n    UserKnownHostsFile {self.folder}/known_hosts\n"
            "    GlobalKnownHostsFile /dev/null\n    StrictHostKeyChecking yes\n"
            "    UpdateHostKeys no\n    LogLevel ERROR\n"
        )

    def _settings(self) -> str:
        """Its pmc.conf: ports for all VMs, its own ssh configuration, no audit log."""
        spec = self.spec
        nodes = "".join(
            f'[nodes.{spec.name(n)}]\nreplication = "{spec.replication(n)}"\nhost = "{spec.address(n)}"\n'
            for n in range(spec.nodes)
        )
        return (
            f'ports = "7800-{max(7999, 7800 + spec.nodes * spec.vms)}"\nssh_config = "{self.ssh_config}"\n'
            f'audit_log = ""\n[deadlines]\nconnect = {spec.connect:g}\ncommand = {spec.command:g}\n{nodes}'
        )

    def _start(self) -> None:
        program, environment = sshd.installed(self.folder)
        user = sshd.identity()
        environment |= sshd.password_file(self.folder, user)
        sshd.key(self.folder / "key")
        ills = self.spec.ills()
        reached = [address for n, address in enumerate(self.addresses) if ills.get(n) not in ("dead", "mute")]
        known = ""
        for number, first in enumerate(range(0, len(reached), sshd.ADDRESSES)):
            addresses = reached[first : first + sshd.ADDRESSES]
            host_key = self.folder / f"hostkey{number}"
            public = sshd.key(host_key)
            if os.getuid() == 0:
                os.chown(host_key, *user)
            known += "".join(f"[{address}]:{self.port} {public}\n" for address in addresses)
            self.sshds.append(sshd.start(program, self.folder, number, self.port, addresses, environment))
        (self.folder / "known_hosts").write_text(known)
        for number, ill in ills.items():
            if ill in ("dead", "mute"):
                self._sockets += getattr(deaf, ill)(self.addresses[number], self.port)
        for address in reached[:: sshd.ADDRESSES]:
            self._answers(address)

    def _answers(self, address: str) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and all(each.poll() is None for each in self.sshds):
            with suppress(OSError), socket.create_connection((address, self.port), timeout=2) as knock:
                if knock.recv(4) == b"SSH-":
                    return
            time.sleep(0.05)
        said = "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("sshd*.log")))
        raise RuntimeError(f"{address}: no sshd came up: {said.strip()[-500:] or 'it said nothing'}")

    def close(self) -> None:
        for each in self.sshds:
            each.terminate()
        for each in self.sshds:
            each.wait(10)
        for end in self._sockets:
            end.close()
        for path in (self.folder / "nodes").glob("*/pids"):
            for pid in map(int, path.read_text().split()):
                # A tool that sleeps for a hung node; by now its number may be somebody else's.
                with suppress(OSError):
                    if f"FLEET={self.folder}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                        os.kill(pid, signal.SIGTERM)
        self._folder.cleanup()
