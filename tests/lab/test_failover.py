"""A dead node, a node that only looks dead, an empty node, and a link that drops in the middle of a migration."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import witness
from lab.witness import Guest
from pmc import settings
from pmc.cluster import Cluster
from pmc.facts import dead_node

from .conftest import Pmc, broken_invariants
from .rig import failed, read_until, started

Clean = Callable[[], list[str]]


def resynced(lab: Pmc, node: str) -> list[int]:
    """KiB of each resync that this node was the source of since its boot, by its kernel's log."""
    log = lab.ssh(node, "dmesg | grep 'Began resync as SyncSource' || :")
    return [int(found) for found in re.findall(r"will sync (\d+) KB", log)]


def running(lab: Pmc) -> list[str]:
    """The nodes that have power."""
    return [status.name for status in lab.lab.status() if status.running]


@contextmanager
def dead(lab: Pmc, node: str) -> Iterator[None]:
    lab.lab.kill(node)
    try:
        yield
    finally:
        lab.lab.start(node)


@contextmanager
def cut(lab: Pmc) -> Iterator[None]:
    """The link between the nodes is dead, and DRBD has noticed."""
    lab.lab.cut("pm-1", "pm-2")
    try:
        lab.ssh(
            "pm-2", "for i in $(seq 60); do drbdadm cstate web | grep -q Connected || exit 0; sleep 0.5; done; exit 1"
        )
        yield
    finally:
        lab.lab.heal()


def back(lab: Pmc, guest: Guest, *nodes: str) -> None:
    """The node that was dead runs nothing by itself, is secondary, and copies only what it missed."""
    state = lab.state()
    assert state.active_on("web") == ["pm-2"], "a node that comes back starts nothing"
    assert state.nodes["pm-1"].resources.get("web") is None or state.nodes["pm-1"].resources["web"].role == "Secondary"
    assert lab.fab("vm.start", "web", "--on", "pm-1").returncode == 2
    before = len(resynced(lab, "pm-2"))
    lab.ok("pm.ready_drbd")
    assert (guest.facts()["connection"], guest.facts()["peer_disk"]) == ("Connected", "UpToDate")
    amounts = resynced(lab, "pm-2")
    assert len(amounts) >= max(1, before)
    # The activity log at most (4 MiB an extent; the guest writes into four), of a disk of 64 MiB.
    assert all(0 < amount < 24 * 1024 for amount in amounts), amounts
    assert broken_invariants(lab.state()) == []


@pytest.mark.fault("primary killed while idle: vm.failover, and the node comes back")
def test_a_dead_nodes_vm_starts_on_the_other(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    guest = lab.add("web", stride=15)
    tick = guest.ticking(5)

    # It lives: ssh answers. With the link cut it still does.
    with cut(lab):
        done = lab.fab("vm.failover", "web", "--dead", "pm-1")
        assert done.returncode == 2, done.stderr
        assert "is running on pm-1" in done.stderr
        assert lab.fab("pm.evacuate", "pm-1", "--failover", "--dead", "pm-1").returncode == 2
    lab.ok("pm.ready_drbd")  # else it may die before DRBD has connected again, and pm-2 has an older disk
    assert guest.ticking(tick.counter).boots == 1

    # The manager does not reach it any more, but the survivor does.
    lost = tmp_path / "pmc.conf"
    lost.write_text(lab.conf.read_text().replace("[nodes.pm-1]\n", '[nodes.pm-1]\nhost = "127.0.0.99:1"\n'))
    done = lab.fab("vm.failover", "web", "--dead", "pm-1", "--conf", str(lost))
    assert done.returncode == 2, done.stderr
    assert "pm-1: does not answer the manager, but lives: pm-2 reaches it" in done.stderr
    assert broken_invariants(lab.state()) == []

    before = guest.now()  # read on pm-1
    with dead(lab, "pm-1"):
        last = guest.now()  # read on pm-2
        assert (last.boots, last.counter >= before.counter) == (1, True), (before, last)
        refused = lab.fab("vm.start", "web")
        assert refused.returncode == 2
        assert "fab vm.failover web" in refused.stderr
        for flags in ((), ("--dead", "pm-2")):
            done = lab.fab("vm.failover", "web", *flags)
            assert done.returncode == 2, done.stderr
        assert "the node that does not answer is pm-1" in done.stderr
        assert lab.ssh("pm-2", "drbdadm role web").startswith("Secondary")
        shown = lab.ok("vm.failover", "web", "--dry-run")
        assert "you are asked to type its name" in shown
        lab.ok("vm.failover", "web", "--dead", "pm-1")
        tick = guest.ticking(last.counter, boots=2)
        assert tick.boots == 2
        again = lab.fab("vm.failover", "web", "--dead", "pm-1")
        assert again.returncode == 2
        assert "is running on pm-2" in again.stderr
    back(lab, guest)
    tick = guest.ticking(tick.counter, boots=2)
    moved = lab.ok("pm.evacuate", "pm-2")
    assert re.search(r"^web +pm-2 +pm-1 +moved +\d+\.\d\d s$", moved, re.M), moved
    tick = guest.ticking(tick.counter, boots=2)
    assert tick.boots == 2
    assert guest.checked("pm-1").counter >= tick.counter
    assert broken_invariants(lab.state()) == []


def fencing(lab: Pmc, folder: Path) -> tuple[Path, str]:
    """A pmc.conf and its text, in which pm-1 is silent for the manager (another host) and is fenced by taking NODE
    down."""
    script = folder / "fence_lab"
    program = f'import sys\nfrom lab.cluster import Lab\nLab("{lab.lab.name}").kill(sys.argv[1])\n'
    script.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(witness.ROOT)!r})\n{program}")
    script.chmod(0o755)
    text = lab.conf.read_text().replace(
        "[nodes.pm-1]\n", f'[nodes.pm-1]\nhost = "127.0.0.99:1"\nfence = "{script} NODE"\n'
    )
    return folder / "pmc.conf", text


@pytest.mark.long
@pytest.mark.fault("a node that hangs is fenced: pm.evacuate --failover")
def test_a_fence_command_is_the_proof(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    """The node hangs for the manager and the network alike; what is off for sure is what the script takes down."""
    guest = lab.add("web")
    tick = guest.ticking(5)
    fenced, text = fencing(lab, tmp_path)
    # Silent for its peer, too (the link is cut), and yet it runs.
    fenced.write_text(text.replace("NODE", "pm-9"))
    with cut(lab):
        done = lab.fab("vm.failover", "web", "--conf", str(fenced))
        assert failed(done.returncode, done.stderr), done.stderr
        assert "pm-1: its fence command fence_lab failed" in done.stderr
        assert guest.ticking(tick.counter).boots == 1
        assert lab.ssh("pm-2", "drbdadm role web").startswith("Secondary")
        fenced.write_text(text.replace("NODE", "pm-1"))
        try:
            shown = lab.ok("pm.evacuate", "pm-1", "--failover", "--conf", str(fenced))
            assert re.search(r"^web +pm-1 +pm-2 +started *$", shown, re.M), shown
            assert running(lab) == ["pm-2"], "the script took pm-1 down"
            assert guest.ticking(0, boots=2).boots == 2
        finally:
            if "pm-1" not in running(lab):
                lab.lab.start("pm-1")


@pytest.mark.long
@pytest.mark.fault("a node that hangs and still answers its peer is fenced: vm.failover --dead")
def test_one_that_still_answers_is_fenced_when_a_person_says_so(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    guest = lab.add("web", stride=15)
    tick = guest.ticking(5)
    fenced, text = fencing(lab, tmp_path)
    fenced.write_text(text.replace("NODE", "pm-1"))
    refused = lab.fab("vm.failover", "web", "--conf", str(fenced))
    assert refused.returncode == 2, refused.stderr
    assert "if it hangs: give --dead pm-1" in refused.stderr
    assert guest.ticking(tick.counter).boots == 1
    try:
        lab.ok("vm.failover", "web", "--dead", "pm-1", "--conf", str(fenced))
        assert running(lab) == ["pm-2"], "the script took pm-1 down"
        assert guest.ticking(0, boots=2).boots == 2
    finally:
        if "pm-1" not in running(lab):
            lab.lab.start("pm-1")
    back(lab, guest)


def until_it_moves(lab: Pmc, process: subprocess.Popen[str]) -> str:
    """Until the target's half-born domain is there."""
    seen = read_until(process, "migrate web to pm-2")
    until_paused(lab, "pm-2")
    return seen


def until_paused(lab: Pmc, node: str) -> None:
    lab.ssh(node, "for i in $(seq 300); do virsh domstate web | grep -q paused && exit; sleep 0.1; done; exit 1")


@pytest.mark.long
@pytest.mark.fault("link cut during migration")
def test_a_link_that_drops_during_a_migration(lab: Pmc, clean: Clean) -> None:
    link_dropped(lab)


@pytest.mark.long
@pytest.mark.fault("link cut while --pause-after has stopped the guest")
def test_a_link_that_drops_while_the_guest_is_stopped(lab: Pmc, clean: Clean) -> None:
    link_dropped(lab, "--pause-after", "3")


@pytest.mark.long
@pytest.mark.fault("link cut while an emulated guest stands still for its migration")
def test_a_link_that_drops_while_an_emulated_guest_moves(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    still = tmp_path / "pmc.conf"
    still.write_text(lab.conf.read_text().replace('migration_emulated = "live"', 'migration_emulated = "paused"'))
    link_dropped(lab, "--conf", str(still))


def link_dropped(lab: Pmc, *pause: str) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5)
    lab.ssh("pm-1", "virsh migrate-setspeed web 1")  # MiB/s: so that there is a middle
    with started(lab, "vm.mv", "web", *pause) as process:
        seen = until_it_moves(lab, process)
        if pause:
            until_paused(lab, "pm-1")
        began = time.monotonic()
        lab.lab.cut("pm-1", "pm-2")
        try:
            assert process.stderr is not None
            seen += process.stderr.read()
            assert failed(process.wait(300), seen), seen
            took = time.monotonic() - began
            print(f"ended {took:.0f} s after the cut\n{seen}")
            assert "DRBD's two sides lost each other, so the migration was aborted" in seen
            assert "web runs on pm-1, two primaries closed" in seen
            assert took < 300
            state = lab.state()
            assert broken_invariants(state) == []
            assert (state.active_on("web"), state.primaries("web")) == (["pm-1"], ["pm-1"])
            tick = guest.ticking(tick.counter)
        finally:
            lab.lab.heal()
    lab.ok("pm.ready_drbd")
    assert (guest.facts()["connection"], guest.facts()["peer_disk"]) == ("Connected", "UpToDate")
    assert lab.ssh("pm-1", "dmesg | grep -i split-brain || :") == ""
    lab.ssh("pm-1", "virsh migrate-setspeed web 8796093022207")
    lab.ok("vm.mv", "web")
    tick = guest.ticking(tick.counter)
    assert tick.boots == 1
    assert guest.checked("pm-2").counter >= tick.counter
    assert broken_invariants(lab.state()) == []


def strict(lab: Pmc, *argv: str) -> subprocess.CompletedProcess[str]:
    """fab, for which a disk is old a second after it lost its link: a test cannot wait for a quarter of an hour."""
    program = (
        "from pmc.facts import dead_node; dead_node.FRESH = 1; import sys; from pmc.main import main; sys.exit(main())"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *argv], cwd=witness.ROOT, env={**os.environ, "PMC_CONF": str(lab.conf)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.fault("the survivor's clock is set back by 2 hours after the loss: a disk that may be old is asked about")
def test_a_clock_that_is_set_back_hides_no_old_disk(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    """A fence command proves that the node is dead, not that the disk is the newest."""
    guest = lab.add("web")
    tick = guest.ticking(5)
    fenced = tmp_path / "pmc.conf"
    fenced.write_text(lab.conf.read_text().replace("[nodes.pm-1]\n", '[nodes.pm-1]\nfence = "/bin/true"\n'))
    query = dead_node.peer("pm-1", settings.load(str(lab.conf)))

    def ago() -> float:
        with Cluster(settings.load(str(lab.conf))) as cluster:
            seen: dead_node.PeerSigns = cluster.ask("pm-2", query)[0]
        assert seen.life == ()
        return seen.lost["web"].ago

    with dead(lab, "pm-1"):
        lab.ssh(
            "pm-2", "for i in $(seq 60); do drbdadm cstate web | grep -q Connected || exit 0; sleep 1; done; exit 1"
        )
        began, before = time.monotonic(), ago()
        lab.ssh("pm-2", "date -s '2 hours ago'")
        try:
            after = ago()
            assert before + 1 < after <= before + time.monotonic() - began + 1, (before, after)
            done = strict(lab, "vm.failover", "web", "--conf", str(fenced))
            assert done.returncode == 2, done.stderr
            assert "the disk of web may be old" in done.stderr
            assert lab.ssh("pm-2", "drbdadm role web").startswith("Secondary")
            lab.ssh("pm-2", "date -s '4 hours'")  # as good as set forward by 2: in doubt a person is asked
            assert ago() > 7200
            done = lab.fab("vm.failover", "web", "--conf", str(fenced))
            assert done.returncode == 2, done.stderr
            assert "the disk of web may be old" in done.stderr
            lab.ssh("pm-2", "date -s '4 hours ago'")
            lab.ok("vm.failover", "web", "--conf", str(fenced))  # it is not: the link was lost just now
            assert guest.ticking(tick.counter, boots=2).boots == 2
        finally:
            lab.ssh("pm-2", "hwclock -s")
    back(lab, guest)
