"""What other tools and other people leave on real nodes, all of it at once: it costs nobody a VM."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pmc.cluster import Cluster
from pmc.command import Query, bash
from pmc.facts import drbd_files
from pmc.settings import load
from tests.unit.samples import data

from .conftest import Pmc

Clean = Callable[[], list[str]]
NODES = ("pm-1", "pm-2")
OTHER = "Büro Server (alt) v1.0"
# A resource that LINSTOR has, of the next minor and port; and one more in a form that pmc does not write.
LINSTOR = """resource "pvc-1" { net { shared-secret "hunter2"; }
on pm-1 { address 10.77.0.1:7801; volume 0 { device minor 2; disk /dev/vg/x; meta-disk internal; } }
on pm-2 { address 10.77.0.2:7801; volume 0 { device minor 2; disk /dev/vg/x; meta-disk internal; } } }
"""
REPORTS = (
    'report { compact_output=1 output_format="json" prefixes=1 columns_as_rows=1 separator="|" list_item_separator=";" '
    'binary_values_as_numeric=1 aligned=0 }\nlog { report_command_log=1 }\nglobal { units="g" suffix=1 }'
)


def write(lab: Pmc, node: str, path: str, text: str) -> None:
    lab.ssh(node, f"mkdir -p $(dirname {path}); cat >{path} <<'EOF'\n{text}\nEOF")


@contextmanager
def odd(lab: Pmc) -> Iterator[None]:
    """All nodes have it; what a login script prints ends without a newline."""
    nfs = data("drbd-handwritten-quoted-device.res").replace("drbd7", "drbd3").replace("7789", "7802")
    domain = f"<domain type='qemu'><name>{OTHER}</name><memory>16384</memory><os><type>hvm</type></os></domain>"
    try:
        for node in NODES:
            write(lab, node, "/etc/drbd.d/nfs.res", nfs)
            write(lab, node, "/etc/drbd.d/linstor-resources.res", data("drbd-published-linstor-include-only.res"))
            write(lab, node, "/var/lib/linstor.d/pvc-1.res", LINSTOR)
            write(lab, node, "/etc/drbd.d/skipped.res", data("drbd-handwritten-skip-only.res"))
            lab.ssh(node, f"cd /etc/lvm; cp -p lvmlocal.conf kept; cat >>lvmlocal.conf <<'EOF'\n{REPORTS}\nEOF")
            write(lab, node, "/root/other.xml", domain)
            lab.ssh(node, "virsh define /root/other.xml")
            lab.ssh(node, "cd /root; touch .bashrc; cp -p .bashrc kept; sed '1i printf Welcome' kept >.bashrc; "
                    "[ -s .bashrc ] || echo printf Welcome >.bashrc")  # fmt: skip
        yield
    finally:
        for node in NODES:
            lab.ssh(node, "mv /root/kept /root/.bashrc; mv /etc/lvm/kept /etc/lvm/lvmlocal.conf")
            lab.ssh(node, "cd /etc/drbd.d; rm -f nfs.res linstor-resources.res skipped.res bad.res")
            lab.ssh(node, f"rm -r /var/lib/linstor.d /root/other.xml; virsh undefine '{OTHER}'")


@pytest.mark.long
def test_what_others_leave_on_nodes_costs_nobody_a_vm(lab: Pmc, clean: Clean, tmp_path: Path) -> None:
    guest = lab.add("web")
    tick = guest.ticking(5)
    with odd(lab):
        listed = lab.fab("pm.ls")
        assert (listed.returncode, listed.stderr.count("a login script prints 'Welcome'")) == (0, 2), listed.stderr
        rows = {row["vm"]: row for row in json.loads(lab.ok("vm.ls", "--json"))}
        assert rows["web"]["state"] == "running"
        assert OTHER in rows
        told = lab.fab("pm.init", "pm-1")
        assert told.stdout.count("✗") == 1, told.stdout
        assert "✗ login script: a login script prints 'Welcome'" in told.stdout
        codes = {row["code"] for row in json.loads(lab.fab("pm.verify", "--json").stdout)}
        assert {"LOGIN_PRINTS", "DOMAIN_NO_DRBD"} <= codes
        assert "NODE_TOOL" not in codes
        refused = lab.fab("vm.mv", "web")
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert "pm-2: a login script there prints 'Welcome'" in refused.stderr
        lab.ssh("pm-2", "cd /root; cp .bashrc loud; cp kept .bashrc")
        lab.ok("vm.mv", "web")  # pm-1's still prints: nobody logs in there
        lab.ssh("pm-2", "cd /root; mv loud .bashrc")
        lab.ok("vm.backup", "web")
        [backup] = json.loads(lab.ok("vm.backups", "web", "--json"))
        lab.ok("vm.restore", "web", "--backup", backup["id"], "--to", str(tmp_path / "web.raw"))
        new = ("--primary", "pm-1", "--secondary", "pm-2", "--memory", "16M", "--size", "64M")
        planned = lab.ok("vm.add", "db", *new, "--image", str(lab.tick_image), "--dry-run")
        assert "device /dev/drbd4 minor 4;" in planned, "those of the others are taken"
        assert "10.77.0.1:7803;" in planned
        # What drbdadm does not take either: it is named, and all is listed.
        write(lab, "pm-2", "/etc/drbd.d/bad.res", 'resource bad { net { shared-secret "hunter2; } }')
        found = lab.fab("pm.verify", "--json").stdout
        assert ("FILE_UNREAD", "pm-2", "bad") in {(row["code"], row["node"], row["vm"]) for row in json.loads(found)}
        assert "hunter2" not in found
        assert lab.fab("pm.ls").returncode == 0
        assert {row["vm"]: row for row in json.loads(lab.ok("vm.ls", "--json"))}["web"]["state"] == "running"
    assert guest.ticking(tick.counter).boots == 1


@pytest.mark.long
def test_files_are_read_as_drbdadm_reads_them(lab: Pmc) -> None:
    """Each form of drbd.conf(5), with the node's own bash and sed."""
    write(lab, "pm-1", "/root/odd/drbd.d/every.res", data("drbd-handwritten-every-form.res"))
    with Cluster(load(str(lab.conf))) as cluster:
        query = Query(bash(drbd_files.READ, "/root/odd/drbd.d", drbd_files.CUT), drbd_files.parse)
        found = cluster.nodes["pm-1"].ask(query)[0]
    lab.ssh("pm-1", "rm -r /root/odd")
    here = drbd_files.parse(f"==\nevery.res\n{data('drbd-handwritten-every-form.res')}")
    assert found == here
