"""Backups on real nodes: chains over migrations, decoded by hand and by pmc; damage of all kinds; in place."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lab import witness
from lab.tick import Tick, check

from .conftest import Pmc, broken_invariants
from .rig import die_at, failed, instead, started, until
from .test_failover import dead

Clean = Callable[[], list[str]]
FOLDER = "/var/lib/pmc/backups"
DIRECT = "direct,fullblock,count_bytes"


def listed(lab: Pmc, task: str, *argv: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(lab.ok(task, *argv, "--json"))
    return rows


def hashed(lab: Pmc, node: str, name: str, size: int) -> str:
    """SHA-256 of the disk as the volume holds it. Past the node's page cache: DRBD writes below it, so that what is
    cached of the volume's own device may be from before."""
    read = f"dd if=/dev/vg/{name} bs=1M count={size} iflag={DIRECT} status=none"
    return lab.ssh(node, f"{read} | sha256sum").split()[0]


def tree(image: bytes) -> str:
    """The checksum in a manifest, as docs/backups.md describes it."""
    blocks = (image[at : at + 65536] for at in range(0, len(image), 65536))
    return hashlib.sha256(b"".join(hashlib.sha256(block).digest() for block in blocks)).hexdigest()


# What is done before each backup of a chain.
MOVED = ("vm.mv", "web")
SHORT = ((), (*MOVED, "vm.stop", "web"))
LONG = ((), (), MOVED, SHORT[1])

# Another disk, well compressed, in a file of the same length (a skippable frame fills it up: RFC 8878, 3.1.2): nothing
# but the manifest's checksum of the disk tells.
FORGE = """\
import struct, subprocess, sys
old = open(sys.argv[1], "rb").read()
disk = bytearray(subprocess.run(["zstd", "-dcq"], input=old, stdout=subprocess.PIPE, check=True).stdout)
disk[-1] ^= 1
new = subprocess.run(["zstd", "-9cq"], input=disk, stdout=subprocess.PIPE, check=True).stdout
rest = len(old) - len(new) - 8
open(sys.argv[1], "r+b").write(new + struct.pack("<II", 0x184D2A50, rest) + bytes(rest))
"""


@pytest.mark.fault("corrupted base, truncated delta")
@pytest.mark.parametrize("chain", [SHORT, pytest.param(LONG, marks=pytest.mark.long)], ids=["short", "long"])
def test_a_chain_while_the_guest_writes(
    lab: Pmc, clean: Clean, tmp_path: Path, chain: tuple[tuple[str, ...], ...]
) -> None:
    """A base and deltas, the VM moved in between; each decoded with the plain tools, to a file, and as a VM."""
    guest, deltas = lab.add("web"), len(chain) - 1
    ticks: list[Tick] = []
    for before in chain:
        ticks.append(guest.ticking(ticks[-1].counter + 20 if ticks else 20))
        lab.ok(*before, "vm.backup", "web")
    rows = listed(lab, "vm.backups", "web")
    assert [(row["kind"], row["base"]) for row in rows] == [("base", ""), *[("delta", rows[0]["id"])] * deltas]
    # All lie beside their base; the disk is read where the guest does not run.
    assert [row["node"] for row in rows] == ["pm-2"] * (1 + deltas)
    assert [row["source"] for row in rows[:-1]] == ["pm-2", "pm-2", "pm-1"][:deltas]
    assert [row["consistency"] for row in rows] == ["crash"] * deltas + ["off"]
    base, last, size = rows[0], rows[-1], rows[0]["disk"]
    disk = hashed(lab, "pm-1", "web", size)
    # By hand, as the documentation promises.
    lab.ssh("pm-2", f"cd /root; zstd -dq {FOLDER}/{base['id']}.img.zst -o base.img")
    by_hand = {
        row["id"]: lab.ssh("pm-2", f"xdelta3 -d -c -s /root/base.img {FOLDER}/{row['id']}.xd3 | sha256sum").split()[0]
        for row in rows[1:]
    }
    by_hand[base["id"]] = lab.ssh("pm-2", "sha256sum /root/base.img; rm /root/base.img").split()[0]
    assert by_hand[last["id"]] == disk
    assert lab.ssh("pm-2", f"stat -c %a {FOLDER} {FOLDER}/*").split() == ["700"] + ["600"] * (3 + 2 * deltas)
    for number, row in enumerate(rows):
        name = f"web-{number}"
        lab.ok("vm.restore", "web", "--backup", row["id"], "--as", name)
        image = guest.read("pm-1", f"dd if=/dev/vg/{name} bs=1M count={size} iflag={DIRECT} status=none")
        assert hashlib.sha256(image).hexdigest() == by_hand[row["id"]] == hashed(lab, "pm-2", name, size)
        assert tree(image) == row["sha256"]
        assert check(image).counter >= ticks[number].counter
    macs = {lab.ssh("pm-1", f"virsh dumpxml web-{n} | grep 'mac address'") for n in range(len(rows))}
    assert len(macs) == len(rows)
    lab.ok("vm.restore", "web", "--backup", last["id"], "--to", str(tmp_path / "image"))
    assert hashlib.sha256((tmp_path / "image").read_bytes()).hexdigest() == disk
    lab.ok("vm.verify_backup", "web", "--all")
    assert all(row["verified"] for row in listed(lab, "vm.backups", "web"))

    # A damaged file is found out before anything is a VM. (All kinds of damage: the next test.)
    there, delta, packed = clean(), f"{FOLDER}/{last['id']}.xd3", f"{FOLDER}/{base['id']}.img.zst"
    for damage in (
        f"cp -p {delta} {packed} /root; truncate -s -3 {delta}",
        f"mv /root/*.xd3 {FOLDER}; printf x | dd of={packed} bs=1 seek=900 conv=notrunc",
        f"mv /root/*.img.zst {FOLDER}; python3 - {packed} <<'EOF'\n{FORGE}EOF",
    ):
        lab.ssh("pm-2", damage)
        done = lab.fab("vm.restore", "web", "--backup", last["id"], "--as", "never")
        assert done.returncode in (1, 2, 3), done.stderr
        assert last["id"] in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert clean() == there


PLACES = {"first": "0", "middle": "$(($(stat -c %s $f) / 2))", "last": "$(($(stat -c %s $f) - 1))"}


@pytest.mark.long
@pytest.mark.fault("corrupted, truncated or missing manifest, base or delta")
def test_damage_is_found_before_anything_is_overwritten(
    lab: Pmc, clean: Clean, record_property: Callable[[str, object], None]
) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5)
    lab.ok("vm.backup", "web")
    guest.ticking(tick.counter + 10)
    lab.ok("vm.backup", "web", "vm.stop", "web")
    base, delta = listed(lab, "vm.backups", "web")
    disk = hashed(lab, "pm-1", "web", base["disk"])
    ways = {place: f'printf "\\\\$(printf %o $((255 - $(od -An -tu1 -j {at} -N 1 $f))))" '
                   f"| dd of=$f bs=1 seek={at} conv=notrunc status=none" for place, at in PLACES.items()}  # fmt: skip
    ways |= {"truncated": "truncate -s -3 $f", "missing": "rm $f"}
    files = {
        "manifest": f"{delta['id']}.json", "base": f"{base['id']}.img.zst", "delta": f"{delta['id']}.xd3"
    }  # fmt: skip
    tried = 0
    for what, file in files.items():
        for how, damage in ways.items():
            lab.ssh("pm-2", f"f={FOLDER}/{file}; cp -p $f /root/kept; {damage}; ! cmp -s $f /root/kept")
            done = lab.fab("vm.restore", "web", "--backup", delta["id"], "--in-place", "--yes")
            lab.ssh("pm-2", f"mv /root/kept {FOLDER}/{file}")
            assert done.returncode in (1, 2, 3), f"{what} {how}: {done.stderr}"
            assert "Traceback" not in done.stderr
            assert "[4/" not in done.stderr, f"{what} {how}: it went on to the disk: {done.stderr}"
            tried += 1
    assert hashed(lab, "pm-1", "web", base["disk"]) == disk
    assert broken_invariants(lab.state()) == []
    record_property("rounds", tried)
    # What was found damaged counts as that until it is read again.
    done = lab.fab("vm.backup", "web", "--dry-run")
    assert f"no delta is made against {base['id']} on pm-2, as" in done.stderr
    lab.ok("vm.verify_backup", "web", "--all")
    # The index serves new deltas only: they say what to do, restores do not need it.
    lab.ssh("pm-2", f"printf xx | dd of={FOLDER}/{base['id']}.index bs=1 seek=100 conv=notrunc status=none")
    done = lab.fab("vm.backup", "web")
    assert failed(done.returncode, done.stderr), done.stderr
    assert "make a new base" in done.stderr
    lab.ok("vm.restore", "web", "--backup", delta["id"], "--as", "again")


class Since(NamedTuple):
    """web is off. It wrote more than its only backup has: `old` to `new`. `disk`: SHA-256 of what is on it, of `size`
    bytes; `back`: the command that restores it."""

    guest: witness.Guest
    old: Tick
    new: Tick
    size: int
    disk: str
    back: tuple[str, ...]


def written_since(lab: Pmc) -> Since:
    guest = lab.add("web")
    old = guest.ticking(10)
    lab.ok("vm.backup", "web")
    [base] = listed(lab, "vm.backups", "web")
    new = guest.ticking(old.counter + 50)
    lab.ok("vm.stop", "web")
    disk = hashed(lab, "pm-1", "web", base["disk"])
    back = ("vm.restore", "web", "--backup", base["id"], "--in-place", "--yes")
    return Since(guest, old, new, base["disk"], disk, back)


@pytest.mark.fault("manager killed (-9) during a restore in place, then the primary")
def test_a_restore_in_place(lab: Pmc, clean: Clean) -> None:
    guest, old, new, size, disk, back = written_since(lab)
    # Nobody confirms it.
    assert lab.fab(*back[:-1]).returncode != 0
    assert hashed(lab, "pm-1", "web", size) == disk

    # The manager dies while the disk is written.
    assert die_at(lab, "where it differs", *back)
    for verb in ("vm.start", "vm.backup"):
        done = lab.fab(verb, "web")
        assert done.returncode == 2, done.stderr
        assert "--put-back" in done.stderr
    done = lab.fab("pm.verify", "--json")
    assert "RESTORE_BROKEN" in {row["code"] for row in json.loads(done.stdout)}
    # The node that keeps what was on it dies, too: the other one knows what its disk is.
    lab.lab.kill("pm-1")
    done = lab.fab("vm.failover", "web", "--dead", "pm-1")
    assert done.returncode == 2, done.stderr
    assert "--put-back" in done.stderr
    lab.lab.start("pm-1")
    lab.ok("pm.ready_drbd")
    lab.ok("vm.restore", "web", "--put-back")
    assert [hashed(lab, node, "web", size) for node in ("pm-1", "pm-2")] == [disk, disk]
    assert broken_invariants(lab.state()) == []

    lab.ok(*back)
    guest.restored()
    assert guest.checked("pm-1").counter < new.counter
    assert hashed(lab, "pm-2", "web", size) == hashed(lab, "pm-1", "web", size) != disk
    lab.ok("vm.start", "web")
    assert guest.ticking(old.counter, boots=2).boots == 2
    done = lab.fab(*back)
    assert (done.returncode, "runs on pm-1" in done.stderr) == (2, True), done.stderr


@pytest.mark.long
@pytest.mark.fault("manager killed (-9) during a restore in place, the other node dies: vm.failover puts it back")
def test_a_restore_that_broke_off_and_the_other_node_is_dead(lab: Pmc, clean: Clean) -> None:
    guest, _, new, _, _, back = written_since(lab)
    assert die_at(lab, "where it differs", *back)
    lab.lab.kill("pm-2")
    assert "Next: fab vm.failover web" in lab.fab("vm.restore", "web", "--put-back").stderr
    lab.ok("vm.failover", "web", "--dead", "pm-2")
    later = guest.ticking(new.counter, boots=2)
    assert later.boots == 2, "it goes on with what was on the disk before the restore"
    lab.lab.start("pm-2")
    lab.ok("pm.ready_drbd")
    lab.ok("vm.restore", "web", "--put-back")  # takes the mark off there
    lab.ok("vm.mv", "web")
    assert guest.ticking(later.counter).boots == 2
    assert broken_invariants(lab.state()) == []


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.fault("DRBD loses its peer during a restore in place: the copy that lacks some of it is never started")
def test_drbd_is_cut_off_during_a_restore_in_place(lab: Pmc, clean: Clean) -> None:
    """The write itself goes well: nothing but the look at both sides tells that only one has it."""
    guest, _, new, size, disk, back = written_since(lab)
    wait = 'touch /run/writes; until [ -e /run/cut ]; do sleep 0.2; done; exec "$real" "$@"'
    with instead(lab, "pm-1", "python3", "--compare", wait), started(lab, *back) as process:
        until(lambda: "there" in lab.ssh("pm-1", "[ -e /run/writes ] && echo there || :"), "the restore writes")
        lab.lab.link("pm-1", "pm-2", {"drbd": 1.0})
        try:
            until(lambda: "connection:Connected" not in lab.ssh("pm-1", "drbdsetup events2 --now web"), "it is lost")
            lab.ssh("pm-1", "rm /run/writes; touch /run/cut")
            said = process.communicate(timeout=900)[1]
        finally:
            lab.lab.heal()
            lab.ssh("pm-1", "rm -f /run/cut")
    print(said)
    assert failed(process.returncode, said), said
    assert "fab vm.restore web --put-back" in said
    lab.ssh("pm-1", "sync")  # or what stood in place of python3 is back after the power loss
    lab.lab.kill("pm-1")
    done = lab.fab("vm.failover", "web", "--dead", "pm-1")
    assert (done.returncode, "--put-back" in done.stderr) == (2, True), done.stderr
    lab.lab.start("pm-1")
    lab.ok("pm.ready_drbd")
    lab.ok("vm.restore", "web", "--put-back")
    assert [hashed(lab, node, "web", size) for node in ("pm-1", "pm-2")] == [disk, disk]
    assert broken_invariants(lab.state()) == []
    lab.ok("vm.start", "web")
    assert guest.ticking(new.counter, boots=2).boots == 2


@pytest.mark.long
@pytest.mark.fault("manager killed (-9) during a restore in place, whose write goes on: nobody else writes meanwhile")
def test_a_restore_that_nobody_watches_is_alone_on_the_disk(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    guest, _, new, size, disk, back = written_since(lab)
    hurried = tmp_path / "pmc.conf"
    hurried.write_text(lab.conf.read_text().replace("[deadlines]\n", "[deadlines]\nlock = 5\n"))
    # It is stopped as soon as it has DRBD's device open, and goes on when the test says so.
    stop = (
        '"$real" "$@" <&0 & p=$!; until ls -l /proc/$p/fd | grep -q /dev/drbd; do kill -0 $p || exit 9; done; '
        "kill -STOP $p; echo $p >/run/writer; wait $p; s=$?; touch /run/written; exit $s"
    )
    writes = "[ -e /run/writer ] && echo there || :"
    with instead(lab, "pm-1", "python3", "--compare", stop), started(lab, *back) as process:
        until(lambda: lab.ssh("pm-1", writes), "the restore has the disk open")
        process.kill()
        process.wait(60)
    try:
        half = hashed(lab, "pm-1", "web", size)
        for again in (("vm.restore", "web", "--put-back"), back, ("vm.start", "web")):
            done = lab.fab(*again, "--conf", str(hurried))
            assert done.returncode == 2, done.stderr
            assert "a command of a manager that is gone still runs on pm-1" in done.stderr
            assert hashed(lab, "pm-1", "web", size) == half, again
        lab.ssh("pm-1", "kill -CONT $(cat /run/writer)")
        until(lambda: lab.ssh("pm-1", "[ -e /run/written ] && echo there || :"), "it has come to its end")
    finally:
        lab.ssh("pm-1", "rm -f /run/writer /run/written")
    lab.ok("vm.restore", "web", "--put-back")
    assert [hashed(lab, node, "web", size) for node in ("pm-1", "pm-2")] == [disk, disk]
    lab.ok("vm.start", "web")
    guest.ticking(new.counter, boots=2)


@pytest.mark.long
@pytest.mark.fault("two backups of one VM at once")
def test_two_at_once_and_all_with_copies(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    lab.add("web").ticking(5)
    lab.add("mail", primary="pm-2", secondary="pm-1")
    with started(lab, "vm.backup", "web") as one, started(lab, "vm.backup", "web", "--base") as other:
        said = [process.communicate(timeout=300)[1] for process in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0], said
    assert any("waits" in each or "wait" in each for each in said), said
    rows = listed(lab, "vm.backups", "web")
    assert len({row["id"] for row in rows}) == 2
    assert not any(row["broken"] for row in rows)
    # One that cannot be backed up does not hold up the others.
    lab.ssh("pm-1", "virsh destroy mail || :")
    lab.ssh("pm-2", "virsh destroy mail; drbdadm secondary mail; drbdadm disconnect mail")
    done = lab.fab("vm.backup", "--all", "--to", str(tmp_path), "--limit", "20M")
    assert failed(done.returncode, done.stderr), done.stderr
    assert "1 of 2 were not backed up: mail" in done.stderr
    rows = listed(lab, "vm.backups", "web")
    assert len(rows) == 3
    lab.ok("vm.repair", "mail")
    assert listed(lab, "vm.backups", "mail") == []
    # The nodes lose theirs; the manager has a copy of the last one and of its base.
    last = rows[-1]
    assert [row["id"] for row in listed(lab, "vm.backups", "web", "--from", str(tmp_path))] == [
        last["base"],
        last["id"],
    ]
    assert lab.ok("vm.verify_backup", "web", "--all", "--from", str(tmp_path)).count("right") == 2
    for node in ("pm-1", "pm-2"):
        lab.ssh(node, f"rm -f {FOLDER}/*")
    lab.ok("vm.restore", "web", "--backup", last["id"], "--from", str(tmp_path), "--as", "web-old")
    (tmp_path / "image").unlink(missing_ok=True)
    lab.ok("vm.restore", "web", "--backup", last["id"], "--to", str(tmp_path / "image"))
    assert tree((tmp_path / "image").read_bytes()) == last["sha256"]
    assert witness.Guest(lab.lab, "web-old").checked("pm-1").boots == 1
    # Of the copies the rules of vm.prune keep one: a new base, which needs no other.
    lab.ok("vm.backup", "web", "--base", "--to", str(tmp_path))
    lab.ok("vm.prune", "web", "--from", str(tmp_path), "--keep-last", "1")
    assert len(listed(lab, "vm.backups", "web", "--from", str(tmp_path))) == 3, (
        "what was read back stays until more was"
    )
    lab.ok("vm.verify_backup", "web", "--from", str(tmp_path))
    lab.ok("vm.prune", "web", "--from", str(tmp_path), "--keep-last", "1")
    [newest] = listed(lab, "vm.backups", "web", "--from", str(tmp_path))
    assert newest["id"] == listed(lab, "vm.backups", "web")[-1]["id"]


@pytest.mark.long
@pytest.mark.fault("a backup while the other node is away, and of a VM that has one node")
def test_from_the_only_side_and_to_other_places(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    """And what vm.prune and vm.rm leave; qcow2."""
    guest = lab.add("web")
    tick = guest.ticking(10)
    lab.add("solo", secondary="").ticking(5)
    lab.ok("vm.backup", "web", "--no-compress")  # of the standby, kept there
    lab.ok("vm.backup", "solo", "--to", "pm-2")
    with dead(lab, "pm-2"):
        done = lab.fab("vm.backup", "web", "--base")
        assert done.returncode == 0, done.stderr
        assert guest.ticking(tick.counter).boots == 1
        shown = lab.fab("vm.backups", "web").stdout  # its status tells that a node is away
        assert "pm-1 (primary)" in shown, shown
    lab.ok("pm.ready_drbd")
    rows = listed(lab, "vm.backups")
    assert [(row["id"].split(".")[0], row["kind"], row["node"], row["source"], row["role"]) for row in rows] == [
        ("solo", "base", "pm-2", "pm-1", "primary"),
        ("web", "base", "pm-2", "pm-2", "standby"),
        ("web", "base", "pm-1", "pm-1", "primary"),
    ]
    assert len(lab.ssh("pm-2", f"ls {FOLDER}/web*.img {FOLDER}/solo*.img.zst").split()) == 2
    lab.ok("vm.verify_backup", "--all")
    # Each gives a disk that the guest's checker takes; qcow2 is made where the backup lies.
    for number, row in enumerate(rows):
        image = tmp_path / f"image{number}.qcow2"
        lab.ok("vm.restore", row["id"].split(".")[0], "--backup", row["id"], "--to", str(image))
        raw = tmp_path / "raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
        assert tree(raw.read_bytes()) == row["sha256"]
        assert check(raw.read_bytes()).boots == 1
    lab.ok("vm.prune", "web", "--keep-last", "1", "--together")
    assert [row["id"] for row in listed(lab, "vm.backups", "web")] == [rows[2]["id"]]
    lab.ok("vm.rm", "web", "--yes")
    lab.ok("vm.rm", "solo", "--yes", "--backups")
    assert [row["id"] for row in listed(lab, "vm.backups")] == [rows[2]["id"]]
    lab.ok("vm.restore", "web", "--backup", rows[2]["id"], "--as", "web")
    lab.ok("vm.start", "web")
    assert guest.ticking(tick.counter, boots=2).boots == 2
