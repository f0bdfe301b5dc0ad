"""The primary loses power during a resync, a backup, the closing of a migration. (test_killed.py has the others.)"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import Pmc, broken_invariants
from .rig import read_until, started, whole_backups

Clean = Callable[[], list[str]]


@pytest.mark.long
@pytest.mark.fault("primary killed during resync")
def test_the_primary_dies_during_a_resync(lab: Pmc, clean: Clean) -> None:
    """Half a copy is none: nothing starts on it, and when the whole one is back nothing is lost."""
    guest = lab.add("web")
    lab.ssh("pm-1", "drbdadm disk-options --c-plan-ahead=0 --resync-rate=1M web")
    lab.ssh("pm-2", "drbdadm disk-options --c-plan-ahead=0 --resync-rate=1M web; drbdadm invalidate web")
    tick = guest.ticking(5)
    lab.lab.kill("pm-1")
    done = lab.fab("vm.failover", "web", "--dead", "pm-1")
    assert done.returncode == 2, done.stderr
    assert "its disk on pm-2 is Inconsistent" in done.stderr
    assert lab.fab("vm.start", "web", "--on", "pm-2").returncode == 2
    lab.lab.start("pm-1")
    lab.ok("pm.ready_drbd", "vm.start", "web")
    tick = guest.ticking(tick.counter, boots=2)
    assert lab.state().active_on("web") == ["pm-1"]
    lab.ok("pm.ready_drbd")
    for node in ("pm-1", "pm-2"):
        assert guest.checked(node).counter >= tick.counter


@pytest.mark.long
@pytest.mark.fault("primary killed during backup")
def test_the_primary_dies_during_a_backup(lab: Pmc, clean: Clean) -> None:
    """The backup reads the other side, so it may end well; the VM starts there all the same."""
    guest = lab.add("web")
    tick = guest.ticking(5)
    with started(lab, "vm.backup", "web") as process:
        assert "read the disk" in read_until(process, "read the disk")
        lab.lab.kill("pm-1")
        said = read_until(process, "no line has this")
        assert process.wait(300) in (0, 1), said
    assert "Traceback" not in said
    lab.ok("vm.failover", "web", "--dead", "pm-1")
    tick = guest.ticking(tick.counter, boots=2)
    lab.lab.start("pm-1")
    lab.ok("pm.ready_drbd", "vm.backup", "web")
    assert broken_invariants(lab.state()) == []
    assert whole_backups(lab)
    assert guest.checked("pm-1").counter >= tick.counter


@pytest.mark.long
@pytest.mark.fault("former primary killed while a migration is closed")
@pytest.mark.parametrize("step", ["make web secondary", "allow one primary"])
def test_the_former_primary_dies_while_a_migration_is_closed(lab: Pmc, clean: Clean, step: str) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5)
    with started(lab, "vm.mv", "web") as process:
        assert step in read_until(process, step)
        lab.lab.kill("pm-1")
        said = read_until(process, "no line has this")
        status = process.wait(300)
    # 3: nobody knows whether the step took effect on the node that died. pmc then names the command that closes it.
    assert status in (0, 1) or (status == 3 and "Next: fab vm.mv web --cleanup" in said), f"{status}: {said}"
    assert "Traceback" not in said
    tick = guest.ticking(tick.counter)
    assert tick.boots == 1
    lab.lab.start("pm-1")
    lab.ok("pm.ready_drbd", "vm.mv", "web", "--cleanup")
    assert lab.state().active_on("web") == ["pm-2"]
    assert broken_invariants(lab.state()) == []
    assert guest.checked("pm-1").counter >= tick.counter
