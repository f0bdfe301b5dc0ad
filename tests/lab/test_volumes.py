"""What bears a name of a VM and is not, or not only, that VM's: a disk that is called otherwise, beside another's
volume; a thin clone that is another VM's disk; a volume that was there before; a domain. No tick guest runs here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pmc import drbd, lvm

from .conftest import Pmc
from .rig import die_at, failed, instead, until
from .test_backups import hashed

Clean = Callable[[], list[str]]
NODES = ("pm-1", "pm-2")
FILE = Path(__file__).parents[1] / "data/drbd-handwritten-other-disk.res"
REAL, ANOTHERS = "REAL DISK OF VM db", "NOT-THE-VM"
SIZE = 16 << 20


def domain(name: str, minor: int) -> str:
    return (
        f"virsh define /dev/stdin >/dev/null <<'EOF'\n<domain type='qemu'><name>{name}</name><memory unit='MiB'>16"
        f"</memory><uuid>11111111-2222-4333-8444-0000000000{minor:02}</uuid><os><type>hvm</type></os><devices><disk "
        f"type='block' device='disk'><source dev='/dev/drbd{minor}'/><target dev='vda' bus='virtio'/></disk></devices>"
        f"</domain>\nEOF"
    )


def filled(text: str, device: str) -> str:
    return f"yes '{text}' | dd of={device} bs=1M count=16 iflag=fullblock oflag=direct status=none"


def began(lab: Pmc, device: str, node: str = "pm-1") -> str:
    return lab.ssh(node, f"dd if={device} bs=4k count=1 iflag=direct status=none | head -n 1").strip()


@contextmanager
def other_disk(lab: Pmc) -> Iterator[None]:
    """db as another admin makes it: its disk is vg/db_disk0. Beside it, on both nodes, vg/db of somebody else."""
    try:
        for node in NODES:
            lab.ssh(
                node,
                f"cat >/etc/drbd.d/db.res <<'EOF'\n{FILE.read_text()}EOF\n"
                "for v in db_disk0 db; do lvcreate -qq -y -W n -L 32M -n $v vg 2>&1; done; "
                f"{filled(ANOTHERS, '/dev/vg/db')}; {domain('db', 20)}\n"
                "drbdadm create-md --force db >/dev/null 2>&1; drbdadm up db",
            )
        lab.ssh(
            "pm-1",
            "drbdadm wait-connect db; drbdadm new-current-uuid --clear-bitmap db; "
            f"drbdadm primary db; {filled(REAL, '/dev/drbd20')}; drbdadm secondary db",
        )
        yield
    finally:
        for node in NODES:
            lab.ssh(
                node, "virsh undefine db; drbdadm down db; rm /etc/drbd.d/db.res; lvremove -qq -y vg/db_disk0 vg/db"
            )


@pytest.mark.fault("a step of a restore in place fails, of a VM whose disk has another name")
def test_a_disk_of_another_name_beside_anothers_volume(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    before = clean()
    with other_disk(lab):
        anothers = hashed(lab, "pm-1", "db", 32 << 20)
        lab.ok("vm.backup", "db")
        [base] = json.loads(lab.ok("vm.backups", "db", "--json"))
        lab.ok("vm.restore", "db", "--backup", base["id"], "--to", str(tmp_path / "db.raw"))
        assert (tmp_path / "db.raw").read_bytes().startswith(f"{REAL}\n".encode())

        lab.ssh("pm-1", f"drbdadm primary db; {filled('WRITTEN SINCE', '/dev/drbd20')}; drbdadm secondary db")
        new = hashed(lab, "pm-1", "db_disk0", SIZE)
        back = ("vm.restore", "db", "--backup", base["id"], "--in-place", "--yes")
        once = "[ ! -e /root/armed ] || { rm /root/armed; exit 1; }"
        lab.ssh("pm-1", "touch /root/armed")
        with instead(lab, "pm-1", "drbdadm", "secondary db", once):
            done = lab.fab(*back)
        assert failed(done.returncode, done.stderr), done.stderr
        assert "where it differs" in done.stderr, "it was written, and put back"
        assert [hashed(lab, node, "db_disk0", SIZE) for node in NODES] == [new, new]
        assert began(lab, "/dev/vg/db_disk0") == "WRITTEN SINCE"
        lab.ok(*back)
        assert [began(lab, "/dev/vg/db_disk0", node) for node in NODES] == [REAL, REAL]

        done = lab.fab("vm.rm", "db", "--yes")
        assert done.returncode == 2, done.stderr
        assert "its disk on pm-1 is /dev/vg/db_disk0, not vg/db" in done.stderr
        assert [hashed(lab, node, "db", 32 << 20) for node in NODES] == [anothers, anothers]
        assert began(lab, "/dev/vg/db") == ANOTHERS
        there = "lvs --noheadings -o lv_name vg"
        assert [lab.ssh(node, there).split() for node in NODES] == [["db", "db_disk0"]] * 2
    assert clean() == before


@contextmanager
def thin_clone(lab: Pmc) -> Iterator[None]:
    """Two VMs on pm-1 alone: golden with a thin disk of pmc's, and shop, off and not up as after a boot, whose disk is
    a thin clone of it. (And old: all that is left of it is its volume, of which another admin has a snapshot.)"""
    sides = "device /dev/drbd{0} minor {0}; meta-disk internal; on pm-1 {{ address 10.77.0.1:79{0}; }}"
    try:
        lab.ssh(
            "pm-1",
            "lvcreate -qq -y --type thin-pool -Z y -L 128M -n pool vg 2>&1; "
            "lvcreate -qq -y --type thin -V 32M --thinpool pool --addtag pmc -n golden vg 2>&1; "
            f"{filled(REAL, '/dev/vg/golden')}; lvcreate -qq -y -s -kn -n shop --addtag pmc vg/golden; "
            "lvcreate -qq -y -W n -L 16M --addtag pmc -n old vg; lvcreate -qq -y -s -L 8M -n mine vg/old",
        )
        for name, minor in (("golden", 21), ("shop", 22)):
            text = f"resource {name} {{ disk /dev/vg/{name}; {sides.format(minor)} }}"
            lab.ssh("pm-1", f"cat >/etc/drbd.d/{name}.res <<'EOF'\n{text}\nEOF\n{domain(name, minor)}")
        lab.ssh("pm-1", f"drbdadm create-md --force golden >/dev/null 2>&1; {drbd.up('golden', alone=True)}")
        yield
    finally:
        lab.ssh(
            "pm-1",
            "for n in golden shop; do virsh undefine $n; drbdadm down $n; rm -f /etc/drbd.d/$n.res; done 2>/dev/null; "
            "lvremove -qq -y vg/mine; lvremove -qq -y vg/old; lvremove -qq -y vg/pool",
        )


def test_a_thin_clone_is_another_vms_disk(lab: Pmc, clean: Clean) -> None:
    before = clean()
    with thin_clone(lab):
        state = lab.state().nodes["pm-1"]
        assert (state.volumes["shop"].origin, state.volumes["shop"].thin) == ("golden", True)
        advice = [row["remedy"] for row in json.loads(lab.fab("pm.verify", "--json").stdout)]
        assert advice
        assert not [remedy for remedy in advice if "lvremove" in remedy]

        done = lab.fab("vm.rm", "old", "--yes")
        assert (done.returncode, "vg/mine, which pmc did not make, depends on vg/old" in done.stderr) == (2, True)
        # And when that snapshot was made after the look.
        again = str(lvm.remove_disk("vg", "old"))
        assert "vg/mine depends on vg/old" in lab.ssh("pm-1", f"{again} 2>&1 || :")
        again = str(lvm.remove_disk("vg", "mine"))
        assert "vg/mine has not the tag of pmc" in lab.ssh("pm-1", f"{again} 2>&1 || :")

        done = lab.fab("vm.rm", "golden")
        assert "removed for good: golden and its disk (vg/golden on pm-1): this is no terminal" in done.stderr
        lab.ok("vm.rm", "golden", "--yes")
        left = lab.ssh("pm-1", "lvs --noheadings -o lv_name vg").split()
        assert left == ["mine", "old", "pool", "shop"]
        assert began(lab, "/dev/vg/shop") == REAL
        lab.ssh("pm-1", "lvremove -qq -y vg/mine")
        lab.ok("vm.rm", "old", "--yes", "vm.rm", "shop", "--yes")
        assert lab.ssh("pm-1", "lvs --noheadings -o lv_name vg").split() == ["pool"]
    assert clean() == before


@pytest.mark.long
@pytest.mark.fault("manager killed (-9) during vm.add --reuse: vm.rm keeps the disk that was there before")
def test_a_volume_that_was_there_before_outlives_a_vm_that_was_not_made(lab: Pmc, clean: Clean) -> None:
    tags = "lvs --noheadings -o lv_tags vg/kept"
    before = clean()
    fill = "dd if=/dev/urandom of=/dev/vg/kept bs=1M count=32 iflag=fullblock oflag=direct status=none"
    lab.ssh("pm-1", f"lvcreate -qq -y -W n -L 32M -n kept vg 2>&1; {fill}")
    try:
        disk = hashed(lab, "pm-1", "kept", 2 * SIZE)
        made = ("vm.add", "kept", "--primary", "pm-1", "--secondary", "pm-2", "--memory", "16M", "--reuse")
        assert die_at(lab, "its data is the one to keep", *made)
        done = lab.fab(*made)
        assert done.returncode == 2, done.stderr
        assert "fab vm.rm kept" in done.stderr
        assert "vg/kept on pm-1 stays" in lab.fab("vm.rm", "kept").stderr
        lab.ok("vm.rm", "kept", "--yes")
        assert lab.ssh("pm-1", tags).strip() == ""
        assert hashed(lab, "pm-1", "kept", 2 * SIZE) == disk
        assert clean() == [*before, "pm-1 volumes kept"]
        done = lab.fab("vm.rm", "kept", "--yes")
        assert done.returncode == 2, done.stderr
        lab.ok(*made)
        assert lab.ssh("pm-1", tags).strip() == "pmc", "it is the VM's disk now"
        assert hashed(lab, "pm-1", "kept", 2 * SIZE) == disk
        until(lambda: lab.state().nodes["pm-1"].resources["kept"].healthy, "both sides are up to date")
        assert hashed(lab, "pm-2", "kept", 2 * SIZE) == disk
        lab.ok("vm.rm", "kept", "--yes")
    finally:
        lab.ssh("pm-1", "lvremove -qq -y vg/kept 2>/dev/null || :")
    assert clean() == before


@pytest.mark.long
@pytest.mark.fault("a domain of another program's: no task stops, removes or moves it")
def test_a_domain_of_another_programs_is_left_alone(lab: Pmc, clean: Clean) -> None:
    """It runs, and bears a name like any VM."""
    xml = "<domain type='qemu'><name>db</name><memory unit='MiB'>16</memory><os><type>hvm</type></os></domain>"
    how = "virsh domstate db; virsh dumpxml db | sha256sum; virsh domid db"
    before = clean()
    try:
        lab.ssh("pm-1", f'virsh define /dev/stdin <<<"{xml}" >/dev/null; virsh start db')
        there = lab.ssh("pm-1", how)
        assert there.startswith("running")
        for words in (
            ("vm.stop", "db"),
            ("vm.stop", "db", "--force"),
            ("vm.start", "db"),
            ("vm.mv", "db"),
            ("vm.mv", "db", "--cleanup"),
            ("vm.peer", "db", "--secondary", "pm-2"),
            ("vm.rm", "db", "--yes"),
            ("vm.repair", "db", "--yes"),
            ("vm.failover", "db", "--dead", "pm-1"),
            ("vm.backup", "db"),
            ("vm.add", "db", "--primary", "pm-1", "--memory", "16M", "--size", "32M"),
            ("vm.add", "db", "--primary", "pm-2", "--secondary", "pm-1", "--memory", "16M", "--size", "32M"),
        ):
            done = lab.fab(*words)
            assert done.returncode == 2, (words, done.stderr)
            assert "db" in done.stderr
            assert lab.ssh("pm-1", how) == there, words
        for everything in (("pm.evacuate", "pm-1"), ("pm.balance", "--yes"), ("vm.backup", "--all")):
            print(everything, lab.fab(*everything).stderr)
            assert lab.ssh("pm-1", how) == there, everything
        assert "DOMAIN_NO_DRBD" in {row["code"] for row in json.loads(lab.fab("pm.verify", "--json").stdout)}
    finally:
        lab.ssh("pm-1", "virsh destroy db; virsh undefine db")
    assert clean() == before
