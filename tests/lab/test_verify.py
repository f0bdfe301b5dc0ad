"""pm.verify on real nodes: a clean cluster has no finding, each thing that is broken by hand has its own, and what is
printed fixes it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from .conftest import Pmc, broken_invariants

Clean = Callable[[], list[str]]
PART = "/var/lib/pmc/backups/.web.20260101T000000Z.base.part"
BROKEN = {
    ("DOMAIN_ONE_SIDE", "pm-2", "web"): ("pm-2", "virsh undefine web"),
    ("LV_ORPHAN", "pm-1", "old"): ("pm-1", "lvcreate -qq -y --addtag pmc -L 4M -n old vg"),
    ("LV_SIZE", "pm-2", "web"): ("pm-1", "lvextend -qq -L +4M vg/web"),
    ("SNAPSHOT_LEFT", "pm-2", "web"): ("pm-2", "lvcreate -qq -y -s --addtag pmc -L 8M -n web.backup vg/web"),
    ("DRBD_TWO_ALLOWED", "pm-1", "web"): ("pm-1", "drbdadm net-options --protocol=C --allow-two-primaries=yes web"),
    ("DRBD_STANDALONE", "pm-2", "web"): ("pm-2", "drbdadm disconnect web"),
    ("DOMAIN_AUTOSTART", "pm-1", "web"): ("pm-1", "virsh autostart web"),
    ("FILE_MODE", "pm-2", "web"): ("pm-2", "chmod 644 /etc/drbd.d/web.res"),
    ("PART_STALE", "pm-1", ""): ("pm-1", f"touch -d '1 hour ago' {PART}"),
}
NOTHING = "1 VMs on 2 nodes: nothing found\n"


def fix(lab: Pmc, remedy: str) -> None:
    """What a person does who pastes it: 'on NODE: COMMAND' or 'fab TASK', and confirms. Where there is a choice, it is
    what removes the thing."""
    if choice := re.search(r"; (fab vm\.rm \S+) removes it for good", remedy):
        remedy = choice[1]
    if remedy.startswith("fab "):
        words = remedy.split()[1:]
        lab.ok(*words, *(["--yes"] if words[0] in ("vm.rm", "vm.repair") else []))
        return
    found = re.match(r"on (\S+): (.*?)(?: \(.*|, or fab .*)?$", remedy)
    assert found, remedy
    lab.ssh(found[1], found[2].replace("lvremove ", "lvremove --yes "))


def test_what_is_broken_is_found_and_mended_as_printed(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5)
    assert lab.ok("pm.verify") == NOTHING
    for node, how in BROKEN.values():
        lab.ssh(node, how)
    done = lab.fab("pm.verify", "--json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert {(row["code"], row["node"], row["vm"]) for row in found} == set(BROKEN)
    assert len(found) == len(BROKEN)
    for row in found:
        fix(lab, row["remedy"])
    lab.ok("pm.ready_drbd")
    assert lab.ok("pm.verify") == NOTHING
    assert guest.ticking(tick.counter).boots == 1


@pytest.mark.long
def test_both_copies_are_compared(lab: Pmc, clean: Clean) -> None:
    """--deep while the guest writes: nothing; a block that differs below DRBD is found, twice."""
    guest = lab.add("web")
    guest.ticking(5)
    for node in ("pm-1", "pm-2"):  # by default DRBD goes slowly, so as not to disturb
        lab.ssh(node, "drbdadm disk-options --c-plan-ahead=0 --resync-rate=100M web")
    assert lab.ok("pm.verify", "--deep") == NOTHING
    sectors = int(lab.ssh("pm-2", "cat /sys/block/drbd1/size"))
    seek = f"seek={sectors // 8 - 3}"
    lab.ssh("pm-2", f"dd if=/dev/urandom of=/dev/vg/web bs=4096 count=1 {seek} oflag=direct conv=notrunc status=none")
    done = lab.fab("pm.verify", "--deep", "--json")
    assert done.returncode == 1, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["code"], row["vm"]) == ("VERIFY_DIFFERS", "web")
    begin = (sectors // 8 - 3) * 8
    assert row["text"] == f"4096 bytes differ, found twice, in the sectors {begin}-{begin + 7}"
    assert [row["code"] for row in json.loads(lab.fab("pm.verify", "--json").stdout)] == ["DRBD_OUT_OF_SYNC"]
    refused = lab.fab("vm.mv", "web")
    assert refused.returncode == 2, refused.stderr
    assert "Next: fab vm.repair web" in refused.stderr
    assert row["remedy"] == "fab vm.repair web"
    fix(lab, row["remedy"])
    assert "nothing to repair" in lab.fab("vm.repair", "web").stderr
    read = f"dd if=/dev/vg/web bs=4096 count=1 {seek.replace('seek', 'skip')} iflag=direct status=none | sha256sum"
    assert lab.ssh("pm-1", read) == lab.ssh("pm-2", read)
    assert lab.ok("pm.verify") == NOTHING
    assert broken_invariants(lab.state()) == []
    assert guest.checked("pm-2").boots == 1
