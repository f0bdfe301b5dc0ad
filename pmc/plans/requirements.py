"""What every plan about a VM asks of the cluster's state before the first step exists. Pure; raises Refused."""

from __future__ import annotations

from collections.abc import Iterable

from pmc import drbd, lvm, names
from pmc.errors import NodeDown, Refused
from pmc.facts import backing
from pmc.model import ClusterState, NodeState, Resource, Volume
from pmc.plain import shown, then
from pmc.plans import whose
from pmc.settings import Settings
from pmc.units import show_size


def check_new(flag: str, name: str) -> str:
    """Of a VM that is to be made."""
    if not names.NEW.fullmatch(name):
        raise Refused(
            f"{flag} {shown(name)!r}: a new VM's name is a-z, 0-9 and '-', begins with a letter and has at most 63 "
            f"characters"
        )
    if names.why_not(name):
        raise Refused(f"{flag} {name!r}: DRBD or LVM use this name themselves; choose another")
    return name


def check_name(flag: str, name: str) -> str:
    """Of a VM that is there."""
    if not name:
        raise Refused(f"{flag}: the VM's name is missing", next="fab vm.ls")
    if why := names.why_not(name):
        raise Refused(f"{flag} {shown(name)!r}: {why}", next="fab vm.ls")
    return name


def answering(state: ClusterState, *nodes: str) -> None:
    """These nodes answer, and every tool on them answered."""
    for name in nodes:
        node = state.nodes[name]
        if node.down:
            raise NodeDown(f"{name}: {node.down}")
        if node.failures:
            raise Refused(f"{name}: {node.trouble}", next=f"fab pm.init {name}")


def reachable(state: ClusterState, *nodes: str) -> None:
    """They do, and each is the machine that pmc.conf takes it for."""
    for name in nodes:
        answering(state, name)
        own_hostname(state.nodes[name])


def own_hostname(node: NodeState) -> None:
    """DRBD takes the side of a resource file that has the host's name. And where pmc.conf has exchanged two nodes,
    whatever a person says of one of them (--keep, --dead, pm.evacuate) would be done to the other."""
    if node.hostname != node.name:
        raise Refused(
            f"{node.name}: its host name is {node.hostname!r}. DRBD looks for {node.name!r}, the name in pmc.conf. "
            f"If pmc.conf has another machine there, or two exchanged, correct it. If not: hostnamectl set-hostname "
            f"{node.name}",
            next="on it: hostname; ip -brief address",
        )


def found(state: ClusterState, vm: str) -> list[str]:
    """The nodes that the VM lives on; refused when no node knows it, by name when a node that may is not asked."""
    homes = state.homes(vm)
    if homes:
        return homes
    silent = [f"{node.name}: {node.trouble}" for node in state if node.trouble]
    if silent:
        raise NodeDown(f"{vm}: no node that answers knows it, and not all answered: {'; '.join(silent)}")
    for node in state:
        whose.not_foreign(node, vm)
    near = ", ".join(state.vm_names()) or "none yet"
    raise Refused(f"{vm}: no such VM; there are: {near}")


def known_nodes(state: ClusterState, vm: str) -> list[str]:
    """The nodes that the VM lives on, which must all answer. So must all others, unless each of these has its resource
    file: where one is missing, or they contradict each other, a silent node may know better where it lives."""
    homes = found(state, vm)
    readable(state, vm)
    sure = not state.contradicted(vm) and all(home in state.nodes and vm in state.nodes[home].files for home in homes)
    reachable(state, *(home for home in homes if home in state.nodes))
    if not sure:
        reachable(state, *state.nodes)
    return homes


def defined_everywhere(state: ClusterState, vm: str) -> list[str]:
    """A VM whose nodes all answer, are configured, and define it. Its nodes, the one it was made on first."""
    homes = found(state, vm)
    readable(state, vm)
    consistent_placement(state, vm)
    configured(state, vm, homes)
    reachable(state, *homes)
    for home in homes:
        if vm not in state.nodes[home].domains:
            raise Refused(
                f"{vm}: is not defined on {home}. If its creation or removal was interrupted: fab vm.rm {vm}. Else "
                f"define it there again",
                next=f"fab vm.repair {vm}",
            )
    return homes


def configured(state: ClusterState, vm: str, homes: Iterable[str]) -> None:
    """pmc.conf has all of the VM's nodes."""
    for home in homes:
        if home not in state.nodes:
            raise Refused(f"{vm}: lives on {home}, which is not in pmc.conf. Add it there")


def known_by_all(vm: str, state: ClusterState) -> None:
    """A node of the VM's that pmc.conf has not: when DRBD is connected to it, it lives, and the VM may run there. One
    that is gone for good is taken out of pmc.conf so that the rest can be removed."""
    unknown = [home for home in state.homes(vm) if home not in state.nodes]
    linked = [node for node, its in state.resources(vm).items() if its.connected]
    if unknown and linked:
        raise Refused(
            f"{vm}: lives on {unknown[0]} as well, which is not in pmc.conf, and DRBD on {linked[0]} is connected to "
            f"it. Add it there"
        )


def readable(state: ClusterState, vm: str) -> None:
    """Its resource files can be read, on all nodes that answer."""
    for node in state:
        for odd in node.odd:
            if odd.vm == vm:
                raise Refused(
                    f"{vm}: on {node.name}, {odd}. Correct the file there; the command says where it is wrong",
                    next=f"on {node.name}: drbdadm dump {vm}",
                )


def consistent_placement(state: ClusterState, vm: str) -> None:
    """Its copies agree on where it lives, or it is known which of them is old; and no old one is in use: what is copied
    from its nodes then would not be what its guest sees."""
    if state.contradicted(vm):
        raise Refused(
            f"{vm}: its resource files disagree about its nodes ({' or '.join(state.homes(vm))}). {which_is_old(vm)}"
        )
    if busy := [node for node in state.stale_copies(vm) if node in {*state.active_on(vm), *state.primaries(vm)}]:
        raise Refused(
            f"{vm}: its stale copy on {busy[0]} is in use, where it does not live: the domain runs there or DRBD is "
            f"primary. Decide which of the two is wanted, and stop the other by hand",
            next=f"on {busy[0]}: virsh domstate {vm}; drbdadm status {vm}",
        )


def stale_copy_note(vm: str, node: str, state: ClusterState) -> str:
    """What is to be said before what the VM has on `node` is taken for its data, when it runs nowhere: its own nodes
    may have been silent when a person started a stale copy, and of all that this one wrote they know nothing. Empty
    when there is no stale copy on any node that answers; memory that is saved there, or a volume that pmc did not make,
    is none."""
    if state.active_on(vm) or not (copies := [each for each in state.stale_copies(vm) if _has(state.nodes[each], vm)]):
        return ""
    there = " and ".join(copies)
    return (
        f"{vm}: there is a stale copy on {there}. If {vm} ran there last (vm.failover while its own nodes were "
        f"silent), {node} lacks what it wrote then. fab vm.peer {vm} --cleanup removes that copy for good"
    )


def _has(node: NodeState, vm: str) -> bool:
    volume = node.volumes.get(vm)
    return any(vm in each for each in (node.files, node.resources, node.domains)) or bool(
        volume and lvm.TAG in volume.tags
    )


def which_is_old(vm: str) -> str:
    """The remedy for copies that contradict each other."""
    advice = "One of them is old. Bring all its nodes back, or compare them before anything is started"
    return then(advice, f"on each node: cat {drbd.path(vm)}")


def runs_once(vm: str, state: ClusterState) -> None:
    """It is active on one node at most."""
    active = state.active_on(vm)
    if state.twice(vm):
        raise Refused(
            f"{vm}: RUNS TWICE, on {' and '.join(active)}, unless a migration was just interrupted (libvirt ends that "
            f"within half a minute: try again). {stop_one(vm)}"
        )
    if len(active) > 1:
        how = {node: state.nodes[node].domains[vm].state for node in active}
        still = [node for node, its in how.items() if its == "paused"]
        end = f"; only should that not help: on {still[0]}: virsh destroy {vm}" if len(still) < len(active) else ""
        there = " and ".join(f"{its} on {node}" for node, its in how.items())
        raise Refused(
            f"{vm}: is {there}. It moves, or a migration was interrupted, which libvirt ends within half a minute "
            f"unless DRBD holds its writes. Wait that long, then close it{end}",
            next=f"fab vm.mv {vm} --cleanup",
        )


def stop_one(vm: str) -> str:
    """The remedy for a VM that runs twice. Not `virsh shutdown`: a guest that shuts down writes what it still holds,
    over what the other one wrote when both have one disk open."""
    return then(f"Decide which one is right. On the other node: virsh destroy {vm}", f"fab vm.repair {vm}")


def disk(node: NodeState, vm: str, settings: Settings) -> Volume:
    """The volume that is the VM's disk here, whatever its name is."""
    if vm not in node.files:
        odd = [f"{each}; correct it there" for each in node.odd if each.vm == vm]
        why = odd[0] if odd else f"{drbd.path(vm)} is missing; copy it there from its other node, mode 600"
        raise Refused(f"{vm}: it is not known which volume is its disk on {node.name}: {why}")
    path, group = backing.path_of(node, vm), settings.volume_group
    if volume := backing.of(node, vm):
        return volume
    if not path or (lvm.split(path) or ("", ""))[0] != group:
        raise Refused(f"{vm}: its disk on {node.name} is {path or 'none'}, which is no volume of {group}")
    raise Refused(f"{vm}: {node.name} has no volume {path}, which is its disk", next=f"fab vm.repair {vm}")


def usual_disk(node: NodeState, vm: str, settings: Settings) -> None:
    """For what makes or removes volumes: a disk of another name was not made by pmc."""
    if not backing.usual(node, vm, settings.volume_group):
        path = backing.path_of(node, vm) or "none"
        raise Refused(
            f"{vm}: its disk on {node.name} is {path}, not {settings.volume_group}/{vm}, so pmc did not make it, and "
            f"neither removes nor replaces it. By hand on each of its nodes, once it is off and its disk is taken care "
            f"of: virsh undefine {vm}, drbdadm down {vm}, rm {drbd.path(vm)}",
            next=f"on {node.name}: drbdadm dump {vm}",
        )


def claimed(node: NodeState, vm: str, settings: Settings) -> None:
    """Another resource file names the volume that has the VM's name, be it there now or not."""
    group = settings.volume_group
    if others := [each for each in backing.users(node, group, vm) if each != vm]:
        raise Refused(
            f"{node.name}: by {drbd.path(others[0])} the volume {group}/{vm} is the disk of {others[0]}, so it is "
            f"neither made nor removed for {vm}"
        )


def foreign(node: NodeState, name: str, ours: object, settings: Settings) -> None:
    """A volume that has the name of a snapshot of pmc's, and is not `ours`."""
    if name in node.volumes and not ours:
        raise Refused(
            f"{node.name}: the volume {settings.volume_group}/{name} is no snapshot that pmc made. Rename it first",
            next=f"on {node.name}: lvrename {settings.volume_group} {name} NEW",
        )


def module(node: NodeState) -> None:
    if not node.drbd:
        raise Refused(f"{node.name}: DRBD's module is not loaded", next=f"fab pm.ready_drbd --node {node.name}")


def up(node: NodeState, vm: str) -> Resource:
    """The VM's resource, which must be there."""
    if (found := node.up(vm)) is None:
        raise Refused(f"{vm}: its DRBD resource is not up on {node.name}", next=f"fab pm.ready_drbd --node {node.name}")
    return found


def healthy(node: NodeState, vm: str) -> None:
    """DRBD's two sides see each other and both are up to date, as this node sees it."""
    resource = up(node, vm)
    if not resource.healthy:
        why, command = "Either its peer is not up, or the link between the nodes does not work", "fab pm.ready_drbd"
        if resource.standalone:
            why, command = "StandAlone is a split brain, or disconnected by hand", f"fab vm.repair {vm}"
        elif resource.connected:
            why, command = "One copy is not whole", f"fab vm.repair {vm}"
        raise Refused(
            f"{vm}: DRBD on {node.name} is {resource.connection}, {resource.disk}/{resource.peer_disk}. It must be "
            f"Connected, UpToDate/UpToDate. {why}",
            next=command,
        )


def quiet_login(node: NodeState, vm: str, source: str) -> None:
    """Nothing is printed to libvirt on `source` when it logs in there: it would take that for its protocol. Of a
    user other than root only his own login is known, and root's may be silent: libvirt is left to find out."""
    if node.prints and node.prints_to == "root":
        raise Refused(
            f"{vm}: cannot move to {node.name}: a login script there prints {node.prints!r}, and libvirt on {source} "
            f"would take that for an answer",
            next=f"fab pm.init {node.name}",
        )


def in_sync(state: ClusterState, vm: str, why: str) -> None:
    """No blocks of its two sides are known to differ; `why` that matters."""
    if size := state.differs(vm):
        homes, start = " and ".join(state.homes(vm)), "" if state.active_on(vm) else f"vm.start {vm} "
        raise Refused(
            f"{vm}: {show_size(size)} of its disk differ between {homes}, as a verify found, and {why}",
            next=f"fab {start}vm.repair {vm}",
        )
