"""Checks of libvirt: it answers, is started at boot, and has what migrations are configured to need. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pmc import virsh
from pmc.command import Query, bash, command
from pmc.health.check import About, Finding, Verdict, bad, good
from pmc.plan import Step


def query_libvirt(about: About) -> Query[str]:
    return Query(virsh.virsh("version"), parse_libvirt)


def parse_libvirt(text: str) -> str:
    """'libvirt 9.0.0, QEMU 7.2.22'"""
    fact = dict(row.partition(": ")[::2] for row in text.splitlines())
    return f"{fact['Using library']}, {fact['Running hypervisor']}"


def judge_libvirt(found: str, about: About) -> Verdict:
    return good(found)


def mixed_versions(versions: Mapping[str, str]) -> list[Finding]:
    """`versions`: as parse_libvirt has them. A QEMU takes in a guest of an older one, but not always of a newer one;
    what comes after major and minor number (a fix) does not matter."""
    numbers = {
        node: [(int(major), int(minor)) for major, minor in reversed(_NUMBERS.findall(version))]
        for node, version in versions.items()
    }
    newest = max(numbers, key=lambda node: numbers[node], default="")
    return [
        Finding(node, "libvirt peers", bad(
            f"{versions[node]}, and {newest} has {versions[newest]}: what was started there may not move here",
            f"bring both to one version, {node} first",
        ))
        for node in numbers if numbers[node] != numbers[newest]
    ]  # fmt: skip


_NUMBERS = re.compile(r"\b(\d{1,9})\.(\d{1,9})\.\d", re.ASCII)  # of libvirt, then of QEMU


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


# qemu.conf: migrate_tls_x509_cert_dir, and where QEMU looks when there is none of its own.
TLS_FOLDERS = ("/etc/pki/libvirt-migrate", "/etc/pki/qemu")
TLS_FILES = ("ca-cert.pem", "server-cert.pem", "server-key.pem")


def query_transport(about: About) -> Query[frozenset[str]]:
    """The files of TLS that are there; asked only when migrations need them."""
    paths = [f"{folder}/{file}" for folder in TLS_FOLDERS for file in TLS_FILES if about.settings.migration == "tls"]
    script = 'for f in "$@"; do if [ -e "$f" ]; then echo "$f"; fi; done; echo end'
    return Query(bash(script, *paths), parse_transport)


def parse_transport(text: str) -> frozenset[str]:
    *paths, end = text.splitlines() or [""]
    if end != "end":
        raise ValueError("the list of files is cut short")
    return frozenset(paths)


def judge_transport(found: frozenset[str], about: About) -> Verdict:
    way = about.settings.migration
    if way != "tls":
        return good(f"{way}{', in the clear on the replication network' if way == 'tcp' else ''}")
    for folder in TLS_FOLDERS:
        if all(f"{folder}/{file}" in found for file in TLS_FILES):
            return good(f"tls, certificate in {folder}")
    needed = ", ".join(TLS_FILES)
    return bad(
        f'migration = "tls", but neither {" nor ".join(TLS_FOLDERS)} has all of {needed}',
        f"put them into {TLS_FOLDERS[0]} (the certificate's name: {about.node}), or choose another way in pmc.conf",
    )
