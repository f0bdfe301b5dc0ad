"""What commands do to files, backups among them, and to what is on a disk, in the small world (fake.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pmc import drbd, lvm
from pmc.backup import Backup
from pmc.command import Command
from pmc.plans import unfinished_restore
from tests.sim.machine import need
from tests.sim.volumes import tagged
from tests.unit.samples import SETTINGS

if TYPE_CHECKING:
    from tests.sim.fake import World


def write(world: World, at: str, command: Command, path: str) -> None:
    world.nodes[at].files[path] = command.stdin or ""


def delete(world: World, at: str, command: Command, paths: Sequence[str]) -> None:
    for path in paths:
        world.nodes[at].files.pop(path, None)


def has_file(world: World, at: str, command: Command, path: str) -> None:
    need(path in world.nodes[at].files, "")


def has_no_file(world: World, at: str, command: Command, path: str) -> None:
    need(path not in world.nodes[at].files, "")


def filled(world: World, at: str, command: Command, device: str) -> None:
    """Something writes to the device, which only a primary lets it."""
    kernels = [k for k in world.nodes[at].resources.values() if drbd.device(k.minor) == device]
    need(kernels and kernels[0].role == "Primary", "Read-only file system")


def put_back(
    world: World, at: str, command: Command, name: str, disk: str, device: str, paired: bool, whole: bool
) -> None:
    kept, volumes = unfinished_restore.before(name), world.nodes[at].volumes
    tagged(world, at, kept)
    filled(world, at, command, device)
    need(not paired or world.peer(at, name), "DRBD is not Connected with both sides UpToDate")
    if whole:
        tags = tuple(tag for tag in volumes[disk].tags if tag != lvm.RESTORE_WRITES)
        volumes[disk] = replace(volumes[disk], tags=tags)
    del volumes[kept]


def store(world: World, at: str, command: Command, target: str) -> None:
    need(target in world.nodes[at].files, "no such file")
    world.nodes[at].files[f"{target}.sums"] = "sum"


def store_thin(world: World, at: str, command: Command, target: str) -> None:
    files = world.nodes[at].files
    need(f"{target}.ranges" in files, "no such file")
    store(world, at, command, target)
    del files[f"{target}.ranges"]


def seal(world: World, at: str, command: Command, folder: str, target: str, backup: Backup) -> None:
    files = world.nodes[at].files
    need({target, f"{target}.sums"} <= set(files), "not whole")
    for path in (target, f"{target}.sums"):
        del files[path]
    files[f"{folder}/{backup.file}"] = "disk"
    files[f"{folder}/{backup.id}.json"] = command.stdin or ""


def delete_unfinished(world: World, at: str, command: Command, name: str) -> None:
    files = world.nodes[at].files
    for path in [path for path in files if path.startswith(f"{SETTINGS.backup_dir}/.{name}.") and ".part" in path]:
        del files[path]


def delete_backup(world: World, at: str, command: Command, folder: str, names: Sequence[str]) -> None:
    for name in names:
        world.nodes[at].files.pop(f"{folder}/{name}", None)
