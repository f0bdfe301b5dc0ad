"""libvirt's domains: virsh and virt-install commands, and the parsers. (XML: facts/domain_xml.py.) Pure.

Sources: virsh(1), virt-install(1), https://libvirt.org/formatdomain.html.
"""

from __future__ import annotations

import re
import shlex
import xml.etree.ElementTree as ET  # to make some; what comes from elsewhere is read by domain_xml
from collections.abc import Sequence
from dataclasses import replace

from pmc.command import Command, Query, bash, command, operation
from pmc.facts.domain_xml import checked, parsed, passwords
from pmc.model import Domain
from pmc.units import KiB, MiB, count, finite

CONNECT = ("virsh", "--connect", "qemu:///system")
# virDomainState of libvirt's domain.h; "blocked" is a running guest that is idle.
STATES = ("no state", "running", "running", "paused", "in shutdown", "shut off", "crashed", "suspended")


def virsh(*argv: str, stdin: str | None = None, long: bool = False) -> Command:
    return Command((*CONNECT, *argv), stdin, long=long)


@operation
def define(xml: str) -> Command:
    return replace(virsh("define", "/dev/stdin", stdin=xml), secrets=passwords(xml))


@operation
def undefine(name: str) -> Command:
    """With what would hold it back: its UEFI variables, a saved state, the notes on snapshots."""
    return virsh("undefine", name, "--nvram", "--managed-save", "--snapshots-metadata")


@operation
def start(name: str) -> Command:
    """Never with saved memory (pmc/facts/managed_save.py): that goes, also some that came after one looked."""
    return virsh("start", "--force-boot", name)


@operation
def destroy(name: str) -> Command:
    """Power off at once; the definition stays."""
    return virsh("destroy", name)


@operation
def shutdown(name: str) -> Command:
    """Asks the guest (ACPI power button), which may take its time or refuse."""
    return virsh("shutdown", name)


@operation
def exists(name: str) -> Command:
    return virsh("dominfo", name)


@operation
def is_active(name: str) -> Command:
    return bash('virsh --connect qemu:///system list --name | grep -Fx -- "$1" >/dev/null', name)


@operation
def drop_incoming(name: str) -> Command:
    """Only what a migration is bringing here, and while it has not begun to run here. Fine when it is gone."""
    script = (
        'r=$(virsh --connect qemu:///system domstate --reason "$1" || :); case $r in '
        '"paused (migrating)") virsh --connect qemu:///system destroy "$1";; "shut off"*|"") ;; '
        '*) echo "$1 is $r here" >&2; exit 1;; esac'
    )
    return bash(script, name)


@operation
def migrate(
    name: str, node: str, address: str, transport: str = "tcp", bandwidth: int = 0, pause: int = 0, live: bool = True
) -> Command:
    """To `node`, which has that replication address. Peer to peer: the two libvirtd talk to each other (by ssh)
    and notice when the link is lost. Never with --unsafe: libvirt then checks that the disk's cache is off.

    The guest's memory travels by `transport` (virsh(1), migrate): tcp is QEMU's own connection, in the clear;
    tunnelled goes through the ssh connection of the libvirtd, which takes no address of its own; tls is QEMU's
    connection in TLS, the certificate being that of `node`. The target's QEMU listens on `address` only: by itself it
    would on all that the node has, and takes the memory of whoever comes first. A migration takes `bandwidth` bytes a
    second at most, and suspends the guest after `pause` seconds, so that the rest can be copied; libvirt resumes it on
    the target (0: neither). Not `live`: it is suspended first (and `pause` says nothing more)."""
    host = f"[{address}]" if ":" in address else address
    own = ("--migrateuri", f"tcp://{host}", "--listen-address", address)
    way = {
        "tcp": own,
        "tunnelled": ("--tunnelled",),
        "tls": ("--tls", "--tls-destination", node, *own),
    }[transport]
    return virsh(
        "migrate", *(("--live",) if live else ()), "--p2p", "--persistent", *(("--auto-converge",) if live else ()),
        *(("--bandwidth", str(-(-bandwidth // MiB))) if bandwidth else ()),
        *(("--timeout", str(pause)) if pause and live else ()), name,
        f"qemu+ssh://root@{host}/system", *way,
        long=True,
    )  # fmt: skip


def domains() -> Query[dict[str, Domain]]:
    """Without waiting for a guest that another job of libvirt's is busy with: what is asked for is known without it. A
    guest whose QEMU stands in the kernel, as its disk does not answer, keeps whoever asks first; from then on libvirt
    knows that it is busy. So who was kept asks again."""
    script = (
        'for s in 5 3 3 3 3 3 10; do r=0; timeout -k 1 $s "$@" || r=$?; [ $r = 124 ] || [ $r = 137 ] || exit $r; done; '
        'echo "virsh had no answer from libvirtd: libvirtd hangs, or a guest whose disk holds its writes keeps it; "'
        '"journalctl -u libvirtd tells the first, drbdadm status (suspended) the second" >&2; exit 124'
    )
    asked = virsh("domstats", "--state", "--balloon", "--vcpu", "--nowait")
    return Query(bash(script, *asked.argv), parse_domstats)


@operation
def is_off(name: str) -> Command:
    """Succeeds when it is off; ends 1 when it is not, 2 when libvirt cannot be asked."""
    script = 'state=$(virsh --connect qemu:///system domstate "$1") || exit 2; [[ $state = "shut off" ]]'
    return bash(script, name)


@operation
def goes_on(name: str) -> Command:
    """Succeeds when it runs, and nothing that libvirt does with it is under way; ends 1 when not."""
    script = (
        'v="virsh --connect qemu:///system"; state=$($v domstate "$1"); job=$($v domjobinfo "$1" 2>&1 || :); '
        '[[ $state = running && $job =~ ^"Job type:"[[:space:]]+None ]]'
    )
    return bash(script, name)


def macs() -> Query[frozenset[str]]:
    """Of all domains defined, running or not: one read of libvirt's own files, where virsh would need a call each.
    And of those that are being made: from the resource files."""
    script = (
        '{ cat /etc/libvirt/qemu/*.xml 2>/dev/null | grep -o "<mac address=[^/]*"; '
        'grep -hs "^# mac " /etc/drbd.d/*.res; } || :'
    )
    return Query(bash(script), lambda text: frozenset(re.findall(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", text.lower())))


def dumpxml(name: str) -> Query[str]:
    return Query(virsh("dumpxml", "--inactive", "--security-info", name), checked)


def host_cpu(virt_type: str) -> Query[str]:
    """The CPU that libvirt can give a guest on this node, as a <cpu> element; empty when it does not say."""
    return Query(virsh("domcapabilities", "--virttype", virt_type), parse_host_cpu)


def baseline(cpus: Sequence[str], virt_type: str) -> Query[str]:
    """A <cpu> element that all the nodes' `cpus` have, so that a guest can migrate."""
    # One after the other without a root element: virsh puts its own around them.
    text = "".join(cpus)
    argv = ("hypervisor-cpu-baseline", "--virttype", virt_type, "--migratable", "/dev/stdin")
    return Query(virsh(*argv, stdin=text), checked)


def can_run(xml: str, virt_type: str) -> Query[bool | None]:
    """Whether this node can give the domain's CPU; None when libvirt cannot tell."""
    query = virsh("hypervisor-cpu-compare", "--virttype", virt_type, "/dev/stdin", stdin=xml)
    return Query(replace(query, secrets=passwords(xml)), parse_compared, fine=(0, 1))


def parse_compared(text: str) -> bool | None:
    if "incompatible" in text:
        return False
    return True if "superset" in text or "identical" in text else None


def virt_install(
    *, name: str, memory: int, cpus: int, bridge: str, mac: str, virt_type: str, boot: str, extra: str
) -> Query[str]:
    """Asks virt-install for the domain's XML and makes nothing. The disk is put in by `with_disk`, since virt-install
    wants to see it and it does not exist yet. `boot` is the order, such as hd,cdrom: the disk first, then what fills an
    empty one. A new disk does not boot, so the installer runs once and the guest restarts into what it installed."""
    argv = [
        "virt-install", "--connect", "qemu:///system", "--print-xml", "--dry-run", "--noautoconsole",
        "--name", name, "--memory", str(-(-memory // MiB)), "--vcpus", str(cpus), "--virt-type", virt_type,
        "--network", f"bridge={bridge},mac={mac},model=virtio", "--disk", "none",
        "--osinfo", "detect=on,require=off", "--import", "--graphics", "vnc,listen=socket",
    ]  # fmt: skip
    if boot:
        argv += ["--boot", boot]
    if "--channel" not in extra:  # for a guest agent, which vm.backup asks to freeze the file systems
        argv += ["--channel", "unix,target.type=virtio,target.name=org.qemu.guest_agent.0"]
    return Query(command(*argv, *shlex.split(extra)), str)


def downtime(name: str) -> Query[float | None]:
    """Seconds that the guest stood still in its last migration, by libvirt's job statistics on either node
    (--keep-completed: asking does not clear them); None when libvirt has none."""
    return Query(virsh("domjobinfo", name, "--completed", "--keep-completed"), parse_downtime)


def parse_downtime(text: str) -> float | None:
    if not text.startswith("Job type:"):
        raise ValueError("not the output of virsh domjobinfo")
    found = re.search(r"^Total downtime:\s+(\d+)\s+ms", text, re.M)
    return count(found[1]) / 1000 if found else None


def job(name: str) -> Query[tuple[int, int]]:
    """(bytes moved, bytes in all) of the domain's running job; (0, 0) when there is none."""
    return Query(virsh("domjobinfo", name), parse_job)


def parse_job(text: str) -> tuple[int, int]:
    if not text.startswith("Job type:"):
        raise ValueError("not the output of virsh domjobinfo")
    return _amount(text, "processed"), _amount(text, "total")


def _amount(text: str, word: str) -> int:
    found = re.search(rf"^Data {word}:\s+(\d{{1,18}}(?:\.\d+)?) ([KMGTPE]i)?B$", text, re.M | re.ASCII)
    return int(finite(found[1]) * 1024 ** ("KMGTPE".index(found[2][0]) + 1 if found[2] else 0)) if found else 0


def parse_domstats(text: str) -> dict[str, Domain]:
    found = {}
    before, *parts = re.split(r"^Domain: ", text, flags=re.M)
    if before.strip():
        raise ValueError("not the output of virsh domstats")
    for part in parts:
        title, *rows = part.splitlines()
        fact: dict[str, str] = dict(row.strip().partition("=")[::2] for row in rows if "=" in row)
        name = title.strip().removeprefix("'").removesuffix("'")
        found[name] = Domain(
            name,
            STATES[count(fact["state.state"])],
            count(fact["balloon.maximum"]) * KiB,
            count(fact["vcpu.maximum"]),
        )
    return found


def parse_host_cpu(text: str) -> str:
    """The host-model of `virsh domcapabilities` as the <cpu> element that hypervisor-cpu-baseline takes."""
    mode = parsed(text).find("cpu/mode[@name='host-model'][@supported='yes']")
    if mode is None:
        return ""
    cpu = ET.Element("cpu")
    for child in mode:
        if child.tag in ("model", "vendor", "feature"):
            copied = ET.SubElement(cpu, child.tag, {k: v for k, v in child.attrib.items() if k != "fallback"})
            copied.text = child.text
    return ET.tostring(cpu, encoding="unicode")
