"""What others on a node or on its networks can see: of the secret, of the replication, of a guest's memory."""

from __future__ import annotations

import base64
import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pmc import settings
from pmc.cluster import Cluster
from pmc.command import bash
from pmc.errors import CommandFailed
from pmc.plans import add

from .conftest import Pmc, broken_invariants

Clean = Callable[[], list[str]]
ADDRESS = {"pm-1": "10.77.0.1", "pm-2": "10.77.0.2"}

# Runs on a node as long as /run/watching is there; then each command line that it saw with a secret is in /run/watched.
WATCHER = """
import os, re
seen = set()
while os.path.exists("/run/watching"):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = open(f"/proc/{pid}/cmdline", "rb").read()
        except OSError:
            continue
        if re.search(b"shared-secret[ =]|[0-9a-f]{48}", line):
            seen.add(line.replace(b"\\0", b" "))
open("/run/watched.part", "wb").write(b"\\n".join(seen))
os.rename("/run/watched.part", "/run/watched")
"""


def watch(lab: Pmc, node: str) -> None:
    program = base64.b64encode(WATCHER.encode()).decode()
    lab.ssh(node, f"rm -f /run/watched; touch /run/watching; echo {program} | base64 -d >/run/watch.py")
    lab.ssh(node, "setsid python3 /run/watch.py </dev/null >/dev/null 2>&1 &")


def watched(lab: Pmc, node: str) -> list[str]:
    waited = "rm /run/watching; for i in $(seq 300); do [ -e /run/watched ] && break; sleep 0.1; done; "
    return lab.ssh(node, f"{waited}cat /run/watched; rm -f /run/watched").splitlines()


@pytest.mark.long
def test_secrets_addresses_and_a_tunnelled_migration(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    for node in ADDRESS:
        watch(lab, node)
    guest = lab.add("web")
    seen = {node: watched(lab, node) for node in ADDRESS}
    files = {node: lab.ssh(node, "cat /etc/drbd.d/web.res") for node in ADDRESS}
    found = {re.findall(r'shared-secret "(\w{48})";', text)[0] for text in files.values()}
    assert len(found) == 1, "both sides know the same secret"
    secret = found.pop()
    for node, address in ADDRESS.items():
        # drbdadm gives it to drbdsetup so (SECURITY.md); nothing else may.
        assert [line for line in seen[node] if not re.match(r"(/\S+/)?drbdsetup(-84)? ", line)] == []
        assert lab.ssh(node, "stat -c %a /etc/drbd.d/web.res").strip() == "600"
        logs = f"journalctl --no-pager | grep -cF {secret}; grep -rlsF {secret} /var/log /var/tmp /tmp /run; :"
        assert lab.ssh(node, logs).split() == ["0"]
        sockets = lab.ssh(node, "ss -Htan | awk '{print $4}' | grep ':78[0-9][0-9]$'").split()
        assert {end.rpartition(":")[0] for end in sockets} == {address}, "DRBD's ports, on the replication address only"
    # drbdadm says what it calls when that fails, with all options: shown here by a dry run of its own.
    with Cluster(settings.load(str(lab.conf))) as cluster, pytest.raises(CommandFailed) as caught:
        cluster.nodes["pm-1"].run(
            bash("drbdadm -d down web >&2; drbdadm -d up web >&2; cat /etc/drbd.d/web.res >&2; exit 1")
        )
    assert "--shared-secret=***" in caught.value.stderr
    assert "shared-secret ***" in caught.value.stderr
    assert secret not in caught.value.stderr

    tick = guest.ticking(5)
    conf = tmp_path / "pmc.conf"
    conf.write_text('migration = "tunnelled"\n' + lab.conf.read_text())
    assert "--tunnelled" in lab.ok("vm.mv", "web", "--conf", str(conf), "--dry-run")
    moved = lab.fab("vm.mv", "web", "--conf", str(conf))
    assert moved.returncode == 0, moved.stderr
    assert "web runs on pm-2" in moved.stderr
    assert guest.ticking(tick.counter).boots == 1
    assert broken_invariants(lab.state()) == []


def test_a_migration_is_taken_on_the_replication_address_only(lab: Pmc, clean: Clean) -> None:
    """By itself QEMU would listen on all that the node has, and take a guest's memory from whoever comes first."""
    guest = lab.add("web")
    tick = guest.ticking(5)
    watch = "while [ -e /run/watching ]; do ss -Hltn; done >/run/listening"
    lab.ssh("pm-2", f"touch /run/watching; setsid bash -c '{watch}' </dev/null >/dev/null 2>&1 &")
    lab.ok("vm.mv", "web")
    lines = lab.ssh("pm-2", "rm /run/watching; cat /run/listening; rm /run/listening").splitlines()
    ends = {line.split()[3] for line in lines if re.search(r":49(15[2-9]|1[6-9].|20.|21[0-5])$", line.split()[3])}
    assert {end.rpartition(":")[0] for end in ends} == {ADDRESS["pm-2"]}, ends
    assert guest.ticking(tick.counter).boots == 1
    # Its console moved with it: a socket that root reaches, no port, and nothing for the node's other accounts.
    assert not [line for line in lines if re.search(r":59\d\d$", line.split()[3])]
    (console,) = re.findall(r"/\S+vnc\S*", lab.ssh("pm-2", "ss -Hlx"))
    assert lab.ssh("pm-2", f"test -S {console}; runuser -u nobody -- test -r {console} || echo closed") == "closed\n"


def test_an_image_of_qcow2_becomes_the_disk_and_one_that_names_another_file_does_not(
    lab: Pmc, clean: Clean, tmp_path: Path
) -> None:
    """qemu-img runs within its bounds on a node; and what was put in the place of the copy there is not opened."""
    image = tmp_path / "tick.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", lab.tick_image, image], check=True)
    assert lab.add("web", "--size", "64M", "--image", str(image)).ticking(5).boots == 1
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 512, 11, 16, 64 << 20) + bytes(472) + b"/etc/shadow"
    lab.ssh("pm-1", f"echo {base64.b64encode(head).decode()} | base64 -d >/root/odd; truncate -s 64M /root/disk")
    with Cluster(settings.load(str(lab.conf))) as cluster, pytest.raises(CommandFailed, match="is not the image"):
        cluster.nodes["pm-1"].run(add.unpack("/root/odd", "/root/disk", 64 << 20))
    assert lab.ssh("pm-1", "tr -d '\\0' </root/disk | wc -c; rm /root/odd /root/disk").split() == ["0"]
