"""The witness must be able to fail: an old disk under a guest, and a sector that one side has not, are noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab.tick import TickError

from .conftest import Pmc, judged

Clean = Callable[[], list[str]]


def test_an_old_disk_and_a_copy_that_differs_are_noticed(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    guest.ticking(10)
    lab.ssh("pm-1", "lvcreate -qq -y -s -L 128M -n web.old vg/web")
    tick = guest.ticking(guest.now().counter + 20)
    lab.ok("vm.stop", "web", "--force")

    # One sector, below DRBD, far behind the first extent of the activity log; and there again what was there.
    sector = "if=/dev/vg/web bs=512 skip=60001 count=1 iflag=direct status=none"
    write = "of=/dev/vg/web bs=512 seek=60001 count=1 oflag=direct status=none"
    lab.ssh("pm-2", f"dd {sector} of=/root/sector; dd if=/dev/urandom {write}")
    with pytest.raises(TickError, match=f"web: pm-1 and pm-2 differ in 1 blocks of 4096 bytes, at {60001 // 8 * 4096}"):
        judged(lab)
    lab.ssh("pm-2", f"dd if=/root/sector {write}")

    # The disk as it was before, on both sides: right by itself.
    size = "$(blockdev --getsize64 /dev/drbd1)"
    back = f"dd if=/dev/vg/web.old of=/dev/drbd1 bs=1M count={size} iflag=count_bytes,direct oflag=direct status=none"
    lab.ssh("pm-1", f"drbdadm primary web && {back} && drbdadm secondary web && lvremove -qq -y vg/web.old")
    assert guest.checked("pm-1").counter < tick.counter
    with pytest.raises(TickError, match="web: has said"):
        judged(lab)
    lab.ok("vm.start", "web")
    with pytest.raises(TickError, match="the disk went back"):
        guest.ticking(tick.counter, boots=2)
    with pytest.raises(TickError, match="the disk went back"):
        judged(lab)
    lab.ok("vm.stop", "web", "--force")
    guest.restored()
