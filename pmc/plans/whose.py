"""What has a VM's name and is not, or not only, that VM's. Pure; raises Refused."""

from __future__ import annotations

from pmc import drbd, lvm
from pmc.errors import Refused
from pmc.model import NodeState
from pmc.plain import shown


def not_foreign(node: NodeState, vm: str) -> None:
    """A domain of the VM's name that is not pmc's (node_state.cluster_state)."""
    if vm in node.foreign:
        raise Refused(
            f"{vm}: the domain {vm} on {node.name} is not pmc's: there is no resource file, no DRBD resource and no "
            f"volume of pmc's for it. pmc leaves it alone. Give it another name, if it is in the way",
            next=f"on {node.name}: virsh domrename {vm} NEW",
        )


def free(vm: str, node: NodeState, primary: NodeState) -> None:
    """A copy of the VM may come to `node`; its file on `primary` becomes another one."""
    not_foreign(node, vm)
    not_reused(node, vm)
    own_file(node, vm)
    own_file(primary, vm)


def own_file(node: NodeState, vm: str) -> None:
    """Before pmc removes or replaces the VM's file here: drbdadm reads any name, and many resources in one file."""
    path = drbd.path(vm)
    if (file := node.files.get(vm)) and file.path not in ("", path):
        raise Refused(
            f"{vm}: its resource file on {node.name} is {shown(file.path, 120)}, not {path}, so pmc did not write it, "
            f"and neither removes nor replaces it. Move the resource into {path} first",
            next=f"on {node.name}: cat {shown(file.path, 120)}",
        )
    rest = list(file.beside) if file else [f"resource {each.name}" for each in node.files.values() if each.path == path]
    if rest:
        raise Refused(
            f"{vm}: {path} on {node.name} holds more than that resource ({', '.join(rest[:5])}), which would go with "
            f"it. Give each resource a file of its own",
            next=f"on {node.name}: cat {path}",
        )


def not_reused(node: NodeState, vm: str) -> None:
    """A volume that a vm.add --reuse was given, where a copy of a VM is to come."""
    if (volume := node.volumes.get(vm)) and lvm.REUSED in volume.tags:
        path = f"{volume.group}/{vm}"
        raise Refused(
            f"{vm}: the volume {path} on {node.name} was there before a vm.add --reuse that did not end, so no copy "
            f"comes in its place. Give it another name",
            next=f"on {node.name}: lvrename {path} NEW",
        )
