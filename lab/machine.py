# SPDX-License-Identifier: GPL-3.0-or-later
"""One node as a QEMU machine: its command line, its disks, its process and the monitor (QMP)."""

from __future__ import annotations

import functools
import os
import secrets
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab import process, recipe
from lab.errors import LabError
from lab.image import Image
from lab.qmp import Monitor
from lab.run import missing, run

MEMORY = 512  # MB
EARS = 8  # guests of a node that are heard at a time
ROOM = 8 << 30  # bytes: of each disk; files are as large as what is in them
SETTLED = 60.0  # seconds: until what a power loss does to the disks is done, which takes one


@functools.cache
def qemu_version() -> str:
    try:
        done = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise missing("qemu-system-x86_64") from error
    return done.stdout.splitlines()[0]


def cpu(accel: str) -> list[str]:
    if accel == "kvm":
        return ["-machine", "q35", "-accel", "kvm", "-cpu", "host"]
    return ["-machine", "q35,hpet=off", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "qemu64"]


@dataclass(frozen=True)
class Machine:
    node: int
    image: Image
    accel: str
    port: int  # on 127.0.0.1, leads to the node's ssh
    run: Path  # sockets, logs, pid file
    disks: Path

    @property
    def name(self) -> str:
        return f"pm-{self.node}"

    @property
    def root(self) -> Path:
        return self.disks / f"{self.name}-root.qcow2"

    @property
    def vg(self) -> Path:
        return self.disks / f"{self.name}-vg.raw"

    def file(self, kind: str) -> Path:
        return self.run / f"{self.name}.{kind}"

    # -- command line --

    def append(self) -> str:
        """The kernel's command line. With lpj it need not measure a delay that emulation makes erratic.

        Nor does it go by the TSC, whose rate it measures at boot (on a busy host one took 2600 MHz for 170), but by
        acpi_pm, whose rate is fixed.
        """
        words = ["console=ttyS0", "quiet", "systemd.show_status=0", "mitigations=off", "audit=0", "selinux=0"]
        words += ["apparmor=0", "random.trust_cpu=on", "net.ifnames=0", "panic=-1", "init_on_alloc=0"]
        words += ["rcupdate.rcu_expedited=1", "nowatchdog"]
        if self.accel == "tcg":
            words += ["nokaslr", "lpj=4000000", "tsc=unstable", "no_timer_check"]
        machine_id = f"706d632d6c6162000000000000000{self.node:03}"
        words += [
            f"systemd.hostname={self.name}",
            f"systemd.machine_id={machine_id}",
            f"lab.node={self.node}",
        ]
        return " ".join(words)

    def command(self, state: Path | None = None) -> list[str]:
        """QEMU's command line; with `state`, one that wakes up from it, stopped."""
        # No discard: QEMU 7.2's qcow2 then frees clusters that a write is still on its way to, and under load a guest's
        # write was seen 64 KiB (one cluster) off. Zeroing is as quick: clusters are marked, not written.
        # Flushes reach the disks' server, which loses what was not flushed when QEMU is killed (lab/nbd.py).
        drive = "if=none,cache=writeback,discard=ignore,detect-zeroes=off"
        socket_pair = (
            f"local.type=unix,local.path={self.run / f'node{self.node}'},"
            f"remote.type=unix,remote.path={self.run / f'hub{self.node}'}"
        )
        forward = f"hostfwd=tcp:127.0.0.1:{self.port}-:22"
        argv = ["qemu-system-x86_64", "-name", self.name, *cpu(self.accel), "-smp", "1", "-m", str(MEMORY)]
        # libvirt refuses to migrate between hosts of one UUID.
        argv += ["-uuid", f"706d632d-6c61-4062-8000-{self.node:012}"]
        argv += ["-nodefaults", "-no-user-config", "-display", "none"]
        argv += [
            "-kernel",
            str(self.image.kernel),
            "-initrd",
            str(self.image.initrd),
            "-append",
            self.append(),
        ]
        for kind, form in (("root", "qcow2"), ("vg", "raw")):
            file = f"nbd+unix:///{kind}?socket={self.file(kind)}"
            argv += ["-drive", f"id={kind},format={form},{drive},file={file}"]
            argv += ["-device", f"virtio-blk-pci,drive={kind}"]
        argv += ["-netdev", f"user,id=host,restrict=on,ipv6=off,{forward}"]
        argv += ["-device", f"virtio-net-pci,netdev=host,mac=52:54:00:4c:01:0{self.node},romfile="]
        argv += ["-netdev", f"dgram,id=private,{socket_pair}"]
        argv += [
            "-device",
            f"virtio-net-pci,netdev=private,mac=52:54:00:4c:00:0{self.node},host_mtu=9000,romfile=",
        ]
        argv += ["-device", "virtio-rng-pci"]
        argv += ["-chardev", f"file,id=console,path={self.file('console')},append=on"]
        argv += ["-serial", "chardev:console"]
        # What guests say: lab/ears.py, and rootfs/usr/local/bin/qemu-system-x86_64.
        argv += ["-device", "virtio-serial-pci"]
        for number in range(1, EARS + 1):
            argv += ["-chardev", f"file,id=heard{number},path={self.file(f'heard{number}')},append=on"]
            argv += ["-device", f"virtserialport,chardev=heard{number},name=heard{number}"]
        argv += ["-qmp", f"unix:{self.file('qmp')},server=on,wait=off"]
        if state:
            argv += ["-S", "-incoming", f"exec:cat < {shlex.quote(str(state))}"]
        return argv

    # -- disks --

    def make_disks(self, saved: Path | None = None) -> None:
        """New ones: those of the image, or those that belong to a saved state."""
        form, base = ("qcow2", saved / self.root.name) if saved else ("raw", self.image.root)
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", str(base), str(self.root)])
        if saved:
            run(["cp", "--sparse=always", str(saved / self.vg.name), str(self.vg)])
        else:
            run(["qemu-img", "create", "-q", "-f", "raw", str(self.vg), recipe.VG_SIZE])

    # -- process --

    def process(self) -> process.Process | None:
        """Its QEMU, if it runs."""
        found = process.load(self.file("pid"))
        return found if found and process.ours(found, str(self.run)) else None

    def start(self, state: Path | None = None) -> None:
        self.serve()
        self.file("qmp").unlink(missing_ok=True)
        started = process.spawn(self.command(state), self.file("log"))
        process.save(started, self.file("pid"))

    def serve(self, deadline: float = 60) -> None:
        """Start the server of its disks."""
        argv = [str(self.file("seed"))]
        for kind, disk in (("root", self.root), ("vg", self.vg)):
            self.file(kind).unlink(missing_ok=True)
            argv += [str(self.file(kind)), str(disk), str(ROOM)]
        started = process.spawn_module("lab.nbd", *argv, log=self.file("disks.log"))
        process.save(started, self.file("disks.pid"))
        end = time.monotonic() + deadline
        while not (self.file("root").exists() and self.file("vg").exists()):
            if not process.ours(started, str(self.run)) or time.monotonic() > end:
                raise LabError(f"{self.name}: its disks' server does not start; see {self.file('disks.log')}")
            time.sleep(0.02)

    def lies(self, on: bool) -> None:
        """Its disks say from now on that they have flushed, and have not."""
        file = self.file("seed.lies")
        file.touch() if on else file.unlink(missing_ok=True)

    def kill(self, seed: str = "") -> bool:
        """What a power loss does, also to the disks: by this seed, or that of PMC_LAB_SEED, or a new one."""
        self.file("seed").write_text(seed or os.environ.get("PMC_LAB_SEED") or str(secrets.randbits(32)))
        found = process.load(self.file("pid"))
        killed = found is not None and process.kill(found, str(self.run))
        self.file("pid").unlink(missing_ok=True)
        if server := process.load(self.file("disks.pid")):
            # It ends with QEMU. One to which QEMU never came is ended.
            if not (killed and process.ended(server, SETTLED)):
                process.kill(server, str(self.run))
            self.file("disks.pid").unlink(missing_ok=True)
        return killed

    def losses(self) -> list[str]:
        """What the latest power loss did to its disks, a line for each."""
        said = self.file("disks.log").read_text().splitlines() if self.file("disks.log").exists() else []
        return [line for line in said if "power loss" in line][-2:]

    def check(self) -> None:
        """Raise, with what QEMU said, if it is gone."""
        if self.process() is None:
            said = self.file("log").read_text(errors="replace").strip().splitlines()[-2:]
            raise LabError(f"{self.name}: QEMU ended: {' | '.join(said) or 'no message'} ({self.file('log')})")

    def monitor(self, deadline: float = 20) -> Monitor:
        end = time.monotonic() + deadline
        while True:
            try:
                return Monitor(self.file("qmp"))
            except (FileNotFoundError, ConnectionRefusedError):
                self.check()
                if time.monotonic() > end:
                    raise LabError(f"{self.name}: QEMU's monitor does not answer; see {self.file('log')}") from None
                time.sleep(0.02)

    def plug(self, plugged: bool) -> None:
        """The cable of the NIC that leads to the host. Out: nothing passes, and nobody is told; whoever is connected
        waits, and what they send arrives when it is in again."""
        with self.monitor() as monitor:
            monitor.ask("set_link", name="host", up=plugged)

    def resume(self, deadline: float = 30) -> None:
        """Let a machine run that `start(state)` brought back."""
        end = time.monotonic() + deadline
        with self.monitor() as monitor:
            while monitor.ask("query-status")["status"] in ("inmigrate", "prelaunch"):
                self.check()
                if time.monotonic() > end:
                    raise LabError(f"{self.name} does not wake from its saved state; see {self.file('log')}")
                time.sleep(0.02)
            monitor.ask("cont")

    def save(self, state: Path, deadline: float = 120) -> None:
        """Stop it, write its memory to `state` and end it; its disks then belong to this state."""
        end = time.monotonic() + deadline
        with self.monitor() as monitor:
            monitor.ask("stop")
            monitor.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            monitor.ask("migrate", uri=f"exec:cat > {shlex.quote(str(state))}")
            while (status := monitor.ask("query-migrate").get("status")) != "completed":
                if status in ("failed", "cancelled") or time.monotonic() > end:
                    raise LabError(f"{self.name}: its state cannot be saved ({status}); see {self.file('log')}")
                time.sleep(0.05)
            monitor.ask("quit")
        while self.process() is not None and time.monotonic() < end:
            time.sleep(0.02)
        if (server := process.load(self.file("disks.pid"))) and not process.ended(server, deadline):
            raise LabError(f"{self.name}: its disks' server does not end; see {self.file('disks.log')}")
        self.kill()


def each(act: Callable[[Machine], None], machines: Sequence[Machine]) -> None:
    """All at once. When one fails, or on Ctrl-C, all lose power, so that nobody waits on for them."""
    with ThreadPoolExecutor() as pool:
        try:
            list(pool.map(act, machines))
        except BaseException:
            for machine in machines:
                machine.kill()
            raise
