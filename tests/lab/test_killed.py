"""Managers that die, nodes that lose power and connections that break in the middle of a command: what it left is seen,
and one command cleans it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Pmc, broken_invariants, judged
from .rig import BACKUPS, HANG_UP, die_at, failed, instead, read_until, started, until, whole_backups

Clean = Callable[[], list[str]]
NEW = ("vm.add", "web", "--primary", "pm-1", "--secondary", "pm-2", "--size", "16M", "--memory", "16M")


@pytest.mark.fault("manager killed (-9) between two steps: vm.add, vm.mv, vm.backup, vm.rm")
def test_a_manager_that_dies(lab: Pmc, clean: Clean, record_property: Any) -> None:
    """One VM through all verbs, each begun by a manager that dies and then cleaned by one command, twice."""
    assert die_at(lab, "make the volume", *NEW)
    assert clean() != []
    assert codes(lab) != set()
    lab.ok("vm.rm", "web", "--yes")
    assert lab.fab("vm.rm", "web", "--yes").returncode == 2
    assert clean() == []

    guest = lab.add("web")
    tick = guest.ticking(5)
    assert die_at(lab, "migrate web", "vm.mv", "web")
    # The migration itself may still run: the lock waits for its end, then the domain is where it is.
    lab.ok("vm.mv", "web", "--cleanup")
    assert "nothing to clean" in lab.fab("vm.mv", "web", "--cleanup").stderr
    assert broken_invariants(lab.state()) == []
    tick = guest.ticking(tick.counter)
    assert tick.boots == 1

    assert die_at(lab, "read the disk", "vm.backup", "web")
    # What it left is a snapshot and files that nobody takes for a backup.
    assert any("web.backup" in node.volumes for node in lab.state())
    assert [lab.ssh(node, f"ls {BACKUPS}") for node in ("pm-1", "pm-2")] == ["", ""]
    lab.ok("vm.backup", "web")
    assert broken_invariants(lab.state()) == []
    assert [row["kind"] for row in whole_backups(lab)] == ["base"]
    assert guest.ticking(tick.counter).boots == 1
    guest.whole("pm-1", "pm-2")

    assert die_at(lab, "take down web", "vm.rm", "web", "--yes")
    lab.ok("vm.rm", "web", "--yes")
    assert clean() == []
    assert codes(lab) == set()
    record_property("rounds", 4)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.fault("manager killed (-9) between two steps: vm.add, vm.mv, vm.backup, vm.rm")
@pytest.mark.parametrize("verb", ["vm.add", "vm.mv", "vm.backup", "vm.rm"])
def test_a_manager_that_dies_between_every_two_steps(lab: Pmc, clean: Clean, verb: str, record_property: Any) -> None:
    argv = NEW if verb == "vm.add" else (verb, "web", "--yes") if verb == "vm.rm" else (verb, "web")
    guest = None if verb == "vm.add" else lab.add("web")
    words, died, told = [f"[{number}/" for number in range(1, 40)], 0, 0
    if verb == "vm.mv":  # it closes by a plan of three steps after that of five
        words = [f"[{number}/{count}]" for count in (5, 3) for number in range(1, count + 1)]
    for word in words:
        if not die_at(lab, word, *argv):
            break
        died += 1
        found = codes(lab)
        print(word, sorted(found))
        told += bool(found)
        if verb == "vm.mv":
            lab.ok("vm.mv", "web", "--cleanup", "vm.mv", "web", "--cleanup")
        elif verb == "vm.backup":
            lab.ok("vm.backup", "web", "vm.backup", "web")
        elif clean():
            lab.ok("vm.rm", "web", "--yes")
            assert lab.fab("vm.rm", "web", "--yes").returncode == 2
            assert clean() == []
        assert codes(lab) == set()
        if verb in ("vm.mv", "vm.backup"):
            assert guest is not None
            assert broken_invariants(lab.state()) == []
            assert guest.ticking(guest.now().counter).boots == 1
            guest.whole("pm-1", "pm-2")
            assert bool(whole_backups(lab)) == (verb == "vm.backup")
        elif verb == "vm.rm":
            guest = lab.add("web")
    assert died == 8 if verb == "vm.mv" else died > 4
    assert told > 2, "pm.verify sees what is half done"
    record_property("rounds", died)


def codes(lab: Pmc) -> set[str]:
    """Of what pm.verify finds."""
    done = lab.fab("pm.verify", "--json")
    assert done.returncode in (0, 1, 3), done.stderr
    return {row["code"] for row in json.loads(done.stdout)}


STEPS = ("write /etc", "make the volume", "make DRBD's metadata", "bring up web", "wait until web", "declare web",
         "make web primary", "define web", "start web")  # fmt: skip


@pytest.mark.fault("node killed during vm.add")
@pytest.mark.parametrize(
    ("step", "node"),
    [
        ("zero the volume", "pm-2"),
        *(pytest.param(step, "pm-2", marks=pytest.mark.long) for step in STEPS),
        *(pytest.param(step, "pm-1", marks=pytest.mark.long) for step in ("zero the volume", *STEPS)),
    ],
)
def test_a_node_that_dies_while_a_vm_is_made(lab: Pmc, clean: Clean, step: str, node: str) -> None:
    with started(lab, *NEW) as process:
        assert step in read_until(process, step)
        lab.lab.kill(node)
        said = read_until(process, "no line has this")
        status = process.wait(300)
    lab.lab.start(node)
    # The last steps need pm-1 only: then the VM is there, whole, once pm-2 is back.
    if status == 0:
        lab.ok("pm.ready_drbd")
        judged(lab)
    else:
        assert failed(status, said), said
        assert "Traceback" not in said
        assert node in said
    if clean():
        lab.ok("vm.rm", "web", "--yes")
    assert clean() == []
    assert codes(lab) == set()


@pytest.mark.long
@pytest.mark.fault("node hangs inside a step, then goes on")
def test_a_node_that_hangs_while_a_vm_is_made(lab: Pmc, clean: Clean) -> None:
    """What reaches it is taken (by QEMU, for the manager) and never answered: given up after a minute, not after the
    hours that zeroing a disk may take."""
    slow = 'touch /run/zeroing; sleep 20; exec "$real" "$@"'
    with instead(lab, "pm-2", "blkdiscard", " --zeroout ", slow), started(lab, *NEW) as process:
        until(lambda: "there" in lab.ssh("pm-2", "[ -e /run/zeroing ] && echo there || :"), "pm-2 zeroes")
        with lab.lab.hung("pm-2"):
            began = time.monotonic()
            said = process.communicate(timeout=300)[1]
            assert failed(process.returncode, said), said
            print(f"ended {time.monotonic() - began:.0f} s after it hung\n{said}")
            assert "no sign of life for 60 s" in said
            assert "pm-2: no ssh" in said
            assert "pm-2: no ssh" in lab.fab("pm.ls").stderr
        lab.ssh("pm-2", f"rm /run/zeroing; date -s @{time.time():.0f}")
    lab.ok("vm.rm", "web", "--yes")
    assert clean() == []
    assert codes(lab) == set()


@pytest.mark.long
@pytest.mark.fault("standby killed during migration and during backup")
@pytest.mark.parametrize(
    ("verb", "step"),
    [
        ("vm.mv", "allow two primaries"),
        ("vm.mv", "see that both"),
        ("vm.mv", "make web primary"),
        ("vm.mv", "migrate web"),
        ("vm.backup", "read the disk"),
    ],
)
def test_the_standby_dies_during_a_migration_or_a_backup(lab: Pmc, clean: Clean, verb: str, step: str) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5)
    with started(lab, verb, "web") as process:
        assert step in read_until(process, step)
        lab.lab.kill("pm-2")
        said = read_until(process, "no line has this")
        assert failed(process.wait(300), said), said
    assert "Traceback" not in said
    # The guest goes on from its own side, which has every write.
    tick = guest.ticking(tick.counter)
    assert tick.boots == 1
    # Closed on every way out: what is open now would be a split brain when the node is back.
    assert not lab.state().nodes["pm-1"].resources["web"].two_primaries
    lab.lab.start("pm-2")
    lab.ok("pm.ready_drbd", "vm.mv", "web", "--cleanup")
    state = lab.state()
    assert state.active_on("web") == ["pm-1"]
    assert not [r for n in state for r in n.resources.values() if r.two_primaries]
    if verb == "vm.backup":
        lab.ok("vm.backup", "web")
        assert whole_backups(lab)
    assert broken_invariants(lab.state()) == []
    assert guest.checked("pm-2").counter >= tick.counter


@pytest.mark.fault("primary killed during migration")
@pytest.mark.long
@pytest.mark.parametrize("step", ["allow two primaries", "see that both", "make web primary", "migrate web"])
def test_the_primary_dies_during_a_migration(lab: Pmc, clean: Clean, step: str) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5)
    with started(lab, "vm.mv", "web") as process:
        assert step in read_until(process, step)
        lab.lab.kill("pm-1")
        said = read_until(process, "no line has this")
        assert failed(process.wait(300), said), said

    def started_there() -> bool:
        done = lab.fab("vm.failover", "web", "--dead", "pm-1")
        # Too early is refused: DRBD misses pm-1 after seconds, libvirt ends the migration's other half after more.
        early = ("DRBD of web is Connected to it", "libvirt ends an interrupted migration")
        assert done.returncode == 0 or any(word in done.stderr for word in early), done.stderr
        return done.returncode == 0

    until(started_there, "web starts on pm-2")
    again = guest.ticking(tick.counter, boots=2)
    lab.lab.start("pm-1")
    lab.ok("pm.ready_drbd", "vm.mv", "web", "--cleanup")
    assert broken_invariants(lab.state()) == []
    assert guest.checked("pm-1").counter >= again.counter


@pytest.mark.long
@pytest.mark.fault("standby killed during resync")
def test_the_standby_dies_during_a_resync(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5)
    # All of it anew, and slowly, so that there is a middle.
    lab.ssh("pm-1", "drbdadm disk-options --c-plan-ahead=0 --resync-rate=1M web")
    lab.ssh("pm-2", "drbdadm disk-options --c-plan-ahead=0 --resync-rate=1M web; drbdadm invalidate web")
    assert guest.facts()["disk"] == "UpToDate"
    assert lab.state().nodes["pm-2"].resources["web"].disk == "Inconsistent"
    # Half a copy is none: nothing moves or starts there.
    assert lab.fab("vm.mv", "web").returncode == 2
    lab.lab.kill("pm-2")
    tick = guest.ticking(tick.counter)
    lab.lab.start("pm-2")
    lab.ok("pm.ready_drbd")
    assert guest.ticking(tick.counter).boots == 1
    assert guest.checked("pm-2").counter >= tick.counter


@pytest.mark.fault("ssh lost inside a step")
def test_a_connection_that_is_lost_inside_a_step(lab: Pmc, clean: Clean) -> None:
    """Reported as in doubt, looked at again on the node, and then undone with the rest."""
    for tool, word, act, effect in (
        ("drbdadm", " primary ", f'"$real" "$@"; {HANG_UP}; sleep 5', "had taken effect"),
        ("lvcreate", " web ", f"{HANG_UP}; sleep 5; exit 1", "had not taken effect"),
    ):
        with instead(lab, "pm-1", tool, word, act):
            done = lab.fab(*NEW)
        assert failed(done.returncode, done.stderr), done.stderr
        assert f"Looked again: the step {effect}" in done.stderr, done.stderr
        assert clean() == []


@pytest.mark.long
@pytest.mark.fault("ssh lost inside a step")
@pytest.mark.parametrize("effect", ["had taken effect", "had not taken effect"])
def test_a_connection_that_is_lost_while_a_vm_moves(lab: Pmc, clean: Clean, effect: str) -> None:
    """Where the VM runs is looked at, and there it is closed."""
    guest = lab.add("web")
    tick = guest.ticking(5)
    act = f"{HANG_UP}; sleep 5; exit 1" if "not" in effect else f'"$real" "$@"; {HANG_UP}; sleep 5'
    with instead(lab, "pm-1", "virsh", " migrate ", act):
        done = lab.fab("vm.mv", "web")
    print(done.returncode, done.stderr)
    there = "pm-1" if "not" in effect else "pm-2"
    assert failed(done.returncode, done.stderr), done.stderr
    assert f"web runs on {there}, two primaries closed" in done.stderr, done.stderr
    lab.ok("vm.mv", "web", "--cleanup")
    state = lab.state()
    assert (state.active_on("web"), state.primaries("web")) == ([there], [there])
    assert broken_invariants(state) == []
    assert codes(lab) == set()
    assert guest.ticking(tick.counter).boots == 1


@pytest.mark.long
@pytest.mark.fault("ssh lost inside a step")
def test_a_connection_that_is_lost_while_a_backup_gets_its_name(lab: Pmc, clean: Clean) -> None:
    """The files have their names, and then the connection goes: a backup is there, whole, or nothing is."""
    lab.add("web").ticking(5)
    with instead(lab, "pm-2", "sync", "/var/lib/pmc/backups", f"{HANG_UP}; sleep 5; exit 1"):
        done = lab.fab("vm.backup", "web")
    print(done.returncode, done.stderr)
    assert failed(done.returncode, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    lab.ok("vm.verify_backup", "web", "--all") if json.loads(lab.ok("vm.backups", "web", "--json")) else None
    assert broken_invariants(lab.state()) == []
    lab.ok("vm.backup", "web", "vm.verify_backup", "web", "--all")
    assert codes(lab) == set()
