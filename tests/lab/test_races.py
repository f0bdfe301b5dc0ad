"""Two managers at once on the same cluster, and random sequences of commands and faults."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

from .conftest import Pmc, broken_invariants, things
from .rig import die_at

Clean = Callable[[], list[str]]
SMALL = ("--size", "16M", "--memory", "16M")


def at_once(lab: Pmc, *lines: tuple[str, ...]) -> list[CompletedProcess[str]]:
    results: dict[int, CompletedProcess[str]] = {}

    def run(number: int, line: tuple[str, ...]) -> None:
        results[number] = lab.fab(*line)

    threads = [threading.Thread(target=run, args=each) for each in enumerate(lines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[number] for number in range(len(lines))]


def round_of_two(lab: Pmc) -> None:
    """Both make VMs (one of them the same), then one moves what the other removes."""
    new = ("--primary", "pm-1", "--secondary", "pm-2", *SMALL)
    same = ("vm.add", "same", *new)
    done = at_once(lab, (*same, "vm.add", "a", *new), ("vm.add", "b", *new, *same))
    # One of the two made `same` and went on; the other was told that it is there.
    assert sorted(each.returncode for each in done) == [0, 2], [each.stderr for each in done]
    assert "there is such a VM already" in "".join(each.stderr for each in done)
    state = lab.state()
    assert "same" in state.vm_names()
    assert "b" in state.vm_names()
    for kind in ("minor", "ports"):
        numbers = [getattr(file, kind) for file in state.nodes["pm-1"].files.values()]
        assert len(set(numbers)) == len(numbers), numbers
    macs = lab.ssh("pm-1", "grep -ho '<mac address=.*' /etc/libvirt/qemu/*.xml").split("\n")
    assert len(set(macs)) == len(macs), macs
    assert broken_invariants(state) == []
    done = at_once(lab, ("vm.mv", "same"), ("vm.rm", "same", "--yes"), ("vm.rm", "same", "--yes"))
    assert done[0].returncode in (0, 2), done[0].stderr
    assert sorted(each.returncode for each in done[1:]) == [0, 2], [each.stderr for each in done[1:]]
    state = lab.state()
    assert "same" not in state.vm_names()
    assert not [thing for thing in things(state) if "same" in thing]
    assert broken_invariants(state) == []
    for name in state.vm_names():
        lab.ok("vm.rm", name, "--yes")


@pytest.mark.fault("two managers add, move and remove at once")
def test_two_managers_at_once(lab: Pmc, clean: Clean) -> None:
    round_of_two(lab)
    assert clean() == []


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.fault("two managers add, move and remove at once")
def test_two_managers_at_once_20_rounds(lab: Pmc, clean: Clean, record_property: Any) -> None:
    for _ in range(20):
        round_of_two(lab)
        assert clean() == []
    record_property("rounds", 20)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.fault("random sequences of commands and faults, on the lab")
@pytest.mark.parametrize("seed", range(20))
def test_random_sequences(lab: Pmc, clean: Clean, seed: int) -> None:
    """Whatever happens: the guest's disk loses no write, and at rest the invariants hold."""
    chance = random.Random(seed)
    guest = lab.add("web")
    tick = guest.ticking(5)
    boots = 1
    for _ in range(5):
        what = chance.choice(
            ["mv", "backup", "restart", "standby dies", "link cut", "manager dies in mv", "dies in backup"]
        )
        here = lab.state().active_on("web")[0]
        other = "pm-2" if here == "pm-1" else "pm-1"
        if what == "mv":
            lab.ok("vm.mv", "web")
        elif what == "backup":
            lab.ok("vm.backup", "web")
        elif what == "restart":
            lab.ok("vm.stop", "web", "--force", "vm.start", "web", "--on", other)
            boots += 1
        elif what == "standby dies":
            lab.lab.kill(other)
            guest.ticking(guest.now().counter, boots)
            lab.lab.start(other)
        elif what == "link cut":
            lab.lab.cut("pm-1", "pm-2")
            assert lab.fab("vm.mv", "web").returncode != 0
            lab.lab.heal()
        elif what == "manager dies in mv":
            die_at(lab, f"[{chance.randint(1, 5)}/5]", "vm.mv", "web")
            lab.ok("vm.mv", "web", "--cleanup")
        else:
            die_at(lab, f"[{chance.randint(1, 8)}/", "vm.backup", "web")
            lab.ok("vm.backup", "web")
        lab.ok("pm.ready_drbd")
        assert broken_invariants(lab.state()) == [], what
        before, tick = tick, guest.ticking(tick.counter, boots)
        assert tick.boots == boots, what
        found = guest.whole("pm-1", "pm-2")
        assert found is not None
        assert found.counter >= before.counter, what
