"""A guest's memory that libvirt keeps on one node, while its disk goes on on the other; and I/O that is suspended."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pmc import virsh
from pmc.facts.managed_save import FOLDER

from .conftest import Pmc, broken_invariants
from .rig import until
from .test_verify import fix

Clean = Callable[[], list[str]]


def found(lab: Pmc) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(lab.fab("pm.verify", "--json").stdout)
    return rows


def refused(lab: Pmc, *argv: str) -> str:
    done = lab.fab(*argv)
    assert done.returncode == 2, f"{argv}: {done.returncode} {done.stderr}"
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


@pytest.mark.long
@pytest.mark.fault(
    "a guest's memory is saved on its node (virsh managedsave), and its disk is used on the other node since; no start "
    "goes on with that memory"
)
def test_a_guest_never_goes_on_with_old_memory(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    tick = guest.ticking(20)
    lab.ssh("pm-1", "virsh managedsave web")
    (row,) = json.loads(lab.ok("vm.ls", "--json"))
    assert (row["state"], row["saved"]) == ("saved", ["pm-1"])
    said = lab.fab("vm.stop", "web")
    assert said.returncode == 0
    assert "web is off; its memory is saved on pm-1" in said.stderr
    assert "its memory is saved on pm-1" in refused(lab, "vm.start", "web", "--on", "pm-2")
    assert [(row["code"], row["node"]) for row in found(lab)] == [("DOMAIN_SAVED", "pm-1")]
    lab.ok("vm.start", "web", "--on", "pm-2", "--discard-saved")
    tick = guest.ticking(tick.counter, boots=2)
    assert (tick.boots, lab.ssh("pm-1", f"ls -A {FOLDER}")) == (2, "")
    for node in ("pm-1", "pm-2"):
        assert guest.checked(node).counter >= tick.counter
    # As a person does who goes round pmc: from then on what pm-2 keeps is old.
    lab.ssh("pm-2", "virsh managedsave web")
    lab.ok("vm.stop", "web")
    lab.ssh("pm-1", "drbdadm primary web && virsh start web")
    tick = guest.ticking(tick.counter, boots=3)
    assert "saved on pm-2" in refused(lab, "vm.mv", "web")
    (row,) = found(lab)
    assert (row["code"], row["remedy"]) == ("DOMAIN_SAVED", "on pm-2: virsh managedsave-remove web")
    fix(lab, row["remedy"])
    lab.ok("vm.mv", "web")
    tick = guest.ticking(tick.counter, boots=3)
    assert tick.boots == 3
    # Memory that comes after pmc has looked: with what it starts a VM by, the guest boots.
    lab.ssh("pm-2", f"virsh managedsave web; ls {FOLDER}/web.save; {virsh.start('web')}")
    assert guest.ticking(tick.counter, boots=4).boots == 4
    assert lab.ssh("pm-2", f"ls -A {FOLDER}") == ""
    for node in ("pm-1", "pm-2"):
        assert guest.checked(node).boots == 4
    assert broken_invariants(lab.state()) == []


def test_pm_init_finds_what_saves_memory_at_a_shutdown(lab: Pmc, clean: Clean) -> None:
    conf = "/etc/default/libvirt-guests"
    lab.ssh("pm-2", f"cp -p {conf} /root/kept; systemctl unmask libvirt-guests; systemctl enable libvirt-guests")
    try:
        assert "✓ saved memory: none when this node goes down (libvirt-guests: shutdown)" in lab.ok("pm.init", "pm-2")
        lab.ssh("pm-2", f"echo ON_SHUTDOWN=suspend >>{conf}")
        done = lab.fab("pm.init", "pm-2")
        assert done.returncode == 1
        assert "pm-2  ✗ saved memory: when this node goes down, libvirt-guests saves" in done.stdout
        assert "✓ saved memory: none" in lab.ok("pm.init", "pm-2", "--fix")
        assert lab.ssh("pm-2", f"grep ^ON_SHUTDOWN {conf}.before-pmc {conf} | tail -1").endswith("=shutdown\n")
    finally:
        lab.ssh("pm-2", f"systemctl disable libvirt-guests; mv /root/kept {conf}; rm -f {conf}.before-pmc; "
                        "systemctl mask libvirt-guests")  # fmt: skip


@pytest.mark.long
@pytest.mark.fault("a VM's I/O is suspended, in DRBD or in device-mapper: told, and nothing that would hang is begun")
def test_a_disk_that_stands_still(lab: Pmc, clean: Clean) -> None:
    guest = lab.add("web")
    guest.ticking(5)
    lab.ssh("pm-1", "drbdadm suspend-io web")
    try:
        still = guest.now().counter
        assert "I/O SUSPENDED (user)" in lab.ok("vm.ls")
        (row,) = found(lab)
        assert (row["code"], row["remedy"]) == ("DRBD_SUSPENDED", "on pm-1: drbdadm resume-io web")
        for argv in (("vm.mv", "web"), ("vm.stop", "web", "--force"), ("vm.rm", "web", "--yes"), ("vm.repair", "web")):
            assert "its I/O is suspended on pm-1 (user)" in refused(lab, *argv), argv
        assert guest.now().counter <= still + 1
    finally:
        fix(lab, "on pm-1: drbdadm resume-io web")
    tick = guest.ticking(still + 5)
    lab.ssh("pm-2", "dmsetup suspend vg-web")
    try:
        assert "pm-2: vg/web is suspended" in lab.ok("vm.ls")
        # DRBD may have given up this peer by now, which is told besides.
        (row,) = [each for each in found(lab) if each["code"] == "LV_BROKEN"]
        assert (row["node"], row["remedy"]) == ("pm-2", "on pm-2: dmsetup resume vg-web")
        assert "on pm-2 vg/web is suspended" in refused(lab, "vm.mv", "web")
    finally:
        fix(lab, "on pm-2: dmsetup resume vg-web")
    until(lambda: found(lab) == [], "nothing is found any more", 120)
    lab.ok("vm.mv", "web")
    assert guest.ticking(tick.counter + 5).boots == 1
    for node in ("pm-1", "pm-2"):
        assert guest.checked(node).boots == 1
    assert broken_invariants(lab.state()) == []
