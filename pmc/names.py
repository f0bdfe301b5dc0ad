"""Which names pmc takes: of VMs, of nodes, of volumes. What has another one on a node is listed and left alone. Pure.

A VM's name is also its DRBD resource, its volume, its libvirt domain, its lock and the beginning of its backups' names:
hence no dot, since pmc puts suffixes behind one (web.backup).
"""

from __future__ import annotations

import re

from pmc import drbd, lock_files, lvm

# Of a new VM: it is often a host name too.
NEW = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
# Of one that is there, made by hand or by pmc's forerunner: 3cx, 01-web, Web_1.
KNOWN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", re.ASCII)
VOLUME = lvm.NAME
DISK = re.compile(r"/[!-~]{1,254}", re.ASCII)
# virsh looks for a domain by id first, then by UUID, then by name. A UUID has its dashes anywhere (virUUIDParse).
_ID = re.compile(r"[0-9]+|([0-9a-f]-*){32}", re.ASCII | re.I)
# lvm(8): names with these prefixes, or with these in them, are LVM's own.
_LVM = re.compile(
    r"(snapshot|pvmove).*|.*_([cv]data|[ct]meta|tdata|[cv]?orig(in)?|imeta|mlog|mimage|pmspare|r(image|meta)).*"
)


def why_not(name: str) -> str:
    """Why no command takes this as the name of a VM that is there; empty when they do."""
    if not KNOWN.fullmatch(name):
        return "a VM's name is letters, digits, '-' and '_', begins with a letter or a digit, and has 63 at most"
    if _ID.fullmatch(name):
        return "virsh takes it for the id or the UUID of another domain"
    if drbd.RESERVED.fullmatch(name) or _LVM.fullmatch(name) or name in lock_files.WORDS:
        return "DRBD, LVM or pmc use this name themselves"
    return ""
