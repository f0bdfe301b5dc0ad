"""Two definitions of one domain, as two nodes have them, compared. Pure."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET

from pmc.facts.domain_xml import parsed

# What may differ between two nodes that are both right: where the emulator is installed, which file of UEFI
# variables libvirt made there.
_LOCAL = ("domain/devices/emulator", "domain/os/nvram")
_SECRET = ("passwd",)


def differences(here: str, there: str) -> list[tuple[str, str, str]]:
    """(what, value here, value there) for each setting that differs; an empty value: it is not there. Passwords
    are not shown."""
    one, other = _settings(here), _settings(there)
    found = []
    for key in dict.fromkeys([*one, *other]):
        first, second = one.get(key, ""), other.get(key, "")
        if first != second or (key in one) != (key in other):
            hidden = key.rpartition("@")[2] in _SECRET
            found.append((key, "***", "***") if hidden else (key, first, second))
    return found


def digest(xml: str) -> str:
    """Equal for two in which `differences` finds none."""
    return hashlib.sha256(repr(sorted(_settings(xml).items())).encode()).hexdigest()


def uuid(xml: str) -> str:
    return (parsed(xml).findtext("uuid") or "").strip()


def _settings(xml: str) -> dict[str, str]:
    """Each attribute and text by its path; elements of the same name that have siblings are numbered."""
    found: dict[str, str] = {}
    _walk(parsed(xml), "domain", found)
    return found


def _walk(element: ET.Element, path: str, found: dict[str, str]) -> None:
    if path in _LOCAL:
        return
    found[path] = (element.text or "").strip()
    for key, value in sorted(element.attrib.items()):
        found[f"{path}@{key}"] = value
    seen: dict[str, int] = {}
    for child in element:
        if not isinstance(child.tag, str):  # a comment
            continue
        tag = child.tag.rpartition("}")[2]
        if tag == "controller":  # libvirt lists them in another order after a migration; these two tell them apart
            tag = f"controller {child.get('type')} {child.get('index')}"
        seen[tag] = seen.get(tag, 0) + 1
        _walk(child, f"{path}/{tag}" + (f"[{seen[tag]}]" if seen[tag] > 1 else ""), found)
