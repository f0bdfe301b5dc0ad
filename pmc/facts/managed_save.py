"""The memory of a guest that libvirt keeps on a node (`virsh managedsave`, which libvirt-guests does at a node's
shutdown with ON_SHUTDOWN=suspend). The next start there goes on with it, whatever its disk has become since: the guest
writes what it remembers over what is newer. So pmc never starts a VM with it. Pure. Source: virsh(1), managedsave and
start.

Whether the disk was written since cannot be told from the nodes: DRBD begins a new generation when it loses its peer,
not when somebody writes, and LVM keeps no time of it. So pmc has no way to go on with saved memory.
"""

from __future__ import annotations

from pmc.command import Command, Query, bash, command, operation

# `virsh start` looks at the file itself, not at what libvirtd has in mind.
FOLDER = "/var/lib/libvirt/qemu/save"


def query(folder: str = FOLDER) -> Query[frozenset[str]]:
    """The domains that have some here. libvirtd makes the folder when it starts: where there is none, it is not known
    where this libvirt keeps it."""
    return Query(command("ls", "-a", folder), parse)


def parse(text: str) -> frozenset[str]:
    names = text.splitlines()
    if not {".", ".."} <= set(names):
        raise ValueError("not the list of a folder")
    return frozenset(name.removesuffix(".save") for name in names if name.endswith(".save"))


def path(vm: str) -> str:
    return f"{FOLDER}/{vm}.save"


@operation
def discard(vm: str) -> Command:
    """virsh knows only of domains that are defined there; what another one left is a file."""
    script = (
        'v="virsh --connect qemu:///system"; ! $v dominfo "$1" >/dev/null 2>&1 || $v managedsave-remove "$1"; '
        'rm -f "$2"'
    )
    return bash(script, vm, path(vm))


@operation
def gone(vm: str) -> Command:
    return command("test", "!", "-e", path(vm))
