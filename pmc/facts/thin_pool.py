"""A thin pool: whether it can be written to, how full it is, and whether it may take a new VM. Pure. Sources: lvs(8) on
lv_attr, lvmthin(7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pmc.model import Volume
from pmc.settings import Settings

# lv_attr, ninth letter.
_HEALTH = {
    "F": "has failed",
    "D": "has no space for data left",
    "M": "has no space for metadata left, so it is read only",
}


def broken(pool: Volume) -> str:
    """Why it cannot be written to; empty when it can."""
    state, health = pool.attributes[4:5], pool.attributes[8:9]
    if health in _HEALTH:
        return _HEALTH[health]
    if state == "s":
        return "is suspended, so whoever reads or writes what is in it waits for ever"
    if state in ("c", "C"):
        return "needs its metadata checked"
    return "" if state == "a" else "is not active"


def remedy(pool: Volume) -> str:
    """The commands for a pool that is broken."""
    path, health = f"{pool.group}/{pool.name}", pool.attributes[8:9]
    if health not in _HEALTH and pool.attributes[4:5] == "s":
        return f"lvchange --refresh {path}"
    if health == "D":
        return _more_data(path)
    if health == "M":
        return f"{_more_metadata(path)}, then with all that is in it off: lvconvert --repair {path}"
    if health == "F" or pool.attributes[4:5] in ("c", "C"):
        return f"with all that is in it off: lvchange --activate n {path} && lvconvert --repair {path} (lvmthin(7))"
    return f"lvchange --activate y {path}"


def _more_data(path: str) -> str:
    return f"lvextend --extents +25%LV {path}"


def _more_metadata(path: str) -> str:
    return f"lvextend --poolmetadatasize +64M {path}"


def zeroes(pool: Volume) -> bool:
    """A chunk is zeroed before its first part is written (eighth letter), so that its other parts read as zeros."""
    return pool.attributes[7:8] == "z"


def free(pool: Volume) -> int:
    """Bytes for data."""
    return pool.size - pool.used


@dataclass(frozen=True)
class Over:
    """The pool is fuller than pmc.conf allows."""

    path: str
    what: str  # data, metadata
    percent: float
    limit: float

    def __str__(self) -> str:
        return f"{self.what} are {self.percent:.0f} % full, more than pool_{self.what}_percent = {self.limit:g}"

    @property
    def remedy(self) -> str:
        return _more_data(self.path) if self.what == "data" else _more_metadata(self.path)


def over(pool: Volume, settings: Settings) -> list[Over]:
    seen = (
        ("data", pool.data_percent, settings.pool_data_percent),
        ("metadata", pool.metadata_percent, settings.pool_metadata_percent),
    )
    path = f"{pool.group}/{pool.name}"
    return [Over(path, what, used, limit) for what, used, limit in seen if used is not None and used > limit]


def unfit(name: str, volumes: Mapping[str, Volume], settings: Settings) -> str:
    """Why this pool, among the node's `volumes`, takes no new volume; empty when it does."""
    pool, path = volumes.get(name), f"{settings.volume_group}/{name}"
    if pool is None or not pool.is_pool:
        return f"has no thin pool {path}; fab pm.init tells how to make it"
    its = f"has a thin pool {path}"
    if why := broken(pool):
        return f"{its} that {why}; there: {remedy(pool)}"
    if not zeroes(pool):
        return f"{its} that does not zero what it hands out; there: lvchange --zero y {path}"
    if full := over(pool, settings):
        return f"{its} whose {full[0]}; there: {full[0].remedy}"
    return ""
