"""What is full: a volume group, a snapshot, a backup directory; and a link that is cut during a backup. A clear error,
nothing under a final name, and a VM that did not notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lab import witness

from .conftest import Pmc, broken_invariants
from .rig import failed, instead, read_until, started, until

Clean = Callable[[], list[str]]
BACKUPS = "/var/lib/pmc/backups"


@pytest.fixture
def web(lab: Pmc, clean: Clean) -> Iterator[witness.Guest]:
    guest = lab.add("web", stride=15)  # these tests write further behind
    tick = guest.ticking(5)
    yield guest
    assert guest.ticking(tick.counter).boots == 1


def fails(lab: Pmc, *argv: str, status: int, says: str) -> None:
    """It fails in words, and leaves no backup, snapshot or unfinished file."""
    before = lab.ok("vm.backups", "--json")
    done = lab.fab(*argv)
    assert done.returncode == status, done.stderr
    assert says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert lab.ok("vm.backups", "--json") == before
    for node in ("pm-1", "pm-2"):
        assert lab.ssh(node, f"find {BACKUPS} -name '*.part*'") == ""
    assert broken_invariants(lab.state()) == []


@contextmanager
def small_folder(lab: Pmc, node: str, megabytes: int) -> Iterator[None]:
    lab.ssh(node, f"mount -t tmpfs -o size={megabytes}M,mode=700 tmpfs {BACKUPS}")
    try:
        yield
    finally:
        lab.ssh(node, f"umount {BACKUPS}")


@pytest.mark.long
@pytest.mark.fault("volume group full, snapshot overflow, backup directory full")
def test_what_is_full(lab: Pmc, web: witness.Guest) -> None:
    lab.ssh("pm-2", "lvcreate -qq -y -l 100%FREE -n filler vg")
    try:
        fails(lab, "vm.backup", "web", status=2, says="pm-2: a snapshot of web needs")
    finally:
        lab.ssh("pm-2", "lvremove -qq -y vg/filler")

    with small_folder(lab, "pm-2", 8):
        fails(lab, "vm.backup", "web", "--base", status=1, says=f"{BACKUPS} has")
    with small_folder(lab, "pm-2", 90):
        lab.ok("vm.backup", "web", "--base")
        # New data that does not compress, and no room for it.
        lab.ssh("pm-1", "dd if=/dev/urandom of=/dev/drbd1 bs=1M seek=50 count=4 oflag=direct status=none")
        lab.ssh("pm-2", f"dd if=/dev/zero of={BACKUPS}/filler bs=64K status=none; truncate -s -64K {BACKUPS}/filler")
        fails(lab, "vm.backup", "web", status=1, says="No space left on device")

    # More is written during the backup than the snapshot has room for.
    wait = 'touch /run/reading; until [ -e /run/written ]; do sleep 0.2; done; exec "$real" "$@"'
    with instead(lab, "pm-2", "python3", "--source /dev/vg/web.backup", wait):
        with started(lab, "vm.backup", "web", "--base") as process:
            until(lambda: "there" in lab.ssh("pm-2", "[ -e /run/reading ] && echo there || :"), "the backup reads")
            lab.ssh("pm-1", "dd if=/dev/urandom of=/dev/drbd1 bs=1M seek=30 count=30 oflag=direct status=none")
            lab.ssh("pm-2", "touch /run/written")
            said = read_until(process, "no line has this")
            assert failed(process.wait(300), said), said
        assert "overflowed" in said or "Input/output error" in said, said
    assert lab.ok("vm.backups", "web", "--json").strip() == "[]"
    assert broken_invariants(lab.state()) == []


@pytest.mark.long
@pytest.mark.fault("link cut during backup")
def test_the_link_is_cut_during_a_backup(lab: Pmc, web: witness.Guest) -> None:
    """The base lies on the node where the VM runs by then, so the delta comes over the link. It is cut when the nodes
    have connected and nothing has come yet: no timeout of a connection tells, and nobody has anything to send."""
    lab.ok("vm.backup", "web", "vm.mv", "web")
    wait = 'touch /run/reading; until [ -e /run/cut ]; do sleep 0.2; done; exec "$real" "$@"'
    with instead(lab, "pm-1", "dd", "if=/dev/vg/web.backup", wait), started(lab, "vm.backup", "web") as process:
        until(lambda: "there" in lab.ssh("pm-1", "[ -e /run/reading ] && echo there || :"), "the backup reads")
        lab.lab.cut("pm-1", "pm-2")
        try:
            lab.ssh("pm-1", "rm /run/reading; touch /run/cut")
            said = process.communicate(timeout=300)[1]
        finally:
            lab.lab.heal()
            lab.ssh("pm-1", "rm -f /run/cut")
    assert failed(process.returncode, said), said
    assert "Traceback" not in said
    # (The guest is not looked at before both sides have the same again: pm-1's is an older copy until then.)
    lab.ok("pm.ready_drbd")
    tick = web.now()
    assert web.ticking(tick.counter).boots == 1
    assert broken_invariants(lab.state()) == []
    for node in ("pm-1", "pm-2"):
        assert lab.ssh(node, f"find {BACKUPS} -name '*.part*'") == ""
        assert web.checked(node).counter >= tick.counter
    lab.ok("vm.backup", "web")
