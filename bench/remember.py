# SPDX-License-Identifier: GPL-3.0-or-later
"""Does an emulated guest keep its memory while it migrates live? QEMU alone, on this machine, without pmc.

    python -m bench.remember            # 60 migrations each: a memory of 16 MiB, of 8 KiB more, and standing still

The guest (remember.asm) writes a page for ever and compares it with a register. QEMU may copy 4 MB/s and let the guest
stand still for 1 ms, so that it copies in several rounds, as with a larger guest or a slower link. Four such guests at
a time keep the processors busy.
QEMU before 9.0 forgets pages when the memory is a multiple of 256 KiB (its commit 03bfc2188f fixed that).
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from lab.errors import LabError
from lab.qmp import Monitor

SOURCE = Path(__file__).resolve().parent / "remember.asm"
QEMU = "qemu-system-x86_64"
DEADLINE = 30.0  # seconds
PATIENCE = 2.0  # seconds, after which a migration may end
TOGETHER = 4  # guests at the same time: QEMU's threads have to be interrupted where it hurts


@dataclass(frozen=True)
class Way:
    """How the guest migrates."""

    name: str
    memory: int  # KiB
    still: bool = False  # it stands still meanwhile


WAYS = (
    Way("live, 16 MiB of memory", 16 << 10),
    Way("live, 16 MiB and 8 KiB", (16 << 10) + 8),
    Way("standing still, 16 MiB", 16 << 10, still=True),
)


class Machine:
    """One QEMU with the guest, from which it leaves, or to which it comes by the socket `incoming`."""

    def __init__(self, folder: Path, number: int, memory: int, incoming: Path | None = None) -> None:
        monitor, self.serial = folder / f"monitor{number}", folder / f"serial{number}"
        argv = [
            *(QEMU, "-accel", "tcg", "-m", f"{memory}k", "-display", "none", "-nodefaults", "-no-user-config"),
            *("-drive", f"file={folder / 'guest'},format=raw,if=ide,file.locking=off"),
            *("-serial", f"file:{self.serial}", "-qmp", f"unix:{monitor},server=on,wait=off"),
            *(("-incoming", f"unix:{incoming}") if incoming else ()),
        ]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        end = time.monotonic() + DEADLINE
        while True:
            try:
                self.monitor = Monitor(monitor)
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.process.kill()
                    raise LabError(f"{QEMU} does not start") from None
                time.sleep(0.02)

    def end(self) -> None:
        self.monitor.__exit__()
        self.process.kill()
        self.process.wait()

    def lost(self) -> bool:
        """Whether the guest found something lost since it is here, or ended, as one may whose stack is lost. Waits
        until it has run for thousands of steps."""
        end = time.monotonic() + DEADLINE
        while "." not in (said := self.serial.read_text() if self.serial.exists() else ""):
            if time.monotonic() > end:
                return True
            time.sleep(0.01)
        return set(said) != {"."}

    def go_on(self) -> None:
        """Once all of it has come."""
        end = time.monotonic() + DEADLINE
        while self.monitor.ask("query-status")["status"] != "paused":
            if time.monotonic() > end:
                raise LabError("the guest does not arrive")
            time.sleep(0.01)
        self.monitor.ask("cont")

    def leave(self, incoming: Path) -> None:
        ask = self.monitor.ask
        ask("migrate-set-parameters", **{"max-bandwidth": 4_000_000, "downtime-limit": 1})
        ask("migrate", uri=f"unix:{incoming}")
        began, patient = time.monotonic(), True
        while (status := ask("query-migrate").get("status")) != "completed":
            if status == "failed" or time.monotonic() > began + DEADLINE:
                raise LabError(f"the migration is {status}")
            if patient and time.monotonic() > began + PATIENCE:
                # So many pages are written that 1 ms is never enough for what is left.
                ask("migrate-set-parameters", **{"downtime-limit": 1000})
                patient = False
            time.sleep(0.01)


def measure(way: Way, rounds: int, until_lost: bool = False) -> tuple[int, int]:
    """(migrations, those after which the guest missed something). `until_lost`: no more than the first such."""
    with tempfile.TemporaryDirectory(prefix="pmc-") as name:
        folder, bad, number = Path(name), 0, 0
        subprocess.run(["nasm", "-f", "bin", "-w+all", "-w+error", "-o", folder / "guest", SOURCE], check=True)
        here = Machine(folder, 0, way.memory)
        try:
            if here.lost():
                raise LabError("the guest does not run")
            for number in range(1, rounds + 1):
                socket = folder / f"incoming{number}"
                there = Machine(folder, number, way.memory, socket)
                try:
                    if way.still:
                        here.monitor.ask("stop")
                    here.leave(socket)
                    if way.still:
                        there.go_on()
                finally:
                    here.end()
                    here = there
                if here.lost():
                    bad += 1
                    if until_lost:
                        break
                    here.end()
                    here = Machine(folder, rounds + number, way.memory)  # that one is spoilt
                    if here.lost():
                        raise LabError("the guest does not run")
        finally:
            here.end()
        return number, bad


def together(way: Way, rounds: int, until_lost: bool = False) -> tuple[int, int]:
    """As `measure`, of several guests at the same time, `rounds` migrations each."""
    with ThreadPoolExecutor(TOGETHER) as pool:
        found = list(pool.map(lambda _: measure(way, rounds, until_lost), range(TOGETHER)))
    return sum(tried for tried, _ in found), sum(lost for _, lost in found)


def main() -> None:
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m bench.remember", description=about)
    parser.add_argument("--rounds", type=int, default=60, help="migrations of each kind (60)")
    rounds = parser.parse_args().rounds
    rows = [(way.name, *together(way, -(-rounds // TOGETHER))) for way in WAYS]
    print(tabulate(rows, ("", "migrations", "with lost writes"), tablefmt="github"))


if __name__ == "__main__":
    main()
