"""Three nodes: a VM gets another secondary while it runs, and what the old one still has is told from the VM."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from .conftest import Pmc, broken_invariants, left_clean, name_of_lab, ready
from .rig import failed, read_until, started, until

Clean = Callable[[], list[str]]
NODES = ("pm-1", "pm-2", "pm-3")


@pytest.fixture(scope="module")
def three() -> Iterator[Pmc]:
    yield from ready(f"{name_of_lab()}3", 3)


@pytest.fixture
def clean(three: Pmc) -> Iterator[Clean]:
    yield from left_clean(three)


@contextmanager
def slow(lab: Pmc, rate: str) -> Iterator[None]:
    """Copies go so slowly that one can act in the middle."""
    for node in NODES:
        lab.ssh(node, f"sed -i.kept 's/^[[:space:]]*disk {{/&\\n resync-rate {rate}; c-plan-ahead 0;/' {GLOBAL}")
    try:
        yield
    finally:
        for node in NODES:
            lab.ssh(node, f"mv {GLOBAL}.kept {GLOBAL}; for r in $(drbdsetup status | grep -o '^[a-z]*'); do "
                    f"drbdadm adjust $r; done")  # fmt: skip


GLOBAL = "/etc/drbd.d/global_common.conf"


def peering(lab: Pmc, new: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return started(lab, "vm.peer", "web", "--secondary", new, "--yes")


def paired(lab: Pmc, *nodes: str) -> None:
    state = lab.state()
    assert state.homes("web") == list(nodes)
    assert state.stale_copies("web") == []
    assert all(state.nodes[node].resources["web"].healthy for node in nodes)
    assert broken_invariants(state) == []


@pytest.mark.long
@pytest.mark.fault("secondary lost: a third node takes its place while the VM runs")
def test_a_vm_on_one_node_gets_a_peer_and_a_dead_one_is_replaced(three: Pmc, clean: Clean) -> None:
    guest = three.add("web", secondary="")
    tick = guest.ticking(5)
    three.ok("vm.peer", "web", "--secondary", "pm-2")
    paired(three, "pm-1", "pm-2")
    tick = guest.ticking(tick.counter)
    assert tick.boots == 1
    assert guest.checked("pm-2").boots == 1
    assert "web has its second copy on pm-2 already" in three.fab("vm.peer", "web", "--secondary", "pm-2").stderr

    # A healthy copy is not given up unasked.
    done = three.fab("vm.peer", "web", "--secondary", "pm-3")
    assert done.returncode == 2, done.stderr
    assert "no second copy from now" in done.stderr

    three.lab.kill("pm-2")
    try:
        # Until DRBD misses it, after seconds, it counts as healthy.
        until(lambda: three.state().nodes["pm-1"].resources["web"].connection != "Connected", "pm-2 is missed")
        three.ok("vm.peer", "web", "--secondary", "pm-3")
        tick = guest.ticking(tick.counter)
        assert tick.boots == 1
        assert guest.checked("pm-3").boots == 1
    finally:
        three.lab.start("pm-2")

    # It comes back with its old file and its old disk. Nothing takes that for the VM.
    assert three.state().homes("web") == ["pm-1", "pm-3"]
    assert three.state().stale_copies("web") == ["pm-2"]
    told = three.fab("pm.ready_drbd").stderr
    assert "fab vm.peer web --cleanup" in told, told
    assert guest.ticking(tick.counter).boots == 1
    three.ok("vm.stop", "web", "--force")
    done = three.fab("vm.start", "web", "--on", "pm-2")
    assert done.returncode == 2, done.stderr
    assert "stale or unfinished copy" in done.stderr
    three.ok("vm.start", "web")
    tick = guest.ticking(tick.counter, boots=2)
    assert three.fab("vm.peer", "web", "--cleanup").returncode == 2, "nobody was asked"
    three.ok("vm.peer", "web", "--cleanup", "--yes")
    paired(three, "pm-1", "pm-3")
    assert not any("pm-2" in thing for thing in clean())
    three.ok("vm.mv", "web")
    assert guest.ticking(tick.counter).boots == 2
    assert guest.checked("pm-3").boots == 2
    assert guest.checked("pm-1").boots == 2


@pytest.mark.long
@pytest.mark.fault("vm.peer interrupted in the middle of the copy")
def test_a_healthy_peer_that_is_given_up_comes_back_whole_when_the_copy_is_broken_off(three: Pmc, clean: Clean) -> None:
    guest = three.add("web")
    tick = guest.ticking(5)
    with slow(three, "1M"):
        with peering(three, "pm-3") as process:
            seen = read_until(process, "wait until pm-3 has all")
            # Meanwhile the guest writes over what pm-3 has got and pm-2 has not.
            tick = guest.ticking(tick.counter + 150)
            process.send_signal(signal.SIGINT)
            seen += read_until(process, "no line has this")
            assert failed(process.wait(300), seen), seen
        assert "NOT undone" not in seen, seen
        assert "Past the point" not in seen, seen
    three.ok("pm.ready_drbd")
    paired(three, "pm-1", "pm-2")
    assert not any("pm-3" in thing for thing in clean())
    assert guest.ticking(tick.counter).boots == 1
    guest.whole("pm-1", "pm-2")
    # And now it goes through.
    three.ok("vm.peer", "web", "--secondary", "pm-3", "--yes")
    paired(three, "pm-1", "pm-3")
    assert not any("pm-2" in thing for thing in clean())
    assert guest.ticking(tick.counter).boots == 1
    assert guest.checked("pm-3").boots == 1


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.fault("manager killed (-9) between two steps: vm.peer")
@pytest.mark.parametrize("secondary", ["", "pm-2"])
def test_a_manager_that_dies_between_any_two_steps(three: Pmc, clean: Clean, secondary: str) -> None:
    """Running it again, and --cleanup, ends it; the guest never stops."""
    guest = three.add("web", secondary=secondary)
    tick = guest.ticking(5)
    dry = three.ok("vm.peer", "web", "--secondary", "pm-3", "--dry-run").splitlines()
    count = sum(line.startswith("# ") and ". pm-" in line for line in dry)
    assert count >= 8
    for number in range(1, count + 1):
        with peering(three, "pm-3") as process:
            seen = read_until(process, f"[{number}/{count}]")
            process.kill()
            process.wait(60)
        assert f"[{number}/{count}]" in seen, seen
        three.ok("vm.peer", "web", "--secondary", "pm-3", "--yes")
        three.ok("vm.peer", "web", "--cleanup", "--yes")
        paired(three, "pm-1", "pm-3")
        tick = guest.ticking(tick.counter)
        assert tick.boots == 1
        guest.whole("pm-1", "pm-3")
        three.ok("vm.rm", "web", "--yes")
        assert clean() == []
        guest = three.add("web", secondary=secondary)
        tick = guest.ticking(5)
