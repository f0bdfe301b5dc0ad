"""Disks that are slow, stand still, fail now and then or lie; pools, groups and backup directories that fail under
running guests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from .conftest import Pmc, broken_invariants
from .rig import BACKUPS, failed, read_until, started, until
from .test_repair import VOLUME, diskless, equal, fixed
from .test_thin import Thin

Clean = Callable[[], list[str]]
LONG = 600.0


@contextmanager
def remapped(lab: Pmc, node: str, table: str) -> Iterator[None]:
    """The volume of web on that node lies on a device with another table: this shell text, with $n (sectors), $dev and
    $off. (The volume itself stays what LVM expects: a wrong table there is a state that pmc refuses.)"""
    change = f"dmsetup suspend --noflush {VOLUME}; dmsetup load {VOLUME}"
    lab.ssh(node, f"modprobe -a dm-delay dm-flakey; dmsetup table {VOLUME} >/root/table")
    under = f'echo "{table}" | dmsetup create under; echo "0 $n linear /dev/mapper/under 0"'
    lab.ssh(node, f"read -r _ n _ dev off </root/table; {{ {under}; }} | {{ {change}; }}; dmsetup resume {VOLUME}")
    try:
        yield
    finally:
        lab.ssh(node, f"{change} </root/table; dmsetup resume {VOLUME}; dmsetup remove under")


def found(lab: Pmc, *flags: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(lab.fab("pm.verify", "--json", *flags).stdout)
    return rows


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.fault("a disk that is slow (dm-delay), then stands still (dmsetup suspend) in the middle of a move")
def test_a_disk_that_is_slow_and_then_stands_still(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5, seconds=LONG)
    with remapped(lab, "pm-2", "0 $n delay $dev $off 0 $dev $off 400"):
        tick = guest.ticking(tick.counter + 5, seconds=LONG)
        lab.ok("vm.mv", "web")
        lab.ok("vm.mv", "web")
        tick = guest.ticking(tick.counter, seconds=LONG)
        assert tick.boots == 1
    conf = tmp_path / "pmc.conf"
    conf.write_text(lab.conf.read_text().replace("command = 120", "command = 30"))
    with started(lab, "vm.mv", "web", "--conf", str(conf)) as process:
        seen = read_until(process, "[1/5]")
        lab.ssh("pm-2", f"dmsetup suspend --noflush {VOLUME}")
        try:
            assert process.stderr is not None
            seen += process.stderr.read()
            assert failed(process.wait(LONG), seen), seen
            print(seen)
            assert "Traceback" not in seen
            # DRBD gives the peer up (ko-count), and the guest goes on alone.
            tick = guest.ticking(tick.counter + 5, seconds=LONG)
            # pm-2 says so, or what DRBD does there stands in the kernel, and nothing can be asked.
            told = lab.fab("vm.ls")
            said = told.stdout + told.stderr
            assert "pm-2: vg/web is suspended" in said or "pm-2: 'the questions': no end" in said, said
            rows = [row for row in found(lab) if row["node"] == "pm-2"]
            assert {row["code"] for row in rows} & {"LV_BROKEN", "NODE_DOWN"}, rows
        finally:
            lab.ssh("pm-2", f"dmsetup resume {VOLUME}")
    # What `drbdadm primary` began there came to its end meanwhile. What vm.mv advised closes it, and joins both sides.
    lab.ok("vm.mv", "web", "--cleanup")
    lab.ok("pm.ready_drbd")
    state = lab.state()
    assert state.active_on("web") == state.primaries("web") == ["pm-1"]
    assert broken_invariants(state) == []
    tick = guest.ticking(tick.counter, seconds=LONG)
    assert tick.boots == 1
    equal(guest, tick.counter)


@pytest.mark.long
@pytest.mark.fault("a disk whose writes fail, or that fails for seconds now and then (dm-flakey): DRBD lets go of it")
@pytest.mark.parametrize("how", ["0 3600 1 error_writes", "2 1"])
def test_a_disk_that_fails_in_part(lab: Pmc, clean: Clean, how: str) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5, seconds=LONG)
    with remapped(lab, "pm-2", f"0 $n flakey $dev $off {how}"):
        until(partial(diskless, lab, "pm-2"), "pm-2 does not let go of its disk")
        tick = guest.ticking(tick.counter, seconds=LONG)
        assert {row["code"] for row in found(lab)} == {"DRBD_DISKLESS"}
        assert lab.fab("vm.mv", "web").returncode == 2
    fixed(lab)
    tick = guest.ticking(tick.counter, seconds=LONG)
    assert tick.boots == 1
    equal(guest, tick.counter)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.fault("a disk that lies: it drops writes that it says are done (dm-flakey): pm.verify --deep finds them")
def test_a_disk_that_lies(lab: Pmc, clean: Clean) -> None:
    """DRBD believes it. The side that the guest writes is right, so that vm.repair copies from there."""
    guest = lab.add("web")
    tick = guest.ticking(5, seconds=LONG)
    for node in ("pm-1", "pm-2"):  # by default DRBD compares slowly, so as not to disturb
        lab.ssh(node, "drbdadm disk-options --c-plan-ahead=0 --resync-rate=100M web")
    with remapped(lab, "pm-2", "0 $n flakey $dev $off 0 3600 1 drop_writes"):
        tick = guest.ticking(tick.counter + 20, seconds=LONG)
    (row,) = found(lab, "--deep")
    assert (row["code"], row["remedy"]) == ("VERIFY_DIFFERS", "fab vm.repair web")
    assert lab.fab("vm.mv", "web").returncode == 2
    lab.ok("vm.repair", "web")
    tick = guest.ticking(tick.counter, seconds=LONG)
    assert tick.boots == 1
    equal(guest, tick.counter)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.fault("a thin pool that runs full under a running guest, on its standby")
def test_a_thin_pool_that_runs_full(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    """DRBD gives the standby up, the guest goes on alone; with more room the standby has all again."""
    pools = Thin(lab, tmp_path / "pmc.conf", 'volumes = "thin"')
    for node, size in (("pm-1", 256), ("pm-2", 48)):
        lab.ssh(node, f"lvcreate -qq -y --type thin-pool -Z y -L {size}M -n pool vg 2>&1")
    try:
        guest = pools.add("web")
        tick = guest.ticking(5, seconds=LONG)
        lab.ssh("pm-2", "lvcreate -qq -y --type thin -V 64M --thinpool pool -n filler vg 2>&1; "
                "p=$(lvs --noheadings -o data_percent vg/pool); n=$((46 - 48 * ${p%.*} / 100)); "
                "timeout 60 dd if=/dev/urandom of=/dev/vg/filler bs=1M count=$n oflag=direct status=none")  # fmt: skip
        until(lambda: any(row["code"] == "POOL_BROKEN" for row in found(pools)), "the pool is full", LONG)
        (row,) = [row for row in found(pools) if row["code"] == "POOL_BROKEN"]
        assert "has no space for data left; in it: " in row["text"]
        tick = guest.ticking(tick.counter + 20, seconds=LONG)
        assert tick.boots == 1
        done = pools.fab("vm.mv", "web")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        lab.ssh("pm-2", "lvextend -qq -y -L +128M vg/pool")
        pools.fab("pm.ready_drbd")
        pools.ok("vm.repair", "web")
        tick = guest.ticking(tick.counter, seconds=LONG)
        assert tick.boots == 1
        equal(guest, tick.counter)
        pools.ok("vm.rm", "web", "--yes")
    finally:
        lab.ssh("pm-2", "lvremove -qq -y vg/filler || :")
        for node in ("pm-1", "pm-2"):
            lab.ssh(node, "lvs vg/web >/dev/null 2>&1 || lvremove -qq -y vg/pool")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.fault("LVM's metadata overwritten, then the disk lost, on the standby: told, and no removal is advised")
def test_a_volume_group_that_is_lost(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5, seconds=LONG)
    lab.ssh("pm-2", "dd if=/dev/vdb of=/root/head bs=4k count=256 status=none; "
            "dd if=/dev/zero of=/dev/vdb bs=4k seek=1 count=255 oflag=direct conv=notrunc status=none")  # fmt: skip
    try:
        told(lab, "pm-2")
        tick = guest.ticking(tick.counter, seconds=LONG)
    finally:
        lab.ssh("pm-2", "dd if=/root/head of=/dev/vdb bs=4k oflag=direct conv=notrunc status=none")
    assert found(lab) == []

    lab.ssh("pm-2", "cd /sys/bus/virtio/drivers/virtio_blk; basename $(readlink /sys/block/vdb/device) >unbind")
    try:
        until(partial(diskless, lab, "pm-2"), "pm-2 does not let go of its disk")
        told(lab, "pm-2")
        tick = guest.ticking(tick.counter, seconds=LONG)
    finally:
        lab.lab.kill("pm-2")
        lab.lab.start("pm-2")
    lab.ok("pm.ready_drbd")
    tick = guest.ticking(tick.counter, seconds=LONG)
    assert tick.boots == 1
    equal(guest, tick.counter)


def told(lab: Pmc, node: str) -> None:
    """And a command that needs the node is refused in one line."""
    rows = found(lab)
    print(rows)
    assert any(row["node"] == node and row["code"] in ("NODE_TOOL", "VG_BROKEN", "LV_BROKEN") for row in rows)
    assert not [row for row in rows if "lvremove" in row["remedy"] or "vm.rm" in row["remedy"]]
    for argv in (("vm.mv", "web"), ("vm.rm", "web", "--yes")):
        done = lab.fab(*argv)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert f"{node}: " in done.stderr


READ_ONLY = {
    "mount": (f"mount --bind {BACKUPS} {BACKUPS}; mount -o remount,bind,ro {BACKUPS}", f"umount {BACKUPS}"),
    "chattr": (f"chattr +i {BACKUPS}", f"chattr -i {BACKUPS}"),
}


@pytest.mark.fault("backup directory read-only (remount, chattr +i)")
@pytest.mark.long
@pytest.mark.parametrize("how", ["mount", "chattr"])
def test_a_backup_directory_that_cannot_be_written(lab: Pmc, clean: Clean, how: str) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5, seconds=LONG)
    close, free = READ_ONLY[how]
    lab.ssh("pm-2", close)
    try:
        done = lab.fab("vm.backup", "web")
        print(done.stderr)
        assert done.returncode in (1, 2, 3), done.stderr
        assert "pm-2" in done.stderr
        assert "Read-only file system" in done.stderr or "Operation not permitted" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        lab.ssh("pm-2", free)
    assert lab.ok("vm.backups", "web", "--json").strip() == "[]"
    assert broken_invariants(lab.state()) == []
    assert guest.ticking(tick.counter, seconds=LONG).boots == 1
