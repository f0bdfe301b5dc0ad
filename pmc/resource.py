"""A DRBD resource as one node has it: what its kernel says, and what its file says. What more than one
place asks of a side (connected, good, diskless, ...) is answered here, once. Part of pmc/model.py. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Resource:
    """A DRBD resource as one node's kernel knows it, in DRBD's own words. Empty fields: not known to the kernel. With
    several volumes or peers each field says the worst of them (pmc/facts/drbd_status.py)."""

    name: str
    minor: int = -1
    role: str = "Unknown"  # Primary, Secondary
    disk: str = "Unknown"  # UpToDate, Inconsistent, Diskless, ...
    connection: str = "StandAlone"  # Connected, Connecting (9) or WFConnection (8.4), StandAlone, ...
    replication: str = "Off"  # Established, SyncSource, SyncTarget, VerifyS, ...
    peer_role: str = "Unknown"
    peer_disk: str = "DUnknown"
    size: int = 0
    out_of_sync: int = 0
    two_primaries: bool = False
    more_minors: tuple[int, ...] = ()  # of further volumes (pmc makes none)
    suspended: str = ""  # why nothing is read or written now: user, no-data, fencing, quorum; empty: it is not so

    @property
    def connected(self) -> bool:
        return self.connection == "Connected"

    @property
    def standalone(self) -> bool:
        """It does not try to connect: a split brain, or disconnected by hand."""
        return self.connection == "StandAlone"

    @property
    def good(self) -> bool:
        """This side's disk has all that was written, as far as it knows."""
        return self.disk == "UpToDate"

    @property
    def diskless(self) -> bool:
        """This side has no disk, or is about to have none: it failed, or was detached."""
        return self.disk in ("Diskless", "Failed", "Detaching")

    @property
    def primary(self) -> bool:
        return self.role == "Primary"

    @property
    def syncing(self) -> bool:
        """A resync is under way, or should be."""
        return "Sync" in self.replication

    @property
    def healthy(self) -> bool:
        """Both sides hold the same data and see each other."""
        return self.connected and self.good and self.peer_disk == "UpToDate"

    @property
    def differs(self) -> int:
        """Bytes that are known to differ although both sides call themselves up to date: an online verify has marked
        them, and nothing copies them. (While a resync or a verify runs, marks are no such knowledge.)"""
        return self.out_of_sync if self.healthy and self.replication == "Established" else 0

    @property
    def percent(self) -> float:
        """How much of the disk is in sync."""
        return 100.0 if not self.size else 100.0 * (1 - self.out_of_sync / self.size)


@dataclass(frozen=True)
class ResourceFile:
    """What a file of /etc/drbd.d says, NAME.res if pmc wrote it: the minor, and for each host its replication address
    and port."""

    name: str
    minor: int
    disk: str
    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    more_minors: tuple[int, ...] = ()  # of further volumes (pmc makes none)
    own_disks: tuple[tuple[str, str], ...] = ()  # (host, disk), when not all hosts have `disk`
    more_disks: tuple[tuple[str, str], ...] = ()  # (host, disk) of further volumes
    path: str = field(default="", compare=False)  # of the file that it is in; empty: not asked
    beside: tuple[str, ...] = field(default=(), compare=False)  # what else is in that file, fit to be shown

    def disk_on(self, host: str) -> str:
        return dict(self.own_disks).get(host, self.disk)

    def disks_on(self, host: str) -> tuple[str, ...]:
        """Of all its volumes; those of all hosts where it does not name this one."""
        more = (disk for each, disk in self.more_disks if each == host or host not in self.hosts)
        return tuple(dict.fromkeys((self.disk_on(host), *more)))
