"""What each command does in the world with power and links (world.py) besides, or in place of, what it does in fake.py.
Commands that fake.py refuses are refused here too."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from pmc.command import Command
from tests.sim import fake
from tests.sim.fake import BASH, need
from tests.sim.metadata import Disk
from tests.unit.samples import SETTINGS

if TYPE_CHECKING:
    from tests.sim.world import Cloud


def one(world: Cloud, name: str, command: Command) -> bool:
    """False: it does what it does in fake.py, and no more."""
    line = shlex.join(command.argv)
    for pattern, effect in EFFECTS:
        if found := re.fullmatch(pattern, line, re.DOTALL):
            effect(world, name, command, *found.groups())
            return True
    return False


# -- disks --


def guarded(world: Cloud, at: str, vm: str, what: str) -> None:
    """A disk that may be the only one with acknowledged writes is destroyed only for a person who wants it gone."""
    others = [side for (side, name) in world.disks if name == vm and side != at and world.has_all(side, vm)]
    if vm != world.removing and world.acknowledged.get(vm) and (at, vm) in world.disks and not others:
        world.broken.append(f"{what} on {at} destroys the last whole copy of {vm}")


def zero(world: Cloud, at: str, command: Command, vm: str) -> None:
    fake.has_volume(world, at, command, vm)
    guarded(world, at, vm, "blkdiscard")


def remove(world: Cloud, at: str, command: Command, name: str) -> None:
    need(not any(v.origin == name for v in world.nodes[at].volumes.values()), "it has a snapshot")
    fake.remove(world, at, command, name)
    guarded(world, at, name, "lvremove")
    world.disks.pop((at, name), None)
    world.kept.pop((at, name), None)


def remove_snapshot(world: Cloud, at: str, command: Command, name: str) -> None:
    fake.tagged(world, at, name)
    remove(world, at, command, name)


def remove_disk(world: Cloud, at: str, command: Command, name: str) -> None:
    fake.removable(world, at, name)
    remove(world, at, command, name)


def snapshot(world: Cloud, at: str, command: Command, tags: str, size: str, name: str, origin: str) -> None:
    fake.snapshot(world, at, command, tags, size, name, origin)
    if ".lost-" in name:
        world.kept[at, name] = world.disks[at, origin].writes
    elif not world.has_all(at, origin):
        world.broken.append(f"{name} is taken of a side that lacks acknowledged writes")


# -- DRBD --


def metadata(world: Cloud, at: str, command: Command, vm: str) -> None:
    fake.metadata(world, at, command, vm)
    guarded(world, at, vm, "create-md")
    world.disks[at, vm] = Disk()


def up(world: Cloud, at: str, command: Command, vm: str) -> None:
    need(at not in world.unloaded, "Could not connect to 'drbd' generic netlink family")
    need((at, vm) in world.disks, "No valid meta data found")
    fake.up(world, at, command, vm)
    world.show(vm)


def promote(world: Cloud, at: str, command: Command, force: str | None, vm: str) -> None:
    kernel, disk = world.nodes[at].resources[vm], world.disks[at, vm]
    before = kernel.role
    # drbd_state.c, is_valid_state: SS_PRIMARY_NOP
    lone = kernel.holds and not kernel.behind and before != "Primary" and not world.other(at, vm)
    need(force or not lone, "Refusing to be Primary while peer is not outdated")
    fake.promote(world, at, command, force, vm)
    if force:
        if not disk.new:
            world.broken.append(f"{vm}: data that is not new was declared the truth on {at}")
        disk.current, disk.state = world.generation(), "UpToDate"
        if other := world.other(at, vm):
            del world.linked[vm]  # they compare once more
            world.meet(at, other, vm)
    elif before != "Primary" and not world.other(at, vm):
        disk.lose_peer(world.generation())


def declare_equal(world: Cloud, at: str, command: Command, vm: str) -> None:
    fake.declare_equal(world, at, command, vm)
    one, two = world.disks[at, vm], world.disks[world.other(at, vm), vm]
    if one.writes != two.writes or not (one.new and two.new):
        world.broken.append(f"{vm}: sides that hold data were declared equal")
    one.state = two.state = "UpToDate"
    one.current = two.current = world.generation()


def allow_two(world: Cloud, at: str, command: Command, answer: str, vm: str) -> None:
    kernel = world.nodes[at].resources[vm]
    need(not kernel.alone or answer == "no", "net conf missing, try connect")
    fake.allow_two(world, at, command, answer, vm)


def resume(world: Cloud, at: str, command: Command, vm: str) -> None:
    kernel = world.nodes[at].resources[vm]
    if kernel.held and kernel.role == "Primary" and not world.other(at, vm):
        world.disks[at, vm].lose_peer(world.generation())
    fake.resume(world, at, command, vm)


def leave(world: Cloud, at: str, vm: str, primary: bool) -> None:
    """Two connected sides part in order: a primary with a fencing policy lets its peer go as Outdated only, whichever
    of the two disconnects (drbd_state.c, is_valid_state: SS_PRIMARY_NOP; conn_try_disconnect asks again so).
    `primary`: whether this side is, when it leaves."""
    other = world.other(at, vm)
    if not other:
        return
    mine, theirs = (world.nodes[side].resources[vm] for side in (at, other))
    roles = {at: primary, other: theirs.role == "Primary"}
    for stays, goes, kernel in ((at, other, mine), (other, at, theirs)):
        if roles[stays] and kernel.holds and (stays, vm) not in world.detached:
            need(not roles[goes], "State change failed: Need access to UpToDate data")
            if world.disks[goes, vm].state == "UpToDate":
                world.disks[goes, vm].state = "Outdated"
    world.show(vm)


def disconnect(world: Cloud, at: str, command: Command, vm: str) -> None:
    kernel = world.nodes[at].resources[vm]
    leave(world, at, vm, kernel.role == "Primary")
    kernel.alone, kernel.two_primaries, kernel.discard = True, False, False


def connect(world: Cloud, at: str, command: Command, discard: str | None, vm: str) -> None:
    kernel = world.nodes[at].resources[vm]
    need(kernel.alone, "Device has a net-config (use disconnect first)")
    need(not (discard and kernel.role == "Primary"), "Can not discard data of a primary")
    kernel.alone, kernel.discard = False, bool(discard)


def connect_if_alone(world: Cloud, at: str, command: Command, vm: str) -> None:
    if world.nodes[at].resources[vm].alone:
        connect(world, at, command, None, vm)


def take_back(world: Cloud, at: str, command: Command, vm: str) -> None:
    """interrupted_migration.generation_back."""
    disk, kernel = world.disks[at, vm], world.nodes[at].resources[vm]
    need((at, vm) not in world.detached, "no disk")
    need(kernel.role == "Secondary" and disk.state == "UpToDate" and not disk.bits, "not any more")
    if not world.other(at, vm):
        disk.take_back()
        kernel.alone = kernel.two_primaries = kernel.discard = False


def detach(world: Cloud, at: str, command: Command, vm: str) -> None:
    need((at, vm) not in world.detached, "no disk")
    world.detach(at, vm)


def attach(world: Cloud, at: str, command: Command, vm: str) -> None:
    need((at, vm) in world.detached and vm in world.nodes[at].volumes, "can not open backing device")
    world.attach(at, vm)


def down(world: Cloud, at: str, command: Command, vm: str) -> None:
    need(not world.open(at, vm), "Device is held open by someone")
    leave(world, at, vm, primary=False)  # it is demoted first
    fake.down(world, at, command, vm)
    world.detached.discard((at, vm))


# -- another peer (pmc/drbd_new_peer.py) --


def adjust(world: Cloud, at: str, command: Command, vm: str) -> None:
    """The kernel's peer is the one of the file; from another one it disconnects first, by itself."""
    kernel, hosts = world.nodes[at].resources[vm], world.nodes[at].resources[vm].hosts
    fake.adjust(world, at, command, vm)
    if set(kernel.hosts) != set(hosts):
        disconnect(world, at, command, vm)
        world.see_links()
    kernel.alone = False


def switch(world: Cloud, at: str, command: Command, path: str, vm: str) -> None:
    fake.switch_file(world, at, command, path)
    adjust(world, at, command, vm)


def switch_back(world: Cloud, at: str, command: Command, path: str, vm: str) -> None:
    """A former peer is let in only after `invalidate-remote`, which sets all bits."""
    hosts = set(world.nodes[at].resources[vm].hosts)
    fake.switch_back(world, at, command, path, vm)
    if set(world.nodes[at].resources[vm].hosts) != hosts:
        disconnect(world, at, command, vm)
        world.see_links()
        world.disks[at, vm].bits = None
        world.nodes[at].resources[vm].alone = False


def copied(world: Cloud, at: str, command: Command, vm: str) -> None:
    need(world.other(at, vm) and world.disks[at, vm].state == "UpToDate", "the peer is away")
    world.resync(vm)


# -- guests --


def define(world: Cloud, at: str, command: Command) -> None:
    fake.define(world, at, command)
    for name in re.findall("<name>(.*)</name>", command.stdin or ""):
        world.xml.setdefault((at, name), command.stdin or "")


def undefine(world: Cloud, at: str, command: Command, vm: str) -> None:
    fake.undefine(world, at, command, vm)
    world.xml.pop((at, vm), None)


def migrate(world: Cloud, at: str, command: Command, vm: str, address: str) -> None:
    target = next(name for name, spec in SETTINGS.nodes.items() if spec.replication == address)
    need(not world.silent(target, at), "unable to connect to server")
    need(world.nodes[target].domains.get(vm) == "shut off", "domain is already active")
    fake.migrate(world, at, command, vm, address)


# -- files and the node --


def write_new(world: Cloud, at: str, command: Command, path: str) -> None:
    need(path not in world.nodes[at].files, "cannot overwrite existing file")
    fake.write(world, at, command, path)


def load(world: Cloud, at: str, command: Command) -> None:
    world.unloaded.discard(at)


EFFECTS: list[tuple[str, Callable[..., None]]] = [
    (r"modprobe drbd", load),
    (r"vgchange .*", fake.nothing),
    (r"blkdiscard .* /dev/vg/(\S+)", zero),
    (r"lvremove --yes vg/(\S+)", remove),
    (fake.REMOVE_SNAPSHOT, remove_snapshot),
    (fake.REMOVE_DISK, remove_disk),
    (fake.FLUSHED + r"lvcreate --yes --snapshot ((?:--addtag \S+ )+)--size (\d+)b --name (\S+) vg/(\S+)", snapshot),
    (BASH + r".*; ln -T .*' pmc (\S+)", write_new),
    (r"drbdadm create-md --force (\S+)", metadata),
    (r"drbdadm up (\S+)", up),
    (BASH + r".*drbdsetup down .* pmc (\S+) drbdadm up \S+", up),
    (BASH + r".*drbdsetup down .* pmc (\S+) bash .*drbdadm attach .*", up),
    (BASH + r"'drbdadm role .*drbdadm attach .*' pmc (\S+)", up),
    (BASH + r"'drbdadm down .*' pmc (\S+)", down),
    (r"drbdadm attach (\S+)", attach),
    (r"drbdadm detach (\S+)", detach),
    (r"drbdadm primary (--force )?(\S+)", promote),
    (r"drbdadm new-current-uuid --clear-bitmap (\S+)", declare_equal),
    (BASH + r".*--allow-two-primaries=(yes|no) .*pmc (\S+) (?:disk|net)-options", allow_two),
    (r"drbdadm resume-io (\S+)", resume),
    (BASH + r"'.*StandAlone .* drbdadm disconnect .*' pmc (\S+)", disconnect),
    (r"drbdadm connect (--discard-my-data )?(\S+)", connect),
    (BASH + r"'.*StandAlone .* drbdadm connect .*' pmc (\S+)", connect_if_alone),
    (BASH + r"'.*drbdmeta .* set-gi .*' pmc (\S+) \d+ \S+", take_back),
    (BASH + r"'umask 077; cat >\"\$1.new\".* pmc (\S+) (\S+)", switch),
    (BASH + r"'\[ -e \"\$1.old\" .*invalidate-remote.* pmc (\S+) (\S+)", switch_back),
    (r"drbdadm adjust (\S+)", adjust),
    (BASH + r".*stands still since.* pmc (\S+) \d+ \d+", copied),
    (fake.VIRSH + r"define /dev/stdin", define),
    (fake.VIRSH + r"undefine (\S+) --nvram --managed-save --snapshots-metadata", undefine),
    (fake.VIRSH + r"migrate .* (\S+) qemu\+ssh://root@(\S+)/system .*", migrate),
]
