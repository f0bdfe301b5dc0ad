"""Three nodes that do not all see each other: there is one truth of where a VM lives, and one place where it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from .conftest import Pmc, broken_invariants, left_clean, name_of_lab, ready
from .rig import until

Clean = Callable[[], list[str]]
LONG = 600.0
PAIRS = (("pm-1", "pm-2"), ("pm-1", "pm-3"), ("pm-2", "pm-3"))


@pytest.fixture(scope="module")
def three() -> Iterator[Pmc]:
    yield from ready(f"{name_of_lab()}3", 3)


@pytest.fixture
def clean(three: Pmc) -> Iterator[Clean]:
    yield from left_clean(three)


def refused(lab: Pmc, *argv: str) -> str:
    done = lab.fab(*argv)
    print(argv, done.returncode, done.stderr)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.fault("three nodes in parts: 1|2+3, 1+2|3 and all apart, with vm.peer and vm.failover: one truth of homes")
def test_three_nodes_in_parts(three: Pmc, clean: Clean) -> None:
    guest = three.add("web")
    tick = guest.ticking(5, seconds=LONG)

    def lost() -> bool:
        return "Connected" not in three.ssh("pm-1", "drbdadm cstate web | grep -v ^WF || :")

    # 1|2+3: the VM's two sides are apart, pm-3 sees the one where it does not run.
    three.lab.cut("pm-1", "pm-2")
    three.lab.cut("pm-1", "pm-3")
    until(lost, "pm-1 misses pm-2")
    assert "is running on pm-1" in refused(three, "vm.failover", "web")
    # Its new peer could not be reached.
    done = three.fab("vm.peer", "web", "--secondary", "pm-3", "--yes")
    print(done.stderr)
    assert done.returncode in (1, 2, 3), done.stderr
    assert "Traceback" not in done.stderr
    tick = guest.ticking(tick.counter, seconds=LONG)
    three.lab.heal()
    three.ok("pm.ready_drbd")
    three.ok("vm.peer", "web", "--cleanup", "--yes") if three.state().stale_copies("web") else None
    assert three.state().homes("web") == ["pm-1", "pm-2"]

    # All apart, and the manager sees them all.
    for pair in PAIRS:
        three.lab.cut(*pair)
    until(lost, "pm-1 misses pm-2")
    assert "is running on pm-1" in refused(three, "vm.failover", "web")
    refused(three, "vm.mv", "web")
    tick = guest.ticking(tick.counter, seconds=LONG)

    # 1+3|2: pm-3 takes the place of pm-2, which hears nothing of it; pm-2's copy is told from the VM afterwards.
    three.lab.heal()
    three.lab.cut("pm-1", "pm-2")
    three.lab.cut("pm-2", "pm-3")
    with three.lab.unplugged("pm-2"):
        three.ok("vm.peer", "web", "--secondary", "pm-3", "--yes")
        tick = guest.ticking(tick.counter, seconds=LONG)
    three.lab.heal()
    state = three.state()
    assert (state.homes("web"), state.stale_copies("web")) == (["pm-1", "pm-3"], ["pm-2"])
    assert state.active_on("web") == ["pm-1"]
    three.ok("vm.peer", "web", "--cleanup", "--yes")
    assert guest.ticking(tick.counter, seconds=LONG).boots == 1
    assert broken_invariants(three.state()) == []
