"""The whole life of a VM on real nodes, each step checked by the guest itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Pmc, broken_invariants
from .rig import until

Clean = Callable[[], list[str]]


def listed(lab: Pmc, task: str, *argv: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(lab.ok(task, *argv, "--json"))
    return rows


def test_migrates_there_and_back_under_writes(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    """Live twice, and then as pmc does by itself with an emulated guest: standing still."""
    still = tmp_path / "pmc.conf"
    still.write_text(lab.conf.read_text().replace('migration_emulated = "live"', 'migration_emulated = "paused"'))
    guest = lab.add("web")
    tick = guest.ticking(20)
    row = listed(lab, "vm.ls")[0]
    assert (row["on"], row["secondary"], row["connection"]) == ("pm-1", "pm-2", "Connected")
    for target, conf in (("pm-2", lab.conf), ("pm-1", lab.conf), ("pm-2", still)):
        done = lab.fab("vm.mv", "web", "--conf", str(conf))
        assert done.returncode == 0, done.stderr
        assert ("standing still as it does not run on KVM" in done.stderr) is (conf == still)
        assert re.search(rf"web runs on {target}; the guest stood still for \d+\.\d\d s", done.stderr), done.stderr
        assert broken_invariants(lab.state()) == []
        before, tick = tick, guest.ticking(tick.counter + 20)
        assert tick.boots == before.boots == 1
        # Each side's volume is whole: every write was acknowledged by both.
        for node in ("pm-1", "pm-2"):
            assert guest.checked(node).counter >= before.counter


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
def test_the_second_copy_is_made_while_the_vm_runs(lab: Pmc, clean: Clean) -> None:
    """What was on the secondary's disk before is gone, though pmc did not zero it."""
    old = "dd if=/dev/zero bs=1M count=64 | tr '\\0' x | dd of=/dev/vg/old bs=1M oflag=direct conv=fsync"
    lab.ssh("pm-2", f"lvcreate -qq -y -W n -L 72M -n old vg && {old}; lvremove -qq -y vg/old")
    guest = lab.add("web", "--size", "64M", "--image", str(lab.tick_image), "--sync", "full")
    tick = guest.ticking(10)
    until(lambda: lab.state().nodes["pm-1"].resources["web"].healthy, "both sides are up to date", 300)
    guest.whole("pm-1", "pm-2")
    lab.ok("vm.mv", "web")
    assert guest.ticking(tick.counter).boots == 1
    assert guest.checked("pm-2").boots == 1


@pytest.mark.long
def test_one_node_and_a_reused_volume(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("solo", secondary="", stride=15)  # its disk is a little larger than the copy
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
