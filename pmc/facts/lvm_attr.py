"""States in which a volume or a volume group stands still or is not whole, by the letters of lvs(8), vgs(8). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pmc.facts import thin_pool
from pmc.model import Volume

# lv_attr, fifth letter. What is merely not active is for pm.ready_drbd, what makes a snapshot invalid for its reader.
_STATE = {
    "s": "is suspended, so whoever reads or writes it waits for ever",
    "S": "is a suspended and invalid snapshot",
    "M": "is a suspended snapshot whose merge failed",
    "d": "has a device without a table",
    "i": "has a device whose table is not active",
    "X": "is in a state that LVM does not know",
}
# lv_attr, ninth letter. F, D and M are of thin pools and volumes.
_LACKS = {
    "p": "is partial: a disk that it lies on is missing",
    "F": "has failed",
    "D": "has no space for data left",
    "M": "has no space for metadata left, so it is read only",
    "X": "is in a health that LVM does not know",
}
# What works on, with less behind it.
_WEAK = {
    "r": "needs a refresh: a disk that it lies on was missing for a while",
    "m": "has mismatches between its mirrors",
}


@dataclass(frozen=True)
class Unwell:
    """`why` reads behind the volume's path. `stands`: what reads or writes it hangs, fails, or gets wrong data;
    `hangs`: it waits for ever."""

    path: str
    why: str
    remedy: str
    stands: bool = True
    hangs: bool = False

    def __str__(self) -> str:
        return f"{self.path} {self.why}"


def unwell(volume: Volume) -> Unwell | None:
    """Not of a pool, for which there is pmc/facts/thin_pool.py."""
    path, state, health = f"{volume.group}/{volume.name}", volume.attributes[4:5], volume.attributes[8:9]
    if state in _STATE:
        if state not in "sSM":
            return Unwell(path, _STATE[state], f"lvchange --refresh {path}")
        resume = f"dmsetup resume {_mapped(volume.group)}-{_mapped(volume.name)}"
        return Unwell(path, _STATE[state], resume, hangs=True)
    if health == "p" and volume.attributes[:1] in ("r", "R", "m", "M"):  # the other legs are read and written
        return Unwell(path, _LACKS[health], f"lvconvert --repair {path}", stands=False)
    if health in _LACKS:
        bring = "bring the missing disk back (pvs, vgs -o +vg_missing_pv_count tell which), then "
        return Unwell(path, _LACKS[health], f"{bring if health == 'p' else ''}lvchange --refresh {path}")
    if health in _WEAK:
        repair = f"lvchange --syncaction repair {path}" if health == "m" else f"lvchange --refresh {path}"
        return Unwell(path, _WEAK[health], repair, stands=False)
    return None


def of_vm(volume: Volume, volumes: Mapping[str, Volume]) -> Unwell | None:
    """Of the volume or, when it is thin, of the pool that it lives in."""
    its = volumes.get(volume.pool) if volume.thin else None
    if its is not None and (why := thin_pool.broken(its)):
        path, hangs = f"the thin pool {its.group}/{its.name} of {volume.name}", its.attributes[4:5] == "s"
        return Unwell(path, why, thin_pool.remedy(its), hangs=hangs)
    return unwell(volume)


def group(attributes: str, name: str) -> Unwell | None:
    """By its vg_attr: w writeable, z resizeable, x exported, p partial."""
    exported, partial = attributes[2:3] == "x", attributes[3:4] == "p"
    if exported:
        return Unwell(f"the volume group {name}", "is exported, so nothing in it can be used", f"vgimport {name}")
    if partial:
        way = "bring it back; lvs -a -o +devices tells what lay on it. What has another copy: fab vm.repair NAME"
        return Unwell(f"the volume group {name}", "is partial: a disk of it is missing", way)
    if attributes[:1] == "r":
        return Unwell(f"the volume group {name}", "is read only", f"vgchange --permission rw {name}", stands=False)
    return None


def _mapped(name: str) -> str:
    """As device-mapper has it."""
    return name.replace("-", "--")
