"""Backups: names, manifests, and the listing of what lies on the nodes. Pure.

A base is the whole disk: a sparse file (ID.img), as a rule compressed (ID.img.zst), and the checksums of its blocks
beside it (ID.index). A delta is a VCDIFF file against a base (ID.xd3): anyone can restore it with `xdelta3 -d -s
BASE.img ID.xd3 FILE`. Beside each lies its manifest (ID.json), written last: what has no manifest is no backup.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from pmc.command import Query, bash
from pmc.manifest import manifest_sum

ID = re.compile(r"(?P<vm>[A-Za-z0-9][A-Za-z0-9_-]*)\.(?P<time>\d{8}T\d{6}Z)\.(?P<kind>base|delta)", re.ASCII)
FORMAT = 2
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Backup:
    """A manifest. `size` is the disk's in bytes, `image_sha256` its checksum (that of pmc/stream.py), `stored` the
    file's bytes; `base` the base's id, of a delta; `read` the bytes that were read of the disk, and no more
    than those that hold data, or have changed, where the volume's thin pool tells which."""

    id: str
    vm: str
    kind: str
    time: str  # UTC, ISO 8601
    size: int
    device: str  # the VM's disk in `xml`
    nodes: tuple[str, ...]  # the VM's
    source: str  # the node whose volume was read
    role: str  # standby, primary: what that node was
    consistency: str  # crash: as after a power loss; frozen: the guest's file systems were; off: it did not run
    xml: str = field(repr=False)
    compression: str = "none"  # of a base: zstd, none
    base: str = ""
    image_sha256: str = ""  # not known until the disk is read
    file_sha256: str = ""  # of a delta's file, which is read without unpacking a base; a base's image is its own
    stored: int = 0
    read: int = 0

    @property
    def file(self) -> str:
        if self.kind == "delta":
            return f"{self.id}.xd3"
        return f"{self.id}.img.zst" if self.compression == "zstd" else f"{self.id}.img"

    @property
    def files(self) -> tuple[str, ...]:
        """All that it consists of, the manifest first: without it the rest is no backup."""
        index = (f"{self.id}.index",) if self.kind == "base" else ()
        return (f"{self.id}.json", self.file, *index, f"{self.id}.verified")


def new_id(vm: str, kind: str, now: datetime) -> str:
    return f"{vm}.{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.{kind}"


def to_table(backup: Backup) -> dict[str, object]:
    return {"pmc": FORMAT, **asdict(backup), "nodes": list(backup.nodes)}


def to_json(backup: Backup) -> str:
    """Not sealed: without the sums that are known once the disk was read (stream.seal adds them)."""
    table = to_table(backup)
    del table["image_sha256"], table["file_sha256"], table["stored"], table["read"]
    return json.dumps(table, indent=1) + "\n"


def from_json(text: str) -> Backup:
    """Raises ValueError when it is not a manifest of ours, or a damaged one: what is read here ends in commands."""
    table = json.loads(text)
    if not isinstance(table, dict) or table.get("pmc") != FORMAT:
        raise ValueError("not a manifest of pmc, or of another version")
    if table.get("manifest_sha256") != manifest_sum(table):
        raise ValueError("its manifest is damaged")
    values = {key: value for key, value in table.items() if key not in ("pmc", "manifest_sha256")}
    try:
        backup = Backup(**{**values, "nodes": tuple(table["nodes"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"not a manifest of pmc: {error}") from None
    texts = [value for key, value in asdict(backup).items() if key not in ("size", "stored", "read", "nodes")]
    if not all(isinstance(text, str) for text in [*texts, *backup.nodes]):
        raise ValueError("not a manifest of pmc: a field that must be text is not")
    match = ID.fullmatch(backup.id)
    base = ID.fullmatch(backup.base) if backup.kind == "delta" else None
    if not match or match["vm"] != backup.vm or match["kind"] != backup.kind:
        raise ValueError(f"manifest of {backup.id!r} contradicts itself")
    if not _SHA256.fullmatch(backup.image_sha256) or backup.compression not in ("zstd", "none"):
        raise ValueError(f"manifest of {backup.id}: its checksum or compression is not right")
    if (backup.kind == "delta" or backup.base) and (not base or base["kind"] != "base" or base["vm"] != backup.vm):
        raise ValueError(f"manifest of {backup.id}: its base {backup.base!r} is no base")
    if backup.kind == "delta" and not _SHA256.fullmatch(backup.file_sha256):
        raise ValueError(f"manifest of {backup.id}: the checksum of its file is not right")
    sizes = all(type(number) is int and number > 0 for number in (backup.size, backup.stored))
    sizes = sizes and type(backup.read) is int and backup.read >= 0
    if not sizes or not re.fullmatch(r"/dev/[\w/.-]+", backup.device, re.ASCII):
        raise ValueError(f"manifest of {backup.id}: size or device is not right")
    return backup


@dataclass(frozen=True)
class Stored:
    """A backup as it lies on a node: `stored` bytes on disk; `broken` says why it cannot be used; `verified` when it
    was last read back and found right (UTC, ISO 8601)."""

    node: str
    id: str
    stored: int
    backup: Backup | None
    broken: str = ""
    verified: str = ""


def listing(folder: str, node: str, vm: str = "") -> Query[list[Stored]]:
    """The manifests in the folder, each with the size of its file. One line each: name, blocks, their unit, bytes, when
    verified, manifest in base64."""
    # A process for each manifest, and one for the sizes of all files: there may be hundreds.
    script = (
        'cd "$1" 2>/dev/null || exit 0; declare -A file=() size=(); names=(); '
        "for m in ${2:-*}.????????T??????Z.{base,delta}.json; do "
        '[ -f "$m" ] || continue; case $m in *[!a-zA-Z0-9.-]*) continue;; esac; n=${m%.json}; '
        'for f in "$n".img.zst "$n".img "$n".xd3; do [ -e "$f" ] && break; done; names+=("$n") file[$n]=$f; done; '
        "[ ${#names[@]} -gt 0 ] || exit 0; "
        'while read -r f s; do size[$f]=$s; done < <(stat -c "%n %b %B %s" "${file[@]}" 2>/dev/null); '
        'for n in "${names[@]}"; do v=; [ ! -e "$n.verified" ] || read -r -N 25 v <"$n.verified" || :; '
        'v=${v//[!0-9TZ:-]/}; echo -n "$n ${size[${file[$n]}]:-0 0 0} ${v:--} "; base64 -w0 "$n.json" || :; echo; done'
    )
    return Query(bash(script, folder, vm), lambda text: parse_listing(text, node))


def parse_listing(text: str, node: str) -> list[Stored]:
    found = []
    for line in text.splitlines():
        name, blocks, unit, size, verified, *rest = line.split(" ")
        stored, when = int(blocks) * int(unit), verified.strip("-")
        try:
            backup = from_json(base64.b64decode(rest[0] if rest else "").decode())
            if backup.id != name:
                raise ValueError("its manifest is that of another backup")
            found.append(Stored(node, name, stored, backup, _broken(backup, int(size)), when))
        except ValueError as error:  # binascii's and Unicode's errors are ValueErrors, too
            found.append(Stored(node, name, stored, None, str(error), when))
    return found


def _broken(backup: Backup, size: int) -> str:
    """What the sizes of its files tell. (A damaged index is found out when a delta is made; restoring needs none.)"""
    if not size:
        return "its file is missing"
    if size != backup.stored:
        return f"its file has {size} bytes, not {backup.stored}"
    return ""


def newest_base(stored: Sequence[Stored], vm: str, near: str = "") -> Stored | None:
    """By the time in its id, never by a file's date; on whichever node it lies, best on `near`."""
    bases = [s for s in stored if s.backup and not s.broken and s.backup.vm == vm and s.backup.kind == "base"]
    return max(bases, key=lambda s: (s.id, s.node == near), default=None)


def base_of(found: Stored, stored: Sequence[Stored]) -> Stored | None:
    """The base that a delta needs, beside it; None when it is missing there or broken."""
    here = (s for s in stored if found.backup and s.id == found.backup.base and s.node == found.node)
    return next((s for s in here if s.backup and not s.broken), None)
