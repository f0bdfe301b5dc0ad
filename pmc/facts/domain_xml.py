"""XML that nodes, files and backups hold, read and changed in one place. Pure."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ET
from contextlib import suppress

from pmc.units import KiB, MiB, bounded, count

LONGEST = MiB  # of a domain some thousand characters are usual
DEEPEST = 64  # libvirt's own goes about ten deep; what walks an element calls itself


def parsed(text: str) -> ET.Element:
    """Raises ValueError for what is no XML, has a document type (entities), or is nested too deeply or too long."""
    bounded(text, LONGEST)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("XML with a document type")
    try:
        root = ET.fromstring(text)  # noqa: S314 - see above
    except ET.ParseError as error:
        raise ValueError(f"not XML: {error}") from None
    waiting = [(root, 1)]
    while waiting:
        element, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError("XML that is nested too deeply")
        waiting += ((child, depth + 1) for child in element)
    return root


def checked(text: str) -> str:
    """The text itself, when it is XML as above."""
    parsed(text)
    return text


def passwords(xml: str) -> tuple[str, ...]:
    """Those of VNC and SPICE, as they stand in a domain's XML or in JSON around it, and what is meant by that."""
    found = list[str]()
    for json_, double, single in _PASSWORD.findall(xml):
        found.append(json_ or double or single)
        with suppress(ValueError):
            found.append(str(json.loads(f'"{json_}"')))
    return tuple(dict.fromkeys(filter(None, (*found, *map(html.unescape, found)))))


# In quotes of either kind, in JSON with a backslash before the double ones.
_PASSWORD = re.compile(r"""\bpasswd\s*=\s*(?:\\"((?:(?!\\").)*)\\"|"([^"]*)"|'([^']*)')""", re.S)


def with_disk(xml: str, device: str, iso: str = "") -> str:
    """The domain with `device` as its first disk: no host cache (live migration demands it), discards passed on; and
    with `iso` (a path on the node) as a CD."""
    domain = parsed(xml)
    devices = domain.find("devices")
    if devices is None:
        raise ValueError("the domain has no <devices>")
    disk = ET.fromstring(  # noqa: S314
        '<disk type="block" device="disk"><driver name="qemu" type="raw" cache="none" io="native" discard="unmap"/>'
        '<source/><target dev="vda" bus="virtio"/></disk>'
    )
    source = disk.find("source")
    assert source is not None  # noqa: S101 - it is in the text above
    source.set("dev", device)
    devices.insert(0, disk)
    if iso:
        cd = ET.fromstring(  # noqa: S314
            '<disk type="file" device="cdrom"><driver name="qemu" type="raw"/><source/>'
            '<target dev="sda" bus="sata"/><readonly/></disk>'
        )
        cd.find("source").set("file", iso)  # type: ignore[union-attr]
        devices.insert(1, cd)
    return _text(domain)


def with_cpu(xml: str, cpu: str) -> str:
    """The domain with this <cpu> in place of its own."""
    domain = parsed(xml)
    for old in domain.findall("cpu"):
        domain.remove(old)
    domain.append(parsed(cpu))
    return _text(domain)


def renamed(xml: str, *, name: str, uuid: str, mac: str, old_device: str, device: str) -> str:
    """A copy for a new VM: own name, UUID, MAC and disk. Its other disks (an installer's CD) are left out, so that
    the two VMs share nothing; further network cards get no MAC, so that libvirt makes new ones."""
    domain = parsed(xml)
    for tag, text in (("name", name), ("uuid", uuid)):
        element = domain.find(tag)
        if element is None:
            element = ET.SubElement(domain, tag)
        element.text = text
    for system in domain.findall("os"):
        for nvram in system.findall("nvram"):  # libvirt makes a new one; this one is the old VM's
            system.remove(nvram)
    devices = domain.find("devices")
    if devices is None:
        raise ValueError("the domain has no <devices>")
    kept = False
    for disk in devices.findall("disk"):
        source = disk.find("source")
        if source is not None and source.get("dev") == old_device:
            source.set("dev", device)
            kept = True
        else:
            devices.remove(disk)
    if not kept:
        raise ValueError(f"the domain has no disk {old_device}")
    for number, interface in enumerate(devices.findall("interface")):
        for old in interface.findall("mac"):
            interface.remove(old)
        if number == 0:
            ET.SubElement(interface, "mac", {"address": mac})
    return _text(domain)


def name_of(xml: str) -> str:
    """Empty when this is not the XML of one domain."""
    try:
        return parsed(xml).findtext("name") or ""
    except ValueError:
        return ""


def memory_of(xml: str) -> int:
    """Bytes; libvirt prints KiB."""
    return count(str(parsed(xml).findtext("memory", "0"))) * KiB


def _text(element: ET.Element) -> str:
    ET.indent(element)
    return ET.tostring(element, encoding="unicode") + "\n"
