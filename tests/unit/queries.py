"""Every question that pmc asks a node, with good answers: for tests that try them all. Which functions make questions
is read from the source, so that a new one cannot be left out."""

from __future__ import annotations

import ast
from typing import Any

from pmc import backup, drbd, drbd_generations, guest_agent, lvm_thin, node_state, virsh
from pmc.command import Query
from pmc.facts import dead_node, domain_disks, drbd_files, lvm_report, managed_save
from pmc.health import deep, questions
from pmc.health.check import About
from pmc.health.node_checks import CHECKS
from pmc.plans import node_keys
from tests.unit.samples import SETTINGS, data, node
from tests.unit.test_imports import FILES

ABOUT = About("pm-1", SETTINGS)
DOMAIN = data("virsh-9.0.0-dumpxml.txt")
EVENTS = tuple(data(f"drbdsetup-{name}.txt") for name in (
    "9.22.0-module-8.4.11-events2", "9-handwritten-events2", "9-published-events2-three-nodes",
))  # fmt: skip
RESOURCES = tuple(data(f"{name}.txt") for name in (
    "drbd-8.4.11-resource-files", "drbd-utils-9-published-resource-files",
))  # fmt: skip
CONFIGS = tuple(f"==\nweb.res\n{text}\n" for text in (
    *RESOURCES, data("drbd-handwritten-every-form.res"), data("drbd-published-linstor-include-only.res"),
))  # fmt: skip
GENERATIONS = tuple(data(f"drbdadm-9.22.0-module-8.4.11-get-gi-{what}.txt") for what in (
    "disconnected-primary", "split-primary", "split-secondary",
))  # fmt: skip
JOURNAL = tuple(data(f"journalctl-252-module-8.4.11-split-{side}.txt") for side in ("primary", "secondary"))
VOLUMES, LISTING = data("lvm-2.03.16-fullreport-json.txt"), data("pmc-0.1.0-backup-listing.txt")
PEER = (
    "life it answers ping\nssh 255 ssh: connect to host 10.0.0.1 port 22: Connection timed out\n"
    'kernel {"_MONOTONIC_TIMESTAMP":"7200000000","_SOURCE_MONOTONIC_TIMESTAMP":"7199990000","__REALTIME_TIMESTAMP":"1",'
    '"MESSAGE":"drbd web: peer( Primary -> Unknown ) conn( Connected -> NetworkFailure )"}\n'
    "now 9000.25 1795000000\n"
)
SAVED = ".\n..\nweb.save\n"
HEAD = f"== 600 {'a' * 64}\n"
KERNEL = """\
[  900.000001] block drbd1: Out of sync: start=8, size=8 (sectors)
[ 1001.000000] block drbd1: Out of sync: start=138000, size=16 (sectors)
[ 1002.000000] block drbd1: Online verify done (total 9 sec; paused 0 sec; 7732 K/sec)
"""

Sample = tuple[Query[Any], tuple[str, ...]]  # a question, and good answers to it

# By 'module:function'.
SAMPLES: dict[str, list[Sample]] = {
    "pmc.backup:listing": [(backup.listing("/b", "pm-1"), (LISTING,))],
    "pmc.backup:of_the_future": [(backup.of_the_future("/b"), ("web.20260101T000000Z.base\n", ""))],
    "pmc.cluster:_holds": [(Query(drbd.sees("web", drbd.CONNECTED), str), ("",))],  # its status is the answer
    "pmc.drbd:size_of": [(drbd.size_of(1), ("20971520\n",))],
    "pmc.drbd:version": [(drbd.version(), ("8.4.11\n", ""))],
    "pmc.drbd:status": [(drbd.status(), EVENTS)],
    "pmc.drbd:open_resources": [(drbd.open_resources(), tuple(data(f"drbdsetup-{name}-show-filtered.txt") for name in (
        "9.22.0-module-8.4.11", "9-handwritten")))],
    "pmc.facts.drbd_files:query": [(drbd_files.query(), CONFIGS)],
    "pmc.guest_agent:agent": [(guest_agent.agent("web"), ('{"return":{}}\n',))],
    "pmc.node_state:state_queries": [(query, {
        "hostname": ("pm-1\n",), "saved memory": (SAVED,), "memory": (data("linux-6.1.0-meminfo.txt"),),
        "libvirt": (data("virsh-9.0.0-domstats.txt"),), "drbd version": ("8.4.11\n",), "drbd status": EVENTS,
        "drbd two-primaries": (data("drbdsetup-9-handwritten-show-filtered.txt"),), "drbd files": CONFIGS,
        "volumes": (VOLUMES,), "macs": (data("libvirt-9.0.0-macs.txt"),), "ports": (data("ss-6.1.0-listening.txt"),),
    }[what]) for what, query in node_state.state_queries(SETTINGS, allocating=True).items()],
    "pmc.facts.lvm_report:volumes": [(lvm_report.volumes("vg"), (VOLUMES,))],
    "pmc.facts.lvm_report:group": [(lvm_report.group("vg"), (data("vgs-2.03.16-json.txt"),))],
    "pmc.drbd_generations:generation": [(drbd_generations.generation("web"), GENERATIONS)],
    "pmc.drbd_generations:past": [(drbd_generations.past("web", 1), JOURNAL)],
    "pmc.lvm_thin:ranges": [(lvm_thin.ranges(lvm_thin.mapped("vg", "web", 1)), ("0 65536\n131072 65536\n",))],
    "pmc.plans.node_keys:query": [(node_keys.query([SETTINGS.nodes["pm-2"]]), tuple(
        data(f"pm/ssh{what}.txt") for what in ("", "-wrong", "-bare")))],
    "pmc.virsh:domains": [(virsh.domains(), (data("virsh-9.0.0-domstats.txt"),))],
    "pmc.virsh:macs": [(virsh.macs(), (data("libvirt-9.0.0-macs.txt"),))],
    "pmc.facts.domain_disks:running": [(domain_disks.running(), (
        "./web.xml\n  <job type='none' async='migration in' phase='prepare' flags='0x900'>\n"
        "  <domain type='kvm' id='1'>\n<disk type='block' device='disk'>\n<source dev='/dev/drbd1'/>\n"
        "<target dev='vda' bus='virtio'/>\n</disk>\n./db.xml\n<domain type='qemu' id='2'>\n",))],
    "pmc.facts.managed_save:query": [(managed_save.query(), (SAVED,))],
    "pmc.virsh:dumpxml": [(virsh.dumpxml("web"), (DOMAIN,))],
    "pmc.virsh:host_cpu": [(virsh.host_cpu("kvm"), (data("virsh-9.0.0-domcapabilities.txt"),))],
    "pmc.virsh:baseline": [(virsh.baseline(["<cpu/>"], "kvm"), ("<cpu><model>qemu64</model></cpu>\n",))],
    "pmc.virsh:can_run": [(virsh.can_run(DOMAIN, "kvm"), ("CPU described in x is incompatible\n",))],
    "pmc.virsh:virt_install": [(virsh.virt_install(
        name="web", memory=1 << 30, cpus=1, bridge="br0", mac="52:54:00:77:00:01", virt_type="kvm", boot="", extra=""
    ), (data("virt-install-4.1.0-print-xml.txt"),))],
    "pmc.virsh:job": [(virsh.job("web"), (
        data("virsh-9.0.0-domjobinfo-none.txt"), data("virsh-handwritten-domjobinfo-completed.txt")))],
    "pmc.virsh:downtime": [(virsh.downtime("web"), (
        data("virsh-9.0.0-domjobinfo-none.txt"), data("virsh-handwritten-domjobinfo-completed.txt")))],
    "pmc.facts.dead_node:peer": [(dead_node.peer("pm-1", SETTINGS), (PEER,))],
    "pmc.health.questions:domain_files": [(questions.domain_files(), (f"== manual\n{DOMAIN}== autostart\n{DOMAIN}",))],
    "pmc.health.questions:resource_files": [(questions.resource_files(), tuple(HEAD + text for text in RESOURCES))],
    "pmc.health.questions:common": [(questions.common(), (data("drbd-utils-9.22.0-global_common.txt"),))],
    "pmc.health.questions:generations": [
        (questions.generations(["web"]), (f"web {GENERATIONS[0].splitlines()[-1]}\n",))],
    "pmc.health.questions:folder_used": [(questions.folder_used("/b"), ("  1000 2000\n", ""))],
    "pmc.health.questions:parts": [(questions.parts(SETTINGS), ("/b/.web.20260101T000000Z.base.part\n",))],
    "pmc.health.questions:questions": [
        (query, ()) for query in questions.questions(node("pm-1"), SETTINGS).values()],
    "pmc.health.deep:done": [(deep.done("web", 1), (" verified: 12.5", "done:12.50\n"))],
    "pmc.health.deep:newest": [(deep.newest(), (KERNEL.splitlines()[-1],))],
    "pmc.health.deep:log": [(deep.log(1, 900.5), (KERNEL,))],
}  # fmt: skip

# Those of pm.init, each with what was captured for it.
CHECKED: list[Sample] = [
    (check.query(ABOUT), tuple(
        data(f"pm/{path.name}") for path in sorted((FILES["pmc"].parents[1] / "tests/data/pm").glob("*.txt"))
        if path.stem.removesuffix("-bare").removesuffix("-wrong").removesuffix("-thin").removesuffix("-down")
        == check.name.replace(" ", "-")
    ))
    for check in CHECKS
]  # fmt: skip


def factories() -> set[str]:
    """The functions that make a question, or say so: 'module:function'."""
    found = set[str]()
    for module, path in FILES.items():
        for part in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(part, ast.ClassDef) and part.name == "Query":
                continue
            makes = any(
                isinstance(each, ast.Call) and getattr(each.func, "id", getattr(each.func, "attr", "")) == "Query"
                for each in ast.walk(part)
            )
            says = isinstance(part, ast.FunctionDef) and part.returns and "Query[" in ast.unparse(part.returns)
            if makes or says:
                found.add(f"{module}:{getattr(part, 'name', part.lineno)}")
    return found
