"""What a node must have to serve, as data: each check is a question, the judgement of its answer, and the fix. Pure.

A fix that is safe is steps (`pm.init --fix` carries them out); one that is not (a volume group, a bridge, another host
name) is advice with the commands. Node-to-node ssh, which takes two nodes, is in trust.py.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pmc import drbd, lvm, virsh
from pmc.command import Query, bash, command
from pmc.errors import CommandFailed
from pmc.plan import Step
from pmc.plans import make
from pmc.settings import Settings
from pmc.units import show_size

# In seconds. Logs of two nodes cannot be compared when their clocks differ by more.
CLOCK_FINE, CLOCK_BAD = 2.0, 30.0
LVM_CONF = "/etc/lvm/lvm.conf"
REJECT_DRBD = "r|^/dev/drbd|"


@dataclass(frozen=True)
class About:
    """What a check is made for: the node as pmc.conf has it, and between which two moments of the manager's clock
    (seconds since 1970) it was asked."""

    node: str
    settings: Settings
    asked: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Verdict:
    ok: bool
    text: str
    advice: str = ""  # what a person does about it
    steps: tuple[Step, ...] = ()  # what --fix does about it
    partly: bool = False  # the steps are not all that is needed


def good(text: str) -> Verdict:
    return Verdict(True, text)


def bad(text: str, advice: str, *steps: Step) -> Verdict:
    return Verdict(False, text, advice, steps)


@dataclass(frozen=True)
class Check:
    """`missing` is the advice when the question itself failed: mostly a tool that is not installed."""

    name: str
    query: Callable[[About], Query[Any]]
    judge: Callable[[Any, About], Verdict]
    missing: str = ""


@dataclass(frozen=True)
class Finding:
    """One line of pm.init."""

    node: str
    check: str
    verdict: Verdict


@dataclass(frozen=True)
class Seen:
    """One node as it was asked: the answers in the order of CHECKS, or why there are none."""

    about: About
    answers: tuple[Any, ...] = field(default=(), repr=False)
    down: str = ""


def questions(about: About) -> list[Query[Any]]:
    return [check.query(about) for check in CHECKS]


def judged(seen: Seen) -> list[Finding]:
    node = seen.about.node
    if seen.down:
        return [Finding(node, "answers", bad(seen.down, ""))]
    return [
        Finding(node, check.name, judge(check, answer, seen.about))
        for check, answer in zip(CHECKS, seen.answers, strict=True)
    ]


def judge(check: Check, answer: Any, about: About) -> Verdict:
    if isinstance(answer, CommandFailed):
        said = " ".join(answer.stderr.split())
        return bad(said[:200] or f"status {answer.exit}", check.missing.format(group=about.settings.volume_group))
    return check.judge(answer, about)


def findings(seen: Iterable[Seen]) -> list[Finding]:
    """Of all nodes asked, and what shows only when they are compared."""
    seen = list(seen)
    number = next(number for number, check in enumerate(CHECKS) if check.query is query_module)
    answers = {one.about.node: one.answers[number] for one in seen if not one.down}
    versions = {node: answer[1] for node, answer in answers.items() if not isinstance(answer, CommandFailed)}
    return [finding for one in seen for finding in judged(one)] + mixed_versions(versions)


def line(finding: Finding) -> str:
    verdict = finding.verdict
    extent = "part of it" if verdict.partly else "it"
    fix = f"fab pm.init {finding.node} --fix does {extent}" if verdict.steps else ""
    text = "; ".join(filter(None, (verdict.text, verdict.advice, fix)))
    return f"{finding.node}  {'✓' if verdict.ok else '✗'} {finding.check}: {text}"


def mixed_versions(versions: Mapping[str, str]) -> list[Finding]:
    """DRBD 9.1.0 to 9.1.7 cannot talk to 8.4 (fixed in 9.1.8); all other versions from 8.4 on mix."""
    old = sorted(node for node, version in versions.items() if version.startswith("8."))
    broken = [node for node, version in versions.items() if re.fullmatch(r"9\.1\.[0-7]([^0-9].*)?", version)]
    return [
        Finding(node, "drbd peers", bad(
            f"{versions[node]} cannot talk to {versions[old[0]]} on {', '.join(old)}",
            f"install DRBD 9.1.8 or later on {node}",
        ))
        for node in broken if old
    ]  # fmt: skip


# -- host name --


def judge_hostname(found: str, about: About) -> Verdict:
    if found == about.node:
        return good(found)
    return bad(
        f"is {found!r}, and DRBD looks for {about.node!r}, the name in {about.settings.source}",
        f"on the node: hostnamectl set-hostname {about.node} (and name it in /etc/hosts), or rename it in pmc.conf",
    )


# -- DRBD --


def query_module(about: About) -> Query[tuple[str, str]]:
    script = (
        "if [ -e /sys/module/drbd/version ]; then echo loaded; cat /sys/module/drbd/version; "
        "elif modprobe -n drbd 2>/dev/null; then echo loadable; modinfo -F version drbd; else echo none; fi"
    )
    return Query(bash(script), parse_module)


def parse_module(text: str) -> tuple[str, str]:
    """(loaded, loadable or none; version)"""
    state, _, version = text.strip().partition("\n")
    if state not in ("loaded", "loadable", "none"):
        raise ValueError("not the state of a module")
    return state, version.strip()


def judge_module(found: tuple[str, str], about: About) -> Verdict:
    state, version = found
    if state == "none":
        return bad(
            "this kernel has no module drbd",
            "install a kernel that has it (Debian: linux-image-amd64) or LINBIT's drbd-dkms, and boot it",
        )
    if not re.match(r"8\.4\.|9\.|[1-9][0-9]", version):
        return bad(f"version {version or 'unknown'}", "pmc works with DRBD 8.4 and 9; install one of them")
    return good(f"{version}, loaded" if state == "loaded" else f"{version}, not loaded now; pm.ready_drbd loads it")


def query_at_boot(about: About) -> Query[bool]:
    script = (
        "grep -qsx 'drbd *' /etc/modules {/etc,/run,/usr/lib}/modules-load.d/*.conf "
        "|| systemctl -q is-enabled drbd.service 2>/dev/null && echo yes || echo no"
    )
    return Query(bash(script), parse_yes)


def parse_yes(text: str) -> bool:
    if text.strip() not in ("yes", "no"):
        raise ValueError("neither yes nor no")
    return text.strip() == "yes"


def judge_at_boot(found: bool, about: About) -> Verdict:
    if found:
        return good("the module is loaded at boot")
    path = "/etc/modules-load.d/pmc.conf"
    step = Step(
        about.node,
        "have DRBD's module loaded at boot",
        command("install", "-m", "644", "/dev/stdin", path, stdin="drbd\n"),
        undo=command("rm", "-f", path),
        check=command("test", "-e", path),
    )
    return bad("the module is not loaded at boot", f"echo drbd >{path}", step)


def query_utils(about: About) -> Query[tuple[str, bool, str]]:
    # sh-resources reads the whole configuration: one file that is not right makes drbdadm refuse every resource.
    script = (
        "drbdadm --version; "
        'echo "included=$(grep -Ecs "^[[:space:]]*include[[:space:]].*drbd[.]d/[*][.]res" /etc/drbd.conf)"; '
        'said=$(drbdadm sh-resources 2>&1 >/dev/null) || echo "said=$said"'
    )
    return Query(bash(script), parse_utils)


def parse_utils(text: str) -> tuple[str, bool, str]:
    """(version, whether drbd.conf includes drbd.d/*.res, what drbdadm says against the configuration)"""
    head, _, said = text.partition("\nsaid=")
    fact = dict(row.partition("=")[::2] for row in head.splitlines())
    return fact["DRBDADM_VERSION"], fact["included"] not in ("", "0"), said.strip()


def judge_utils(found: tuple[str, bool, str], about: About) -> Verdict:
    version, included, said = found
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if numbers < (8, 9, 2):
        return bad(f"drbd-utils {version}", "pmc needs drbd-utils 8.9.2 or later (drbdsetup events2)")
    if not included:
        return bad("/etc/drbd.conf does not include the resource files", 'add to it: include "drbd.d/*.res";')
    if said:
        return bad(f"drbdadm: {said.splitlines()[0]}", f"mend the file that it names in {drbd.DIRECTORY}")
    return good(f"drbd-utils {version}")


# -- LVM --


def judge_group(found: tuple[int, int], about: About) -> Verdict:
    size, free = found
    return good(f"{about.settings.volume_group}: {show_size(free)} free of {show_size(size)}")


@dataclass(frozen=True)
class Filter:
    """LVM's global_filter in effect; whether somebody has set it; the physical volumes in use."""

    patterns: tuple[str, ...]
    given: bool
    physical: tuple[str, ...] = ()


def query_filter(about: About) -> Query[Filter]:
    script = (
        "lvmconfig --type full devices/global_filter; "
        "lvmconfig devices/global_filter >/dev/null 2>&1 && echo given || echo default; pvs --noheadings -o pv_name"
    )
    return Query(bash(script), parse_filter)


def parse_filter(text: str) -> Filter:
    """lvmconfig prints one pattern as a string and several as a list; both in JSON's form of them."""
    first, given, *physical = text.strip().splitlines()
    key, _, value = first.partition("=")
    if key.strip() != "global_filter" or given not in ("given", "default"):
        raise ValueError("not a global_filter")
    patterns = json.loads(value)
    several = [patterns] if isinstance(patterns, str) else patterns
    return Filter(tuple(several), given == "given", tuple(path.strip() for path in physical))


def rejects(patterns: Iterable[str], path: str) -> bool:
    """As lvm.conf(5) has it: the first pattern that fits decides; what none fits is accepted."""
    for pattern in patterns:
        kind, inner = pattern[:1], pattern[2:-1]
        if re.search(inner, path):
            return kind == "r"
    return False


def judge_filter(found: Filter, about: About) -> Verdict:
    # DRBD's device and the links to it that udev makes: one that is accepted lets LVM in.
    paths = ("/dev/drbd0", "/dev/drbd1000", "/dev/drbd/by-res/v/0", "/dev/drbd/by-disk/vg/v")
    if all(rejects(found.patterns, path) for path in paths):
        return good("rejects /dev/drbd*")
    text = "LVM looks into DRBD's devices, that is into the guests' disks"
    wanted = ", ".join(f'"{pattern}"' for pattern in (REJECT_DRBD, *(found.patterns if found.given else ())))
    advice = f"in {LVM_CONF}, devices {{ }}: global_filter = [ {wanted} ]"
    if any(path.startswith("/dev/drbd") for path in found.physical):
        return bad(text, f"{advice}; but first move the physical volume that lies on DRBD: {', '.join(found.physical)}")
    return bad(text, advice, *(() if found.given else (set_filter(about.node),)))


def set_filter(node: str) -> Step:
    """Appends to lvm.conf, after LVM itself has read a copy with the line and found it right. Appending keeps owner,
    mode and links of the file; the section's name before the key is lvm.conf's own short form (lvm.conf(5))."""
    line = f'devices/global_filter = [ "{REJECT_DRBD}" ]'
    script = (
        'd=$(mktemp -d); trap \'rm -rf "$d"\' EXIT; cp -p "${1%/*}"/*.conf "$d"; '
        'add() { printf "\\n# By pmc: what is inside a guest\'s disk is the guest\'s own.\\n%s\\n" "$2" >>"$1"; }; '
        'add "$d/lvm.conf" "$2"; LVM_SYSTEM_DIR=$d lvmconfig --validate >/dev/null; '
        'LVM_SYSTEM_DIR=$d lvmconfig devices/global_filter | grep -qF "$3"; '
        'cp -p "$1" "$1.before-pmc"; add "$1" "$2"'
    )
    return Step(
        node,
        f"set LVM's global_filter in {LVM_CONF} (the old one stays as {LVM_CONF}.before-pmc)",
        bash(script, LVM_CONF, line, REJECT_DRBD),
        undo=command("cp", "-p", f"{LVM_CONF}.before-pmc", LVM_CONF),
        check=command("grep", "-qxF", line, LVM_CONF),
    )


# -- libvirt --


def query_libvirt(about: About) -> Query[str]:
    return Query(virsh.virsh("version"), parse_libvirt)


def parse_libvirt(text: str) -> str:
    """'libvirt 9.0.0, QEMU 7.2.22'"""
    fact = dict(row.partition(": ")[::2] for row in text.splitlines())
    return f"{fact['Using library']}, {fact['Running hypervisor']}"


def judge_libvirt(found: str, about: About) -> Verdict:
    return good(found)


# A distribution has the one daemon or one for each driver; a socket starts its service.
LIBVIRT_UNITS = ("libvirtd.service", "libvirtd.socket", "virtqemud.service", "virtqemud.socket")


def query_libvirt_boot(about: About) -> Query[dict[str, str]]:
    units = " ".join(LIBVIRT_UNITS)
    # Its status is 1 when no unit of these is there, which is an answer.
    script = f"systemctl list-unit-files --no-legend --no-pager {units} || [ $? = 1 ]"
    return Query(bash(script), parse_units)


def parse_units(text: str) -> dict[str, str]:
    """Unit -> enabled, disabled, masked, ..."""
    return {row.split()[0]: row.split()[1] for row in text.splitlines() if row.strip()}


def judge_libvirt_boot(found: dict[str, str], about: About) -> Verdict:
    enabled = sorted(unit for unit, state in found.items() if state == "enabled")
    if enabled:
        return good(f"{', '.join(enabled)} enabled")
    able = [unit for unit in ("libvirtd.service", "virtqemud.socket") if found.get(unit) == "disabled"]
    if not able:
        states = ", ".join(f"{unit} is {state}" for unit, state in sorted(found.items())) or "no unit of it is there"
        return bad(states, "install libvirt's daemon (Debian: libvirt-daemon-system), or systemctl unmask it")
    fix = command("systemctl", "enable", "--now", able[0])
    step = Step(about.node, f"start {able[0]}, now and at boot", fix, undo=command("systemctl", "disable", able[0]))
    return bad(f"{able[0]} is not started at boot", str(fix), step)


# -- the network --


def query_bridge(about: About) -> Query[str]:
    script = (
        'n=/sys/class/net/$1; if [ -d "$n/bridge" ]; then echo "bridge $(cat "$n/operstate")"; '
        'elif [ -e "$n" ]; then echo other; else echo none; fi'
    )
    return Query(bash(script, about.settings.bridge), str.strip)


def judge_bridge(found: str, about: About) -> Verdict:
    name = about.settings.bridge
    if found.startswith("bridge "):
        state = found.removeprefix("bridge ")
        return good(name) if state != "down" else bad(f"{name} is down", f"ip link set {name} up, and at boot too")
    advice = (
        f"make one in /etc/network/interfaces: auto {name}, iface {name} inet static, address ..., bridge_ports eth0 "
        f"(Debian: apt install bridge-utils), or with nmcli or netplan"
    )
    return bad(f"{name} is not a bridge" if found == "other" else f"no bridge {name}", advice)


def query_replication(about: About) -> Query[frozenset[str]]:
    return Query(command("ip", "-o", "addr"), parse_addresses)


def parse_addresses(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\sinet6?\s+([0-9a-fA-F.:]+)/", text))


def judge_replication(found: frozenset[str], about: About) -> Verdict:
    wanted = about.settings.nodes[about.node].replication
    if ipaddress.ip_address(wanted) in {ipaddress.ip_address(address) for address in found}:
        return good(wanted)
    return bad(
        f"no interface has {wanted}",
        f"give it to the interface that links the nodes, at boot too, or correct nodes.{about.node}.replication",
    )


@dataclass(frozen=True)
class Ports:
    listening: frozenset[int]  # TCP, DRBD's own among them
    drbd: frozenset[int]  # those of the resource files


def query_ports(about: About) -> Query[Ports]:
    script = (
        "ss -Hltn | awk '{print $4}'; echo --; "
        "grep -Eohs 'address[[:space:]]+[^;]*:[0-9]+[[:space:]]*;' \"$1\"/*.res "
        "| grep -Eo '[0-9]+[[:space:]]*;$' | tr -d ';' || :"
    )
    return Query(bash(script, drbd.DIRECTORY), parse_ports)


def parse_ports(text: str) -> Ports:
    listening, mark, files = text.partition("--")
    if not mark:
        raise ValueError("cut short")
    heard = (int(row.rpartition(":")[2]) for row in listening.split())
    return Ports(frozenset(heard), frozenset(map(int, files.split())))


def judge_ports(found: Ports, about: About) -> Verdict:
    wanted = about.settings.port_range
    ours = found.drbd & set(wanted)
    others = sorted((found.listening - found.drbd) & set(wanted))
    free = len(wanted) - len(ours) - len(others)
    shown = ", ".join(map(str, others[:5])) + (", ..." if len(others) > 5 else "")
    text = f"{free} of {len(wanted)} free in {about.settings.ports}" + (f"; others listen on {shown}" if others else "")
    if free:
        return good(text)
    return bad(text, f"widen ports in {about.settings.source}, or stop what listens there")


# -- tools --

# Where Debian has them, when the package is not called as the tool is.
PACKAGES = {
    "virt-install": "virtinst", "ssh": "openssh-client", "ssh-keygen": "openssh-client", "timeout": "coreutils",
    "base64": "coreutils", "install": "coreutils", "sha256sum": "coreutils", "blkdiscard": "util-linux",
    "flock": "util-linux", "qemu-img": "qemu-utils", "ss": "iproute2",
}  # fmt: skip


def has(name: str, *tools: str) -> Check:
    script = 'for t; do command -v -- "$t" >/dev/null || echo "$t"; done'
    query = Query(bash(script, *tools), str.split)
    return Check(name, lambda about: query, lambda found, about: judge_tools(found, tools))


def judge_tools(missing: list[str], tools: tuple[str, ...]) -> Verdict:
    if not missing:
        return good(", ".join(tools) if len(tools) > 1 else "installed")
    packages = " ".join(dict.fromkeys(PACKAGES.get(tool, tool) for tool in missing))
    text = "not installed" if len(tools) == 1 else f"not installed: {', '.join(missing)}"
    return bad(text, f"Debian: apt install {packages}")


# -- the backup directory --


@dataclass(frozen=True)
class Folder:
    kind: str  # directory, or whatever is in its place, or none
    mode: str = ""
    writable: bool = False
    free: int = 0


def query_folder(about: About) -> Query[Folder]:
    script = (
        '[ -e "$1" ] || { echo none; exit; }; stat -L -c "%F|%a" "$1"; '
        'if [ -w "$1" ]; then echo yes; else echo no; fi; df -B1 --output=avail "$1" | tail -n 1'
    )
    return Query(bash(script, about.settings.backup_dir), parse_folder)


def parse_folder(text: str) -> Folder:
    if text.strip() == "none":
        return Folder("none")
    first, writable, free = text.strip().splitlines()
    kind, _, mode = first.partition("|")
    return Folder(kind, mode, parse_yes(writable), int(free))


def judge_folder(found: Folder, about: About) -> Verdict:
    path = about.settings.backup_dir
    if found.kind == "none":
        step = Step(
            about.node,
            f"make the backup directory {path}",
            make.folder(about.node, path, "700").do,
            undo=command("rmdir", "--ignore-fail-on-non-empty", path),
            check=command("test", "-d", path),
        )
        return bad(f"no {path}", str(step.do), step)
    if found.kind != "directory":
        advice = f"move it away, or set backup_dir in {about.settings.source}"
        return bad(f"{path} is a {found.kind}, not a directory", advice)
    if not found.writable:
        return bad(f"{path} cannot be written", "is its file system mounted read-only?")
    if found.mode != "700":
        fix = command("chmod", "700", path)
        step = Step(about.node, f"close {path} to all but root", fix, undo=command("chmod", found.mode, path))
        return bad(f"{path} has mode {found.mode}; in backups is everything that the guests have", str(fix), step)
    return good(f"{path}: {show_size(found.free)} free")


# -- the machine --


@dataclass(frozen=True)
class Kvm:
    device: bool  # /dev/kvm can be opened
    cpu: bool  # the CPU says that it can


def query_kvm(about: About) -> Query[Kvm]:
    script = (
        "if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then echo yes; else echo no; fi; "
        "if grep -Eqw '^flags.*(vmx|svm)' /proc/cpuinfo; then echo yes; else echo no; fi"
    )
    return Query(bash(script), parse_kvm)


def parse_kvm(text: str) -> Kvm:
    device, cpu = text.split()
    return Kvm(parse_yes(device), parse_yes(cpu))


def judge_kvm(found: Kvm, about: About) -> Verdict:
    if about.settings.virt_type != "kvm":
        return good(f"not needed: virt_type is {about.settings.virt_type}")
    if found.device:
        return good("/dev/kvm")
    if found.cpu:
        return bad("no /dev/kvm, though the CPU can", "modprobe kvm_intel, or kvm_amd; if it fails: the firmware")
    return bad(
        "no /dev/kvm, and the CPU shows no vmx or svm",
        f'switch it on in the firmware; without it set virt_type = "qemu" (slow) in {about.settings.source}',
    )


def query_clock(about: About) -> Query[float]:
    return Query(command("date", "+%s.%N"), float)


def judge_clock(found: float, about: About) -> Verdict:
    """The node answered between two moments of the manager's clock, so a difference shows only beyond them."""
    began, ended = about.asked
    off = max(began - found, found - ended, 0.0)
    if off <= CLOCK_FINE:
        return good("as the manager's")
    text = f"{off:.0f} s {'behind' if found < began else 'ahead of'} the manager's"
    return good(text) if off <= CLOCK_BAD else bad(text, "keep its time by NTP: timedatectl set-ntp true, or chrony")


_NO_UTILS = "Debian: apt install drbd-utils"
_NO_LIBVIRT = "systemctl status libvirtd tells why (Debian: apt install libvirt-daemon-system libvirt-clients)"


def _no_group(about: About) -> Query[tuple[int, int]]:
    return lvm.group(about.settings.volume_group)


CHECKS = (
    Check("hostname", lambda about: Query(command("uname", "-n"), str.strip), judge_hostname),
    Check("drbd", query_module, judge_module),
    Check("drbd at boot", query_at_boot, judge_at_boot),
    Check("drbd utils", query_utils, judge_utils, _NO_UTILS),
    Check("volume group", _no_group, judge_group,
          "make it on a free disk or partition: pvcreate DISK && vgcreate {group} DISK (Debian: apt install lvm2)"),
    Check("global_filter", query_filter, judge_filter, "Debian: apt install lvm2"),
    Check("libvirt", query_libvirt, judge_libvirt, _NO_LIBVIRT),
    Check("libvirt at boot", query_libvirt_boot, judge_libvirt_boot),
    Check("bridge", query_bridge, judge_bridge),
    has("xdelta3", "xdelta3"),
    has("virt-install", "virt-install"),
    has("tools", "timeout", "base64", "sha256sum", "ssh", "ssh-keygen", "blkdiscard", "flock", "qemu-img", "ss"),
    Check("backup directory", query_folder, judge_folder),
    Check("replication address", query_replication, judge_replication, "Debian: apt install iproute2"),
    Check("ports", query_ports, judge_ports, "Debian: apt install iproute2"),
    Check("kvm", query_kvm, judge_kvm),
    Check("clock", query_clock, judge_clock),
)  # fmt: skip
