"""A network that is bad and not dead: it loses, delays, doubles and mixes frames, works one way only, or turns bits of
what DRBD sends so that TCP does not notice."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from functools import partial

import pytest

from lab.tick import TickError
from lab.witness import Guest

from .conftest import Pmc, broken_invariants
from .rig import failed, read_until, started, until

Clean = Callable[[], list[str]]


def well_again(lab: Pmc, guest: Guest, boots: int = 1) -> None:
    """The link is healed: both sides find each other without a choice between them, and hold all that was written."""
    lab.lab.heal()
    lab.ok("pm.ready_drbd")
    facts = guest.facts()
    assert (facts["connection"], facts["disk"], facts["peer_disk"]) == ("Connected", "UpToDate", "UpToDate")
    tick = guest.ticking(guest.now().counter, boots=boots)
    assert tick.boots == boots
    for node in ("pm-1", "pm-2"):
        assert guest.checked(node).counter >= tick.counter
    assert broken_invariants(lab.state()) == []


def apart(lab: Pmc, node: str) -> bool:
    return lab.ssh(node, "drbdadm cstate web").strip() != "Connected"


BAD = {
    "lossy": {"loss": 0.03, "delay": 0.01, "jitter": 0.01, "dup": 0.02, "reorder": 0.1},
    "slow": {"delay": 0.3, "jitter": 0.1},
    "very lossy": {"loss": 0.3, "dup": 0.1},
    "very slow": {"delay": 2.0, "jitter": 1.0},
}


@pytest.mark.long
@pytest.mark.parametrize("weather", BAD)
@pytest.mark.fault("a link that loses, delays, doubles and mixes frames, while a VM moves there and back")
def test_moves_over_a_bad_link(lab: Pmc, clean: Clean, weather: str) -> None:
    """A move ends well, or is aborted and closed, or is refused as the sides have lost each other."""
    guest = lab.add("web")
    tick = guest.ticking(5)
    lab.lab.link("pm-1", "pm-2", BAD[weather])
    try:
        for _ in range(2):
            done = lab.fab("vm.mv", "web")
            print(f"vm.mv over a link that is {weather}: {done.returncode}\n{done.stderr}")
            assert done.returncode in (0, 1, 2, 3), done.stderr
            assert "Traceback" not in done.stderr
            state = lab.state()
            assert len(state.active_on("web")) == 1
            assert state.primaries("web") == state.active_on("web")
            assert broken_invariants(state) == []
            tick = guest.ticking(tick.counter)
    finally:
        lab.lab.heal()
    well_again(lab, guest)


@pytest.mark.fault(
    "DRBD loses its peer while a VM moves, and the migration goes on: no acknowledged write is left behind"
)
def test_drbd_is_cut_off_while_a_vm_moves(lab: Pmc, clean: Clean) -> None:
    """The memory still travels, and the manager is held up: nothing but DRBD keeps the guest from going on at the other
    side, whose disk would lack what was written since."""
    guest = lab.add("web")
    tick = guest.ticking(5)
    lab.ssh("pm-1", "virsh migrate-setspeed web 1")  # MiB/s: so that there is a middle
    with started(lab, "vm.mv", "web") as process:
        seen = read_until(process, "migrate web to pm-2")
        until(lambda: "paused" in lab.ssh("pm-2", "virsh domstate web"), "the target has begun")
        process.send_signal(signal.SIGSTOP)
        lab.lab.link("pm-1", "pm-2", {"drbd": 1.0})
        try:
            until(lambda: held(lab, "pm-1"), "pm-1 holds its writes")
            still = guest.now()
            lab.ssh("pm-1", "timeout 5 virsh migrate-setspeed web 8796093022207 || :")
            # Long enough for the guest to go on, if it could.
            lab.ssh("pm-2", "for i in $(seq 40); do virsh domstate web | grep -q running && exit; sleep 0.5; done")
            assert guest.now() == still, "a write was acknowledged that only one side has"
        finally:
            process.send_signal(signal.SIGCONT)
        assert process.stderr is not None
        seen += process.stderr.read()
        assert failed(process.wait(300), seen), seen
        print(seen)
    assert "web runs on pm-" in seen
    tick = guest.ticking(tick.counter)
    state = lab.state()
    assert broken_invariants(state) == []
    assert state.active_on("web") == state.primaries("web")
    lab.lab.heal()
    lab.ssh(state.active_on("web")[0], "virsh migrate-setspeed web 8796093022207")
    well_again(lab, guest)


def held(lab: Pmc, node: str) -> bool:
    return "suspended:fencing" in lab.ssh(node, "drbdsetup events2 --now web")


@pytest.mark.long
@pytest.mark.parametrize("deaf", ["pm-2", "pm-1"])
@pytest.mark.fault("a link that works one way only: no failover, both sides find each other again")
def test_a_link_that_works_one_way(lab: Pmc, clean: Clean, deaf: str) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5)
    other = "pm-1" if deaf == "pm-2" else "pm-2"
    lab.lab.cut(other, deaf, one_way=True)
    try:
        for node in ("pm-1", "pm-2"):
            until(partial(apart, lab, node), f"{node} does not notice")
        done = lab.fab("vm.failover", "web")
        assert (done.returncode, "is running on pm-1" in done.stderr) == (2, True), done.stderr
        tick = guest.ticking(tick.counter)
        assert lab.ssh("pm-2", "drbdadm role web").startswith("Secondary")
    finally:
        lab.lab.heal()
    well_again(lab, guest)


@pytest.mark.long
@pytest.mark.fault("bits that are turned between the nodes, with a checksum that fits: pm.verify --deep finds them")
def test_bits_that_are_turned_on_the_way(lab: Pmc, clean: Clean) -> None:
    """DRBD stores what TCP gives it. The side that the guest writes is right, so that vm.repair copies from there."""
    guest = lab.add("web")
    tick = guest.ticking(5)
    for node in ("pm-1", "pm-2"):  # by default DRBD compares slowly, so as not to disturb
        lab.ssh(node, "drbdadm disk-options --c-plan-ahead=0 --resync-rate=100M web")
    lab.lab.link("pm-1", "pm-2", {"corrupt": 0.3}, one_way=True)
    try:
        for _ in range(3):
            tick = guest.ticking(tick.counter + 20)
    finally:
        lab.lab.heal()
    lab.ok("pm.ready_drbd")
    with pytest.raises(TickError):
        guest.checked("pm-2")
    assert guest.checked("pm-1").counter >= tick.counter
    done = lab.fab("pm.verify", "--deep", "--json")
    assert [row["code"] for row in json.loads(done.stdout)] == ["VERIFY_DIFFERS"], done.stdout
    refused = lab.fab("vm.mv", "web")
    assert refused.returncode == 2, refused.stderr
    lab.ok("vm.repair", "web")
    well_again(lab, guest)
