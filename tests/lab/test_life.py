"""The whole life of a VM on real nodes, each step checked by the guest itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Pmc, broken_invariants

Clean = Callable[[], list[str]]


def listed(lab: Pmc, task: str, *argv: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(lab.ok(task, *argv, "--json"))
    return rows


def hashed(lab: Pmc, node: str, name: str, size: int) -> str:
    """SHA-256 of the disk as the volume holds it. Past the node's page cache: DRBD writes below it, so that what is
    cached of the volume's own device may be from before."""
    read = f"dd if=/dev/vg/{name} bs=1M count={size} iflag=direct,fullblock,count_bytes status=none"
    return lab.ssh(node, f"{read} | sha256sum").split()[0]


def test_migrates_there_and_back_under_writes(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(20)
    row = listed(lab, "vm.ls")[0]
    assert (row["on"], row["secondary"], row["connection"]) == ("pm-1", "pm-2", "Connected")
    for target in ("pm-2", "pm-1"):
        done = lab.fab("vm.mv", "web")
        assert done.returncode == 0, done.stderr
        assert re.search(rf"web runs on {target}; the guest stood still for \d+\.\d\d s", done.stderr), done.stderr
        assert broken_invariants(lab.state()) == []
        before, tick = tick, guest.ticking(tick.counter + 20)
        assert tick.boots == before.boots == 1
        # Each side's volume is whole: every write was acknowledged by both.
        for node in ("pm-1", "pm-2"):
            assert guest.checked(node).counter >= before.counter


@pytest.mark.fault("corrupted base, truncated delta")
def test_backups_decode_to_what_the_disk_held(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    first = guest.ticking(20)
    lab.ok("vm.backup", "web")
    guest.ticking(first.counter + 20)
    # Off, so that the delta's moment is known: the disk does not change any more.
    lab.ok("vm.stop", "web", "vm.backup", "web")
    base, delta = listed(lab, "vm.backups", "web")[-2:]
    assert (base["kind"], delta["kind"], delta["base"]) == ("base", "delta", base["id"])
    assert base["node"] == delta["node"] == "pm-2"
    folder, size = "/var/lib/pmc/backups", delta["disk"]
    disk = hashed(lab, "pm-1", "web", size)
    assert delta["sha256"] == disk
    # Restored by hand with the plain tool, as the documentation promises.
    by_hand = f"xdelta3 -d -c -s {folder}/{base['id']}.img {folder}/{delta['id']}.xd3 | sha256sum"
    assert lab.ssh("pm-2", by_hand).split()[0] == disk
    assert lab.ssh("pm-2", f"sha256sum <{folder}/{base['id']}.img").split()[0] == base["sha256"] != disk
    assert lab.ssh("pm-2", f"stat -c %a {folder} {folder}/*").split() == ["700"] + ["600"] * 4

    lab.ok("vm.restore", "web", "--backup", base["id"], "--as", "web-base", "vm.start", "web-base")
    lab.ok(
        "vm.restore", "web", "--backup", delta["id"], "--as", "web-delta", "--primary", "pm-2", "--secondary", "pm-1"
    )
    assert hashed(lab, "pm-1", "web-delta", size) == disk
    macs = {lab.ssh("pm-1", f"virsh dumpxml {name} | grep 'mac address'") for name in ("web", "web-base", "web-delta")}
    assert len(macs) == 3

    # A damaged file is found out before anything is a VM.
    before = clean()
    for damage in (
        f"cp -p {folder}/{delta['id']}.xd3 /root; truncate -s -3 {folder}/{delta['id']}.xd3",
        f"mv /root/{delta['id']}.xd3 {folder}; printf x | dd of={folder}/{base['id']}.img bs=1 seek=5000 conv=notrunc",
    ):
        lab.ssh("pm-2", damage)
        done = lab.fab("vm.restore", "web", "--backup", delta["id"], "--as", "never")
        assert done.returncode == 1
        assert "never" in done.stderr
        assert "SHA-256" in done.stderr or "xdelta3" in done.stderr, done.stderr
        assert clean() == before


@pytest.mark.long
def test_installs_from_an_iso(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("inst", "--size", "64M", "--iso", "tick", primary="pm-2", secondary="pm-1")
    tick = guest.ticking(20)
    assert tick.boots == 1
    lab.ok("vm.stop", "inst", "vm.start", "inst", "--on", "pm-1")
    again = guest.ticking(tick.counter, boots=2)
    assert again.boots == 2
    assert listed(lab, "vm.ls")[0]["on"] == "pm-1"


@pytest.mark.long
@pytest.mark.parametrize(("primary", "secondary"), [("pm-1", "pm-2"), ("pm-2", "pm-1")])
def test_clones_a_running_vm(lab: Pmc, clean: Clean, primary: str, secondary: str) -> None:
    """The standby's disk is read: over ssh between the nodes, or on the node itself."""
    guest = lab.add("web")
    guest.ticking(20)
    copy = lab.add("copy", "--clone", "web", primary=primary, secondary=secondary)
    tick = copy.ticking(20, boots=2)
    assert tick.boots == 2
    assert copy.checked(secondary).boots == 2
    assert guest.ticking(guest.now().counter).boots == 1


@pytest.mark.long
def test_one_node_and_a_reused_volume(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("solo", secondary="")
    tick = guest.ticking(10)
    assert lab.fab("vm.mv", "solo").returncode == 2
    lab.ok("vm.stop", "solo")
    # What an administrator who brings a disk along has: a volume, no pmc.
    copy = "dd if=/dev/vg/solo of=/dev/vg/kept bs=1M count=64 iflag=direct conv=fsync"
    lab.ssh("pm-1", f"lvcreate -qq -y -L 64M -n kept vg && {copy}")
    kept = lab.add("kept", "--reuse")
    again = kept.ticking(tick.counter, boots=2)
    assert again.boots == 2
    lab.ok("vm.rm", "solo", "--yes")
    done = lab.fab("vm.rm", "solo", "--yes")
    assert done.returncode == 2
    assert "no such VM" in done.stderr
