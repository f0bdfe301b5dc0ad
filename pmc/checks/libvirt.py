"""Checks of libvirt: it answers, and is started at boot. Pure."""

from __future__ import annotations

from pmc import virsh
from pmc.checks.finding import About, Verdict, bad, good
from pmc.command import Query, bash, command
from pmc.plan import Step


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
