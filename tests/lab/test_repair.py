"""vm.repair on real nodes: what is broken here is broken for real, fixed once, and then there is nothing to fix."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from lab import witness
from lab.tick import HEAD, Tick, read_head

from .conftest import Pmc, broken_invariants
from .rig import failed, until

Clean = Callable[[], list[str]]
VOLUME = "/dev/mapper/vg-web"


def facts(lab: Pmc) -> dict[str, Any]:
    done = lab.ok("vm.repair", "web", "--json")
    found: dict[str, Any] = json.loads(done)
    return found


def codes(lab: Pmc) -> list[str]:
    return [each["code"] for each in facts(lab)["conditions"]]


def fixed(lab: Pmc, *flags: str) -> str:
    """Fixes; the second time there is nothing to fix. What the first said."""
    done = lab.fab("vm.repair", "web", *flags)
    assert done.returncode == 0, done.stderr
    assert "whole again" in done.stderr
    again = lab.fab("vm.repair", "web", *flags)
    assert (again.returncode, again.stderr) == (0, "web: nothing to repair\n")
    return done.stderr


def diskless(lab: Pmc, node: str) -> bool:
    return lab.ssh(node, "drbdadm dstate web").startswith("Diskless")


def equal(guest: witness.Guest, counter: int) -> None:
    """Both volumes hold the same, and every write up to `counter`, none torn."""
    found = guest.whole("pm-1", "pm-2")
    assert found is not None
    assert found.counter >= counter


@contextmanager
def dead_disk(lab: Pmc, node: str, well: int = 0) -> Iterator[None]:
    """Every access to the volume of web fails on that node, as when its disk is dead; its last `well` sectors work."""
    change = f"dmsetup suspend --noflush {VOLUME}; dmsetup load {VOLUME}"
    lab.ssh(node, f"dmsetup table {VOLUME} >/root/table")
    bad = f'read -r _ n _ dev off </root/table; s=$((n - {well})); echo "0 $s error"'
    rest = f'[ {well} = 0 ] || echo "$s {well} linear $dev $((off + s))"'
    lab.ssh(node, f"{{ {bad}; {rest}; }} | {{ {change}; }}; dmsetup resume {VOLUME}")
    try:
        yield
    finally:
        lab.ssh(node, f"{change} </root/table; dmsetup resume {VOLUME}")


@pytest.mark.fault("link cut while idle, both sides written: split brain")
def test_a_split_brain(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5)
    lab.lab.cut("pm-1", "pm-2")
    try:
        alone = "drbdadm cstate web | grep -qv ^Connected"
        until(lambda: lab.lab.ssh("pm-2", f"{alone} && echo y || :") == "y\n", "pm-2 does not notice the cut")
        write = "dd if=/dev/urandom of=/dev/drbd1 bs=64k seek=600 count=8 oflag=direct status=none"
        lab.ssh("pm-2", f"drbdadm primary --force web && {write} && drbdadm secondary web")
        theirs = lab.ssh("pm-2", "dd if=/dev/vg/web bs=64k skip=600 count=8 iflag=direct status=none | sha256sum")
        tick = guest.ticking(tick.counter)
    finally:
        lab.lab.heal()

    def detected(node: str) -> bool:
        return "Split-Brain detected" in lab.ssh(node, "journalctl -k | grep 'drbd1: Split-Brain' || :")

    # Both see it, or the one that sees it first drops the link, and the other goes on looking for its peer (user's
    # guide, "Split brain notification and automatic recovery").
    until(lambda: detected("pm-1") or detected("pm-2"), "not detected")
    # Never resolved by itself: pm.ready_drbd does not either.
    ready = lab.fab("pm.ready_drbd")
    assert ready.returncode == 1
    assert "split brain" in ready.stdout
    assert codes(lab) == ["split-brain"]

    shown = lab.fab("vm.repair", "web")
    assert shown.returncode == 2
    assert "--keep pm-1 or --keep pm-2" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
    first, second = (row.split() for row in shown.stdout.splitlines()[2:])
    assert (first[:3], second[:4]) == (["pm-1", "running", "Primary"], ["pm-2", "shut", "off", "Secondary"])
    sides = {side["node"]: side for side in facts(lab)["sides"]}
    assert sides["pm-1"]["could_write_until"] == "now"
    assert sides["pm-2"]["could_write_until"].startswith("20")
    assert all(side["out_of_sync"] and side["lost_peer"] and side["went_on_alone"] for side in sides.values())
    # The side that the guest writes is not overwritten under it.
    other = lab.fab("vm.repair", "web", "--keep", "pm-2")
    assert (other.returncode, "it runs on pm-1" in other.stderr) == (2, True)
    assert not [name for name in lab.state().nodes["pm-2"].volumes if name != "web"]

    told = fixed(lab, "--keep", "pm-1")
    amount = next(line for line in told.splitlines() if "were copied" in line)
    assert not amount.startswith("web: 64 MiB"), "a full resync"
    tick = guest.ticking(tick.counter)
    assert tick.boots == 1
    equal(guest, tick.counter)

    # What the loser wrote is kept until it is dropped.
    [kept] = [row for row in json.loads(lab.ok("vm.backups", "web", "--json")) if row["kind"] == "lost"]
    assert (kept["node"], kept["broken"], kept["disk"] > 0) == ("pm-2", "", True)
    read = f"dd if=/dev/vg/{kept['id']} bs=64k skip=600 count=8 status=none | sha256sum"
    assert lab.ssh("pm-2", read) == theirs
    unsure = lab.fab("vm.rm", "web")
    assert unsure.returncode == 2
    assert kept["id"] in unsure.stderr
    assert lab.fab("vm.repair", "web", "--drop", kept["id"]).returncode == 2, "it is asked"
    lab.ok("vm.repair", "web", "--drop", kept["id"], "--yes")
    assert broken_invariants(lab.state()) == []


@pytest.mark.long
@pytest.mark.fault("disk error under DRBD (dm-error), on either side")
def test_dead_disks(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5)
    for node in ("pm-2", "pm-1"):  # the secondary's, then the one under the running guest
        with dead_disk(lab, node):
            until(partial(diskless, lab, node), f"{node} does not let go of its disk")
            tick = watch(lab, guest, node, tick.counter)
            ready = lab.fab("pm.ready_drbd", node)
            assert (ready.returncode, "fab vm.repair web" in ready.stderr) == (1, True)
            assert diskless(lab, node), "attached to a dead disk"
            done = lab.fab("vm.repair", "web")
            assert failed(done.returncode, done.stderr), done.stderr
            assert "fab vm.repair web --new-disk" in done.stderr
        fixed(lab)
        tick = guest.ticking(tick.counter)
        assert tick.boots == 1
        equal(guest, tick.counter)


@pytest.mark.fault("disk error under DRBD (dm-error), but where its metadata is")
def test_a_disk_that_is_bad_in_places(lab: Pmc, clean: Clean) -> None:
    """DRBD detaches it for the first error, or the two sides would differ from then on."""
    guest = lab.add("web")
    tick = guest.ticking(5)
    with dead_disk(lab, "pm-2", well=8192):
        until(partial(diskless, lab, "pm-2"), "pm-2 does not let go of its disk")
        assert "DRBD_DISKLESS" in lab.fab("pm.verify", "--json").stdout
        tick = guest.ticking(tick.counter)
    fixed(lab)
    assert guest.ticking(tick.counter).boots == 1
    equal(guest, tick.counter)


@pytest.mark.long
def test_lost_definitions_and_volumes(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5)
    lab.ssh("pm-2", "virsh undefine web")
    assert codes(lab) == ["undefined"]
    fixed(lab)
    lab.ssh("pm-2", "virsh dumpxml --inactive web | sed 's/16384/32768/g' >/root/web.xml; virsh define /root/web.xml")
    refused = lab.fab("vm.repair", "web")
    assert refused.returncode == 2
    assert "memory: 16384 on pm-1, 32768 on pm-2" in refused.stderr
    fixed(lab, "--yes")
    assert "16384" in lab.ssh("pm-2", "virsh dumpxml --inactive web | grep '<memory'")

    # Disconnected by hand is no split brain, whatever the running guest wrote meanwhile.
    lab.ssh("pm-2", "drbdadm disconnect web")
    tick = guest.ticking(tick.counter)
    assert codes(lab) == ["standalone"]
    fixed(lab)
    for node in ("pm-1", "pm-2"):
        lab.ssh(node, "drbdadm net-options --protocol=C --allow-two-primaries=yes web")
    assert codes(lab) == ["two-primaries"]
    fixed(lab)
    # A volume that is gone: made anew when told to, and only then.
    lab.ssh("pm-2", "drbdadm down web; lvremove -qq -y vg/web")
    assert lab.fab("vm.repair", "web").returncode == 2
    fixed(lab, "--new-disk", "--yes")
    tick = guest.ticking(tick.counter)
    assert tick.boots == 1
    equal(guest, tick.counter)


def watch(lab: Pmc, guest: witness.Guest, dead: str, counter: int) -> Tick:
    """The guest counts on, read from the side whose disk works."""
    alive = "pm-1" if dead == "pm-2" else "pm-2"
    last: list[Tick] = []

    def counts() -> bool:
        sector = guest.read(alive, f"dd if=/dev/vg/web bs=512 skip={HEAD} count=1 iflag=direct status=none")
        last[:] = [read_head(sector)]
        return bool(last[0].counter > counter)

    until(counts, "the guest does not go on")
    return last[0]
