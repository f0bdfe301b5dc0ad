"""VMs on thin volumes, in a small pool on each node; and what a pool's metadata tell of a volume."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from pmc import lvm_thin
from pmc.command import Command
from pmc.lvm_thin import Range
from pmc.units import KiB, MiB

from .conftest import Pmc, broken_invariants
from .rig import instead, until
from .test_backups import hashed

Clean = Callable[[], list[str]]
NODES = ("pm-1", "pm-2")
FOLDER = "/var/lib/pmc/backups"


class Thin(Pmc):
    """The lab with further lines in its pmc.conf."""

    def __init__(self, lab: Pmc, conf: Path, *lines: str) -> None:
        self.__dict__.update(copy.copy(lab.__dict__))
        self.conf = conf
        self.conf.write_text("\n".join([*lines, lab.conf.read_text()]))

    def fab(self, *argv: str) -> CompletedProcess[str]:
        return super().fab(*argv, "--conf", str(self.conf))


@pytest.fixture
def pools(lab: Pmc, tmp_path: Path) -> Iterator[Thin]:
    for node in NODES:
        lab.ssh(node, "lvcreate -qq -y --type thin-pool -Z y -L 256M -n pool vg 2>&1")
    yield Thin(lab, tmp_path / "pmc.conf", 'volumes = "thin"')
    # `clean` has removed the VMs before.
    left = [used(lab, node, "pool") for node in NODES]
    for node in NODES:
        lab.ssh(node, "lvremove -qq -y vg/pool")
    assert left == [0, 0]


def used(lab: Pmc, node: str, name: str) -> int:
    """Bytes of the volume or pool that hold data, in whole chunks."""
    asked = f"lvs --noheadings --nosuffix --units b -o lv_size,data_percent vg/{name}"
    size, percent = lab.ssh(node, asked).split()
    return round(int(size) * float(percent) / 100)


@pytest.mark.long
def test_a_vm_and_its_backups_on_thin_volumes(pools: Thin, clean: Clean, tmp_path: Path) -> None:
    """From an empty pool to an empty pool."""
    before = clean()
    guest = pools.add("web", stride=1)
    tick = guest.ticking(20)
    for node in pools.state():
        assert (node.volumes["web"].thin, node.volumes["web"].pool) == (True, "pool")
        assert node.volumes["web"].used < 8 * MiB, "neither zeroed nor synced"

    backups = []
    with looking(pools):
        base = Backup(pools)
        # The volume holds DRBD's metadata, too.
        assert 0 < base.read <= used(pools, "pm-2", "web.base") < 8 * MiB
        assert base.disk(None) == base.seen == hashed(pools, "pm-2", "web.base", base.size)
        pools.ok("pm.verify")
        for how in ("", "vm.mv"):  # pm-2 is the standby, and is not
            tick = guest.ticking(tick.counter + 20)
            if how:
                pools.ok(how, "web")
            backups.append(made := Backup(pools))
            assert made.disk(base) == made.seen != base.seen
    changed, all_of_it = backups
    assert (changed.source, all_of_it.source) == ("pm-2", "pm-1")
    assert 0 < changed.read <= 2 * MiB, "the guest writes into the first"
    assert "see that vg/web.base is what" in changed.told
    assert all_of_it.read == all_of_it.size >= 64 * MiB
    assert "all of it, since the base lies on pm-2" in all_of_it.told
    assert pools.ok("vm.verify_backup", "web", "--all").count("right") == 3
    assert broken_invariants(pools.state()) == []

    pools.ok("vm.stop", "web")
    pools.ok("vm.restore", "web", "--backup", changed.id, "--in-place", "--yes")
    assert [hashed(pools, node, "web", base.size) for node in NODES] == [changed.seen] * 2
    assert [v.name for node in pools.state() for v in node.volumes.values() if v.origin] == ["web.base"]
    filled(pools)
    pools.ssh("pm-1", "drbdadm secondary web")

    tight = Thin(pools, tmp_path / "tight.conf", "pool_data_percent = 0.1")
    there = clean()
    done = tight.fab("vm.add", "late", "--primary", "pm-1", "--memory", "16M", "--size", "64M")
    assert done.returncode == 2
    assert re.search(r"pm-1 has a thin pool vg/pool whose data are \d+ % full, more than pool_data", done.stderr)
    assert clean() == there
    done = tight.fab("pm.verify")
    assert done.returncode == 1
    assert "POOL_DATA_FULL" in done.stdout
    pools.ok("vm.rm", "web", "--yes")
    assert clean() == before
    assert [used(pools, node, "pool") for node in NODES] == [0, 0]


@contextmanager
def looking(lab: Thin) -> Iterator[None]:
    """As the snapshot that a backup was read from goes, or is kept, its SHA-256 is taken past pmc."""
    size = lab.state().nodes["pm-1"].resources["web"].size
    read = f"dd if=/dev/vg/web.backup bs=1M count={size} iflag=fullblock,count_bytes status=none"
    with ExitStack() as stack:
        for node in NODES:
            for tool, word in (("lvremove", "web.backup"), ("lvrename", "web.base")):
                stack.enter_context(instead(lab, node, tool, word, f"{read} | sha256sum >/root/seen"))
        yield


class Backup:
    """One of web, made now."""

    def __init__(self, lab: Thin) -> None:
        done = lab.fab("vm.backup", "web")
        assert done.returncode == 0, done.stderr
        self.lab, self.told = lab, done.stderr
        row = max(json.loads(lab.ok("vm.backups", "web", "--json")), key=lambda row: row["time"])
        self.id, self.source, self.node = row["id"], row["source"], row["node"]
        self.size, self.read = row["disk"], row["read"]
        self.seen = lab.ssh(self.source, "cat /root/seen; rm /root/seen").split()[0]

    def disk(self, base: Backup | None) -> str:
        """SHA-256 of it, decoded by the plain tools."""
        if base is None:
            return self.lab.ssh(self.node, f"zstd -dc {FOLDER}/{self.id}.img.zst | sha256sum").split()[0]
        script = (
            f"zstd -dc {FOLDER}/{base.id}.img.zst >/root/base.img && "
            f"xdelta3 -d -c -s /root/base.img {FOLDER}/{self.id}.xd3 | sha256sum; rm /root/base.img"
        )
        return self.lab.ssh(self.node, script).split()[0]


def filled(lab: Thin) -> str:
    """web is off: 16 MiB of its disk are written by hand, then half of it is discarded. Its device on pm-1, primary."""
    growth = grown(lab)
    device = f"/dev/drbd{lab.state().nodes['pm-1'].resources['web'].minor}"
    fill = f"dd if=/dev/urandom of={device} bs=1M seek=40 count=16 oflag=direct status=none"
    lab.ssh("pm-1", f"drbdadm primary web && {fill}")
    assert growth() == [16, 16]
    lab.ssh("pm-1", f"blkdiscard -o 40M -l 8M {device}")
    assert growth() == [8, 8]
    return device


def grown(lab: Thin) -> Callable[[], list[int]]:
    """MiB that web's volumes hold more than now."""
    now = [used(lab, node, "web") for node in NODES]
    return lambda: [round((used(lab, node, "web") - then) / MiB) for node, then in zip(NODES, now, strict=True)]


@pytest.mark.long
def test_copies_stay_thin(pools: Thin, clean: Clean) -> None:
    """A clone holds what there is. What is discarded on one side, when the other is away, is copied there as zeros;
    what is discarded again is given back. A new disk gets nothing but what there is."""
    pools.add("web", stride=1).ticking(20)
    assert pools.add("copy", "--clone", "web", secondary="").ticking(20, boots=2).boots == 2
    assert broken_invariants(pools.state()) == [], "the clone's snapshot is gone"
    pools.ok("vm.stop", "web")
    growth, device = grown(pools), filled(pools)
    pools.ssh("pm-1", f"drbdadm disconnect web && blkdiscard -o 48M -l 8M {device}")
    assert growth() == [0, 8]
    pools.ssh("pm-1", "drbdadm connect web")
    until(lambda: pools.state().nodes["pm-2"].resources["web"].healthy, "web is healthy again")
    assert growth() == [0, 8]
    pools.ssh("pm-1", f"blkdiscard -o 48M -l 8M {device} && drbdadm secondary web")
    assert growth() == [0, 0]
    pools.ssh("pm-2", "drbdadm detach web")
    pools.ok("vm.repair", "web", "--new-disk", "--yes")
    assert growth()[1] <= 0
    assert hashed(pools, "pm-1", "web", 64 * MiB) == hashed(pools, "pm-2", "web", 64 * MiB)


@pytest.mark.long
def test_a_volume_that_is_read_through_to_another_is_backed_up_whole(pools: Thin, clean: Clean, tmp_path: Path) -> None:
    """A thin volume with an external origin: of what it never wrote the pool knows nothing."""
    guest = pools.add("solo", secondary="", stride=1)
    tick = guest.ticking(20)
    pools.ok("vm.stop", "solo")
    pools.ssh(
        "pm-1",
        "lvcreate -qq -y -W n -Z n -L 64M -n golden vg; "
        "dd if=/dev/vg/solo of=/dev/vg/golden bs=1M count=64 iflag=direct oflag=direct status=none; "
        # Where the guest, which writes into the first MiB, never does.
        "dd if=/dev/urandom of=/dev/vg/golden bs=1M seek=8 count=8 oflag=direct status=none; "
        "lvchange -qq -an vg/golden; lvchange -qq -pr vg/golden; "
        "lvcreate -qq -y -s --thinpool pool -n kept vg/golden 2>&1",
    )
    try:
        assert used(pools, "pm-1", "kept") == 0
        kept = pools.add("kept", "--reuse", secondary="")
        kept.ticking(tick.counter, boots=2)
        pools.ok("vm.stop", "kept", "vm.backup", "kept")
        [base] = json.loads(pools.ok("vm.backups", "kept", "--json"))
        pools.ok("vm.restore", "kept", "--backup", base["id"], "--to", str(tmp_path / "disk"))
        found = (tmp_path / "disk").read_bytes()
        assert hashlib.sha256(found).hexdigest() == hashed(pools, "pm-1", "kept", base["disk"])
        assert found[8 * MiB : 8 * MiB + 4096].strip(b"\0")
        pools.ok("vm.rm", "kept", "--yes", "vm.rm", "solo", "--yes")
    finally:
        pools.ssh("pm-1", "lvremove -qq -y vg/kept vg/golden 2>/dev/null || :")


def test_the_pool_tells_exactly_what_changed(pools: Thin, clean: Clean) -> None:
    """Against what was written and discarded here, chunk by chunk."""
    chunk, volume = 64 * KiB, "/dev/vg/t.disk"

    def write(node: str, *chunks: int) -> None:
        lines = (
            f"dd if=/dev/urandom of={volume} bs=4K seek={16 * n + 3} count=1 oflag=direct status=none" for n in chunks
        )
        lab.ssh(node, " && ".join(lines))

    def ask(listing: Command) -> list[Range]:
        return list(lvm_thin.parse(lab.ssh("pm-1", str(listing))))

    def chunks(*pairs: tuple[int, int]) -> list[Range]:
        return [Range(start * chunk, length * chunk) for start, length in pairs]

    lab = pools
    lab.ssh("pm-1", "lvcreate -qq -y --type thin -V 64M --thinpool pool -n t.disk vg 2>&1")
    write("pm-1", 0, 1, 2, 3, 10, 12, 500, 1023)
    lab.ssh("pm-1", "lvcreate -qq -y -s -kn -pr -n t.one vg/t.disk")
    write("pm-1", 2, 11, 600, 1022)  # one that was there, three that were not
    lab.ssh("pm-1", f"blkdiscard -o {500 * chunk} -l {chunk} {volume}")
    lab.ssh("pm-1", "lvcreate -qq -y -s -kn -pr -n t.two vg/t.disk")
    write("pm-1", 3, 700)  # later than both

    size = 64 * MiB
    assert ask(lvm_thin.mapped("vg", "t.one", size)) == chunks((0, 4), (10, 1), (12, 1), (500, 1), (1023, 1))
    assert ask(lvm_thin.mapped("vg", "t.two", size)) == chunks((0, 4), (10, 3), (600, 1), (1022, 2))
    changed = chunks((2, 1), (11, 1), (500, 1), (600, 1), (1022, 1))
    assert ask(lvm_thin.changed("vg", "t.one", "t.two", size)) == changed
    assert ask(lvm_thin.changed("vg", "t.one", "t.one", size)) == []
    assert ask(lvm_thin.changed("vg", "t.one", "t.two", 600 * chunk + 4096))[-1] == Range(600 * chunk, 4096)
    # A command that was killed left the metadata reserved.
    lab.ssh("pm-1", "dmsetup message vg-pool-tpool 0 reserve_metadata_snap")
    assert ask(lvm_thin.changed("vg", "t.one", "t.two", size)) == changed
    assert lab.ssh("pm-1", "dmsetup status vg-pool-tpool").split()[6] == "-"
    lab.ssh("pm-1", "lvremove -qq -y vg/t.one vg/t.two vg/t.disk")
