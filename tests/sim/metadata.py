"""What DRBD 8.4 keeps of one side's data, and what two sides that meet make of it.

The generation identifiers are those of the user's guide, "Generation identifiers": a primary that loses its peer, and a
side that is promoted without one, begin a new one and keep the one before as `bitmap`, which the bits of what the peer
lacks count from. `compare` is drbd_uuid_compare of drbd_receiver.c by its rule numbers; `handshake` is
drbd_sync_handshake with every after-sb policy set to disconnect, as pmc has it. It is written from these, and not from
pmc/drbd_generations.py, which it tries.

A write stands for a block: a resync copies the blocks whose bit is set on either side, so that a bit too few shows as a
disk that lacks a write. Left out: the activity log, data that differ by a crash, diskless sides.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CREATED = 4  # UUID_JUST_CREATED: no data yet
STARTED = 1 << 48  # UUID_NEW_BM_OFFSET: set on `bitmap` when a resync begins
SPLIT, SPLIT_FROM_AFAR, UNRELATED = 100, -100, -1000


@dataclass
class Disk:
    """`bits`: the writes that the peer may lack; None: all blocks."""

    writes: frozenset[int] = frozenset()
    state: str = "Inconsistent"
    current: int = CREATED
    bitmap: int = 0
    history: tuple[int, int] = (0, 0)
    bits: frozenset[int] | None = field(default_factory=frozenset)

    @property
    def new(self) -> bool:
        return self.current == CREATED

    def lose_peer(self, new: int) -> None:
        """drbd_uuid_new_current, of a primary. While the one before is not settled no other is begun."""
        if not self.bitmap and self.state == "UpToDate":
            self.bitmap, self.current = self.current, new

    def take_back(self) -> None:
        """drbdmeta set-gi, as interrupted_migration.py does it."""
        if self.bitmap:
            self.current, self.bitmap = self.bitmap, 0

    def write(self, number: int, alone: bool) -> None:
        self.writes |= {number}
        if alone and self.bits is not None:
            self.bits |= {number}

    def settle(self, new_bitmap: int = 0) -> None:
        """drbd_uuid_set of UI_BITMAP: the one before moves into the history."""
        if self.bitmap:
            self.history = (self.bitmap, self.history[0])
        self.bitmap = new_bitmap


def compare(mine: Disk, peers: Disk) -> int:
    """0: equal; 1: the peer lacks what the bits tell, 2: anything; negative: this side does."""
    if mine.new or peers.new:
        return 0 if mine.new and peers.new else -2 if mine.new else 2  # rules 10 to 30
    if mine.current == peers.current:
        return 0  # 40
    if mine.current == peers.bitmap:
        return -1  # 50
    if _never_began(peers, mine):
        return -1  # 51
    if mine.current in peers.history:
        return -2  # 60
    if mine.bitmap == peers.current:
        return 1  # 70
    if _never_began(mine, peers):
        return 1  # 71
    if peers.current in mine.history:
        return 2  # 80
    if mine.bitmap and mine.bitmap == peers.bitmap:
        return SPLIT  # 90
    return SPLIT_FROM_AFAR if set(mine.history) & set(peers.history) - {0} else UNRELATED  # 100


def _never_began(source: Disk, target: Disk) -> bool:
    """ "The last P_SYNC_UUID did not get though": the source takes back that it began to copy."""
    if source.history[0] != target.current or source.history[0] + STARTED != source.bitmap:
        return False
    source.bitmap, source.history = source.history[0], (source.history[1], 0)
    return True


def handshake(mine: Disk, peers: Disk, gives_up: bool = False, peer_gives_up: bool = False) -> int | None:
    """As `compare`, after the disks' states and what a person gave up; None: the connection is dropped."""
    verdict = compare(mine, peers)
    if verdict == UNRELATED:
        return None
    good = mine.state != "Inconsistent", peers.state != "Inconsistent"
    if good[0] != good[1]:
        full = 2 if verdict in (SPLIT_FROM_AFAR, 2, -2) else 1
        return full if good[0] else -full
    if verdict in (SPLIT, SPLIT_FROM_AFAR):
        return None if gives_up == peer_gives_up else -1 if gives_up else 1
    return verdict if good[0] or not verdict else None


def begin_copy(source: Disk, target: Disk, full: bool, new: int) -> None:
    """drbd_send_sync_uuid, receive_sync_uuid: from now on the target is what the source's bits count from."""
    if full or source.bits is None or target.bits is None:
        source.bits = source.writes | target.writes
    else:
        source.bits |= target.bits
    source.settle(source.bitmap + STARTED if source.bitmap else new)
    target.current, target.bitmap, target.state, target.bits = source.bitmap, 0, "Inconsistent", source.bits


def copy(source: Disk, target: Disk, blocks: frozenset[int]) -> None:
    """What is copied is lacking no more: whoever the next peer is."""
    target.writes = (target.writes - blocks) | (source.writes & blocks)
    source.bits = target.bits = (source.bits or frozenset()) - blocks


def end_copy(source: Disk, target: Disk) -> None:
    """drbd_resync_finished."""
    copy(source, target, source.bits or frozenset())
    source.settle()
    target.current, target.bitmap, target.history, target.state = source.current, 0, source.history, "UpToDate"
