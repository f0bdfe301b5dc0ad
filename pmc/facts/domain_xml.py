"""XML that nodes, files and backups hold, read in one place. Pure."""

from __future__ import annotations

import xml.etree.ElementTree as ET

DEEPEST = 64  # libvirt's own goes about ten deep; what walks an element calls itself


def parsed(text: str) -> ET.Element:
    """Raises ValueError for what is no XML, has a document type (entities), or is nested too deeply."""
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
