"""Backups: names, manifests, and the pipelines that make, check and give back an image. Pure.

A base is the whole disk as a sparse file (ID.img). A delta is an xdelta3 (VCDIFF) file against a base (ID.xd3): anyone
can restore it with `xdelta3 -d -s BASE.img ID.xd3 FILE`. Beside each lies its manifest (ID.json), written last:
what has no manifest is no backup.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from pmc import virsh
from pmc.command import Command, Query, bash, whole

# A link that is cut shows after 30 seconds; without this a copy between nodes would wait for ever.
QUIET = "-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=10 -o ServerAliveCountMax=3"
ID = re.compile(r"(?P<vm>[a-z][a-z0-9-]*)\.(?P<time>\d{8}T\d{6}Z)\.(?P<kind>base|delta)", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
# In a manifest until the pipeline that reads the disk has computed them.
IMAGE_SUM, FILE_SUM = "@IMAGE-SHA256@", "@FILE-SHA256@"


@dataclass(frozen=True)
class Backup:
    """A manifest. `size` is the disk's in bytes, `image_sha256` that of the whole disk, `file_sha256` that of the
    stored file (for a base the same); `base` the base's id, of a delta."""

    id: str
    vm: str
    kind: str
    time: str  # UTC, ISO 8601
    size: int
    device: str  # the VM's disk in `xml`
    nodes: tuple[str, ...]  # the VM's
    source: str  # the node whose volume was read
    xml: str = field(repr=False)
    base: str = ""
    image_sha256: str = IMAGE_SUM
    file_sha256: str = FILE_SUM

    @property
    def file(self) -> str:
        return f"{self.id}.{'img' if self.kind == 'base' else 'xd3'}"


def new_id(vm: str, kind: str, now: datetime) -> str:
    return f"{vm}.{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.{kind}"


def to_json(backup: Backup) -> str:
    return json.dumps({"pmc": 1, **asdict(backup)}, indent=1) + "\n"


def from_json(text: str) -> Backup:
    """Raises ValueError when it is not a manifest of ours: what is read here ends in commands."""
    table = json.loads(text)
    if not isinstance(table, dict) or table.pop("pmc", None) != 1:
        raise ValueError("not a manifest of pmc")
    try:
        backup = Backup(**{**table, "nodes": tuple(table["nodes"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"not a manifest of pmc: {error}") from None
    texts = [value for key, value in asdict(backup).items() if key not in ("size", "nodes")]
    if not all(isinstance(text, str) for text in [*texts, *backup.nodes]):
        raise ValueError("not a manifest of pmc: a field that must be text is not")
    match = ID.fullmatch(backup.id)
    base = ID.fullmatch(backup.base) if backup.kind == "delta" else None
    sums = _SHA256.fullmatch(backup.image_sha256) and _SHA256.fullmatch(backup.file_sha256)
    if not match or match["vm"] != backup.vm or match["kind"] != backup.kind or not sums:
        raise ValueError(f"manifest of {backup.id!r} contradicts itself")
    if (backup.kind == "delta" or backup.base) and (not base or base["kind"] != "base" or base["vm"] != backup.vm):
        raise ValueError(f"manifest of {backup.id}: its base {backup.base!r} is no base")
    if (
        not isinstance(backup.size, int)
        or backup.size <= 0
        or not re.fullmatch(r"/dev/[\w/.-]+", backup.device, re.ASCII)
    ):
        raise ValueError(f"manifest of {backup.id}: size or device is not right")
    return backup


@dataclass(frozen=True)
class Stored:
    """A backup as it lies on a node: `stored` bytes on disk; `broken` says why it cannot be used."""

    node: str
    id: str
    stored: int
    backup: Backup | None
    broken: str = ""


def listing(folder: str, node: str, vm: str = "") -> Query[list[Stored]]:
    """The manifests in the folder, each with the size of its file. One line each: name, bytes, manifest in base64."""
    script = (
        'cd "$1" 2>/dev/null || exit 0; for m in ${2:-*}.????????T??????Z.{base,delta}.json; do '
        '[ -e "$m" ] || continue; case $m in *[!a-zA-Z0-9.-]*) continue;; esac; '
        'for f in "${m%.json}".img "${m%.json}".xd3; do [ -e "$f" ] && break; done; '
        's=$(stat -c "%b %B %s" "$f" 2>/dev/null || echo "0 0 0"); echo "${m%.json} $s $(base64 -w0 "$m")"; done'
    )
    return Query(bash(script, folder, vm), lambda text: parse_listing(text, node))


def parse_listing(text: str, node: str) -> list[Stored]:
    import base64
    import binascii

    found = []
    for line in text.splitlines():
        name, blocks, unit, size, *rest = line.split(" ")
        try:
            backup = from_json(base64.b64decode(rest[0] if rest else "").decode())
            if backup.id != name:
                raise ValueError("its manifest is that of another backup")
            broken = "" if int(size) else "its file is missing"
            if int(size) and backup.kind == "base" and int(size) != backup.size:
                broken = f"its file has {size} bytes, not {backup.size}"
            found.append(Stored(node, name, int(blocks) * int(unit), backup, broken))
        except (ValueError, binascii.Error) as error:
            found.append(Stored(node, name, int(blocks) * int(unit), None, str(error)))
    return found


def newest_base(stored: Sequence[Stored], vm: str) -> Stored | None:
    """By the time in its id, never by a file's date; on whichever node it lies."""
    bases = [s for s in stored if s.backup and not s.broken and s.backup.vm == vm and s.backup.kind == "base"]
    return max(bases, key=lambda s: s.id, default=None)


def read_volume(path: str, size: int, ssh: str = "") -> str:
    """Shell text: the first `size` bytes (DRBD's metadata lies behind them), reported as dd does; `ssh` is the
    address of the node to read on, when not the one that runs the pipeline."""
    read = f"dd if={shlex.quote(path)} bs=1M count={size} iflag=fullblock,count_bytes status=progress"
    return remotely(ssh, read) if ssh else read


def remotely(address: str, script: str) -> str:
    """Shell text. What a login script there prints would come before the disk, and be taken for it: so it is seen first
    that nothing does."""
    ssh = f"ssh {QUIET} {shlex.quote('root@' + address)}"
    quiet = f'[ -z "$({ssh} true)" ] || {{ echo "the login shell of root on {address} prints something" >&2; exit 1; }}'
    return f"{{ {quiet}; {ssh} {shlex.quote(script)}; }}"


# Tools say "write error" when there is no room, and not all say why: so the last word is ours.
_FULL = (
    'trap \'[ $? = 0 ] || [ "$(df --output=avail -B1 "${1%/*}" | tail -n 1)" -ge 1048576 ] '
    '|| echo "No space left on device: ${1%/*} is full" >&2\' EXIT; '
)


def store(kind: str, reader: str, base: str, target: str) -> Command:
    """One pass: reads the disk, writes the base (holes for zeros) or the delta as `target`, and the SHA-256 of the disk
    and of the file beside it (target.image, target.file). xdelta3 since 3.2 wants regular files for its own
    checksums, so those are off (-a); ours cover the whole."""
    if kind == "base":
        # The disk and the file are the same bytes, so one sum serves both.
        script = (
            f'umask 077; rm -f "$1".*; {_FULL}{{ {{ {reader} | tee /dev/fd/3 | sha256sum >"$1.image"; }} 3>&1 '
            f'| dd of="$1" bs=64K iflag=fullblock conv=sparse,fsync status=none; }}; '
            f'cp "$1.image" "$1.file"'
        )
        return bash(script, target, long=True)
    script = (
        f'umask 077; rm -f "$1".*; {_FULL}'
        f'{{ {{ {reader} | tee /dev/fd/3 | sha256sum >"$1.image"; }} 3>&1 '
        f'| xdelta3 -e -c -f -S djw -s "$2" $({{ xdelta3 -h 2>&1 || :; }} | grep -- "-a " >/dev/null && echo -a) '
        f'| tee "$1" | sha256sum >"$1.file"; }}; sync "$1"'
    )
    return bash(script, target, base, long=True)


def seal(folder: str, target: str, backup: Backup) -> Command:
    """Puts the sums into the manifest, then gives file and manifest their final names, the manifest last."""
    text = to_json(backup)
    script = (
        'umask 077; i=$(cut -c1-64 "$1.image"); f=$(cut -c1-64 "$1.file"); [ ${#i} = 64 ]; [ ${#f} = 64 ]; '
        f'sed -e "s/{IMAGE_SUM}/$i/" -e "s/{FILE_SUM}/$f/" >"$1.json"; '
        f'{whole("$1.json")}; sync "$1" "$1.json"; '
        'rm -f "$1.image" "$1.file"; mv "$1" "$2/$3"; mv "$1.json" "$2/$4.json"; sync "$2"'
    )
    return bash(script, target, folder, backup.file, backup.id, stdin=text, secrets=virsh.passwords(text))


def give_back(backup: Backup, folder: str, ssh: str, device: str) -> Command:
    """The disk of a backup written to `device`, which is all zeros; fails unless its SHA-256 is the manifest's."""
    image = f"{folder}/{backup.file}"
    if backup.kind == "base":
        reader = f"dd if={shlex.quote(image)} bs=1M status=none"
    else:
        base = f"{folder}/{backup.base}.img"
        reader = f"xdelta3 -d -c -s {shlex.quote(base)} {shlex.quote(image)}"
    if ssh:
        reader = remotely(ssh, reader)
    script = (
        f"{{ {{ {reader} | tee /dev/fd/3 | sha256sum >/dev/fd/4; }} 3>&1 "
        f'| dd of="$1" bs=1M iflag=fullblock conv=sparse,fsync status=progress; }} 4>&1 '
        f'| {{ read -r sum rest; [ "$sum" = "$2" ] || {{ echo "the image has SHA-256 $sum, '
        f'its manifest says $2" >&2; exit 1; }}; }}'
    )
    return bash(script, device, backup.image_sha256, long=True)
