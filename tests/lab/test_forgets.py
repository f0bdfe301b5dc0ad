"""The nodes' disks forget what was not flushed: that is lost with the power, what was flushed never is, and the witness
sees it when DRBD does not flush."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from lab.disk import SHARES
from lab.tick import TickError

from .conftest import Pmc, judged

Clean = Callable[[], list[str]]
FLUSH = "python3 -c 'import os; os.fsync(os.open(\"{}\", os.O_RDWR))'"


def losing(disk: str) -> str:
    """A seed with which this disk loses all that was not flushed (lab/disk.py)."""
    return next(seed for seed in map(str, range(99)) if random.Random(f"{seed} {disk}").choice(SHARES) == 0.0)


@pytest.mark.fault("power loss: what was flushed is there, what was not is lost")
def test_what_was_not_flushed_is_lost(lab: Pmc) -> None:
    assert lab.ssh("pm-2", "cat /sys/block/vd[ab]/queue/write_cache") == "write back\n" * 2
    write = (
        "tr '\\0' {} </dev/zero | dd of=/dev/vg/t bs=16k seek={} count=1 iflag=fullblock oflag=direct status=none {}"
    )
    # Empty, whatever an earlier test had there: what is read back later must be of this test.
    lab.ssh("pm-2", "lvcreate -qq -y -L 8M -n t vg; blkdiscard -z /dev/vg/t; sync")
    try:
        lab.ssh("pm-2", f"{write.format('a', 0, 'conv=fsync')}; {write.format('b', 16, '')}")
        lab.ssh("pm-2", "echo kept >/root/kept; sync /root/kept /root")
        lab.lab.kill("pm-2", losing("pm-2-vg.raw"))
        lab.lab.start("pm-2")
        read = "dd if=/dev/vg/t bs=16k skip={} count=1 iflag=direct status=none"
        assert lab.ssh("pm-2", read.format(0)) == "a" * 16384
        assert "b" not in lab.ssh("pm-2", read.format(16))
        assert lab.ssh("pm-2", "cat /root/kept") == "kept\n"
    finally:
        lab.ssh("pm-2", "lvremove -qq -y vg/t; rm -f /root/kept")


@pytest.mark.long
def test_a_disk_that_does_not_flush_is_noticed(lab: Pmc, clean: Clean) -> None:
    """The standby says that it has written what it then loses; so the resync leaves that out. With flushes it does
    not. (DRBD 8.4 passes a guest's own flushes on, whatever its options say, so it is the disk that lies.)"""
    guest, standby = lab.add("web"), lab.lab.machines()[1]
    tick = guest.ticking(20)
    try:
        for flushes in (True, False):
            lab.ssh("pm-2", FLUSH.format("/dev/vg/web"))
            standby.lies(not flushes)
            # From now on, so after the lie: the guest went on while pm-2 came back.
            tick = guest.ticking(guest.ticking(tick.counter).counter + 30)
            lab.lab.kill("pm-2", losing("pm-2-vg.raw"))
            guest.ticking(tick.counter)
            lab.lab.start("pm-2")
            lab.ok("pm.ready_drbd")
            if flushes:
                judged(lab)
            else:
                with pytest.raises(TickError, match="web: pm-1 and pm-2 differ"):
                    judged(lab)
    finally:  # or it lies to the tests that follow
        standby.lies(False)
    lab.ssh("pm-2", "drbdadm invalidate web")
    lab.ok("pm.ready_drbd")
