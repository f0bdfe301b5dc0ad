"""libvirt: parsers against captured output, and our domain XML defined in libvirt's own test driver."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from pmc import virsh
from pmc.facts import domain_xml
from pmc.facts.domain_disks import running
from pmc.model import Disk, Domain, Running
from pmc.transport import hypervisor
from pmc.units import KiB, MiB
from tests.unit.samples import data

DOMSTATS = data("virsh-9.0.0-domstats.txt")
CAPABILITIES = data("virsh-9.0.0-domcapabilities.txt")
INSTALL = data("virt-install-4.1.0-print-xml.txt")
DUMPED = data("virsh-9.0.0-dumpxml.txt")
UUID = "00000000-0000-4000-8000-00000000000a"


@pytest.fixture
def driver() -> Iterator[Any]:
    connection = libvirt.open("test:///default")
    yield connection
    connection.close()


def define(driver: Any, xml: str) -> ET.Element:
    """What libvirt made of the XML."""
    return ET.fromstring(driver.defineXML(xml).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def attribute(domain: ET.Element, path: str, name: str) -> str | None:
    element = domain.find(path)
    assert element is not None, path
    return element.get(name)


# -- parsers --


def test_domains() -> None:
    assert virsh.parse_domstats(DOMSTATS) == {
        "web2": Domain("web2", "shut off", 16384 * KiB, 1),
        "web": Domain("web", "running", 16384 * KiB, 1),
    }
    assert virsh.parse_domstats("\n") == {}


@pytest.mark.parametrize(
    "text", ["error: failed to connect\n", "Domain: 'web'\n", "Domain: 'web'\n  state.state=5\n", DOMSTATS[20:]]
)
def test_domains_that_are_none_are_an_error(text: str) -> None:
    with pytest.raises((ValueError, KeyError, IndexError)):
        virsh.parse_domstats(text)


@pytest.mark.parametrize(("calls", "status"), [(1, 0), (2, 0), (4, 0), (0, 0), (0, 1)])
def test_a_guest_that_stands_in_the_kernel_keeps_nobody_for_long(tmp_path: Path, calls: int, status: int) -> None:
    """QEMU in io_submit(2) on a disk whose I/O is suspended: `domstats --nowait` waited for its monitor all the same,
    until pmc gave its node up (libvirt 9.0). The next one did not, as libvirt had a job of that guest by then."""
    late = f"cd {tmp_path}; echo >>calls; [ $(wc -l <calls) -gt {calls} ] || sleep 60"
    for name, script in {
        "virsh": f'{late}; echo "$@"; exit {status}',
        "timeout": 'shift 3; exec /usr/bin/timeout 0.3 "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(virsh.domains().command.argv, env=path, stdout=subprocess.PIPE, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (
        status, "--connect qemu:///system domstats --state --balloon --vcpu --nowait\n"
    )  # fmt: skip
    assert len((tmp_path / "calls").read_text()) == calls + 1


def test_the_states_are_those_of_libvirt() -> None:
    words = {libvirt.VIR_DOMAIN_RUNNING: "running", libvirt.VIR_DOMAIN_PAUSED: "paused",
             libvirt.VIR_DOMAIN_SHUTOFF: "shut off", libvirt.VIR_DOMAIN_CRASHED: "crashed",
             libvirt.VIR_DOMAIN_PMSUSPENDED: "suspended"}  # fmt: skip
    assert {number: virsh.STATES[number] for number in words} == words


def test_macs() -> None:
    assert virsh.macs().parse(data("libvirt-9.0.0-macs.txt")) == {"52:54:00:77:77:e7", "52:54:00:77:93:9c"}
    assert virsh.macs().parse("<mac address='52:54:00:AB:CD:EF'") == {"52:54:00:ab:cd:ef"}


DISK = """\
<disk type='block' device='disk'>
  <source dev='{}' index='1'/>
  <target dev='vda' bus='virtio'/>
</disk>
"""


def test_what_running_domains_run_on(tmp_path: Path) -> None:
    """As libvirt 9.0 notes it in /run/libvirt/qemu."""
    for name, kind, disk in (("web", "kvm", "/dev/drbd1"), ("a.b", "qemu", "/dev/vg/x")):
        status = f"<!--\nnot to be edited\n-->\n<domstatus state='running' pid='7'>\n  <domain type='{kind}' id='3'>\n"
        jobs = "<blockjobs active='yes'><disk dst='vda'/></blockjobs>\n"
        (tmp_path / f"{name}.xml").write_text(f"{status}    <name>{name}</name>\n{jobs}{DISK.format(disk)}</domain>")
    (tmp_path / "web.pid").write_text("7")
    web = Running("kvm", (Disk("vda", "/dev/drbd1"),))
    other = Running("qemu", (Disk("vda", "/dev/vg/x"),))

    def asked(folder: Path) -> dict[str, Running]:
        query = running(str(folder))
        return query.parse(subprocess.run(query.command.argv, capture_output=True, text=True, check=True).stdout)

    assert asked(tmp_path) == {"web": web, "a.b": other}
    assert asked(tmp_path / "none") == {}
    (tmp_path / "a.b.xml").unlink()
    assert asked(tmp_path) == {"web": web}, "of one file as well"


def test_downtime() -> None:
    assert virsh.parse_downtime(data("virsh-handwritten-domjobinfo-completed.txt")) == 0.087
    assert virsh.parse_downtime(data("virsh-9.0.0-domjobinfo-none.txt")) is None
    with pytest.raises(ValueError, match="domjobinfo"):
        virsh.parse_downtime("error: Domain not found")


def test_the_cpu_that_a_node_can_give() -> None:
    cpu = ET.fromstring(virsh.parse_host_cpu(CAPABILITIES))
    assert [child.tag for child in cpu[:3]] == ["model", "vendor", "feature"]
    assert (cpu.findtext("model"), cpu.findtext("vendor")) == ("EPYC", "AMD")
    assert attribute(cpu, "model", "fallback") is None, "hypervisor-cpu-baseline refuses it"
    assert virsh.parse_host_cpu("<domainCapabilities><cpu/></domainCapabilities>") == ""


@pytest.mark.parametrize("text", ["", "error: no", CAPABILITIES[:2000]])
def test_capabilities_that_are_none_are_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="not XML"):
        virsh.parse_host_cpu(text)


def test_memory() -> None:
    assert domain_xml.memory_of(DUMPED) == 16384 * KiB


# -- XML that libvirt takes --


def test_a_new_domain_gets_its_disk_and_cd(driver: Any) -> None:
    xml = domain_xml.with_disk(INSTALL, "/dev/drbd3", "/var/lib/libvirt/images/a&b.iso")
    disk, cd = define(driver, xml).findall("devices/disk")
    assert (disk.get("type"), disk.get("device")) == ("block", "disk")
    assert attribute(disk, "source", "dev") == "/dev/drbd3"
    wanted = {"name": "qemu", "type": "raw", "cache": "none", "io": "native", "discard": "unmap"}
    assert {key: attribute(disk, "driver", key) for key in wanted} == wanted
    assert attribute(disk, "target", "dev") == "vda"
    assert cd.get("device") == "cdrom"
    assert attribute(cd, "source", "file") == "/var/lib/libvirt/images/a&b.iso"
    assert cd.find("readonly") is not None


def test_a_new_domain_without_a_cd_has_one_disk(driver: Any) -> None:
    assert len(define(driver, domain_xml.with_disk(INSTALL, "/dev/drbd3")).findall("devices/disk")) == 1


def test_a_domain_gets_the_cpu_that_all_nodes_have(driver: Any) -> None:
    cpu = virsh.parse_host_cpu(CAPABILITIES)
    domain = define(driver, domain_xml.with_cpu(DUMPED, cpu))
    assert len(domain.findall("cpu")) == 1
    assert domain.findtext("cpu/model") == "EPYC"
    assert {e.get("name") for e in domain.findall("cpu/feature")} == {
        e.get("name") for e in ET.fromstring(cpu).findall("feature")
    }
    other = define(driver, domain_xml.with_cpu(DUMPED, "<cpu><model>qemu64</model></cpu>"))
    assert (other.findtext("cpu/model"), other.findall("cpu/feature")) == ("qemu64", []), "nothing of the old one stays"


def test_a_copy_shares_nothing_with_its_original(driver: Any) -> None:
    original = define(driver, domain_xml.with_cpu(DUMPED, "<cpu><model>EPYC</model></cpu>"))
    xml = domain_xml.renamed(
        DUMPED, name="copy", uuid=UUID, mac="52:54:00:77:00:09", old_device="/dev/drbd1", device="/dev/drbd5"
    )
    copy = define(driver, xml)
    assert (copy.findtext("name"), copy.findtext("uuid")) == ("copy", UUID)
    assert attribute(copy, "devices/interface/mac", "address") == "52:54:00:77:00:09"
    assert attribute(copy, "devices/disk/source", "dev") == "/dev/drbd5"
    assert copy.findtext("memory") == original.findtext("memory")
    assert {each.name() for each in driver.listAllDomains()} >= {"web", "copy"}
    for own in ("/dev/drbd1", "52:54:00:77:77:e7", str(original.findtext("uuid"))):
        assert own not in xml


def test_a_copy_keeps_no_other_disk_and_no_other_mac(driver: Any) -> None:
    more = (
        '<disk type="file" device="cdrom"><source file="/x.iso"/><target dev="sda" bus="sata"/></disk>'
        '<interface type="bridge"><mac address="52:54:00:77:00:01"/><source bridge="br1"/></interface></devices>'
    )
    xml = DUMPED.replace("</devices>", more)
    domain = define(
        driver,
        domain_xml.renamed(
            xml, name="copy", uuid=UUID, mac="52:54:00:77:00:09", old_device="/dev/drbd1", device="/dev/drbd5"
        ),
    )
    assert len(domain.findall("devices/disk")) == 1
    addresses = [mac.get("address") for mac in domain.findall("devices/interface/mac")]
    assert len(addresses) == 2
    assert addresses[0] == "52:54:00:77:00:09"
    assert "52:54:00:77:00:01" not in addresses


@pytest.mark.parametrize("xml", ["", "no XML", "<domain>"])
def test_xml_that_is_none_is_an_error(xml: str) -> None:
    with pytest.raises(ValueError, match="not XML"):
        domain_xml.with_disk(xml, "/dev/drbd1")
    with pytest.raises(ValueError, match="not XML"):
        domain_xml.with_cpu(xml, "<cpu/>")
    with pytest.raises(ValueError, match="devices"):
        domain_xml.with_disk("<domain/>", "/dev/drbd1")


# -- watching --


class Job:
    def __init__(self, **stats: int) -> None:
        self.stats = stats

    def jobStats(self) -> dict[str, int]:
        return self.stats


def test_the_job_of_a_migration() -> None:
    assert hypervisor.job(Job(data_processed=5, data_total=9, type=2)) == (5, 9)
    assert hypervisor.job(Job(type=0)) == (0, 0)


def test_the_job_by_virsh() -> None:
    """For a manager without libvirt-python."""
    assert virsh.parse_job(data("virsh-handwritten-domjobinfo-completed.txt")) == (21330132, 33571209)
    assert virsh.parse_job(data("virsh-9.0.0-domjobinfo-none.txt")) == (0, 0)
    assert virsh.parse_job("Job type:         Unbounded\nData processed: 9 B\nData total: 1.5 PiB\n")[0] == 9
    with pytest.raises(ValueError, match="domjobinfo"):
        virsh.parse_job("error: no domain\n")


def test_a_migration_is_watched_without_libvirt_python() -> None:
    """Python without it: pmc is imported, and virsh is asked in its place."""
    program = (
        "import sys, threading; sys.modules['libvirt'] = None\n"
        "from pmc import virsh\nfrom pmc.transport import hypervisor\n"
        "from unittest.mock import MagicMock\n"
        "node, progress, seen = MagicMock(), MagicMock(), threading.Event()\n"
        "node.ask.return_value = [(5, 9)]\n"
        "bar = progress.bytes().__enter__()\n"
        "bar.at.side_effect = lambda done, total: seen.set()\n"
        "with hypervisor.watch(node, 'web', progress):\n"
        "    assert seen.wait(30)\n"
        "assert node.ask.call_args.args[0].command == virsh.job('web').command\n"
        "print(bar.subject, bar.at.call_args.args)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("web (5, 9)\n", "")


def test_a_driver_that_knows_no_jobs_says_so(driver: Any) -> None:
    """`watch` suppresses libvirtError, so that watching never makes a migration fail."""
    with pytest.raises(libvirt.libvirtError):
        hypervisor.job(driver.lookupByName("test"))


# -- commands --


@pytest.mark.parametrize("transport", ["tcp", "tunnelled", "tls"])
def test_migration_never_skips_libvirts_check_of_the_cache(transport: str) -> None:
    line = str(virsh.migrate("web", "pm-2", "10.0.0.2", transport))
    assert "--unsafe" not in line
    assert "--live --p2p --persistent" in line
    assert "qemu+ssh://root@10.0.0.2/system" in line
    assert "qemu+ssh://root@[2001:db8::2]/system" in str(virsh.migrate("web", "pm-2", "2001:db8::2", transport))


def test_the_ways_of_a_migration() -> None:
    """virsh(1): a tunnelled migration takes no --migrateuri; TLS compares the certificate with --tls-destination."""
    lines = {way: str(virsh.migrate("web", "pm-2", "10.0.0.2", way)) for way in ("tcp", "tunnelled", "tls")}
    assert ["--tunnelled" in line for line in lines.values()] == [False, True, False]
    assert ["--tls --tls-destination pm-2" in line for line in lines.values()] == [False, False, True]
    assert ["--migrateuri tcp://10.0.0.2" in line for line in lines.values()] == [True, False, True]


def test_the_targets_port_is_on_the_replication_address_only() -> None:
    """virsh(1): --listen-address, an address without brackets. Without it QEMU listens on all that the node has."""
    for way in ("tcp", "tls"):
        for address in ("10.0.0.2", "2001:db8::2"):
            words = virsh.migrate("web", "pm-2", address, way).argv
            assert words[words.index("--listen-address") + 1] == address
    assert "--listen-address" not in virsh.migrate("web", "pm-2", "10.0.0.2", "tunnelled").argv


def test_what_a_migration_may_take() -> None:
    """virsh(1): --bandwidth in MiB a second, --timeout suspends the guest."""
    assert not {"--bandwidth", "--timeout"} & set(virsh.migrate("web", "pm-2", "10.0.0.2").argv)
    words = virsh.migrate("web", "pm-2", "10.0.0.2", bandwidth=50 * MiB + 1, pause=60).argv
    assert words[words.index("--bandwidth") + 1] == "51"
    assert words[words.index("--timeout") + 1] == "60"


def test_further_arguments_for_virt_install_are_split_as_by_a_shell() -> None:
    query = virsh.virt_install(
        name="web", memory=1, cpus=1, bridge="br0", mac="52:54:00:77:00:01", virt_type="kvm", boot="hd,network",
        extra="--cloud-init 'user-data=/a b' ;id",
    )  # fmt: skip
    assert query.command.argv[-3:] == ("--cloud-init", "user-data=/a b", ";id")
    assert query.command.argv[query.command.argv.index("--memory") + 1] == "1", "rounded up to whole MiB"
    assert "hd,network" in query.command.argv


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ("The CPU provided by hypervisor on the host is a superset of CPU described in /dev/stdin\n", True),
        ("CPU described in /dev/stdin is identical to the CPU provided by hypervisor on the host\n", True),
        ("CPU described in /dev/stdin is incompatible with the CPU provided by hypervisor on the host\n", False),
        ("", None),
    ],
)
def test_whether_a_node_can_give_a_guest_its_cpu(said: str, fits: bool | None) -> None:
    query = virsh.can_run('<domain><graphics passwd="hunter2"/></domain>', "qemu")
    assert query.parse(said) is fits
    assert "hunter2" not in str(query.command)
