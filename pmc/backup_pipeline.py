"""The pipelines that read a disk into a backup, give it back and prove it. Pure.

They run on a node, in bash; pmc/remote/stream.py, brought there before, reads each disk once. At idle priority.
"""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from pmc.backup import Backup, to_json
from pmc.command import Command, bash, operation
from pmc.facts import domain_xml
from pmc.remote.manifest import DAMAGED

# A link that is cut shows after 30 seconds; without this a copy between nodes would wait for ever.
QUIET = "-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=10 -o ServerAliveCountMax=3"
IDLE = ("ionice", "-c", "3", "nice", "-n", "19")


# As pmc/__init__.py on the node: what of the program is not whole does not run. (Cut before its last lines stream.py
# would define things, do nothing, and end well: a proof that proves nothing.)
_SEEN_WHOLE = """import hashlib
import pathlib

for name, sum in {sums}.items():
    if hashlib.sha256((pathlib.Path(__file__).parent / name).read_bytes()).hexdigest() != sum:
        raise SystemExit(__file__ + ": " + name + " is not whole; remove this folder")
"""


def _program() -> str:
    """What a node needs to run stream.py, each file under a line with its name."""
    here = Path(__file__).parent / "remote"
    names = ("__init__.py", "blocks.py", "vcdiff.py", "manifest.py", "device.py", "stream.py")
    files = {f"remote/{name}": (here / name).read_text() for name in names}
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    whole = {"__init__.py": _SEEN_WHOLE.format(sums=sums), **files}
    return "".join(f"#== {name}\n{text}" for name, text in whole.items())


PROGRAM = _program()
# Its version is in its name, which also tells whether it came whole.
FOLDER = f"/run/pmc/stream-{hashlib.sha256(PROGRAM.encode()).hexdigest()[:12]}"
STREAM = f"PYTHONPATH={FOLDER} python3 -m pmc.remote.stream"


@operation
def bring() -> Command:
    """The program onto the node, unless it is there."""
    script = (
        '[ ! -d "$1" ] || exit 0; umask 077; p=$1.$$; trap \'rm -rf "$p"\' EXIT; mkdir -p "$p/pmc/remote"; '
        'cat >"$p/all"; [ "$(sha256sum <"$p/all" | cut -c1-12)" = "${1##*-}" ] || '
        '{ echo "it did not come whole" >&2; exit 1; }; '
        """cd "$p/pmc"; awk '/^#== /{f = $2; printf "" >f; next} {print >f}' ../all; rm ../all; cd /; """
        'mv -T "$p" "$1" 2>/dev/null || [ -d "$1" ]'
    )
    return replace(bash(script, FOLDER, stdin=PROGRAM), printer="pmc.backup_pipeline")


def read_volume(path: str, size: int, ssh: str = "") -> str:
    """Shell text: the first `size` bytes (DRBD's metadata lies behind them), reported as dd does; `ssh` is the
    address of the node to read on, when not the one that runs the pipeline."""
    dd = f"dd if={shlex.quote(path)} bs=1M count={size} iflag=fullblock,count_bytes status=progress"
    return remotely(ssh, f"ionice -c 3 {dd}") if ssh else dd


def remotely(address: str, script: str) -> str:
    """Shell text. What a login script there prints would come before the disk, and be taken for it: so it is seen first
    that nothing does."""
    ssh = f"ssh {QUIET} {shlex.quote('root@' + address)}"
    quiet = f'[ -z "$({ssh} true)" ] || {{ echo "the login shell of root on {address} prints something" >&2; exit 1; }}'
    return f"{{ {quiet}; {ssh} {shlex.quote(script)}; }}"


def idle(command: Command) -> Command:
    return replace(command, argv=(*IDLE, *command.argv))


# Tools say "write error" when there is no room, and not all say why: so the last word is ours.
_BEGIN = (
    'umask 077; trap \'[ $? = 0 ] || [ "$(df --output=avail -B1 "${1%/*}" | tail -n 1)" -ge 1048576 ] '
    '|| echo "No space left on device: ${1%/*} is full" >&2\' EXIT; '
)


@dataclass(frozen=True)
class How:
    """`limit` in bytes a second, 0 for none."""

    compress: bool = True
    limit: int = 0


@dataclass(frozen=True)
class Disk:
    """The first `size` bytes of the volume at `path`; `ssh` is the address of its node, when it is not the one that
    runs the pipeline."""

    path: str
    size: int
    ssh: str = ""

    def to(self, program: str, output: str) -> str:
        """Shell text: a program of stream.py reads it."""
        if self.ssh:
            return f"{read_volume(self.path, self.size, self.ssh)} | {program} {output}"
        return f"{program} --source {shlex.quote(self.path)} {output}"


@operation
def store_base(disk: Disk, target: str, how: How) -> Command:
    """The disk as `target` (compressed, or with holes for zeros), its block sums as target.index, its sum in
    target.sums."""
    program = disk.to(_base(disk.size, how), '>"$1"')
    script = f'{_BEGIN}rm -f "$1".*; {program}; sync "$1" "$1.index"'
    return idle(bash(script, target, long=True))


@operation
def store_thin_base(path: str, size: int, target: str, how: How) -> Command:
    """As `store_base`, of a thin snapshot on the node that runs it; only the ranges in target.ranges are read."""
    program = Disk(path, size).to(_base(size, how), '--ranges "$1.ranges" >"$1"')
    script = f'{_BEGIN}{program}; sync "$1" "$1.index"; rm "$1.ranges"'
    return idle(bash(script, target, long=True))


def _base(size: int, how: How) -> str:
    image = f'{STREAM} base --size {size} --limit {how.limit} --index "$1.index" --sums "$1.sums"'
    return f"{image}{' --zstd' if how.compress else ''}"


@operation
def store_delta(disk: Disk, base: Backup, folder: str, target: str, how: How) -> Command:
    """What differs from the base, as `target`."""
    program = disk.to(_delta(disk.size, base, folder, how), f'--old <({_unpacked(base, folder)}) >"$1"')
    script = f'{_BEGIN}{_NOBODY}rm -f "$1".*; {program}; sync "$1"'
    return idle(bash(script, target, long=True))


@operation
def store_thin_delta(path: str, old: str, size: int, base: Backup, folder: str, target: str, how: How) -> Command:
    """As `store_delta`, of a thin snapshot on the node that runs it, and `old`, the snapshot that the base was read
    from; only the ranges in target.ranges are read, of both."""
    program = Disk(path, size).to(
        _delta(size, base, folder, how), f'--old {shlex.quote(old)} --ranges "$1.ranges" >"$1"'
    )
    script = f'{_BEGIN}{program}; sync "$1"; rm "$1.ranges"'
    return idle(bash(script, target, long=True))


def _delta(size: int, base: Backup, folder: str, how: How) -> str:
    return (
        f"{STREAM} delta --size {size} --base-size {base.size} --base-sum {base.image_sha256} --limit {how.limit} "
        f'--index {shlex.quote(f"{folder}/{base.id}.index")} --sums "$1.sums"'
    )


# The shell's word for what decodes files that a stranger may have made: it runs without any rights of root's, who opens
# the files for it (setpriv(1), of util-linux). Who is not root, on the manager, has none to give up.
_NOBODY = (
    "nobody() { [ $EUID != 0 ] || set -- setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs -- "
    '"$@"; "$@"; }; '
)


def _unpacked(backup: Backup, folder: str) -> str:
    """Shell text (bash) behind _NOBODY: the image of a base on stdout, from its begin to its end."""
    path = shlex.quote(f"{folder}/{backup.file}")
    return f"nobody zstd -dcq <{path}" if backup.compression == "zstd" else f"cat {path}"


@operation
def passed(path: str, size: int, limit: int) -> Command:
    """The file on stdout, no more than `limit` bytes of it a second."""
    script = (
        f'{STREAM} put --size {size} --limit {limit} --pass-on <"$1" || '
        '{ echo "$1 cannot be read, or is not as long as its manifest says" >&2; exit 1; }'
    )
    return idle(bash(script, path, long=True))


@operation
def seal(folder: str, target: str, backup: Backup) -> Command:
    """Puts what the reading found into the manifest, then gives the files their final names, the manifest last."""
    text = to_json(backup)
    script = (
        f'umask 077; {STREAM} seal --target "$1" --sums "$1.sums" --manifest "$1.json"; rm "$1.sums"; '
        'if [ -e "$1.index" ]; then mv "$1.index" "$2/$4.index"; fi; '
        'mv "$1" "$2/$3"; mv "$1.json" "$2/$4.json"; sync "$2"'
    )
    return bash(script, target, folder, backup.file, backup.id, stdin=text, secrets=domain_xml.passwords(text))


def decoded(backup: Backup, base: Backup | None, folder: str, ssh: str = "") -> str:
    """Shell text (bash): the disk of a backup on stdout. xdelta3 reads a base from a pipe as long as the delta's copies
    go forward, which ours do, so it needs no space to unpack it; -B holds two of its windows. -D: a
    disk that begins as a gzip file does is not to be unpacked. It opens the pipe by name, so that is nobody's, too."""
    path = shlex.quote(f"{folder}/{backup.file}")
    if base is not None:
        whole = f'[ "$(sha256sum <{path} | cut -c1-64)" = {backup.file_sha256} ]'
        reader = (
            f'{{ {_NOBODY}{whole} || {{ echo "{backup.file} is damaged" >&2; exit 1; }}; '
            f"exec 9< <({_unpacked(base, folder)}); p=$!; [ $EUID != 0 ] || chown 65534 /proc/self/fd/9 || exit 126; "
            f"x=0; nobody xdelta3 -D -d -c -B 16777216 -s /proc/self/fd/9 <{path} || x=$?; "
            # What unpacks the base and was missing or ended is no damage; that nobody read on is no failure (SIGPIPE).
            "exec 9<&-; u=0; wait $p || u=$?; [ $u -lt 126 -o $u = 141 ] || exit 126; [ $x = 0 ] || exit $x; }"
        )
    else:
        word = _NOBODY if backup.compression == "zstd" else ""
        reader = f"{{ {word}{_unpacked(backup, folder)}; }}"
    return remotely(ssh, f"bash -o pipefail -c {shlex.quote(reader)}") if ssh else reader


@operation
def give_back(backup: Backup, reader: str, device: str, compare: bool = False) -> Command:
    """The disk that `reader` decodes, written to `device`: which is all zeros, or (`compare`) only where it differs.
    Fails unless its checksum is the manifest's."""
    put = f'{STREAM} put --size {backup.size} --expect {backup.image_sha256} --target "$1"'
    return bash(f"{reader} | {put}{' --compare' if compare else ''}", device, long=True)


@operation
def prove(backup: Backup, reader: str, folder: str, stream: str = STREAM) -> Command:
    """Reads the backup back, needs no space, and notes when that went well, or when it is damaged (the other note goes
    then): when what came is not the disk, although no program was missing or ended on the way (exit status 126 and up).
    Reading takes hours and no lock. So who removes it meanwhile, the manifest first, must not be left with the note: it
    is taken back when the manifest is gone after it was written; one that is written before the manifest goes, goes
    with the rest. Where there is no room for a note (vm.restore reads the backup back, too) the backup is right all the
    same."""
    gone = '{ rm -f "$2.verified" "$2.damaged"; echo "$2 was removed meanwhile" >&2; exit 1; }'
    script = (
        f"umask 077; s=(0); {reader} | {stream} put --size {backup.size} --expect {backup.image_sha256} || "
        's=("${PIPESTATUS[@]}"); cd "$1"; note=verified other=damaged; '
        f'if [ "${{s[-1]}}" = {DAMAGED} ]; then note=damaged other=verified; fi; for each in "${{s[@]}}"; do '
        '[ "$each" = 0 ] || [ $note = damaged -a "$each" -lt 126 ] || { rm -f "$2.verified"; exit 1; }; done; '
        f'grep -qs {backup.image_sha256} "$2.json" || {gone}; '
        # Over an older note in its place, which needs no room.
        'date -u +%Y-%m-%dT%H:%M:%SZ 1<>"$2.$note" || [ -s "$2.$note" ] || rm -f "$2.$note" || :; rm -f "$2.$other"; '
        f'[ -e "$2.json" ] || {gone}; [ $note = verified ]'
    )
    return idle(bash(script, folder, backup.id, long=True))


if __name__ == "__main__":
    print(PROGRAM, end="")
