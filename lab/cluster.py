# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab as a whole: `Lab().up()`, `down()`, `kill("pm-1")`, `cut("pm-1", "pm-2")` ...

What is running is known from the run folder: lab.json (ports, accelerator, image) and a pid file for each
process. There is no other state, so that after a crash of the host the folder is merely stale, and swept.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from lab import accel, hub, image, paths, process, reach, recipe, saved
from lab.errors import LabError
from lab.hub import Report
from lab.machine import Machine, each
from lab.ports import free_ports
from lab.progress import phase
from lab.reach import Conf

RESTORED, BOOTED = 180.0, 300.0  # seconds until a node must answer; it takes 1 and 11, more beside another lab


@dataclass(frozen=True)
class NodeStatus:
    name: str
    running: bool
    pid: int | None
    port: int
    accel: str
    memory: int  # resident bytes of its QEMU
    cut_from: tuple[str, ...]


class Lab:
    def __init__(self, name: str | None = None) -> None:
        self.name = paths.name(name)
        self.run = paths.run(self.name)
        self.disks = paths.disks(self.name)

    # -- what there is --

    def machines(self) -> list[Machine]:
        """The nodes of this lab, running or not; empty when it is not up."""
        try:
            facts = json.loads((self.run / "lab.json").read_text())
            built, chosen = image.by_key(facts["image"]), str(facts["accel"])
            ports = enumerate(map(int, facts["ports"]), start=1)
            return [Machine(node, built, chosen, port, self.run, self.disks) for node, port in ports]
        except (FileNotFoundError, ValueError, KeyError):
            return []

    def hub(self) -> process.Process | None:
        found = process.load(self.run / "hub.pid")
        return found if found and process.ours(found, str(self.run)) else None

    def is_up(self) -> bool:
        """Dead nodes are what a lab is for; only when nothing of it runs it is not up."""
        machines = self.machines()
        return bool(machines) and (self.hub() is not None or any(one.process() for one in machines))

    def start_hub(self) -> None:
        arguments = (str(self.run), str(recipe.NODES))
        process.save(process.spawn_module("lab.hub", *arguments, log=self.run / "hub.log"), self.run / "hub.pid")
        self.ask_hub("show")

    def need(self, *names: str) -> list[Machine]:
        """The machines of these names (all, if none is named), or a clear refusal."""
        if not self.is_up():
            raise LabError(f"lab {self.name!r} is not up; start it with: inv lab.up")
        if self.hub() is None:
            self.start_hub()  # it died alone; the nodes do not mind, but cuts are forgotten
        machines = self.machines()
        known = {machine.name: machine for machine in machines}
        for name in names:
            if name not in known:
                raise LabError(f"no node {name!r} in lab {self.name!r}; it has {', '.join(known)}")
        return [known[name] for name in names] or machines

    def conf(self) -> Conf:
        self.need()
        return reach.conf(self.run)

    def status(self) -> list[NodeStatus]:
        machines = self.need()
        report = self.ask_hub("show")
        rows = []
        for machine in machines:
            running = machine.process()
            rows.append(
                NodeStatus(
                    machine.name,
                    running is not None,
                    running.pid if running else None,
                    machine.port,
                    machine.accel,
                    process.memory(running) if running else 0,
                    tuple(f"pm-{one}" for one in hub.cut_from(report, machine.node)),
                )
            )
        return rows

    # -- up and down --

    def up(self, nodes: int = 2) -> bool:
        """Start it; False if it was up already."""
        if nodes not in range(2, recipe.NODES + 1):
            raise LabError(f"--nodes={nodes}: a lab has 2 to {recipe.NODES} nodes")
        with self.alone():
            if self.is_up():
                if len(self.machines()) != nodes:
                    print(f"note: it has {len(self.machines())} nodes; for {nodes} take it down first")
                return False
            self.sweep()
            built = image.ensure()
            chosen = accel.choose(built)
            saved.ensure(built, chosen, nodes)
            paths.folder(self.run)
            paths.folder(self.disks)
            try:
                self.restore(built, chosen, nodes)
            except BaseException:
                self.end_processes()  # the run folder stays, to look into; the next `up` sweeps it
                raise
        return True

    def restore(self, built: image.Image, chosen: str, nodes: int) -> None:
        facts = {"image": built.key, "accel": chosen, "ports": free_ports(nodes)}
        (self.run / "lab.json").write_text(json.dumps(facts))
        machines = self.machines()
        found = reach.write(self.run, machines)
        with phase(f"wake {nodes} nodes, with {chosen}"):
            self.start_hub()
            each(lambda machine: self.wake(machine, found), machines)

    def wake(self, machine: Machine, found: Conf) -> None:
        state = saved.folder(machine)
        machine.make_disks(state)
        machine.start(state / "state")
        machine.resume()
        reach.wait(found, machine, "true", RESTORED)

    def down(self) -> bool:
        """End it and remove its disks; False if there was nothing."""
        with self.alone():
            there = self.run.exists() or self.disks.exists()
            self.sweep()
        return there

    def sweep(self) -> None:
        """End what is left of this lab, and remove its files; also after a crash of the host."""
        self.end_processes()
        for folder in (self.run, self.disks):
            if folder.exists():
                shutil.rmtree(folder)

    def end_processes(self) -> None:
        for file in self.run.glob("*.pid"):
            found = process.load(file)
            if found:
                process.kill(found, str(self.run))
            file.unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        with paths.locked(paths.base() / f"{self.name}.lock", f"changes lab {self.name!r}"):
            yield

    # -- accidents --

    def kill(self, node: str, seed: str = "") -> None:
        """Power loss: what the node had not written is gone. Its disks stay, but for some of what was not flushed."""
        with self.alone():
            machine = self.need(node)[0]
            if not machine.kill(seed):
                raise LabError(f"{node} is not running; boot it with: inv lab.start {node}")
        print("\n".join(machine.losses()), flush=True)

    def start(self, node: str) -> None:
        """Boot a node that lost power from its own disks."""
        with self.alone():
            machine = self.need(node)[0]
            if machine.process() is not None:
                raise LabError(f"{node} is running already")
            with phase(f"boot {node}, with {machine.accel}"):
                each(self.boot, [machine])

    def boot(self, machine: Machine) -> None:
        machine.start()
        reach.wait(reach.conf(self.run), machine, reach.READY, BOOTED)

    @contextmanager
    def hung(self, node: str) -> Iterator[None]:
        """It does nothing and answers nobody, and then goes on as if no time had passed."""
        machine = self.need(node)[0]
        with machine.monitor() as monitor:
            monitor.ask("stop")
        try:
            yield
        finally:
            with machine.monitor() as monitor:
                monitor.ask("cont")

    def cut(self, one: str, other: str, one_way: bool = False) -> None:
        """No frame passes between these two any more; the links to other nodes and ssh from the host stay. `one_way`:
        the first still hears the other."""
        self.ask_hub(f"cut {self.way(one, other, one_way)}")

    def link(self, one: str, other: str, weather: Mapping[str, float], one_way: bool = False) -> None:
        """Their link is bad: loss, dup, reorder, corrupt (shares, 0 to 1), delay, jitter (seconds); seed."""
        words = " ".join(f"{name}={value:g}" for name, value in weather.items())
        self.ask_hub(f"link {self.way(one, other, one_way)} {words}")

    def way(self, one: str, other: str, one_way: bool) -> str:
        """In the hub's words."""
        if one == other:
            raise LabError(f"{one} has no link to itself; name two nodes")
        first, second = self.need(one, other)
        return f"{first.node}{'>' if one_way else ' '}{second.node}"

    def unplug(self, *nodes: str) -> None:
        """The managers (and ssh from the host) do not reach these nodes any more; the nodes reach each other."""
        for machine in self.need(*nodes):
            machine.plug(False)

    @contextmanager
    def unplugged(self, *nodes: str) -> Iterator[None]:
        try:
            self.unplug(*nodes)
            yield
        finally:
            for machine in self.need(*nodes):
                if machine.process() is not None:
                    machine.plug(True)

    def heal(self) -> None:
        """All links work again."""
        machines = self.need()
        self.ask_hub("heal")
        for machine in machines:
            if machine.process() is not None:
                machine.plug(True)

    def ask_hub(self, text: str, deadline: float = 5) -> Report:
        end = time.monotonic() + deadline
        while True:
            try:
                return hub.ask(self.run, text)
            except OSError as error:
                if time.monotonic() > end:
                    raise LabError(f"the hub does not answer: {error}; see {self.run / 'hub.log'}") from error
                time.sleep(0.02)
            except ValueError as error:
                raise LabError(str(error)) from None

    # -- convenience --

    def ssh(self, node: str, command: str, check: bool = True) -> str:
        """What `command` prints on the node, run by its shell."""
        self.need(node)
        conf = reach.conf(self.run)
        argv = reach.ssh(conf, node, command, reach.shared(conf))
        done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if check and done.returncode:
            raise LabError(f"{node}: {command}: exit status {done.returncode}: {done.stderr.strip()}")
        return done.stdout


def clean() -> list[str]:
    """Remove images and saved states (not the keys, nor the ISOs); refuses while a lab uses them."""
    for file in paths.base().glob("*/lab.json"):
        if Lab(file.parent.name).is_up():
            name = file.parent.name
            raise LabError(f"lab {name!r} is up and uses them; first: PMC_LAB={name} inv lab.down")
    removed = []
    with paths.locked(paths.cache() / "lock", "builds the image"):
        for pattern in ("packages-*", "image-*", "states", "accel", "failed-*"):
            for path in paths.cache().glob(pattern):
                image.remove(path)
                removed.append(str(path))
    return removed
