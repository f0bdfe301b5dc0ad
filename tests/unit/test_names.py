"""Names that nodes tell: what no command takes is listed and never acted upon."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmc import lock_files, lvm_thin, names, virsh
from pmc.errors import Refused
from pmc.facts.drbd_files import Files
from pmc.facts.lvm_report import Group
from pmc.health import verify
from pmc.model import Domain, NodeState, Resource, ResourceFile, Volume
from pmc.node_state import node_state
from pmc.plans import add, evacuate
from pmc.plans import pm as plans
from pmc.units import GiB
from pmc.view.rows import pm_rows, vm_rows
from tests.unit.samples import SETTINGS, cells, cluster, documents, home
from tests.unit.test_verify import healthy

HOSTILE = ["../..a script", "..", "a/b", "--help", "-web", "web.backup", "\x1b[2Jweb", "a b", "7", "x" * 64, "", "all"]
FOREIGN = "Büro Server (alt) v1.0"


def told(*told_names: str) -> NodeState:
    """A node that says that it has all these, as everything."""
    answers = {
        "hostname": "pm-1",
        "drbd version": "8.4.11",
        "libvirt": {name: Domain(name, "running", GiB, 1) for name in told_names},
        "saved memory": frozenset(told_names),
        "drbd status": {name: Resource(name, 7, "Primary", "UpToDate") for name in told_names},
        "drbd files": Files({name: ResourceFile(name, 8, "/dev/vg/x", ("pm-1",), (7805,)) for name in told_names}),
        "volumes": (Group(GiB, GiB), {name: Volume(name, "vg", GiB) for name in told_names}),
    }
    return node_state("pm-1", SETTINGS, answers)


def test_what_cannot_be_a_name_reaches_no_verb() -> None:
    node = told(*HOSTILE, FOREIGN, "3cx")
    for kind in (node.domains, node.resources, node.files):
        assert set(kind) == {"3cx"}
    assert node.saved == {"3cx"}
    assert set(node.volumes) == {"3cx", "web.backup", "7", "x" * 64, "all"}, "LVM may have these"
    state = cluster(node)
    assert state.vm_names() == ["3cx"]
    steps = str(plans.ready_all(["pm-1"], state, SETTINGS).plans)
    assert not any(name in steps for name in HOSTILE if len(name) > 3)
    left = evacuate.move_all("pm-1", cluster(replace(node, domains={})), SETTINGS)
    assert left.leaving == ()
    assert left.staying[FOREIGN] == "is not pmc's"


@pytest.mark.parametrize("name", [
    "00000000-0000-4000-8000-000000000001", "0000000000004000800000000000000A", "00-00-00-00-000040008000000000000001",
    "0-0000000000004000800000000000-001", "000000000000400080000000000000-01--",
])  # fmt: skip
def test_a_uuid_is_no_name_however_it_is_spelled(name: str) -> None:
    """libvirt passes over dashes wherever they stand, so virsh would act on another domain."""
    assert names.why_not(name) == "virsh takes it for the id or the UUID of another domain"
    assert told(name).domains == {}
    assert names.why_not(name.replace("4", "g")) == names.why_not(f"{name}0") == ""


def test_they_are_listed_in_one_line_each_and_their_numbers_are_taken() -> None:
    node = told(*HOSTILE, FOREIGN)
    rows = {str(row["vm"]): row for row in cells(vm_rows(cluster(node)))}
    assert len(rows) == len(HOSTILE) + 1
    assert rows[FOREIGN]["state"] == "running"
    assert rows[FOREIGN]["on"] == "pm-1"
    assert all(name.isprintable() for name in rows)
    assert documents(pm_rows(cluster(node)))[0]["running"] == len(HOSTILE) + 1
    assert (set(node.minors), set(node.file_ports)) == ({7, 8}, {7805})
    facts = replace(healthy(), state=cluster(node))
    found = verify.findings(facts)
    assert {"NAME_FOREIGN", "DOMAIN_NO_DRBD"} <= {each.code for each in found}
    assert all(each.text.isprintable() and each.remedy.isprintable() for each in found)
    assert not any("fab vm.rm" in each.remedy for each in found)


def test_a_new_vm_takes_no_name_of_what_is_not_pmcs() -> None:
    node = replace(home("pm-1", active=False, primary=False), foreign_resources={"pvc-1": Resource("pvc-1")})
    with pytest.raises(Refused, match="something on pm-1 has this name"):
        add.check_cluster("pvc-1", cluster(node), SETTINGS)


@pytest.mark.parametrize(("host", "odd"), [("PM_1.example.org", False), ("-x", True), ("a b", True), ("../x", True)])
def test_hosts_in_files_are_names(host: str, odd: bool) -> None:
    file = ResourceFile("web", 1, "/dev/vg/web", (host,), (7800,))
    node = node_state("pm-1", SETTINGS, {"drbd files": Files({"web": file})})
    assert bool(node.odd) is odd
    assert bool(node.files) is not odd


def test_a_disk_in_a_file_is_a_path() -> None:
    for disk in ("relative", "/dev/a b", "/dev/\x1b[2J", "/" + "x" * 300):
        file = ResourceFile("web", 1, disk, ("pm-1",), (7800,))
        node = node_state("pm-1", SETTINGS, {"drbd files": Files({"web": file})})
        assert node.files == {}
        assert str(node.odd[0]).isprintable()


@given(st.text(max_size=80))
def test_a_name_that_is_taken_is_safe_as_an_argument_and_as_a_file(name: str) -> None:
    if not names.why_not(name):
        assert name.isascii()
        assert not name.startswith("-")
        assert not set(name) & set("/. \n'\"\\*?[]$")
        assert not name.isdigit()


def test_a_domain_whose_name_ends_in_a_quote() -> None:
    text = "Domain: 'it''\n  state.state=1\n  balloon.maximum=1024\n  vcpu.maximum=1\n"
    assert set(virsh.parse_domstats(text)) == {"it'"}


def test_no_vm_has_the_file_of_another_lock() -> None:
    of_a_pool = re.findall(rf"{lock_files.FOLDER}/([\w-]+)\.lock", lvm_thin._SCRIPT)
    assert of_a_pool == [lock_files.METADATA]
    for name in lock_files.WORDS:
        assert names.why_not(name).endswith("use this name themselves")
