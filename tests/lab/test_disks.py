"""A disk that lies, and a backup directory that takes nothing, under a running guest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from .conftest import Pmc, broken_invariants
from .rig import BACKUPS
from .test_repair import VOLUME, equal

Clean = Callable[[], list[str]]
LONG = 600.0


@contextmanager
def remapped(lab: Pmc, node: str, table: str) -> Iterator[None]:
    """Another table is under the volume of web on that node, of this shell text with $n (sectors), $dev and $off."""
    change = f"dmsetup suspend --noflush {VOLUME}; dmsetup load {VOLUME}"
    lab.ssh(node, f"modprobe -a dm-delay dm-flakey; dmsetup table {VOLUME} >/root/table")
    lab.ssh(node, f'read -r _ n _ dev off </root/table; echo "{table}" | {{ {change}; }}; dmsetup resume {VOLUME}')
    try:
        yield
    finally:
        lab.ssh(node, f"{change} </root/table; dmsetup resume {VOLUME}")


def found(lab: Pmc, *flags: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(lab.fab("pm.verify", "--json", *flags).stdout)
    return rows


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
@pytest.mark.fault("backup directory that cannot be written to (chattr +i)")
def test_a_backup_directory_that_cannot_be_written(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5, seconds=LONG)
    lab.ssh("pm-2", f"chattr +i {BACKUPS}")
    try:
        done = lab.fab("vm.backup", "web")
        print(done.stderr)
        assert done.returncode in (1, 2), done.stderr
        assert "pm-2" in done.stderr
        assert "Operation not permitted" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        lab.ssh("pm-2", f"chattr -i {BACKUPS}")
    assert lab.ok("vm.backups", "web", "--json").strip() == "[]"
    assert broken_invariants(lab.state()) == []
    assert guest.ticking(tick.counter, seconds=LONG).boots == 1
