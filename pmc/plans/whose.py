"""What has a VM's name and is not, or not only, that VM's. Pure; raises Refused."""

from __future__ import annotations

from pmc import lvm
from pmc.errors import Refused
from pmc.model import NodeState


def not_foreign(node: NodeState, vm: str) -> None:
    """A domain of the VM's name that is not pmc's (node_state.cluster_state)."""
    if vm in node.foreign:
        raise Refused(
            f"{vm}: the domain {vm} on {node.name} is not pmc's: there is no resource file, no DRBD resource and no "
            f"volume of pmc's for it. pmc leaves it alone. Give it another name, if it is in the way",
            next=f"on {node.name}: virsh domrename {vm} NEW",
        )


def free(node: NodeState, vm: str) -> None:
    """A copy of the VM may come here."""
    not_foreign(node, vm)
    not_reused(node, vm)


def not_reused(node: NodeState, vm: str) -> None:
    """A volume that a vm.add --reuse was given, where a copy of a VM is to come."""
    if (volume := node.volumes.get(vm)) and lvm.REUSED in volume.tags:
        path = f"{volume.group}/{vm}"
        raise Refused(
            f"{vm}: the volume {path} on {node.name} was there before a vm.add --reuse that did not end, so no copy "
            f"comes in its place. Give it another name",
            next=f"on {node.name}: lvrename {path} NEW",
        )
