# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tick guests say on their serial lines, heard on this host while they run, on whichever node.

A guest's QEMU writes its serial line to a port of its node that leads to a file of the lab's run folder, behind a line
``guest NAME UUID`` (rootfs/usr/local/bin/qemu-system-x86_64, machine.py). So the nodes are asked nothing, what was
printed is here at once, and it stays when the node dies.

A word that was printed was on the disk by then, on both sides. ``check`` sees when a guest goes on with a disk that
has it no more; ``lab.tick`` sees what is lost or torn in an image.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lab.tick import Tick, TickError, check_serial, parse_serial

_GUEST = re.compile(r"\nguest (.+) ([0-9a-f-]{36})\n")


class Word(NamedTuple):
    """A tick that was printed."""

    look: int
    """Which look found it. Words of one look that different runs said may have been said in any order."""
    run: str
    """The QEMU process: "pm-1.heard3/2" is the second that wrote to this port of pm-1."""
    uuid: str
    """The VM."""
    tick: Tick


class Ears:
    """All that was said in the lab whose run folder this is, as far as `listen` has looked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._forget()

    def _forget(self) -> None:
        self.look = 0
        self.words: list[Word] = []
        self.uuids: dict[str, str] = {}  # the latest of each name
        self.runs: dict[str, tuple[str, int]] = {}  # of which VM, and how many words are known
        self.before: dict[str, int] = {}  # of a VM: how many of all words another disk has to answer for
        self.sizes: dict[Path, int] = {}

    def listen(self) -> None:
        """Take in what was said since the last look."""
        self.look += 1
        sizes = {path: path.stat().st_size for path in sorted(self.folder.glob("pm-*.heard*"))}
        if any(sizes.get(path, 0) < size for path, size in self.sizes.items()):
            self._forget()  # another lab in the same folder
        for path, size in sizes.items():
            if size != self.sizes.get(path, 0):
                self._take(path.name, path.read_bytes().decode("latin-1"))
        self.sizes = sizes

    def _take(self, port: str, text: str) -> None:
        pieces = _GUEST.split(text)[1:]
        for number, (name, uuid, said) in enumerate(zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True), start=1):
            run = f"{port}/{number}"
            if run not in self.runs:
                self.uuids[name] = uuid
            ticks, known = parse_serial(said), self.runs.get(run, (uuid, 0))[1]
            self.words += [Word(self.look, run, uuid, tick) for tick in ticks[known:]]
            self.runs[run] = (uuid, len(ticks))

    def of(self, name: str) -> list[Word]:
        """What the VM that has this name now said, since its disk was last put back on purpose."""
        self.listen()
        uuid = self.uuids.get(name, "")
        return [word for word in self.words[self.before.get(uuid, 0) :] if word.uuid == uuid]

    def restored(self, name: str) -> None:
        """It is off, and its disk is an older one on purpose: what was said before says nothing about this disk."""
        self.listen()
        self.before[self.uuids.get(name, "")] = len(self.words)

    def check(self) -> None:
        """Of all VMs, also those that are gone."""
        self.listen()
        for uuid in {word.uuid for word in self.words}:
            check([word for word in self.words[self.before.get(uuid, 0) :] if word.uuid == uuid])


@functools.cache
def ears(folder: Path) -> Ears:
    """Those of the lab with this run folder."""
    return Ears(folder)


def check(words: Sequence[Word]) -> Tick | None:
    """The last word of one VM. TickError if it ever went on with a disk that lacked what it had said before, or ran
    twice. Words may be missing: what it printed when its node died is not known.
    """
    seen: dict[str, list[Word]] = {}
    for word in words:
        if word.run not in seen:
            earlier = [each.tick for each in words if each.look < word.look]
            _in_order([max(earlier), word.tick] if earlier else [word.tick], word.run)
        seen.setdefault(word.run, []).append(word)
    for run, its in seen.items():
        _in_order([word.tick for word in its], run)
    ordered = sorted(word.tick for word in words)
    _in_order(ordered, ", ".join(seen))
    return ordered[-1] if ordered else None


def _in_order(ticks: Iterable[Tick], where: str) -> None:
    try:
        check_serial(ticks)
    except TickError as error:
        raise TickError(f"{error} (heard at {where})") from None
