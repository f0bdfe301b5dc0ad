"""What pmc copies, moves and replaces is one disk, that of the VM's DRBD resource. A VM with another one beside it is
refused by name, never half done in silence. Pure; raises Refused."""

from __future__ import annotations

from collections.abc import Sequence

from pmc import drbd
from pmc.errors import Refused
from pmc.facts import backing, domain_disks
from pmc.model import ClusterState, Disk, NodeState


def outside(vm: str, found: Sequence[Disk], state: ClusterState) -> list[Disk]:
    """The disks that are none of the VM's DRBD resource, as the nodes that it lives on have it."""
    own = set[str]()
    for node in _its(vm, state):
        if file := node.files.get(vm):
            own |= domain_disks.names_of(vm, (file.minor, *file.more_minors), backing.named_by(file, node))
    return [disk for disk in found if disk.source not in own]


def _its(vm: str, state: ClusterState) -> list[NodeState]:
    return [state.nodes[home] for home in state.homes(vm) if home in state.nodes]


def volumes(vm: str, state: ClusterState) -> list[str]:
    """The devices of its DRBD resource: one, unless somebody else made it."""
    minors = set[int]()
    for node in state.knowing(vm):
        for each in (node.files.get(vm), node.resources.get(vm)):
            if each and each.more_minors:
                minors |= {each.minor, *each.more_minors}
    return [drbd.device(minor) for minor in sorted(minors)]


def whole(vm: str, what: str, xml: str, state: ClusterState) -> None:
    """Its one disk that can be written to is that of its resource, which has one volume; by its definition (`xml`), and
    as it runs. `what`: what would be of that disk alone."""
    one_volume(vm, what, state)
    device = next((drbd.device(node.files[vm].minor) for node in _its(vm, state) if vm in node.files), "DRBD's")
    found = _writable(vm, xml)
    now = (disk for node in state.knowing(vm) for disk in attached(vm, node))
    if rest := outside(vm, list(dict.fromkeys((*found, *now))), state):
        raise Refused(
            f"{vm}: {what} is of one disk, that of its DRBD resource ({device}); {_listed(rest)} is not in it. Take "
            f"that off the VM, or use other means"
        )
    if len(found) != 1:
        raise Refused(
            f"{vm}: {what} is of the disk of its DRBD resource ({device}), and its domain has it "
            f"{'more than once' if found else 'not at all'}. Correct it",
            next=f"virsh edit {vm}",
        )


def attached(vm: str, node: NodeState) -> tuple[Disk, ...]:
    """What the guest has now, if it runs here: its definition says what it will have next time (virsh attach-disk
    --live, virsh edit). Of a look that asked for it."""
    its = (node.running or {}).get(vm)
    return its.disks if its else ()


def one_volume(vm: str, what: str, state: ClusterState) -> None:
    if several := volumes(vm, state):
        raise Refused(
            f"{vm}: {what} is of one disk, and its DRBD resource has several volumes ({', '.join(several)}). Use "
            f"other means"
        )


def manifest(id: str, vm: str, device: str, xml: str) -> None:
    """The domain in a backup, which has the disk `device` alone."""
    rest = [disk for disk in _writable(id, xml) if disk.source != device]
    if rest:
        raise Refused(
            f"--backup {id}: {vm} had {_listed(rest)} too, which is not in it, so no whole VM can be made of "
            f"it. Its disk as a file: --to FILE"
        )


def there_too(vm: str, found: Sequence[Disk], target: str, state: ClusterState) -> None:
    """Before it moves: libvirt takes a disk for shared that merely has the same path on the other node."""
    if rest := [disk for disk in outside(vm, found, state) if not disk.network]:
        raise Refused(
            f"{vm}: {_listed(rest)} is not on its DRBD resource, so {target} does not have it, and it would "
            f"go on without it or with another one. Take it off, or stop {vm} and take care of that disk first"
        )


def _listed(found: Sequence[Disk]) -> str:
    return ", ".join(map(str, found))


def _writable(whose: str, xml: str) -> tuple[Disk, ...]:
    try:
        return domain_disks.writable(xml)
    except ValueError as error:
        raise Refused(f"{whose}: its domain's XML cannot be read: {str(error)[:120]}") from None
