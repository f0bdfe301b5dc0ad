"""A guest whose agent answers: its file system is frozen while the snapshot is taken, and never for longer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Pmc
from .rig import die_at, until

FOLDER = "/var/lib/libvirt/agent"
AGENT = (
    f"--boot kernel={FOLDER}/vmlinuz,initrd={FOLDER}/initrd,kernel_args='console=ttyS0 quiet' "
    "--channel unix,target.type=virtio,target.name=org.qemu.guest_agent.0"
)


def asked(lab: Pmc, what: str) -> str:
    """The agent's answer; empty when it has none (yet)."""
    command = f"virsh qemu-agent-command web '{json.dumps({'execute': what})}' --timeout 20 2>/dev/null || :"
    return str(json.loads(lab.ssh("pm-1", command).strip() or "{}").get("return", ""))


def tool(name: str, *argv: str) -> str:
    return subprocess.run([f"/sbin/{name}", *argv], capture_output=True, text=True, check=True).stdout


class Image:
    """The disk of a backup, as a file here."""

    def __init__(self, lab: Pmc, backup: str, folder: Path) -> None:
        self.path = folder / f"{backup}.img"
        lab.ok("vm.restore", "web", "--backup", backup, "--to", str(self.path))

    @property
    def whole(self) -> bool:
        """Nothing is left in the journal that a mount would have to play back (dumpe2fs(8), needs_recovery)."""
        tool("e2fsck", "-fn", str(self.path))
        return "needs_recovery" not in tool("dumpe2fs", "-h", str(self.path))

    @property
    def number(self) -> int:
        """The guest's."""
        return int(tool("debugfs", "-R", "cat /number", str(self.path)))


@pytest.mark.long
@pytest.mark.timeout(2400)  # Linux in a guest of an emulated node: a minute to start, many on a busy machine
@pytest.mark.fault("manager killed (-9) while the guest's file systems are frozen")
def test_a_file_system_is_frozen_for_the_snapshot(lab: Pmc, clean: Callable[[], list[str]], tmp_path: Path) -> None:
    lab.ssh("pm-1", f"bash -s {FOLDER} <<'EOF'\n{Path(__file__).with_name('linux_guest.sh').read_text()}EOF")
    disk = tmp_path / "disk.img"
    tool("mke2fs", "-q", "-t", "ext4", str(disk), "24M")
    what = ("--memory", "96M", "--image", str(disk), "--virt-install", AGENT)
    lab.ok("vm.add", "web", "--primary", "pm-1", "--secondary", "pm-2", *what)
    until(lambda: asked(lab, "guest-fsfreeze-status") == "thawed", "the guest's agent answers", 1500)
    lab.ok("vm.backup", "web")
    lab.ok("vm.backup", "web", "--base", "--no-freeze")
    # A manager that dies here cannot thaw it: the node does.
    assert die_at(lab, "take the snapshot", "vm.backup", "web")
    until(lambda: asked(lab, "guest-fsfreeze-status") == "thawed", "the node has thawed the guest")
    lab.ok("vm.backup", "web")
    assert asked(lab, "guest-fsfreeze-status") == "thawed"

    rows = json.loads(lab.ok("vm.backups", "web", "--json"))
    assert [row["consistency"] for row in rows] == ["frozen", "crash", "frozen"]
    frozen, crash, later = (Image(lab, row["id"], tmp_path) for row in rows)
    assert (frozen.whole, later.whole) == (True, True)
    assert "needs_recovery" in tool("dumpe2fs", "-h", str(crash.path))
    assert frozen.number < later.number, "it went on to write after it was thawed"
