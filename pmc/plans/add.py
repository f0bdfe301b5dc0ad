"""vm.add: a new VM. Pure. Whatever can be refused is refused before the first step exists."""

from __future__ import annotations

from collections.abc import Sequence

from pmc import drbd, lvm
from pmc.actions import Transfer, Watch
from pmc.command import Command, bash, command, operation
from pmc.errors import Refused
from pmc.facts import backing
from pmc.model import ClusterState, NodeState
from pmc.plan import Plan, Step, on_each, plan
from pmc.plans import node_files, requirements, room, vm_steps
from pmc.plans.request import Add
from pmc.plans.vm_steps import Given
from pmc.settings import Settings
from pmc.units import GiB, MiB, show_size


def iso_path(settings: Settings, name: str) -> str:
    """Each VM has its own copy on its nodes: it is gone with the VM, and nobody has to count users."""
    return f"{settings.image_dir}/{name}.pmc.iso"


def upload_path(settings: Settings, name: str) -> str:
    return f"{settings.image_dir}/{name}.pmc.upload"


def check_new(
    name: str,
    nodes: Sequence[str],
    size: int,
    memory: int,
    state: ClusterState,
    settings: Settings,
    reuse: bool = False,
) -> None:
    """Refuses a name that is taken, nodes that cannot be relied on, too little space or memory."""
    check_cluster(name, state, settings)
    for place in nodes:
        check_node(name, state.nodes[place], size, memory, settings, reuse and place == nodes[0])


def check_cluster(name: str, state: ClusterState, settings: Settings) -> None:
    for node in state:
        if node.down:
            # The name above all: a VM that lives there alone is on no other node, and would be taken for a stale copy.
            raise Refused(
                f"{node.name}: {node.down}. A new VM needs a name, a number and an address that no node uses, so all "
                f"nodes must answer. (Or take it out of {settings.source} while it is away, and choose a name that no "
                f"VM there has.)"
            )
    requirements.answering(state, *state.nodes)
    if name in state.vm_names() and any(
        lvm.REUSED in node.volumes[name].tags for node in state if name in node.volumes
    ):
        raise Refused(
            f"{name}: a vm.add --reuse of it did not end. This removes what that made, and leaves the volume as it is",
            next=f"fab vm.rm {name}",
        )
    if name in state.vm_names():
        raise Refused(f"{name}: there is such a VM already, on {', '.join(state.homes(name))}; choose another name")
    for node in state:
        if name in node.foreign or name in node.foreign_resources or any(name == odd.vm for odd in node.odd):
            raise Refused(f"{name}: something on {node.name} has this name, which is not pmc's; choose another name")


def check_node(name: str, node: NodeState, size: int, memory: int, settings: Settings, kept: bool = False) -> None:
    """`kept`: the volume is there, and is reused."""
    place = node.name
    requirements.module(node)
    requirements.own_hostname(node)
    requirements.claimed(node, name, settings)
    if left := backing.snapshots(node, name):
        names = ", ".join(sorted(f"{each.group}/{each.name}" for each in left.values()))
        raise Refused(
            f"{place}: has {names} of a former VM {name}. Choose another name, or remove it", next=f"fab vm.rm {name}"
        )
    if kept and name in node.volumes:
        _check_free(node, name)
    if name in node.volumes and not kept:
        raise Refused(
            f"{place}: has a volume {settings.volume_group}/{name} already. Choose another name, remove it there, "
            f"or keep what is on it with --reuse (on the primary only)"
        )
    if kept and name not in node.volumes:
        raise Refused(f"--reuse: {place} has no volume {settings.volume_group}/{name}; leave --reuse out for a new one")
    if kept:
        why = room.no_growth(node, node.volumes[name], drbd.metadata_size(size), settings)
    else:
        why = room.no_room(node, vm_steps.volume_size(size), settings)
    if why:
        raise Refused(f"--size: {place} {why}")
    if node.memory_available < memory:
        raise Refused(
            f"--memory {show_size(memory)}: {place} has {show_size(node.memory_available)} free "
            f"of {show_size(node.memory)}"
        )


def _check_free(node: NodeState, name: str) -> None:
    """lvs(8), lv_attr: the first letter is '-' of a plain volume ('o' with snapshots), 'V' of a thin one; the second
    'r' of one that cannot be written; the sixth 'o' of an open one; the tenth 'k' of one that activation skips, as LVM
    makes thin clones."""
    volume = node.volumes[name]
    attributes = volume.attributes
    for letter, at, what, change in (
        ("r", 1, "is read-only", "--permission rw"),
        ("k", 9, "is left out when volumes are activated, as at a boot", "--setactivationskip n"),
    ):
        if attributes[at : at + 1] == letter:
            raise Refused(
                f"--reuse: {name} on {node.name} {what}",
                next=f"on {node.name}: lvchange {change} {volume.group}/{name}",
            )
    if attributes[:1] not in ("-", "o", "V"):
        raise Refused(f"--reuse: {name} on {node.name} is no plain volume (lv_attr {attributes})")
    if attributes[5:6] == "o":
        raise Refused(f"--reuse: {name} on {node.name} is in use. End what has it open first")


def add(
    request: Add,
    size: int,
    state: ClusterState,
    settings: Settings,
    given: Given,
    xml: str,
    content: Sequence[Step] = (),
) -> Plan:
    """Volumes, resource, content, domain on both nodes, started on the primary. `content` fills the new disk of
    `size` bytes; `xml` is the whole domain."""
    name, nodes = request.name, request.nodes
    check_new(name, nodes, size, request.memory, state, settings, request.reuse)
    version = state.nodes[request.primary].drbd
    if request.reuse:
        steps = [keep_reused(settings, request.primary, name)]
        steps += vm_steps.claimed(settings, nodes, name, given, version)
        steps += reused_volumes(settings, nodes, name, size, state.nodes[request.primary].volumes[name].origin)
        steps += vm_steps.resource(settings, nodes, name, given)
        steps.append(vm_steps.declare_first(request.primary, name))
    else:
        steps = vm_steps.disk(settings, nodes, name, size, given, version, request.full)
    steps += content
    if request.image:
        steps += from_image(request, settings, given.device)
    if request.iso:
        steps += copy_iso(request, settings)
    steps += vm_steps.defined(nodes, name, xml)
    steps.append(vm_steps.started(request.primary, name))
    if request.reuse:
        steps.append(reuse_done(settings, request.primary, name))
    return plan(f"vm.add {name}", steps)


def keep_reused(settings: Settings, node: str, name: str) -> Step:
    """First of all, and undone last: while there is a resource file the volume is the VM's disk, which vm.rm would
    remove."""
    group = settings.volume_group
    return Step(
        node,
        f"mark {group}/{name} as there before: vm.rm keeps it until {name} is made",
        lvm.mark(group, name, True, lvm.REUSED),
        undo=lvm.mark(group, name, False, lvm.REUSED),
        guard=True,
    )


def reuse_done(settings: Settings, node: str, name: str) -> Step:
    """Last of all. In doubt the VM, which runs, stays, and so does its disk."""
    group = settings.volume_group
    done, check = lvm.mark(group, name, False, lvm.REUSED), lvm.unmarked(group, name, lvm.REUSED)
    return Step(node, f"take that mark off {group}/{name}: {name} is made", done, check=check, pivot=True)


def reused_volumes(settings: Settings, nodes: Sequence[str], name: str, size: int, origin: str = "") -> list[Step]:
    """The primary's volume grows by DRBD's metadata, so that none of it is overwritten; the other is new. `origin`: of
    a thin clone, the volume that it was made of, which stays as it is."""
    group, more = settings.volume_group, drbd.metadata_size(size)
    what = f"{group}/{name}" + (f", a thin clone of {group}/{origin}," if origin else "")
    steps = [
        Step(nodes[0], f"grow {what} by DRBD's metadata", lvm.grow(group, name, more)),
        Step(nodes[0], f"mark {group}/{name} as pmc's", lvm.mark(group, name, True), undo=lvm.mark(group, name, False)),
    ]  # fmt: skip
    return steps + vm_steps.new_volumes(settings, nodes[1:], name, size)


def from_image(request: Add, settings: Settings, device: str) -> list[Step]:
    image, node = request.image, request.primary
    assert image is not None  # noqa: S101
    watch = Watch("bytes", f"{request.name} {image.path.rpartition('/')[2]}", image.stored)
    if image.format == "raw":
        return [
            Step(
                node,
                f"copy {image.path} ({show_size(image.stored)})",
                Transfer(image.path, image.stored, write(device), image.file),
                watch=watch,
            )
        ]
    kept = upload_path(settings, request.name)
    remove = node_files.remove(kept)
    return [
        vm_steps.folder(node, settings.image_dir, "755"),
        Step(node, f"copy {image.path} ({show_size(image.stored)})",
             Transfer(image.path, image.stored, node_files.receive(kept, "600", size=image.stored), image.file),
             undo=remove, check=node_files.exists(kept), watch=watch),
        Step(node, "unpack it", unpack(kept, device, image.size)),
        Step(node, "remove the copy", remove),
    ]  # fmt: skip


@operation
def write(device: str) -> Command:
    """From stdin. The volume is all zeros: blocks of zeros need not be written again. Where the device is
    missing nothing is made: the disk would go into a file, and all would look well."""
    return command(
        "dd", f"of={device}", "bs=1M", "iflag=fullblock", "conv=nocreat,sparse,fsync", "status=none", long=True
    )


MEMORY = 2 * GiB  # of addresses, for qemu-img; a quarter of that is enough for 20 GiB

# The image may have been exchanged since its header was read, so that of the copy is read again: qcow2, of the size
# that the disk has, without a backing file (offset 8) and without an external data file (bit 2 of the features at 72,
# which version 2 has not). Then qemu-img reads no file but this one. What it takes is bounded: a header may claim
# anything.
_UNPACK = (
    'h=$(od -A n -v -t x1 -N 104 "$1" | tr -d " \\n"); '
    '[[ $h = 514649fb0000000[23]0000000000000000* && ${h:48:16} = "$3" && '
    "( ${h:15:1} = 2 || ${h:159:1} = [012389ab] ) ]] || "
    '{ echo "$1 is not the image that was looked at: its header is another" >&2; exit 1; }; '
    'exec prlimit --as="$4" --cpu="$5" qemu-img convert -n --target-is-zero -f qcow2 -O raw "$1" "$2"'
)


@operation
def unpack(image: str, device: str, size: int) -> Command:
    """`size` is that of the disk in bytes."""
    seconds = 300 + size // (4 * MiB)
    return bash(_UNPACK, image, device, f"{size:016x}", str(MEMORY), str(seconds), long=True)


def copy_iso(request: Add, settings: Settings) -> list[Step]:
    assert request.iso is not None  # noqa: S101
    source, size, file = request.iso.path, request.iso.size, request.iso.file
    path = iso_path(settings, request.name)
    return [
        *on_each(request.nodes, lambda node: vm_steps.folder(node, settings.image_dir, "755")),
        *on_each(
            request.nodes,
            lambda node: Step(
                node,
                f"copy {source} ({show_size(size)})",
                Transfer(source, size, node_files.receive(path, "644", size=size), file),
                undo=node_files.remove(path),
                check=node_files.exists(path),
                watch=Watch("bytes", node, size),
            ),
        ),
    ]
