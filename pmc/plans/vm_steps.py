"""The steps that every new VM is made of, whatever its disk begins with. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pmc import drbd, lvm, virsh
from pmc.actions import Wait
from pmc.plan import Step, on_each
from pmc.plans import node_files
from pmc.settings import Settings
from pmc.units import MiB, show_size


@dataclass(frozen=True)
class Given:
    """What was allocated for a new VM, under no other VM's feet."""

    minor: int
    port: int
    mac: str
    secret: str  # DRBD's shared secret

    @property
    def device(self) -> str:
        return drbd.device(self.minor)


def volume_size(size: int) -> int:
    """Of the LV that holds `size` bytes for the guest and DRBD's metadata, in whole extents of 4 MiB."""
    return -(-(size + drbd.metadata_size(size)) // (4 * MiB)) * 4 * MiB


def new_volumes(
    settings: Settings, nodes: Sequence[str], name: str, size: int, copied: Sequence[str] = ()
) -> list[Step]:
    """All zeros on all nodes: nothing of a former owner can be read, and the sides are known to be equal. A thin volume
    reads as zeros until it is written (`room.no_room` has seen that its pool zeroes). Those that DRBD will copy in
    full (`copied`) need no zeros of ours."""
    group = settings.volume_group
    steps = on_each(nodes, lambda node: volume(settings, node, name, volume_size(size)))
    if settings.volumes == "classic":
        zeroed = [node for node in nodes if node not in copied]
        steps += on_each(zeroed, lambda node: Step(node, f"zero the volume {group}/{name}", lvm.zero(group, name)))
    return steps


def volume(settings: Settings, node: str, name: str, size: int, tag: str = "", about: str = "") -> Step:
    """A new one, of the kind that pmc.conf asks for."""
    group, tags = settings.volume_group, (tag,) if tag else ()
    kind, made = "volume", lvm.create(group, name, size, *tags)
    if settings.volumes == "thin":
        kind, made = "thin volume", lvm.create_thin(group, name, size, settings.thin_pool, *tags)
    return Step(
        node,
        f"make the {kind} {group}/{name} ({show_size(size)}){about}",
        made,
        undo=lvm.remove(group, name),
        check=lvm.exists(group, name),
    )


def claimed(settings: Settings, nodes: Sequence[str], name: str, given: Given, version: str) -> list[Step]:
    """The resource file: it comes first, since it tells everybody that minor, port and MAC address are taken. It stays
    while anything else of the VM does: a domain without it would be nobody's (node_state.cluster_state)."""
    hosts = [(node, settings.nodes[node].replication) for node in nodes]
    disk = lvm.path(settings.volume_group, name)
    text = drbd.resource_text(name, given.minor, given.port, disk, hosts, given.secret, version, given.mac)
    return on_each(
        nodes,
        lambda node: Step(
            node,
            f"write {drbd.path(name)}",
            drbd.write_file(name, text, given.secret),
            undo=drbd.remove_file(name),
            check=node_files.exists(drbd.path(name)),
            claims=True,
            guard=True,
        ),
    )


def resource(settings: Settings, nodes: Sequence[str], name: str, given: Given) -> list[Step]:
    """The DRBD resource, up on all nodes, its metadata new, its sides not yet declared equal."""
    steps = [
        *on_each(nodes, lambda node: Step(node, f"make DRBD's metadata on {name}", drbd.create_metadata(name))),
        *on_each(
            nodes,
            lambda node: Step(
                node,
                f"bring up {name} (minor {given.minor}, port {given.port})",
                drbd.up_or_down(name, alone=len(nodes) == 1),
                undo=drbd.down(name),
                check=drbd.is_up(name),
            ),
        ),
    ]
    if len(nodes) > 1:
        steps.append(wait_connected(settings, nodes[0], name))
    return steps


def wait_connected(settings: Settings, node: str, name: str) -> Step:
    seconds = settings.deadlines.peer
    advice = "DRBD's two sides do not find each other; does the replication network carry the port between the nodes?"
    asked = drbd.sees(name, drbd.CONNECTED)
    return Step(node, f"wait until {name} is connected", Wait(asked, seconds, advice))


def see_equal(node: str, name: str) -> Step:
    """Looked at again right before a second primary: the link may have dropped since the plan was made."""
    otherwise = "DRBD is not Connected with both sides UpToDate and no blocks known to differ any more"
    asked = drbd.sees(name, *drbd.HEALTHY, drbd.NOTHING_DIFFERS)
    return Step(node, f"see that both sides of {name} are equal", Wait(asked, 5, otherwise))


def see_apart(node: str, name: str) -> Step:
    """Before this side goes on alone: the other one would have to be asked if it were there."""
    wait = Wait(drbd.sees_not(name, drbd.CONNECTED), 5, "DRBD is Connected, so the other side lives")
    return Step(node, f"see that {name} has lost its other side", wait)


def wait_up_to_date(settings: Settings, node: str, name: str) -> Step:
    wait = Wait(
        drbd.sees(name, *drbd.HEALTHY), settings.deadlines.sync, "they are not UpToDate on both sides"
    )  # fmt: skip
    return Step(node, f"wait until both sides of {name} are up to date", wait)


def equal(settings: Settings, nodes: Sequence[str], name: str) -> list[Step]:
    """Declares both sides of a new resource up to date, without copying zeros over zeros."""
    return [
        Step(nodes[0], f"declare {name} in sync (both sides are zeros)", drbd.skip_initial_sync(name)),
        wait_up_to_date(settings, nodes[0], name),
    ]


def declare_first(node: str, name: str) -> Step:
    """This side's data is the truth; DRBD copies it to the other side, if there is one, while the VM runs."""
    return Step(
        node,
        f"make {name} primary; its data is the one to keep",
        drbd.primary_by_force(name),
        undo=drbd.secondary(name),
        check=drbd.is_primary(name),
    )


def folder(node: str, path: str, mode: str) -> Step:
    """Made if it is not there; one that is there keeps its mode (pm.init reports a wrong one)."""
    return Step(node, f"make sure of the folder {path}", node_files.folder(path, mode))


def promote(node: str, name: str) -> Step:
    return Step(
        node,
        f"make {name} primary",
        drbd.primary(name),
        undo=drbd.secondary(name),
        check=drbd.is_primary(name),
    )


def let_go(node: str, name: str) -> Step:
    """Of a VM that is off: DRBD refuses to make a side secondary that a mount, or another domain, has open. A guest
    or a write beside that would destroy the disk. Nothing to undo: nobody had it."""
    return Step(node, f"make {name} secondary, which only works when nobody has its disk open", drbd.secondary(name))


def disk(
    settings: Settings, nodes: Sequence[str], name: str, size: int, given: Given, version: str, full: bool = False
) -> list[Step]:
    """A new disk of zeros, its first node primary. `full`: DRBD copies it to the second node, while the VM runs."""
    steps = claimed(settings, nodes, name, given, version)
    steps += new_volumes(settings, nodes, name, size, nodes[1:] if full else ())
    steps += resource(settings, nodes, name, given)
    if full or len(nodes) == 1:
        return [*steps, declare_first(nodes[0], name)]
    return [*steps, *equal(settings, nodes, name), promote(nodes[0], name)]


def defined(nodes: Sequence[str], name: str, xml: str) -> list[Step]:
    return on_each(
        nodes,
        lambda node: Step(
            node, f"define {name}", virsh.define(xml), undo=virsh.undefine(name), check=virsh.exists(name)
        ),
    )


def started(node: str, name: str) -> Step:
    return Step(
        node, f"start {name}", virsh.start(name), undo=virsh.destroy(name), check=virsh.is_active(name)
    )  # fmt: skip
