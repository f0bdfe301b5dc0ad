"""A disk to measure on: its content, its changes, and what pmc and the plain tools do with it."""

from __future__ import annotations

import shlex
from dataclasses import replace

from bench.places import IDLE, Place, Run, line
from pmc import backup_pipeline
from pmc.backup import Backup, from_json
from pmc.backup_pipeline import How
from pmc.command import Command

MiB = 1 << 20
BASE = Backup(
    "bench.20260101T000000Z.base", "bench", "base", "2026-01-01T00:00:00+00:00", 0, "/dev/drbd1", ("pm-1",), "pm-1",
    "standby", "crash", "<domain/>", "zstd",
)  # fmt: skip
DELTA = replace(BASE, id="bench.20260102T000000Z.delta", kind="delta", base=BASE.id, compression="none")

CONTENT = """import os, random, sys
def content(backwards):
    while True:
        for folder, folders, names in os.walk("/usr"):
            folders.sort(reverse=backwards)
            for name in sorted(names):
                file = os.path.join(folder, name)
                if os.path.isfile(file) and not os.path.islink(file):
                    with open(file, "rb") as data:
                        while block := data.read(1 << 20):
                            yield block
def pieces(size, backwards=False):
    source, rest = content(backwards), b""
    while True:
        while len(rest) < size:
            rest += next(source)
        yield rest[:size]
        rest = rest[size:]
def done(disk):
    disk.flush()
    os.fsync(disk.fileno())
"""

# A disk of argv[1] MiB: argv[3] percent of it hold files of /usr, in stretches of argv[5] MiB; where, into argv[4].
MAKE = """path, ranges = sys.argv[2], sys.argv[4]
size, full, part = (int(sys.argv[number]) for number in (1, 3, 5))
random.seed(size)
device, data = not os.path.isfile(path) and os.path.exists(path), pieces(1 << 20)
groups = random.sample(range(size // part), size * full // 100 // part)
filled = {group * part + number for group in groups for number in range(part)}
with open(path, "r+b" if device else "w+b") as disk, open(ranges, "w") as said:
    for at in range(size):
        disk.seek(at << 20)
        if at in filled:
            disk.write(next(data))
            said.write(f"{at << 20} {1 << 20}\\n")
        elif device:
            disk.write(bytes(1 << 20))
    if not device:
        disk.truncate(size << 20)
    done(disk)"""

# Of a disk of argv[1] MiB, argv[3] pages of 4 KiB at random places get other content, of the kind argv[5]; where, into
# argv[4]. usr: of files that are not on the disk; random: what cannot be compressed; moved: what is elsewhere on it;
# blocks: as usr, but whole blocks of 64 KiB, the smallest that a thin pool tells apart.
CHANGE = """size, path, count, ranges, kind = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]
random.seed(count)
part = 65536 if kind == "blocks" else 4096
data = pieces(part, backwards=True)
with open(path, "r+b") as disk, open(ranges, "w") as said:
    for number in sorted(random.sample(range((size << 20) // part), count * 4096 // part)):
        if kind == "moved":
            disk.seek(random.randrange(size << 8) << 12)
            new = disk.read(part)
        else:
            new = os.urandom(part) if kind == "random" else next(data)
        disk.seek(number * part)
        disk.write(new)
        said.write(f"{number * part} {part}\\n")
    done(disk)"""


class Disk:
    """A disk of `size` MiB in a place, its base, and what pmc and the plain tools do with it."""

    def __init__(self, place: Place, size: int, full: int, part: int = 1) -> None:
        self.place, self.size, self.bytes = place, size, size * MiB
        self.path = place.volume or self.file("disk")
        self.ranges, self.old = self.file("ranges"), self.file("old")
        self.python(MAKE, str(size), self.path, str(full), self.ranges, str(part))
        self.base = self.delta = BASE

    def python(self, code: str, *argv: str) -> None:
        self.place.said(shlex.join(["python3", "-c", CONTENT + code, *argv]))

    def change(self, pages: int, kind: str = "usr") -> None:
        self.python(CHANGE, str(self.size), self.path, str(pages), self.ranges, kind)

    def keep_old(self) -> None:
        """The base's image as a file, as xdelta3 needs it; and that from which the thin pool would read."""
        self.place.said(f"dd if={self.path} of={self.old} bs=1M count={self.size} conv=sparse,fsync status=none")

    def put_back(self) -> None:
        self.place.said(f"dd if={self.old} of={self.path} bs=1M conv=notrunc,fsync status=none")

    def file(self, name: str) -> str:
        return f"{self.place.folder}/{name}"

    @property
    def read(self) -> backup_pipeline.Disk:
        return backup_pipeline.Disk(self.path, self.bytes)

    def sparse_base(self) -> Run:
        """As vm.backup --no-compress does."""
        return self.place.run(line(backup_pipeline.store_base(self.read, self.file("sparse"), How(compress=False))))

    def base_of_pmc(self) -> Run:
        """As vm.backup does; sealed afterwards, so that deltas can be made against it."""
        part = self.file(".base.part")
        made = self.place.run(line(backup_pipeline.store_base(self.read, part, How())))
        self.base = self._sealed(part, replace(BASE, size=self.bytes))
        return made

    def _sealed(self, part: str, meant: Backup) -> Backup:
        seal = backup_pipeline.seal(self.place.folder, part, meant)
        self.place.said(f"printf %s {shlex.quote(seal.stdin or '')} | {line(seal)}")
        return from_json(self.place.said(f"cat {self.file(meant.id)}.json"))

    def plain_base(self) -> Run:
        out = self.file("plain.zst")
        return self.idle(f"dd if={self.path} bs=1M count={self.size} status=none | zstd -q -3 -c >{out}; sync {out}")

    def copy(self) -> Run:
        out = self.file("plain")
        return self.idle(f"rm -f {out}; dd if={self.path} of={out} bs=1M count={self.size} conv=fsync status=none")

    def thin_base(self, compress: bool = True) -> Run:
        """As pmc's, told by the pool which ranges it has."""
        return self._told(backup_pipeline.store_thin_base(self.path, self.bytes, self.file("thin"), How(compress)))

    def sparse_thin_base(self) -> Run:
        return self.thin_base(compress=False)

    def _told(self, store: Command) -> Run:
        """With the ranges where a step before would have put them."""
        target = self.file("thin")
        return self.place.run(f"rm -f {target}; cp {self.ranges} {target}.ranges; {line(store)}")

    def delta_of_pmc(self) -> Run:
        part = self.file(".delta.part")
        store = backup_pipeline.store_delta(self.read, self.base, self.place.folder, part, How())
        made = self.place.run(line(store))
        self.delta = self._sealed(part, replace(DELTA, size=self.bytes))
        return made

    def thin_delta(self) -> Run:
        """As pmc's, told by the pool what changed since the old one."""
        folder, target = self.place.folder, self.file("thin")
        return self._told(
            backup_pipeline.store_thin_delta(self.path, self.old, self.bytes, self.base, folder, target, How())
        )

    def xdelta3(self) -> Run:
        """As the scripts did before pmc."""
        out = self.file("plain.xd3")
        return self.idle(f"xdelta3 -e -f -S djw -s {self.old} {self.path} {out}; sync {out}")

    def give_back(self) -> Run:
        target = self.file("back")
        reader = backup_pipeline.decoded(self.delta, self.base, self.place.folder)
        return self.place.run(f"rm -f {target}; {line(backup_pipeline.give_back(self.delta, reader, target))}")

    def plain_back(self) -> Run:
        target = self.file("back")
        script = (
            f"xdelta3 -d -c -s {self.old} {self.file('plain.xd3')} | dd of={target} bs=1M iflag=fullblock conv=fsync"
        )
        return self.place.run(f"rm -f {target}; {script} status=none")

    def idle(self, script: str) -> Run:
        return self.place.run(f"{IDLE} bash -eo pipefail -c {shlex.quote(script)}")

    def sizes(self) -> float:
        """Of pmc's delta, by xdelta3's."""
        ours, theirs = map(
            int, self.place.said(f"stat -c %s {self.file(self.delta.file)} {self.file('plain.xd3')}").split()
        )
        return ours / theirs
