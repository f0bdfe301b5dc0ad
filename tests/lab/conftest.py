"""The lab that most tests here share: two nodes, made ready by pm.init --fix. Each test leaves the cluster clean."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from lab import guests, paths, witness
from lab.cluster import Lab
from lab.ears import ears
from pmc import lvm, settings
from pmc.cluster import Cluster
from pmc.facts import backing
from pmc.model import ClusterState
from pmc.plans import base_snapshot


class Pmc:
    """A lab as a person at the manager has it."""

    def __init__(self, lab: Lab, nodes: int) -> None:
        self.lab = lab
        self.tick_iso = guests.build(paths.cache() / "iso").iso
        self.anew(nodes)

    def anew(self, nodes: int) -> None:
        """Made, and made ready, from the beginning."""
        self.lab.down()
        self.lab.up(nodes)
        self.conf = self.lab.conf().pmc
        # Of this lab alone: another checkout's tests may put theirs into the cache meanwhile.
        self.tick_image = self.lab.run / "tick.img"
        guests.build_disk(self.tick_image)
        self.ok("pm.init", "all", "--fix")

    def fab(self, *argv: str) -> CompletedProcess[str]:
        return witness.fab(self.lab, *argv)

    def ok(self, *argv: str) -> str:
        """Runs fab, which must succeed; its stdout."""
        done = self.fab(*argv)
        assert done.returncode == 0, f"fab {' '.join(argv)}\n{done.stderr}{done.stdout}"
        return done.stdout

    def add(
        self, name: str, *argv: str, primary: str = "pm-1", secondary: str = "pm-2", stride: int = 0
    ) -> witness.Guest:
        """A small VM with the tick guest on it, running. It writes all over the disk; with a `stride`, over so many MiB
        at its beginning."""
        image = self.tick_image
        if stride:
            image = image.with_name(f"tick-{stride}.img")
            guests.build_disk(image, stride=stride)
        source = argv or ("--size", "64M", "--image", str(image))
        second = ("--secondary", secondary) if secondary else ()
        self.ok("vm.add", name, "--primary", primary, *second, "--memory", "16M", *source)
        return witness.Guest(self.lab, name)

    def ssh(self, node: str, command: str) -> str:
        return self.lab.ssh(node, command)

    def state(self) -> ClusterState:
        with Cluster(settings.load(str(self.conf))) as cluster:
            return cluster.state()


def broken_invariants(state: ClusterState) -> list[str]:
    """What must hold at rest on any cluster, whatever happened before."""
    broken = []
    for name in state.vm_names():
        if len(state.active_on(name)) > 1:
            broken.append(f"{name} runs twice")
        if len(state.primaries(name)) > 1:
            broken.append(f"{name} has two primaries")
    for node in state:
        if node.trouble:
            broken.append(f"{node.name}: {node.trouble}")
        broken += [f"{node.name}: {r.name} allows two primaries" for r in node.resources.values() if r.two_primaries]
        left = [v.name for v in node.volumes.values() if lvm.snapshot_for(v) and not base_snapshot.base_of(v)]
        broken += [f"{node.name}: a snapshot is left: {name}" for name in left]
        broken += [f"{node.name}: {name} has no volume" for name in node.resources if not backing.of(node, name)]
    return broken


def things(state: ClusterState) -> list[str]:
    """Everything that a VM is made of, on all nodes; not the pool that its volumes may be in."""
    found = []
    for node in state:
        for kind in ("domains", "resources", "files"):
            found += [f"{node.name} {kind} {name}" for name in getattr(node, kind)]
        found += [f"{node.name} volumes {each.name}" for each in node.volumes.values() if not each.is_pool]
    return sorted(found)


def name_of_lab() -> str:
    """One for each process of the test run (xdist: gw0, gw1)."""
    return os.environ.get("PMC_TEST_LAB", "test") + os.environ.get("PYTEST_XDIST_WORKER", "")


def ready(name: str, nodes: int) -> Iterator[Pmc]:
    """A lab of so many nodes, made ready; down again at the end."""
    made = Lab(name)
    try:
        yield Pmc(made, nodes)
    finally:
        made.down()


def judged(lab: Pmc) -> None:
    """Whatever happened: no guest ever went on without what it had said, both copies of each disk are the same to the
    last byte, and the guest's writes are on them."""
    ears(lab.lab.run).check()
    state = lab.state()
    pairs = [name for name in state.vm_names() if len(state.homes(name)) > 1]
    if not all(healthy(state, name) for name in pairs):
        lab.fab("pm.ready_drbd")  # what a fault that was the test's last left; its status is not what is judged here
        state = lab.state()
    for name in state.vm_names():
        if name in pairs and not healthy(state, name):
            print(f"{name}: its copies are apart, they are not compared")
            nodes = state.active_on(name)
        else:
            nodes = [node for node in state.homes(name) if state.nodes[node].resources.get(name)]
        if nodes:
            witness.Guest(lab.lab, name).whole(*nodes)


def healthy(state: ClusterState, name: str) -> bool:
    sides = [state.nodes[node].resources.get(name) for node in state.homes(name)]
    return all(side is not None and side.healthy for side in sides)


def left_clean(lab: Pmc) -> Iterator[Callable[[], list[str]]]:
    """For a test that makes VMs: after it the witness is content and the invariants hold, and `vm.rm` leaves nothing
    for the next. Where it does leave something, the next test has a new lab: one fault is told once."""
    yield lambda: things(lab.state())
    try:
        judged(lab)
    finally:
        try:
            removed(lab)
        except BaseException:
            lab.anew(len(lab.lab.machines()))
            raise


def removed(lab: Pmc) -> None:
    state = lab.state()
    assert broken_invariants(state) == []
    volumes = (each.name.partition(".")[0] for node in state for each in node.volumes.values() if not each.is_pool)
    if names := sorted({*state.vm_names(), *volumes}):
        lab.ok(*(word for name in names for word in ("vm.rm", name, "--yes")))
        assert things(lab.state()) == []
    for node in state.nodes:
        left = "ls /var/lib/libvirt/images; find /var/lib/pmc -name '*.part*'; rm -f /var/lib/pmc/backups/*"
        assert lab.ssh(node, f"{left}; cd /etc/drbd.d && ls | grep -v global_common.conf || :") == ""


@pytest.fixture(scope="session")
def lab() -> Iterator[Pmc]:
    yield from ready(name_of_lab(), 2)


@pytest.fixture
def clean(lab: Pmc) -> Iterator[Callable[[], list[str]]]:
    yield from left_clean(lab)


@pytest.fixture
def tick_image(lab: Pmc) -> Path:
    return lab.tick_image


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.lab)
        # A hung node must fail one test with a stack, not the run.
        item.add_marker(pytest.mark.timeout(1800 if item.get_closest_marker("long") else 900))
