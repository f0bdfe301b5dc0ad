"""LVM: commands on logical volumes, and the parsers of --reportformat json. Pure. Source: lvm(8), lvs(8)."""

from __future__ import annotations

import json

from pmc.command import Command, Query, bash, command
from pmc.model import Volume

# On every volume that pmc makes, so that it never takes another's volume of the same name for its own.
TAG = "pmc"
# Beside it while the volume is a copy that is not yet complete: whatever is on it may go.
UNFINISHED = "pmc.unfinished"


def path(group: str, name: str) -> str:
    return f"/dev/{group}/{name}"


def create(group: str, name: str, size: int, *tags: str) -> Command:
    """Not activated over old signatures: -W n, because all of it is written before anybody reads it."""
    marks = [word for tag in (TAG, *tags) for word in ("--addtag", tag)]
    return command("lvcreate", "--yes", "--wipesignatures", "n", *marks, "--size", f"{size}b", "--name", name, group)


def zero(group: str, name: str) -> Command:
    """Nothing of a former owner stays to be read. The device is asked to do it itself where it can
    (blkdiscard(8)), which without --force stops at a former owner's file system."""
    return command("blkdiscard", "--force", "--zeroout", "--step", "1GiB", path(group, name), long=True)


def snapshot(group: str, name: str, of: str, size: int) -> Command:
    """A classic snapshot with room for `size` bytes of changes; it is lost when they are more."""
    return command(
        "lvcreate",
        "--yes",
        "--snapshot",
        "--addtag",
        TAG,
        "--size",
        f"{size}b",
        "--name",
        name,
        f"{group}/{of}",
    )


def remove(group: str, name: str) -> Command:
    """Refused by LVM while the volume is open (in use by DRBD or a reader)."""
    return command("lvremove", "--yes", f"{group}/{name}")


def discard(group: str, name: str) -> Command:
    """Removes a snapshot of ours if it is there: the undo of something that a later step removes anyway."""
    return bash('lvs "$1" >/dev/null 2>&1 || exit 0; exec lvremove --yes "$1"', f"{group}/{name}")


def intact(group: str, name: str) -> Command:
    """Succeeds when the snapshot did not overflow: an overflowed one (5th attribute I) has lost its moment."""
    script = (
        'a=$(lvs --noheadings -o lv_attr "$1"); a=${a//[[:space:]]/}; '
        '[ "${a:4:1}" = a ] || { echo "the snapshot overflowed ($a)" >&2; exit 1; }'
    )
    return bash(script, f"{group}/{name}")


def exists(group: str, name: str) -> Command:
    return command("lvs", "--noheadings", f"{group}/{name}")


def is_gone(group: str, name: str) -> Command:
    return bash('! lvs "$1" >/dev/null 2>&1', f"{group}/{name}")


def grow(group: str, name: str, more: int) -> Command:
    return command("lvextend", "--size", f"+{more}b", f"{group}/{name}")


def mark(group: str, name: str, on: bool, tag: str = TAG) -> Command:
    return command("lvchange", "--addtag" if on else "--deltag", tag, f"{group}/{name}")


def activate(group: str) -> Command:
    return command("vgchange", "--activate", "y", group)


def volumes() -> Query[dict[str, Volume]]:
    fields = "vg_name,lv_name,lv_size,lv_tags,origin,lv_attr,data_percent"
    return Query(command("lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields), parse_volumes)


def group(name: str) -> Query[tuple[int, int]]:
    """(size, free) of a volume group in bytes."""
    return Query(
        command("vgs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", "vg_size,vg_free", name),
        parse_group,
    )


def parse_volumes(text: str) -> dict[str, Volume]:
    """By 'GROUP/NAME'."""
    found = {}
    for row in json.loads(text)["report"][0]["lv"]:
        volume = Volume(
            row["lv_name"],
            row["vg_name"],
            int(row["lv_size"]),
            tuple(filter(None, row["lv_tags"].split(","))),
            row["origin"],
            row["lv_attr"],
            float(row["data_percent"]) if row["data_percent"] else None,
        )
        found[f"{volume.group}/{volume.name}"] = volume
    return found


def parse_group(text: str) -> tuple[int, int]:
    row = json.loads(text)["report"][0]["vg"][0]
    return int(row["vg_size"]), int(row["vg_free"])
