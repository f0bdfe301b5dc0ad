"""pm.verify: a healthy cluster has no finding; each thing that is wrong has its own, and no other."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pmc import lvm
from pmc.backup import Backup, Stored, new_id
from pmc.drbd_generations import Generation
from pmc.errors import Refused
from pmc.health import verify
from pmc.health.cluster_facts import Facts
from pmc.health.finding import CODES, NOTE, Finding, grave
from pmc.health.node_lvm import Filter
from pmc.health.questions import DomainFile, Extra, FileFacts
from pmc.model import ClusterState, Disk, Domain, Odd, Resource, ResourceFile, Running, Volume
from pmc.plans import close_migration, migrate, remove_steps, repair, requirements, stop
from pmc.settings import Verify
from pmc.tasks.verify import _about
from pmc.units import GiB, MiB
from tests.sim.fake import World, done
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, alone, changed, cluster, home, node, running, stopped, with_resource
from tests.unit.stories import with_stale_copy

SAID_OF_ALL = {"protocol": "C", "allow-two-primaries": "no", "after-sb-0pri": "disconnect"}
SECRET = {"cram-hmac-alg": "sha256", "shared-secret": "yes"}
SAID = {**SAID_OF_ALL, **SECRET}  # of pmc's own files
ADDRESSES = {"pm-1": "10.0.0.1", "pm-2": "10.0.0.2"}
ASLEEP = Domain("web", "shut off", GiB, 1)
FILTER = Filter(("r|^/dev/drbd|",), True)
NOW = 1_800_000_000.0
Change = Callable[[Facts], Facts]


def extra(*vms: str, **changes: Any) -> Extra:
    """What a healthy node says that holds these VMs."""
    usual = Extra(
        domains={vm: DomainFile("same", (f"52:54:00:77:00:{number:02}",)) for number, vm in enumerate(vms, 1)},
        files={vm: FileFacts("600", "same", SAID, ADDRESSES) for vm in vms},
        filter=FILTER,
        clock=NOW,
        asked=(NOW, NOW),
        folder_used=5.0,
    )
    return replace(usual, **changes)


def healthy(state: ClusterState | None = None) -> Facts:
    """Three nodes; web runs on pm-1 with its second copy on pm-2."""
    state = state or running()
    extras = {name: extra(*(["web"] if "web" in seen.files else [])) for name, seen in state.nodes.items()}
    return Facts(state, extras, SETTINGS, NOW)


def codes(facts: Facts) -> set[str]:
    return {finding.code for finding in verify.findings(facts)}


def on(name: str, **changes: Any) -> Change:
    """The node's state differs."""
    return lambda facts: replace(facts, state=changed(facts.state, name, **changes))


def asked(name: str, **changes: Any) -> Change:
    """The node's answers to the further questions differ."""
    return lambda facts: replace(facts, extras={**facts.extras, name: replace(facts.extras[name], **changes)})


def drbd_on(name: str, **changes: Any) -> Change:
    return lambda facts: replace(facts, state=with_resource(facts.state, name, **changes))


def file_on(name: str, **changes: Any) -> Change:
    return lambda facts: asked(name, files={"web": replace(facts.extras[name].files["web"], **changes)})(facts)


def domain_on(name: str, **changes: Any) -> Change:
    return lambda facts: asked(name, domains={"web": replace(facts.extras[name].domains["web"], **changes)})(facts)


def volumes(name: str, *more: Volume) -> Change:
    return lambda facts: on(name, volumes={**facts.state.nodes[name].volumes, **{v.name: v for v in more}})(facts)


def later(out_of_sync: int) -> Change:
    """The second look at pm-2's side."""

    def change(facts: Facts) -> Facts:
        now = facts.state.nodes["pm-2"].resources["web"]
        return replace(facts, later={"pm-2": {"web": replace(now, out_of_sync=out_of_sync)}})

    return change


def twice() -> Change:
    return on("pm-2", domains={"web": Domain("web", "running", GiB, 1)})


def thin(**changes: Any) -> Change:
    """New volumes are thin."""
    return lambda facts: replace(facts, settings=replace(facts.settings, volumes="thin", **changes))


def settings(**changes: Any) -> Change:
    return lambda facts: replace(facts, settings=replace(facts.settings, verify=Verify(**changes)))


def backed_up(days: float, at: str = "pm-2", **stored: Any) -> Change:
    """By its id; what the manifest says is not looked at."""
    from datetime import UTC, datetime

    time = "2099-01-01T00:00:00+00:00"
    made = Backup(
        new_id("web", "base", datetime.fromtimestamp(NOW - days * 86400, UTC)),
        "web",
        "base",
        time,
        GiB,
        "/dev/drbd1",
        ("pm-1", "pm-2"),
        "pm-2",
        "standby",
        "crash",
        "<domain/>",
    )
    usual: dict[str, Any] = {} if "damaged" in stored else {"verified": "2026-01-02T03:00:00Z"}
    return asked(at, backups=(Stored(at, made.id, GiB, made, **(usual | stored)),))


def second_vm(**changes: Any) -> Change:
    """mail runs on pm-3 alone."""
    file = ResourceFile("mail", 2, "/dev/vg/mail", ("pm-3",), (7801,))
    usual: dict[str, Any] = {
        "domains": {"mail": Domain("mail", "running", GiB, 1)},
        "resources": {"mail": Resource("mail", 2, "Primary", "UpToDate", size=GiB)},
        "files": {"mail": replace(file, **changes)},
        "volumes": {"mail": Volume("mail", "vg", GiB, ("pmc",), attributes="-wi-ao----")},
    }
    if "minor" in changes:
        usual["resources"] = {"mail": replace(usual["resources"]["mail"], minor=changes["minor"])}
    facts = FileFacts("600", "same", SAID, {"pm-3": "10.0.0.3"})
    domain = DomainFile("same", ("52:54:00:77:00:09",))
    return lambda given: asked("pm-3", domains={"mail": domain}, files={"mail": facts})(on("pm-3", **usual)(given))


def nothing_of_web(facts: Facts) -> Facts:
    for name in ("pm-1", "pm-2"):
        facts = on(name, domains={}, resources={}, files={}, volumes={})(facts)
        facts = asked(name, domains={}, files={})(facts)
    return facts


def without_domains(facts: Facts) -> Facts:
    for name in ("pm-1", "pm-2"):
        facts = asked(name, domains={})(on(name, domains={})(drbd_on(name, role="Secondary")(facts)))
    return facts


def restoring(facts: Facts) -> Facts:
    """The node with the snapshot may be away: the mark on the other tells."""
    disk = facts.state.nodes["pm-2"].volumes["web"]
    return volumes("pm-2", replace(disk, tags=(*disk.tags, lvm.RESTORING)))(facts)


def lettered(name: str, attributes: str) -> Change:
    """The node's volume of web has this lv_attr."""
    return lambda facts: volumes(name, replace(facts.state.nodes[name].volumes["web"], attributes=attributes))(facts)


def several(state: ClusterState) -> ClusterState:
    """The resource of web has two volumes."""
    for name in ("pm-1", "pm-2"):
        files = {"web": replace(state.nodes[name].files["web"], more_minors=(9,))}
        state = changed(with_resource(state, name, more_minors=(9,)), name, files=files)
    return state


SNAPSHOT = Volume("web.backup", "vg", GiB, ("pmc",), "web", "swi-a-s---", 1.0)
UNTAGGED = Volume("web.mine", "vg", GiB, (), "web", "swi-a-s---", 1.0)
BASE_KEPT = Volume(
    "web.base", "vg", GiB, ("pmc", "pmc.of.web.20260101T000000Z.base"), "web", "Vri-a-tz--", 1.0, pool="pool"
)
POOL = Volume("pool", "vg", 50 * GiB, (), "", "twi-aotz--", 10.0, 5.0)
IN_POOL = Volume("web", "vg", 10 * GiB + 8 * MiB, ("pmc",), "", "Vwi-aotz--", 50.0, pool="pool")
EACH_POOL: tuple[Change, ...] = tuple(volumes(f"pm-{number}", POOL) for number in (1, 2, 3))
SPLIT = {"pm-1": Generation(0xA0, 0xB0, (0xC0, 0)), "pm-2": Generation(0xD0, 0xB0, (0xC0, 0))}
BEHIND = {"pm-1": Generation(0xA0, 0xD0, (0xC0, 0)), "pm-2": Generation(0xD0, 0, (0xC0, 0))}
UNRELATED = {"pm-1": Generation(0x20, 0x10), "pm-2": Generation(0x70, 0x60)}
APART: tuple[Change, ...] = tuple(
    drbd_on(name, connection="StandAlone", replication="Off", peer_disk="DUnknown") for name in ("pm-1", "pm-2")
)
WAITING = {"connection": "WFConnection", "replication": "Off", "peer_disk": "DUnknown"}

ELSEWHERE = home("pm-3", active=False, primary=False, files={
    "web": ResourceFile("web", 1, "/dev/vg/web", ("pm-1", "pm-3"), (7800,))})  # fmt: skip
CASES: list[tuple[str, tuple[Change, ...]]] = [
    # healthy, one way or another
    ("", ()),
    ("", (second_vm(),)),
    ("", (volumes("pm-1", UNTAGGED, Volume("data", "vg", GiB)),)),
    ("", (volumes("pm-1", replace(SNAPSHOT, attributes="swi-aos---")),)),
    ("", (settings(backup_max_age_days=7), backed_up(6.9))),
    ("", (backed_up(1000),)),
    ("", (volumes("pm-1", Volume("thin", "vg", GiB, (), "", "Vwi-a-tz--", 100.0)),)),
    ("", (thin(), *EACH_POOL)),
    ("", (volumes("pm-2", BASE_KEPT), volumes("pm-1", replace(BASE_KEPT, origin="")))),
    ("", (volumes("pm-3", replace(POOL, data_percent=80.0, metadata_percent=80.0)),)),
    ("", (volumes("pm-3", replace(POOL, attributes="twi---tz--")),)),  # nothing of ours is in it
    ("", (thin(), *EACH_POOL, on("pm-3", group_free=0))),  # the pool has it all
    ("", (volumes("pm-2", replace(SNAPSHOT, attributes="Vri-aotz--")),)),
    ("", (drbd_on("pm-1", replication="VerifyS", out_of_sync=4096),)),
    ("", (asked("pm-3", domains={"his": DomainFile("x", (), autostart=True)}),)),
    # nodes
    ("NODE_DOWN", (lambda facts: replace(facts, state=cluster(facts.state.nodes["pm-1"], node("pm-2"), node("pm-3"))),
                   on("pm-2", down="no ssh within 10 s"), asked("pm-2", filter=None, clock=None),
                   drbd_on("pm-1", **WAITING))),
    ("NODE_TOOL", (on("pm-1", failures={"libvirt": "no"}, domains={}),)),
    ("NODE_TOOL", (on("pm-1", failures={"drbd status": "no"}, resources={}),)),
    ("NODE_TOOL", (on("pm-1", failures={"drbd files": "no"}, files={}),)),
    ("NODE_TOOL", (on("pm-1", failures={"volumes": "no"}, volumes={}, group_size=0, group_free=0),)),
    ("NODE_TOOL", (on("pm-1", failures={"drbd version": "no"}, drbd=""),)),
    ("NODE_TOOL", (on("pm-2", failures={"memory": "no"}, memory=0, memory_available=0),)),
    ("NODE_TOOL", (asked("pm-1", failures={"filter": "no"}, filter=None),)),
    ("NODE_TOOL", (asked("pm-1", failures={"domains": "no"}, domains={}),)),
    ("NODE_TOOL", (asked("pm-1", failures={"files": "no"}, files={}),)),
    ("NODE_TOOL", (asked("pm-1", failures={"backups": "no"}), settings(backup_max_age_days=1))),
    ("LOGIN_PRINTS", (on("pm-3", prints="Welcome to pm-3."),)),
    ("FILE_UNREAD", (on("pm-3", odd=(Odd("/etc/drbd.d/x.res", "line 1: a quote without its end", "x"),)),)),
    ("NAME_FOREIGN", (on("pm-3", odd=(Odd("the volume a b", "LVM has no such names", named=True),)),)),
    ("NAME_FOREIGN", (on("pm-3", foreign_resources={"vm-101.disk": Resource("vm-101.disk", 1000)}),)),
    ("DOMAIN_NO_DRBD", (on("pm-3", foreign={"Büro (alt)": Domain("Büro (alt)", "running", GiB, 1)}),)),
    ("DRBD_MODULE", (on("pm-3", drbd=""),)),
    ("DRBD_MODULE", (on("pm-2", drbd="", resources={}), drbd_on("pm-1", **WAITING))),
    ("LVM_FILTER", (asked("pm-3", filter=Filter((), False)),)),
    ("VG_BROKEN", (on("pm-3", group_attributes="wz-pn-"),)),
    ("VG_BROKEN", (on("pm-3", group_attributes="wzx-n-"),)),
    ("VG_BROKEN", (on("pm-3", group_attributes="rz--n-"),)),
    ("", (on("pm-3", group_attributes="wz--n-"),)),
    ("CLOCK_OFF", (asked("pm-3", clock=NOW - 31),)),
    ("MEMORY_N1", (on("pm-2", memory_available=GiB - 1),)),
    # whole VMs
    ("VM_HALF_MADE", (without_domains,)),
    ("VM_NODE_UNKNOWN", (lambda facts: healthy(cluster(home("pm-1", active=True, primary=True, files={
        "web": ResourceFile("web", 1, "/dev/vg/web", ("pm-1", "pm-9"), (7800,))}))),)),
    ("VM_CONTRADICTED", (lambda facts: healthy(cluster(node("pm-1"), facts.state.nodes["pm-2"], ELSEWHERE)),)),
    ("VM_STRAY", (volumes("pm-3", Volume("web", "vg", GiB, ("pmc",))),)),
    ("DOMAIN_NO_DRBD", (on("pm-3", domains={"web": Domain("web", "shut off", GiB, 1)}),)),  # nothing else of it
    ("DOMAIN_NO_DRBD", (on("pm-3", domains={"web": Domain("web", "shut off", GiB, 1)}),
                        asked("pm-3", domains={"web": DomainFile("x", (), autostart=True)}))),
    ("VM_STRAY", (on("pm-3", resources={"web": Resource("web", 1, "Secondary", "UpToDate", "WFConnection")}),)),
    ("VM_STRAY", (on("pm-3", files={"web": ResourceFile("web", 1, "/dev/vg/web", ("pm-1", "pm-3"), (7800,))}),)),
    # domains
    ("DOMAIN_TWICE", (twice(),)),
    ("DOMAIN_ONE_SIDE", (on("pm-2", domains={}), asked("pm-2", domains={}))),
    ("DOMAIN_DIFFERS", (domain_on("pm-2", hash="other"),)),
    ("DOMAIN_SAVED", (on("pm-2", saved=frozenset({"web"})),)),
    ("DOMAIN_SAVED", (lambda facts: healthy(stopped()), on("pm-1", saved=frozenset({"web"})))),
    ("DOMAIN_SAVED", (on("pm-3", saved=frozenset({"web"})),)),  # the file alone, where nothing else of it is
    ("", (on("pm-1", saved=frozenset({"his"})),)),
    ("", (domain_on("pm-1", disks=(Disk("vda", "/dev/drbd1"),)),)),
    ("", (domain_on("pm-1", disks=(Disk("vda", "/dev/drbd/by-res/web/0"),)),)),
    ("DOMAIN_DISK", (domain_on("pm-2", disks=(Disk("vda", "/dev/drbd1"), Disk("vdb", "/dev/vg/data"))),)),
    ("DOMAIN_DISK", (on("pm-1", running={"web": Running("kvm", (Disk("vdb", "/dev/vg/data"),))}),)),
    ("", (on("pm-1", running={"web": Running("kvm", (Disk("vda", "/dev/drbd1"),))}),)),
    ("DOMAIN_DISK", (lambda facts: healthy(several(facts.state)),)),
    ("DOMAIN_NO_DRBD", (on("pm-3", domains={"his": Domain("his", "running", GiB, 1)}),)),
    ("DOMAIN_AUTOSTART", (domain_on("pm-2", autostart=True),)),
    ("DUPLICATE_MAC", (second_vm(), asked("pm-3", domains={"mail": DomainFile("x", ("52:54:00:77:00:01",))}))),
    # files
    ("FILE_MODE", (file_on("pm-2", mode="644"),)),
    ("FILE_DIFFERS", (file_on("pm-2", hash="other"),)),
    ("FILE_OPTIONS", (file_on("pm-1", said={**SAID, "after-sb-0pri": "discard-zero-changes"}),)),
    ("FILE_OPTIONS", (asked("pm-1", common={"disk-flushes": "no"}),)),
    ("", (asked("pm-1", common={"protocol": "A", "verify-alg": "sha1"}),)),  # the file says otherwise
    ("FILE_NO_SECRET", (file_on("pm-1", said={**SAID_OF_ALL, "cram-hmac-alg": "sha1"}),)),
    ("", (file_on("pm-1", said=SAID_OF_ALL), asked("pm-1", common=SECRET))),
    ("FILE_ADDRESS", (file_on("pm-1", addresses={**ADDRESSES, "pm-2": "192.168.0.2"}),)),
    ("DUPLICATE_MINOR", (second_vm(minor=1),)),
    ("DUPLICATE_PORT", (second_vm(ports=(7800,)),)),
    # DRBD and what it lies on
    ("LV_BROKEN", (lettered("pm-2", "-wi-so----"),)),
    ("LV_BROKEN", (lettered("pm-1", "-wi-ao--p-"),)),
    ("LV_BROKEN", (lettered("pm-1", "-wi-ao--X-"),)),
    ("LV_BROKEN", (lettered("pm-1", "-wi-Xo----"),)),
    ("LV_BROKEN", (lettered("pm-1", "Vwi-aotzF-"),)),
    ("LV_WEAK", (lettered("pm-2", "rwi-aor-r-"),)),
    ("LV_WEAK", (lettered("pm-2", "rwi-aor-m-"),)),
    ("", (lettered("pm-2", "rwi-aor-w-"),)),
    ("", (lettered("pm-2", "-wi-ao----"),)),
    ("DRBD_SUSPENDED", (drbd_on("pm-1", suspended="user"),)),
    ("DRBD_SUSPENDED", (drbd_on("pm-1", suspended="no-data,quorum"),)),
    ("DRBD_NO_FILE", (on("pm-2", files={}), asked("pm-2", files={}))),
    ("DRBD_NO_FILE", (on("pm-3", resources={"mail": Resource("mail", 2, "Secondary", "UpToDate")},
                         domains={"mail": Domain("mail", "shut off", GiB, 1)}),)),
    ("DRBD_NOT_UP", (on("pm-2", resources={}), drbd_on("pm-1", **WAITING))),
    ("DRBD_SPLIT", (*APART, *(asked(name, generations={"web": g}) for name, g in SPLIT.items()))),
    ("DRBD_STANDALONE", (*APART, *(asked(name, generations={"web": g}) for name, g in BEHIND.items()))),
    ("DRBD_UNRELATED", (*APART, *(asked(name, generations={"web": g}) for name, g in UNRELATED.items()))),
    ("DRBD_STANDALONE", APART),
    ("DRBD_STANDALONE", (APART[1], drbd_on("pm-1", **WAITING))),
    ("DRBD_NOT_CONNECTED", (drbd_on("pm-1", **WAITING), drbd_on("pm-2", **WAITING))),
    ("DRBD_DISKLESS", (drbd_on("pm-2", disk="Diskless"), drbd_on("pm-1", peer_disk="Diskless"))),
    ("DRBD_INCONSISTENT", (drbd_on("pm-2", disk="Inconsistent"),)),
    ("DRBD_OUTDATED", (drbd_on("pm-2", disk="Outdated"),)),
    ("DRBD_SYNCING", (drbd_on("pm-2", disk="Inconsistent", replication="SyncTarget", out_of_sync=9), later(8))),
    ("DRBD_SYNCING", (drbd_on("pm-2", disk="Inconsistent", replication="SyncTarget", out_of_sync=9),)),
    ("DRBD_SYNC_STALLED", (drbd_on("pm-2", disk="Inconsistent", replication="SyncTarget", out_of_sync=9), later(9))),
    ("DRBD_SYNC_STALLED", (drbd_on("pm-2", disk="Inconsistent", replication="SyncTarget"), later(0))),
    ("DRBD_OUT_OF_SYNC", (drbd_on("pm-1", out_of_sync=4096), drbd_on("pm-2", out_of_sync=4096))),
    ("DRBD_TWO_ALLOWED", (drbd_on("pm-2", two_primaries=True),)),
    ("DRBD_TWO_PRIMARIES", (drbd_on("pm-2", role="Primary"),)),
    ("DRBD_PRIMARY_IDLE", (lambda facts: healthy(stopped()), drbd_on("pm-2", role="Primary"))),
    ("DRBD_PRIMARY_IDLE", (drbd_on("pm-1", role="Secondary"), drbd_on("pm-2", role="Primary"))),
    ("DRBD_SIZE", (drbd_on("pm-2", size=9 * GiB),)),
    # volumes
    ("LV_ORPHAN", (volumes("pm-3", Volume("old", "vg", GiB, ("pmc",), attributes="-wi-a-----")),)),
    ("LV_MISSING", (on("pm-2", volumes={}),)),
    ("LV_SIZE", (volumes("pm-2", Volume("web", "vg", 11 * GiB, ("pmc",))),)),
    ("SNAPSHOT_LEFT", (volumes("pm-2", SNAPSHOT),)),
    ("SNAPSHOT_LEFT", (volumes("pm-2", replace(SNAPSHOT, name="web.clone")),)),
    ("RESTORE_BROKEN", (volumes("pm-2", replace(SNAPSHOT, name="web.before")),)),
    ("RESTORE_BROKEN", (restoring,)),
    ("SNAPSHOT_KEPT", (volumes("pm-2", replace(SNAPSHOT, name="web.lost-20260101T000000Z")),)),
    ("LV_ORPHAN", (volumes("pm-2", replace(SNAPSHOT, name="web.old", origin="", attributes="-wi-a-----")),)),
    ("SNAPSHOT_FULL", (volumes("pm-2", replace(UNTAGGED, data_percent=90.5)),)),
    # A thin snapshot outlives its origin.
    ("SNAPSHOT_LEFT", (volumes("pm-2", Volume("db.backup", "vg", GiB, ("pmc",), "", "Vri-a-tz--")),)),
    ("SNAPSHOT_LEFT", (volumes("pm-2", replace(BASE_KEPT, name="db.base", origin="")),)),
    ("SNAPSHOT_LEFT", (volumes("pm-2", replace(BASE_KEPT, tags=("pmc",))),)),
    ("POOL_MISSING", (thin(), volumes("pm-1", POOL), volumes("pm-2", POOL))),
    ("POOL_MISSING", (thin(), *EACH_POOL, volumes("pm-3", Volume("pool", "vg", GiB, (), "", "-wi-a-----")))),
    ("POOL_BROKEN", (volumes("pm-2", replace(POOL, attributes="twi-aotzD-"), IN_POOL),)),
    ("POOL_BROKEN", (volumes("pm-2", replace(POOL, attributes="twi---tz--"), IN_POOL),)),
    ("POOL_BROKEN", (volumes("pm-2", replace(POOL, attributes="twi-sotz--"), IN_POOL),)),
    ("POOL_DATA_FULL", (volumes("pm-3", replace(POOL, data_percent=80.1)),)),
    ("POOL_DATA_FULL", (thin(pool_data_percent=50), *EACH_POOL, volumes("pm-3", replace(POOL, data_percent=50.1)))),
    ("POOL_METADATA_FULL", (volumes("pm-3", replace(POOL, metadata_percent=80.1)),)),
    ("VG_FULL", (on("pm-3", group_free=9 * GiB),)),
    ("VG_FULL", (settings(full_percent=9),)),
    # backups
    ("BACKUP_DIR_FULL", (asked("pm-3", folder_used=90.1),)),
    ("BACKUP_FUTURE", (asked("pm-3", future=("web.21000101T000000Z.base",)),)),
    ("", (asked("pm-3", future=("web.20270116T075959Z.base",)),)),  # within a day of the manager's clock
    ("BACKUP_DAMAGED", (settings(backup_max_age_days=7), backed_up(1, damaged="2027-01-15T03:00:00Z"),
                        backed_up(1, "pm-3"))),
    ("BACKUP_UNPROVED", (settings(backup_max_age_days=7), backed_up(1, verified=""))),
    ("BACKUP_OLD", (settings(backup_max_age_days=7), backed_up(9), backed_up(-2, "pm-3"))),
    ("BACKUP_NONE", (settings(backup_max_age_days=7),)),
    ("BACKUP_NONE", (settings(backup_max_age_days=7), backed_up(1, broken="its file is missing"))),
    ("BACKUP_OLD", (settings(backup_max_age_days=7), backed_up(7.1))),
    ("PART_STALE", (asked("pm-3", parts=("/var/lib/pmc/backups/.web.20260101T000000Z.base.part",)),)),
]  # fmt: skip


def made(changes: tuple[Change, ...]) -> Facts:
    facts = healthy()
    for change in changes:
        facts = change(facts)
    return facts


@pytest.mark.parametrize(("code", "changes"), CASES, ids=[f"{n}-{code}" for n, (code, _) in enumerate(CASES)])
def test_each_wrong_thing_has_its_finding_and_no_other(code: str, changes: tuple[Change, ...]) -> None:
    found = verify.findings(made(changes))
    assert {finding.code for finding in found} == {code} - {""}, found
    for finding in found:
        assert finding.text
        assert finding.remedy, "every finding says how to fix it"
        assert "\n" not in finding.text + finding.remedy
        assert grave(finding) == (CODES[finding.code][0] != NOTE)


def test_each_code_has_its_case() -> None:
    deep = {code for code in CODES if code.startswith("VERIFY_")}
    assert {code for code, _ in CASES} - {""} == set(CODES) - deep


def test_the_documentation_has_the_same_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "verify.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z_0-9]+)` \| (\w+) \| (.*?) \| ", text, re.M)
    assert rows == [(code, severity, meaning) for code, (severity, meaning) in CODES.items()]


def test_a_vm_without_a_second_copy_is_no_finding() -> None:
    facts = healthy(alone(active=True))
    file = FileFacts("600", "same", SAID, {"pm-1": "10.0.0.1"})
    assert codes(asked("pm-1", files={"web": file})(facts)) == set()


def test_a_down_node_says_what_was_not_checked() -> None:
    facts = on("pm-2", down="no ssh within 10 s", resources={}, domains={}, files={}, volumes={})(healthy())
    facts = drbd_on("pm-1", **WAITING)(asked("pm-2", domains={}, files={})(facts))
    found = verify.findings(facts)
    assert [each.code for each in found] == ["NODE_DOWN"]
    assert "no ssh within 10 s; not checked: its side of web" in found[0].text


def test_what_cannot_be_known_is_not_said() -> None:
    """With a node down nobody can say that a volume is nobody's, or that a VM has no domain anywhere."""
    down = on("pm-3", down="no ssh")
    orphan = volumes("pm-1", Volume("old", "vg", GiB, ("pmc",)))
    assert codes(made((down, orphan))) == {"NODE_DOWN"}
    assert codes(made((down, without_domains))) == {"NODE_DOWN"}
    assert codes(made((down, on("pm-2", domains={"web": ASLEEP, "his": ASLEEP})))) == {"NODE_DOWN"}
    assert codes(made((down, settings(backup_max_age_days=1)))) == {"NODE_DOWN"}


def test_memory_counts_all_vms_that_would_come_together() -> None:
    """web and mail run on pm-1, each fits on pm-2, both do not."""
    facts = healthy()
    for name, active in (("pm-1", True), ("pm-2", False)):
        seen = facts.state.nodes[name]
        mail = Domain("mail", "running" if active else "shut off", GiB, 1)
        resource = replace(seen.resources["web"], name="mail", minor=2)
        file = ResourceFile("mail", 2, "/dev/vg/mail", ("pm-1", "pm-2"), (7801,))
        facts = on(
            name, domains={**seen.domains, "mail": mail}, resources={**seen.resources, "mail": resource},
            files={**seen.files, "mail": file},
            volumes={**seen.volumes, "mail": replace(seen.volumes["web"], name="mail")},
            memory_available=2 * GiB - 1,
        )(facts)  # fmt: skip
    found = verify.findings(facts)
    assert [(each.code, each.node) for each in found] == [("MEMORY_N1", "pm-2")]
    assert "mail, web need 2 GiB" in found[0].text
    assert codes(on("pm-2", memory_available=2 * GiB)(facts)) == set()


@pytest.mark.parametrize(
    ("changes", "remedies"),
    [
        ((without_domains,),
         ["If they are lost, define it again by the XML of a backup: fab doc repair. If it is half made and nothing "
          "else uses it, this removes what is left, its disk too. Next: fab vm.rm web"]),
        ((drbd_on("pm-2", two_primaries=True),), ["fab vm.mv web --cleanup"]),
        ((lambda f: healthy(stopped()), drbd_on("pm-2", role="Primary", two_primaries=True)),
         ["fab vm.stop web vm.mv web --cleanup", "fab vm.stop web"]),
        ((on("pm-2", resources={}), drbd_on("pm-1", **WAITING)), ["fab pm.ready_drbd pm-2"]),
        ((volumes("pm-2", Volume("web", "vg", 11 * GiB, ("pmc",))),),
         [f"on pm-1: lvextend --size {11 * GiB}b vg/web && drbdadm resize web"]),
        ((drbd_on("pm-1", out_of_sync=4096),),
         ["fab vm.repair web"]),
        ((lambda f: healthy(stopped()), drbd_on("pm-1", out_of_sync=4096)),
         ["fab vm.start web vm.repair web"]),
        ((volumes("pm-3", Volume("web", "vg", GiB, ("pmc",))),),
         ["fab vm.peer web --cleanup"]),
        ((on("pm-3", resources={"mail": Resource("mail", 2, "Secondary", "UpToDate")},
             domains={"mail": Domain("mail", "shut off", GiB, 1)}),),
         ["No node that answers has it. Write it again by what DRBD says. Only of a VM that is to go: fab vm.rm mail. "
          "Next: on pm-3: drbdsetup show mail"]),
        ((asked("pm-3", future=("web.21000101T000000Z.base",)),),
         ["If this machine's clock (2027-01-15T08:00+00:00) is wrong, set it right. If it is right, remove that "
          "backup, on pm-3: rm /var/lib/pmc/backups/web.21000101T000000Z.base.*. Next: timedatectl"]),
        ((asked("pm-3", parts=("/srv/x;reboot.pmc.upload",)),), ["on pm-3: rm '/srv/x;reboot.pmc.upload'"]),
        ((asked("pm-3", domains={"x;reboot": DomainFile("x", ("a",)), "mail": DomainFile("x", ("a",))}),),
         ["Give one of them another one. Next: on each of its nodes: virsh edit 'x;reboot'"]),
        ((volumes("pm-3", Volume("web", "vg", GiB)),),
         ["fab vm.peer web --cleanup removes it, but not yet: pm-3: the volume vg/web was not made by pmc and "
          "belongs to no DRBD resource, so it is not touched. Rename or remove it by hand. Next: on pm-3: lvs vg/web"]),
    ],
)  # fmt: skip
def test_remedies(changes: tuple[Change, ...], remedies: list[str]) -> None:
    assert [finding.remedy for finding in verify.findings(made(changes))] == remedies


@pytest.mark.parametrize(
    ("what", "changes", "where"),
    [
        ("minor", {"minor": 1}, ", and in its domain there (/dev/drbdN; virsh edit web)"),
        ("port", {"ports": (7800,)}, ""),
    ],
)
def test_a_minor_that_is_changed_is_changed_in_the_domain_too(what: str, changes: dict[str, Any], where: str) -> None:
    """Which names the device: with the file alone changed it would have the other VM's disk."""
    [found] = [each for each in verify.findings(made((second_vm(**changes),))) if each.code.startswith("DUPLICATE_")]
    assert found.remedy == (
        f"Stop web, and give it a free {what} in its resource file on each of its nodes{where}. Next: on each: "
        f"drbdadm down web && drbdadm up web"
    )


def test_the_common_section_is_told_once_a_node_and_only_for_those_that_it_holds_for() -> None:
    facts = asked("pm-1", common={"protocol": "A", "disk-flushes": "no", "md-flushes": "no"})(healthy())
    [found] = verify.findings(facts)
    assert (found.node, found.vm) == ("pm-1", "")
    assert found.text == "DRBD's common section says disk-flushes no; md-flushes no, for 1 VMs here"
    assert found.remedy == (
        "Write disk-flushes yes; md-flushes yes in /etc/drbd.d/global_common.conf. Next: on pm-1: drbdadm adjust all"
    )
    assert _about(found, "web", facts)
    untold = asked("pm-1", failures={"common": "no"}, files={"web": FileFacts("600", "same", {}, ADDRESSES)})(healthy())
    assert {each.code for each in verify.findings(untold)} == {"NODE_TOOL"}, "the secret may be in what is not known"


def stale_copies(world: World) -> list[str]:
    return [each.remedy for each in verify.findings(healthy(world.state())) if each.code == "VM_STRAY"]


def test_what_is_told_of_an_old_copy_removes_it_and_only_when_the_vm_is_whole_without_it() -> None:
    world = with_stale_copy()
    assert stale_copies(world) == ["fab vm.peer web --cleanup"]
    assert stale_copies(done(world, remove_steps.cleanup("web", world.state(), SETTINGS))) == []
    world.nodes["pm-3"].resources["web"].disk = "Inconsistent"
    [remedy] = stale_copies(world)
    assert remedy.startswith(
        "fab vm.peer web --cleanup removes it, but not yet: web: DRBD on pm-1 is Connected, UpToDate/Inconsistent. "
    )
    world = with_stale_copy()
    world.nodes["pm-2"].domains["web"] = "running"
    [remedy] = stale_copies(world)
    assert "its stale copy on pm-2 is in use" in remedy


def test_of_contradicting_files_the_ones_that_agree_count() -> None:
    """web was moved from pm-3 to pm-2 by hand, and pm-3 kept its old files."""
    old = ResourceFile("web", 1, "/dev/vg/web", ("pm-1", "pm-3"), (7800,))
    for state in (running(), stopped()):
        for order in (("pm-1", "pm-2", "pm-3"), ("pm-3", "pm-2", "pm-1")):
            facts = on("pm-3", files={"web": old})(healthy(state))
            facts = replace(facts, state=ClusterState({name: facts.state.nodes[name] for name in order}))
            assert facts.homes == {"web": ("pm-1", "pm-2")}
            assert [(f.code, f.node) for f in verify.findings(facts)] == [("VM_STRAY", "pm-3")]


def test_of_contradicting_files_none_is_told_to_go_when_nothing_decides() -> None:
    """pm-1, which would decide, is down: pm-3 may hold the only good copy."""
    state = stopped()
    new = replace(state.nodes["pm-2"].files["web"], hosts=("pm-1", "pm-3"))
    third = replace(state.nodes["pm-2"], name="pm-3", hostname="pm-3", files={"web": new})
    facts = healthy(cluster(node("pm-1", down="no ssh"), state.nodes["pm-2"], third))
    [found] = [each for each in verify.findings(facts) if each.vm == "web"]
    assert (found.code, found.node) == ("VM_CONTRADICTED", "pm-2,pm-3")
    assert found.text == "its resource files name different nodes: pm-2: pm-1 and pm-2; pm-3: pm-1 and pm-3"
    assert (
        found.remedy == "One of them is old. Bring all its nodes back, or compare them before anything is started. "
        "Next: on each node: cat /etc/drbd.d/web.res"
    )


PAIRS = (("pm-1", "pm-2"), ("pm-1", "pm-3"), ("pm-2", "pm-3"))
FILES = list(itertools.product((None, *PAIRS), repeat=3))


@pytest.mark.parametrize("runs", [None, "pm-1", "pm-2", "pm-3"])
def test_where_a_vm_lives_is_judged_once(runs: str | None) -> None:
    """By what its nodes' files say, all ways in which they can contradict each other, and where it runs: pm.verify, the
    requirements of the plans and vm.repair agree (54 of 252 states were told as something else)."""
    for files in FILES:
        nodes = {}
        for name, hosts in zip(("pm-1", "pm-2", "pm-3"), files, strict=True):
            file = {"web": ResourceFile("web", 1, "/dev/vg/web", hosts, (7800,))} if hosts else {}
            domain = (
                {"web": Domain("web", "running" if name == runs else "shut off", GiB, 1)}
                if file or name == runs
                else {}
            )
            nodes[name] = node(name, files=file, domains=domain)
        state = ClusterState(nodes)
        facts = Facts(state, {}, SETTINGS)
        found = [each for each in verify.findings(facts) if each.vm == "web"]
        old = {each.node for each in found if each.code == "VM_STRAY"}
        if not any(files):
            continue
        assert list(facts.homes["web"]) == state.homes("web")
        if "VM_CONTRADICTED" in {each.code for each in found}:
            assert old == set()
            with raises(Refused, "requirements.consistent_placement", "disagree"):
                requirements.consistent_placement(state, "web")
            with raises(Refused, "requirements.consistent_placement", "disagree"):
                repair.homes("web", state, SETTINGS)
            continue
        assert old == set(state.stale_copies("web"))
        if runs in old:
            with pytest.raises(Refused, match=f"its stale copy on {runs} is in use"):
                requirements.consistent_placement(state, "web")
        else:
            requirements.consistent_placement(state, "web")


def test_what_keeps_a_vms_node_from_telling_is_told_of_the_vm() -> None:
    state = changed(running(), "pm-2", down="no ssh", files={}, domains={}, resources={}, volumes={})
    facts = healthy(state)
    [down] = [each for each in verify.findings(facts) if each.code == "NODE_DOWN"]
    assert _about(down, "web", facts)
    assert not _about(replace(down, node="pm-3"), "web", facts)
    assert not _about(replace(down, vm="mail"), "web", facts)
    shared = Finding("DUPLICATE_MAC", "mail and web have the MAC address 1", "", vm="web")
    assert _about(shared, "mail", facts)
    assert not _about(shared, "ma", facts)


def test_severities_order_and_names() -> None:
    for code, (severity, meaning) in CODES.items():
        assert re.fullmatch(r"[A-Z][A-Z0-9_]+", code)
        assert severity in ("error", "warning", "note")
        assert meaning
    both = (drbd_on("pm-2", two_primaries=True), asked("pm-3", clock=NOW + 99), volumes("pm-2", SNAPSHOT))
    assert [each.code for each in verify.findings(made(both))] == ["CLOCK_OFF", "DRBD_TWO_ALLOWED", "SNAPSHOT_LEFT"]
    assert lvm.TAG == "pmc"


def test_a_vm_that_runs_twice_has_one_remedy() -> None:
    """Not a shutdown: a guest that shuts down writes what it still holds."""
    facts = twice()(healthy())
    (remedy,) = {each.remedy for each in verify.findings(facts) if each.code == "DOMAIN_TWICE"}
    assert remedy == "Decide which one is right. On the other node: virsh destroy web. Next: fab vm.repair web"
    for command in (
        lambda: migrate.move("web", "", facts.state, SETTINGS),
        lambda: stop.stop("web", True, facts.state, SETTINGS),
        lambda: close_migration.close("web", facts.state),
        lambda: repair.homes("web", facts.state, SETTINGS),
    ):
        with pytest.raises(Refused) as refused:
            command()
        assert str(refused.value).endswith(remedy)
    lines = (Path(__file__).parents[2] / "docs/verify.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith("| `DOMAIN_TWICE`")]
    assert "`virsh destroy NAME`; then `pmc vm.repair NAME`" in row
