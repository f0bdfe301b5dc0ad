"""Checks of the machine: host name, tools, backup directory, KVM, clock. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pmc.command import Query, bash, command
from pmc.health.check import About, Check, Verdict, bad, good, parse_yes
from pmc.plain import shown
from pmc.plan import Step
from pmc.plans import vm_steps
from pmc.units import finite, show_size

# In seconds. Logs of two nodes cannot be compared when their clocks differ by more.
CLOCK_FINE, CLOCK_BAD = 2.0, 30.0


def query_hostname(about: About) -> Query[str]:
    return Query(command("uname", "-n"), lambda text: shown(text.strip()))


def judge_hostname(found: str, about: About) -> Verdict:
    if found == about.node:
        return good(found)
    return bad(
        f"is {found!r}, and DRBD looks for {about.node!r}, the name in {about.settings.source}",
        f"on the node: hostnamectl set-hostname {about.node} (and name it in /etc/hosts), or rename it in pmc.conf",
    )


# Where Debian has them, when the package is not called as the tool is.
PACKAGES = {
    "virt-install": "virtinst", "ssh": "openssh-client", "ssh-keygen": "openssh-client", "timeout": "coreutils",
    "base64": "coreutils", "install": "coreutils", "sha256sum": "coreutils", "blkdiscard": "util-linux",
    "flock": "util-linux", "prlimit": "util-linux", "setpriv": "util-linux",
    "qemu-img": "qemu-utils", "ss": "iproute2", "ionice": "util-linux",
    "awk": "gawk",
}  # fmt: skip


def prints(said: str) -> Verdict:
    """What login scripts print: every command of every tool gets it first, as if it were the answer."""
    if not said:
        return good("prints nothing")
    return bad(
        f"a login script prints {said!r} for commands too",
        f"it is mostly in root's ~/.bashrc there, or /etc/bash.bashrc: begin that with: {GUARD}",
    )


# bash reads .bashrc for ssh commands too.
GUARD = "case $- in *i*) ;; *) return;; esac"


def query_shell(about: About) -> Query[str]:
    return Query(bash('getent passwd "${SUDO_USER:-$(id -un)}" | cut -d: -f7'), str.strip)


def judge_shell(found: str, about: About) -> Verdict:
    """csh takes no argument of several lines, fish knows other quotes."""
    if found.rpartition("/")[2] in ("sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "busybox"):
        return good(found)
    return bad(f"is {found or 'not known'}", "pmc's commands need one like sh there: chsh -s /bin/bash")


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


def query_xdelta3(about: About) -> Query[str]:
    """What it was built with: `xdelta3 config` says it, on stderr."""
    script = "command -v xdelta3 >/dev/null || { echo none; exit; }; xdelta3 config 2>&1 | cat"
    return Query(bash(script), lambda text: text)


def judge_xdelta3(found: str, about: About) -> Verdict:
    if found.strip() == "none":
        return bad("not installed", "Debian: apt install xdelta3")
    version = re.search(r"^Xdelta version ([\d.]+)", found, re.M)
    if not version:
        return bad(
            f"`xdelta3 config` says {found[:80]!r}", "put Debian's xdelta3 (3.0.11), or one like it, in its place"
        )
    if not re.search(r"^SECONDARY_LZMA=1$", found, re.M):
        text = f"{version[1]}, built without lzma: it cannot read the deltas of backups"
        return bad(text, "build it with liblzma, as Debian's package is")
    return good(f"{version[1]}, with lzma")


@dataclass(frozen=True)
class Folder:
    kind: str  # directory, or whatever is in its place, or none
    mode: str = ""
    writable: bool = False
    free: int = 0
    shared: bool = False  # holds other things than backups


def query_folder(about: About) -> Query[Folder]:
    script = (
        '[ -e "$1" ] || { echo none; exit; }; stat -L -c "%F|%a" "$1"; '
        'if [ -w "$1" ]; then echo yes; else echo no; fi; df -B1 --output=avail "$1" | tail -n 1; '
        'find -H "$1" -mindepth 1 -maxdepth 1 ! -name lost+found ! -name "*.????????T??????Z.*" '
        '-printf "shared\\n" -quit'
    )
    return Query(bash(script, about.settings.backup_dir), parse_folder)


def parse_folder(text: str) -> Folder:
    if text.strip() == "none":
        return Folder("none")
    first, writable, free, *shared = text.strip().splitlines()
    kind, _, mode = first.partition("|")
    return Folder(kind, mode, parse_yes(writable), int(finite(free)), bool(shared))


def judge_folder(found: Folder, about: About) -> Verdict:
    path = about.settings.backup_dir
    if found.kind == "none":
        step = Step(
            about.node,
            f"make the backup directory {path}",
            vm_steps.folder(about.node, path, "700").do,
            undo=command("rmdir", "--ignore-fail-on-non-empty", path),
            check=command("test", "-d", path),
        )
        return bad(f"no {path}", str(step.do), step)
    if found.kind != "directory":
        advice = f"move it away, or set backup_dir in {about.settings.source}"
        return bad(f"{path} is a {found.kind}, not a directory", advice)
    if not found.writable:
        return bad(f"{path} cannot be written", "is its file system mounted read-only?")
    if found.mode != "700" and found.shared:
        text = f"{path} has mode {found.mode}, and holds other things than backups, which may be meant for others"
        advice = f"set backup_dir in {about.settings.source} to a directory of its own (chmod 700 {path} if it is one)"
        return bad(text, advice)
    if found.mode != "700":
        fix = command("chmod", "00700", path)  # 700 leaves a setgid bit as it is: chmod(1)
        step = Step(about.node, f"close {path} to all but root", fix, undo=command("chmod", found.mode, path))
        return bad(f"{path} has mode {found.mode}; in backups is everything that the guests have", str(fix), step)
    return good(f"{path}: {show_size(found.free)} free")


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
    return Query(command("date", "+%s.%N"), finite)


def judge_clock(found: float, about: About) -> Verdict:
    """The node answered between two moments of the manager's clock, so a difference shows only beyond them."""
    began, ended = about.asked
    off = max(began - found, found - ended, 0.0)
    if off <= CLOCK_FINE:
        return good("as the manager's")
    text = f"{off:.0f} s {'behind' if found < began else 'ahead of'} the manager's"
    return good(text) if off <= CLOCK_BAD else bad(text, "keep its time by NTP: timedatectl set-ntp true, or chrony")
