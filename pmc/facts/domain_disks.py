"""The disks of a domain, of its XML, as it is defined and as it runs. Pure. Source:
https://libvirt.org/formatdomain.html, hard drives, floppy disks."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable

from pmc.command import Query, bash
from pmc.facts.domain_xml import parsed
from pmc.model import Disk, Running


def writable(xml: str) -> tuple[Disk, ...]:
    """In their order. A CD, an empty drive and what is read only hold nothing that could be lost."""
    return tuple(disk for each in parsed(xml).iter("disk") if (disk := _disk(each)))


def _disk(disk: ET.Element) -> Disk | None:
    target, source, kind = disk.find("target"), disk.find("source"), disk.get("type", "file")
    if disk.get("device", "disk") == "cdrom" or disk.find("readonly") is not None or target is None:
        return None
    if source is None:
        return None
    path = source.get("dev") or source.get("file") or source.get("dir")
    words = [kind, *(source.get(key, "") for key in ("protocol", "name", "pool", "volume", "path"))]
    return Disk(target.get("dev", ""), path or " ".join(filter(None, words)), kind == "network")


def names_of(vm: str, minors: Iterable[int], disk: str) -> frozenset[str]:
    """What the device of a DRBD resource is called: its own name, and the links of udev to it. `disk`: what the
    resource lies on."""
    found = {f"/dev/drbd/by-res/{vm}", f"/dev/drbd_{vm}"}
    if disk.startswith("/dev/"):
        found.add(f"/dev/drbd/by-disk/{disk.removeprefix('/dev/')}")
    for number, minor in enumerate(minors):
        found |= {f"/dev/drbd{minor}", f"/dev/drbd/by-res/{vm}/{number}"}
    return frozenset(found)


def running(folder: str = "/run/libvirt/qemu") -> Query[dict[str, Running]]:
    """Of libvirt's own notes of what it started: a definition may have been edited since. A domain that is not in them
    is not known."""
    script = (
        'shopt -s nullglob; cd "$1" 2>/dev/null || exit 0; '
        "sed -sn '1F; /<job type=/p; /<domain type=/p; /<disk type=/,/<\\/disk>/p' ./*.xml /dev/null"
    )
    return Query(bash(script, folder), parse_running)


def parse_running(text: str) -> dict[str, Running]:
    found = {}
    for part in re.split(r"^\./", text, flags=re.M)[1:]:
        file, _, rest = part.partition("\n")
        kind = re.search(r"<domain type='([a-z]+)'", rest)
        job = re.search(r"<job type='[^']*' async='migration (in|out)'", rest)
        # Not by an expression: where no disk has an end, each begin would be looked through to the end of the text.
        begun = (each.partition("</disk>") for each in rest.split("<disk type=")[1:])
        elements = [f"<disk type={body}{end}" for body, end, _ in begun if end]
        if kind:
            found[file.removesuffix(".xml")] = Running(
                kind[1], writable(f"<devices>{''.join(elements)}</devices>"), job[1] if job else ""
            )
    return found
