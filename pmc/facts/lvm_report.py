"""What lvs and vgs report, as volumes and groups. Pure. Source: lvmreport(7), lvs(8), vgs(8)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from pmc.command import Query, command
from pmc.lvm import FIELDS, JSON, LABEL, NAME
from pmc.model import Volume
from pmc.units import MiB, bounded, count


@dataclass(frozen=True)
class Group:
    """A volume group, in bytes; `attributes` is its vg_attr (vgs(8))."""

    size: int = 0
    free: int = 0
    attributes: str = ""


LONGEST = 8 * MiB  # some 200 characters for each volume
# lv_attr, vg_attr: letters, and a dash where there is nothing to say.
_LETTERS = re.compile(r"[A-Za-z?-]{0,12}", re.ASCII)
_GROUP = "vg_size,vg_free,vg_attr"


def volumes(group: str) -> Query[tuple[Group, dict[str, Volume]]]:
    """The volume group, and its volumes by name, in one report: LVM looks at all disks each time (lvm-fullreport(8); of
    the parts that nobody wants the empty list is selected)."""
    unwanted = [word for part in ("pv", "pvseg") for word in ("--configreport", part, "-S", "pv_name=-")]
    unwanted += ["--configreport", "seg", "-S", "lv_name=-"]
    wanted = ("--configreport", "vg", "-o", _GROUP, "--configreport", "lv", "-o", FIELDS)
    return Query(
        command("lvm", "fullreport", *JSON, *wanted, *unwanted, group),
        lambda text: (parse_group(text), {v.name: v for v in parse_volumes(text).values()}),
    )


def group(name: str) -> Query[Group]:
    return Query(
        command("vgs", *JSON, "-o", _GROUP, name),
        parse_group,
    )


def parse_volumes(text: str) -> dict[str, Volume]:
    """By 'GROUP/NAME'. A field that is not there is empty; a volume without a name or a size is left out, and so are
    LVM's own (in brackets: a pool's metadata, its spare, the images of a mirror), which are shown with lvs -a. Words
    that are none of LVM's are empty. Raises ValueError for what is no group: nothing could be done with its volumes."""
    found = {}
    for row in _rows(text, "lv"):
        name, group, size = (row.get(key, "") for key in ("lv_name", "vg_name", "lv_size"))
        if not name or name.startswith("[") or not (size.isascii() and size.isdecimal() and len(size) < 20):
            continue
        if not NAME.fullmatch(group):
            raise ValueError("a volume group that has no name of LVM's")
        found[f"{group}/{name}"] = Volume(
            name,
            group,
            int(size),
            tuple(tag for tag in row.get("lv_tags", "").split(",") if LABEL.fullmatch(tag)),
            _name(row.get("origin", "")),
            _letters(row.get("lv_attr", "")),
            _percent(row.get("data_percent", "")),
            _percent(row.get("metadata_percent", "")),
            _name(row.get("pool_lv", "")),
        )
    return found


def _name(said: str) -> str:
    """Of another volume, which may be one of LVM's own."""
    hidden = said.startswith("[") and said.endswith("]")
    return said if NAME.fullmatch(said[1:-1] if hidden else said) else ""


def _letters(said: str) -> str:
    return said if _LETTERS.fullmatch(said) else ""


def _rows(text: str, part: str) -> list[dict[str, str]]:
    """LVM puts every value into quotes. Raises ValueError."""
    reports = [report[part] for report in json.loads(bounded(text, LONGEST))["report"] if part in report]
    rows: list[dict[str, str]] = [row for rows in reports for row in rows]
    if not reports or (rows and not any(rows)):
        raise ValueError("not LVM's report")
    if not all(isinstance(value, str) for row in rows for value in row.values()):
        raise ValueError("not a report of LVM")
    return rows


def _percent(said: str) -> float | None:
    """Empty where there is none, -1 or a word where LVM cannot tell."""
    try:
        number = float(said)
    except ValueError:
        return None
    return number if 0 <= number <= 100 else None


def parse_group(text: str) -> Group:
    row = _rows(text, "vg")[0]
    return Group(count(row["vg_size"]), count(row["vg_free"]), _letters(row.get("vg_attr", "")))
