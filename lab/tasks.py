# SPDX-License-Identifier: GPL-3.0-or-later
"""`inv lab.up` and its sisters. Which lab is meant says PMC_LAB in the environment (default: lab)."""

from __future__ import annotations

import subprocess

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from lab import cluster, reach
from lab.cluster import Lab
from lab.errors import LabError


def number(nodes: str) -> int:
    if not nodes.isdigit():
        raise LabError(f"--nodes={nodes}: not a number")
    return int(nodes)


def next_steps(lab: Lab) -> str:
    return f"export PMC_CONF={lab.conf().pmc}\nfab pm.init pm-1 --fix"


@task(help={"nodes": "how many, 2 to 4"})
def up(_: Context, nodes: str = "2") -> None:
    """Start the lab: a cluster of virtual nodes with DRBD, LVM and libvirt."""
    lab = Lab()
    if not lab.up(number(nodes)):
        print(f"lab {lab.name!r} is up already")
        show(lab)
    print(next_steps(lab))


@task
def down(_: Context) -> None:
    """End the lab and forget its disks."""
    lab = Lab()
    print(f"lab {lab.name!r} is down" if lab.down() else f"lab {lab.name!r} was not up")


@task
def status(_: Context) -> None:
    """Show the nodes."""
    show(Lab())


def show(lab: Lab) -> None:
    rows = [("NODE", "RUNNING", "PID", "SSH PORT", "ACCEL", "MEMORY", "CUT FROM")]
    for node in lab.status():
        pid, memory = (str(node.pid), f"{node.memory / 2**20:.0f} MiB") if node.running else ("-", "-")
        cuts = " ".join(node.cut_from) or "-"
        rows.append((node.name, "yes" if node.running else "no", pid, str(node.port), node.accel, memory, cuts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@task(help={"command": "run this instead of a shell"})
def ssh(_: Context, node: str, command: str = "") -> None:
    """Open a shell on a node."""
    lab = Lab()
    if lab.need(node)[0].process() is None:
        raise LabError(f"{node} is not running; boot it with: inv lab.start {node}")
    done = subprocess.run(reach.ssh(lab.conf(), node, command))
    if done.returncode:
        raise Exit(code=done.returncode)


@task(help={"seed": "repeats what an earlier one chose to keep of what was not flushed"})
def kill(_: Context, node: str, seed: str = "") -> None:
    """Take a node's power away."""
    Lab().kill(node, seed)
    print(f"{node} lost power; boot it with: inv lab.start {node}")


@task
def start(_: Context, node: str) -> None:
    """Boot a node that lost power."""
    Lab().start(node)


@task(help={"one_way": "nothing from ONE to OTHER; what OTHER sends still arrives"})
def cut(_: Context, one: str, other: str, one_way: bool = False) -> None:
    """Cut the private link between two nodes."""
    Lab().cut(one, other, one_way)
    told = f"{other} does not hear {one}" if one_way else f"{one} and {other} do not reach each other"
    print(f"{told} any more; undo it with: inv lab.heal")


@task(
    help={
        "weather": "words of loss=.1 delay=.2 jitter=.05 dup=.01 reorder=.1 corrupt=.1 (shares 0 to 1, seconds) seed=7",
        "one_way": "from ONE to OTHER only",
    }
)
def link(_: Context, one: str, other: str, weather: str, one_way: bool = False) -> None:
    """Make the private link between two nodes bad: loss, delay, frames twice, out of order, or with a wrong bit."""
    Lab().link(one, other, numbers(weather), one_way)
    print(f"the link between {one} and {other} has {weather}; undo it with: inv lab.heal")


def numbers(weather: str) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in (word.split("=") for word in weather.split())}
    except ValueError:
        raise LabError(f"--weather={weather}: words like loss=.1 delay=.2") from None


@task
def unplug(_: Context, node: str) -> None:
    """Cut the link between a node and this host, where the managers are."""
    Lab().unplug(node)
    print(f"no manager reaches {node} any more; undo it with: inv lab.heal")


@task
def heal(_: Context) -> None:
    """Make all links whole again."""
    Lab().heal()


@task
def conf(_: Context) -> None:
    """Say how to reach the nodes with pmc, Fabric and ssh."""
    lab = Lab()
    found = lab.conf()
    print(f"# pmc:    export PMC_CONF={found.pmc}\n# ssh:    ssh -F {found.ssh} pm-1")
    print(f"# as a user with sudo:    ssh -F {found.ssh} admin@pm-1\n")
    print(f"# {found.ssh}\n{found.ssh.read_text()}\n# {found.pmc}\n{found.pmc.read_text()}", end="")


@task
def clean(_: Context) -> None:
    """Remove cached images and saved states."""
    print("\n".join(["removed:", *cluster.clean()]))


ns = Collection("lab", up, down, status, ssh, kill, start, cut, link, unplug, heal, conf, clean)
