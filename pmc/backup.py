"""Backups: names, manifests, and the listing of what lies on the nodes. Pure.

A base is the whole disk: a sparse file (ID.img), as a rule compressed (ID.img.zst), and the checksums of its blocks
beside it (ID.index). A delta is a VCDIFF file against a base (ID.xd3): anyone can restore it with `xdelta3 -d -s
BASE.img ID.xd3 FILE`. Beside each lies its manifest (ID.json), written last: what has no manifest is no backup.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta

from pmc.command import Query, bash
from pmc.plain import plain
from pmc.remote.manifest import manifest_sum
from pmc.units import count

ID = re.compile(
    r"(?P<vm>(?!0-(?:init|allocation)[.])[A-Za-z0-9][A-Za-z0-9_-]*)\.(?P<time>\d{8}T\d{6}Z)\.(?P<kind>base|delta)",
    re.ASCII,
)
FORMAT = 2
NOTES = ("verified", "damaged")  # of what reading it back has shown; of that copy only
AHEAD = timedelta(days=1)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[0-9:.+Z-]{0,16}", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
LARGEST = 1 << 60  # bytes of a disk
LONGEST = 1 << 20  # bytes of a manifest; a longer one is read as empty


@dataclass(frozen=True)
class Backup:
    """A manifest. `size` is the disk's in bytes, `image_sha256` its checksum (that of pmc/remote/stream.py), `stored`
    the file's bytes; `base` the base's id, of a delta; `read` the bytes that were read of the disk, and no more than
    those that hold data, or have changed, where the volume's thin pool tells which."""

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
        return (f"{self.id}.json", self.file, *index, *(f"{self.id}.{end}" for end in NOTES))


def new_id(vm: str, kind: str, now: datetime) -> str:
    return f"{vm}.{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.{kind}"


def moment(id: str) -> datetime | None:
    """The time in a backup's id; None when there is no such time."""
    found = ID.fullmatch(id)
    try:
        return datetime.strptime(found["time"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) if found else None
    except ValueError:
        return None


def is_ahead(id: str, now: datetime) -> bool:
    """Whether it says that it was made in the future. Managers' clocks may differ a little, and be set."""
    time = moment(id)
    return time is not None and time - now > AHEAD


def to_table(backup: Backup) -> dict[str, object]:
    return {"pmc": FORMAT, **asdict(backup), "nodes": list(backup.nodes)}


def to_json(backup: Backup) -> str:
    """Not sealed: without the sums that are known once the disk was read (stream.seal adds them)."""
    table = to_table(backup)
    del table["image_sha256"], table["file_sha256"], table["stored"], table["read"]
    return json.dumps(table, indent=1) + "\n"


def from_json(text: str) -> Backup:
    """Raises ValueError when it is not a manifest of ours, or a damaged one: what is read here ends in commands, and on
    terminals."""
    try:
        return _from_table(json.loads(text))
    except RecursionError:
        raise ValueError("not a manifest of pmc: it is nested too deeply") from None


def _from_table(table: object) -> Backup:
    if not isinstance(table, dict) or table.get("pmc") != FORMAT:
        raise ValueError("not a manifest of pmc, or of another version")
    if table.get("manifest_sha256") != manifest_sum(table):
        raise ValueError("its manifest is damaged")
    values = {key: value for key, value in table.items() if key not in ("pmc", "manifest_sha256")}
    try:
        backup = Backup(**{**values, "nodes": tuple(table["nodes"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"not a manifest of pmc: {plain(str(error))[:200]}") from None
    texts = [value for key, value in asdict(backup).items() if key not in ("size", "stored", "read", "nodes")]
    if not all(isinstance(text, str) for text in [*texts, *backup.nodes]):
        raise ValueError("not a manifest of pmc: a field that must be text is not")
    # Of the XML only what no command can be given: NUL, and lone surrogates.
    others = [text for text in texts if text is not backup.xml]
    if any(text != plain(text) for text in others) or re.search("[\0\ud800-\udfff]", backup.xml):
        raise ValueError("not a manifest of pmc: a field has characters that are none")
    match = ID.fullmatch(backup.id)
    base = ID.fullmatch(backup.base) if backup.kind == "delta" else None
    if not match or match["vm"] != backup.vm or match["kind"] != backup.kind:
        raise ValueError(f"manifest of {backup.id[:90]!r} contradicts itself")
    if not _SHA256.fullmatch(backup.image_sha256) or backup.compression not in ("zstd", "none"):
        raise ValueError(f"manifest of {backup.id}: its checksum or compression is not right")
    if (backup.kind == "delta" or backup.base) and (not base or base["kind"] != "base" or base["vm"] != backup.vm):
        raise ValueError(f"manifest of {backup.id}: its base {backup.base[:90]!r} is no base")
    if backup.kind == "delta" and not _SHA256.fullmatch(backup.file_sha256):
        raise ValueError(f"manifest of {backup.id}: the checksum of its file is not right")
    sizes = all(type(number) is int and 0 < number <= LARGEST for number in (backup.size, backup.stored))
    sizes = sizes and type(backup.read) is int and 0 <= backup.read <= LARGEST
    if not sizes or not re.fullmatch(r"/dev/[\w/.-]+", backup.device, re.ASCII):
        raise ValueError(f"manifest of {backup.id}: size or device is not right")
    words = (backup.source, backup.role, backup.consistency, *backup.nodes)
    if not _TIME.fullmatch(backup.time) or not all(map(_WORD.fullmatch, words)):
        raise ValueError(f"manifest of {backup.id}: its time, or a node's name, is none")
    return backup


@dataclass(frozen=True)
class Stored:
    """A backup as it lies on a node: `stored` bytes on disk; `broken` says why it cannot be used; `verified` when it
    was last read back and found right (UTC, ISO 8601), `damaged` when it was found not to be, which counts until it is
    found right. `ahead`: by its id it was made in the future, so it is not known how old it is."""

    node: str
    id: str
    stored: int
    backup: Backup | None
    broken: str = ""
    verified: str = ""
    damaged: str = ""
    ahead: bool = False

    @property
    def doubt(self) -> str:
        """Why it may be restored, but must never take the place of another; empty when it may."""
        if self.ahead:
            return "its time is in the future"
        return f"it was found damaged when it was read back at {self.damaged}" if self.damaged else ""


def dated(stored: Iterable[Stored], now: datetime) -> list[Stored]:
    return [replace(each, ahead=is_ahead(each.id, now)) for each in stored]


def listing(folder: str, node: str, vm: str = "") -> Query[list[Stored]]:
    """The manifests in the folder, each with the size of its file. One line each: name, blocks, their unit, bytes, when
    verified (or, behind a !, found damaged), manifest in base64."""
    # A process for each manifest, and one for the sizes of all files: there may be hundreds. A pipe in the place of a
    # note would be waited for.
    script = (
        'cd "$1" 2>/dev/null || exit 0; declare -A file=() size=(); names=(); '
        "for m in ${2:-*}.????????T??????Z.{base,delta}.json; do "
        '[ -f "$m" ] || continue; case $m in -*|*[!a-zA-Z0-9._-]*) continue;; esac; n=${m%.json}; '
        'for f in "$n".img.zst "$n".img "$n".xd3; do [ -e "$f" ] && break; done; names+=("$n") file[$n]=$f; done; '
        "[ ${#names[@]} -gt 0 ] || exit 0; "
        "while read -r f s; do size[$f]=$s; done < "
        '<(stat -L -c "%n %b %B %s" "${file[@]}" "${names[@]/%/.json}" 2>/dev/null); '
        'for n in "${names[@]}"; do v= d=; for e in verified damaged; do [ ! -f "$n.$e" ] || '
        '{ [ $e = verified ] || d=!; read -r -N 25 v <"$n.$e" || :; }; done; v=${v//[!0-9TZ:-]/}; '
        'echo -n "$n ${size[${file[$n]}]:-0 0 0} $d${v:--} "; s=${size[$n.json]:-0}; '
        f'[ "${{s##* }}" -gt {LONGEST} ] || base64 -w0 "$n.json" || :; echo; done'
    )
    return Query(bash(script, folder, vm), lambda text: parse_listing(text, node))


_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,254}", re.ASCII)
_WHEN = re.compile(r"!?[0-9TZ:-]{1,25}", re.ASCII)


def parse_listing(text: str, node: str) -> list[Stored]:
    found = []
    for line in text.splitlines():
        name, blocks, unit, bytes_, verified, *rest = line.split(" ")
        if not _NAME.fullmatch(name) or not _WHEN.fullmatch(verified):
            raise ValueError("not a listing of backups")  # our own script prints no such thing
        stored, size, when = count(blocks) * count(unit), count(bytes_), verified.lstrip("!").strip("-")
        notes = ("", when or "a time not known") if verified.startswith("!") else (when, "")
        try:
            backup = from_json(base64.b64decode(rest[0] if rest else "").decode())
            if backup.id != name:
                raise ValueError("its manifest is that of another backup")
            found.append(Stored(node, name, stored, backup, _broken(backup, size), *notes))
        except ValueError as error:  # binascii's and Unicode's errors are ValueErrors, too
            found.append(Stored(node, name, stored, None, str(error), *notes))
    return found


def _broken(backup: Backup, size: int) -> str:
    """What the sizes of its files tell. (A damaged index is found out when a delta is made; restoring needs none.)"""
    if not size:
        return "its file is missing"
    if size != backup.stored:
        return f"its file has {size} bytes, not {backup.stored}"
    return ""


def sound(stored: Sequence[Stored]) -> list[Stored]:
    """Those that are nowhere in doubt: not broken, and not found damaged, themselves or a delta that needs them there:
    it is noted of the delta when it is the base that is damaged."""
    suspect = {(s.backup.base, s.node) for s in stored if s.backup and s.damaged}
    return [s for s in stored if s.backup and not s.broken and not s.damaged and (s.id, s.node) not in suspect]


def newest_base(stored: Sequence[Stored], vm: str, near: str = "") -> Stored | None:
    """By the time in its id, never by a file's date; on whichever node it lies, best on `near`. Not one that may be
    worth nothing: not sound, or of the future, so that there was none newer ever."""
    fit = (s for s in sound(stored) if not s.ahead)
    bases = [s for s in fit if s.backup and s.backup.vm == vm and s.backup.kind == "base"]
    return max(bases, key=lambda s: (s.id, s.node == near), default=None)


def base_of(found: Stored, stored: Sequence[Stored]) -> Stored | None:
    """The base that a delta needs, beside it; None when it is missing there or broken."""
    here = (s for s in stored if found.backup and s.id == found.backup.base and s.node == found.node)
    return next((s for s in here if s.backup and not s.broken), None)


def of_the_future(folder: str) -> Query[tuple[str, ...]]:
    """The ids of those that are later than the node's clock; no process for any of them."""
    script = (
        'cd "$1" 2>/dev/null || exit 0; export TZ=UTC0; printf -v now "%(%Y%m%dT%H%M%SZ)T" -1; '
        "for m in *.????????T??????Z.{base,delta}.json; do n=${m%.json}; t=${n%.*}; t=${t##*.}; "
        'case $m in -*|*[!a-zA-Z0-9._-]*) continue;; esac; [[ ! -f $m || ! $t > $now ]] || printf "%s\\n" "$n"; done'
    )
    return Query(bash(script, folder), lambda text: tuple(text.split()))
