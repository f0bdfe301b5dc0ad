# SPDX-License-Identifier: GPL-3.0-or-later
"""`inv demo`: the whole life of a VM on two nodes, each command and its real output, the guest's own counter checked
after each step."""

from __future__ import annotations

import os
import time

from invoke.context import Context
from invoke.tasks import task

from lab import guests, paths, witness
from lab.cluster import Lab
from lab.errors import LabError
from lab.witness import Guest


class Story:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.began = time.monotonic()

    def tell(self, text: str) -> None:
        print(f"\n--- {time.monotonic() - self.began:.0f} s  {text}", flush=True)

    def fab(self, *argv: str) -> str:
        """Shows the command and what it printed; the demo ends here if it fails."""
        print(f"\n$ fab {' '.join(argv)}", flush=True)
        done = witness.fab(self.lab, *argv)
        print((done.stderr + done.stdout).rstrip(), flush=True)
        if done.returncode:
            raise LabError(f"fab {argv[0]} ended with status {done.returncode}")
        return done.stdout

    def count(self, guest: Guest, after: int, boots: int) -> int:
        """The guest must go on counting; `boots` must be what it was: it never restarted."""
        tick = guest.ticking(after, boots)
        if tick.boots != boots:
            raise LabError(f"{guest.name} was started {tick.boots} times, not {boots}")
        print(f"# the guest on {guest.name} has counted to {tick.counter}, started {tick.boots} time(s)", flush=True)
        return tick.counter

    def check(self, guest: Guest, nodes: tuple[str, ...]) -> None:
        for node in nodes:
            tick = guest.checked(node)
            print(f"# {guest.name}'s disk on {node}: {tick.counter} writes, none lost or torn", flush=True)


@task
def demo(_: Context) -> None:
    """Boot a two-node cluster on this machine and show the whole life of a VM on it."""
    os.environ.setdefault("PMC_LAB", "demo")
    lab = Lab()
    if lab.is_up():
        raise LabError(f"lab {lab.name!r} is up; end it first: PMC_LAB={lab.name} inv lab.down")
    story = Story(lab)
    story.tell("two nodes with real DRBD, LVM and libvirt")
    lab.up(2)
    try:
        tell(story, lab)
    finally:
        lab.down()
    story.tell("the lab is down; try it yourself: .venv/bin/inv lab.up")


def tell(story: Story, lab: Lab) -> None:
    image = guests.build(paths.cache() / "iso").disk
    story.tell("make the nodes ready")
    story.fab("pm.init", "pm-1,pm-2", "--fix")
    story.fab("pm.ls")
    story.tell("a VM on pm-1, every write of its disk mirrored to pm-2 at once")
    story.fab(
        "vm.add", "web", "--primary", "pm-1", "--secondary", "pm-2", "--memory", "16M", "--size", "64M",
        "--image", str(image),
    )  # fmt: skip
    story.fab("vm.ls")
    web = Guest(lab, "web")
    count = story.count(web, 0, boots=1)
    story.tell("moved to the other node while it writes")
    story.fab("vm.mv", "web")
    count = story.count(web, count, boots=1)
    story.check(web, ("pm-1", "pm-2"))
    story.tell("backed up twice while it writes: a full image, then what changed")
    story.fab("vm.backup", "web")
    count = story.count(web, count, boots=1)
    story.fab("vm.backup", "web")
    delta = next(word for word in story.fab("vm.backups", "web").split() if word.endswith(".delta"))
    story.tell("restored from the delta, as a VM of its own")
    story.fab("vm.restore", "web", "--backup", delta, "--as", "web-old")
    old = Guest(lab, "web-old")
    story.check(old, ("pm-2",))
    story.fab("vm.start", "web-old")
    story.count(old, 0, boots=2)
    story.count(web, count, boots=1)
    story.fab("vm.ls")
    story.tell("stopped and removed; nothing of them stays but the backups")
    story.fab("vm.stop", "web-old", "vm.rm", "web-old", "--yes", "vm.stop", "web", "vm.rm", "web", "--yes")
    story.fab("vm.ls")
