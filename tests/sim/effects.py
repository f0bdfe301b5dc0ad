"""What each command does in the small world (fake.py), by what it is: the function of pmc's that makes it.

An effect gets the world, the node, the command, and of what that function was given the arguments that it names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pmc import backup_pipeline, drbd, drbd_generations, drbd_new_peer, guest_agent, lvm, lvm_thin, virsh
from pmc.command import Command
from pmc.facts import managed_save
from pmc.plans import add, clone, migrate, node_files, prune, remove_steps, restore, restore_in_place
from pmc.plans import backup as backup_plan
from tests.sim import files, guests, resources, volumes

if TYPE_CHECKING:
    from tests.sim.fake import World

Effect = Callable[..., None]
Effects = Mapping[Callable[..., Command], Effect]


def carried_out(effects: Effects, world: World, at: str, command: Command) -> bool:
    """False: none of them is this command's."""
    effect = effects.get(command.op.make) if command.op else None
    if effect is None or command.op is None:
        return False
    wanted = inspect.signature(effect).parameters
    effect(world, at, command, **{name: its for name, its in command.op.given.items() if name in wanted})
    return True


def nothing(world: World, at: str, command: Command) -> None:
    pass


EFFECTS: dict[Callable[..., Any], Effect] = {
    lvm.create: volumes.create,
    lvm.create_thin: volumes.create_thin,
    lvm.snapshot: volumes.snapshot,
    lvm.snapshot_thin: volumes.snapshot_thin,
    lvm.zero: volumes.has_volume,
    lvm.remove: volumes.remove,
    lvm.remove_snapshot: volumes.remove_snapshot,
    lvm.remove_disk: volumes.remove_disk,
    lvm.discard: volumes.discard,
    lvm.discard_for_good: volumes.discard,
    lvm.discard_marked: volumes.discard_marked,
    lvm.is_gone: volumes.has_no_volume,
    lvm.intact: volumes.has_volume,
    lvm.exists: volumes.has_volume,
    lvm.keep: volumes.keep,
    lvm.is_kept: volumes.is_kept,
    lvm.grow: volumes.grow,
    lvm.mark: volumes.mark,
    lvm.unmarked: volumes.has_no_mark,
    lvm.let_go: volumes.let_go,
    lvm_thin.mapped: volumes.list_mapped,
    lvm_thin.changed: volumes.list_changed,
    node_files.folder: nothing,
    node_files.receive: files.write,
    node_files.begin: files.write,
    node_files.remove: files.delete,
    node_files.exists: files.has_file,
    node_files.is_gone: files.has_no_file,
    drbd.write_file: resources.write_resource,
    drbd.remove_file: resources.delete_resource,
    drbd.create_metadata: resources.metadata,
    drbd.up: resources.up,
    drbd.up_or_down: resources.up,
    drbd.down: resources.down,
    drbd.is_up: resources.is_up,
    drbd.is_primary: resources.is_primary,
    drbd.primary: resources.promote,
    drbd.primary_by_force: resources.promote_by_force,
    drbd.secondary: resources.demote,
    drbd.skip_initial_sync: resources.declare_equal,
    drbd.two_primaries: resources.allow_two,
    drbd.resume_io: resources.resume,
    drbd.attach: resources.attach,
    drbd_generations.disconnect: resources.disconnect,
    drbd_generations.connect: resources.connect,
    drbd_generations.connect_as_loser: resources.connect_as_loser,
    drbd_generations.connect_if_alone: resources.connect_if_alone,
    drbd_generations.resume: nothing,
    drbd_generations.detach: resources.detach,
    drbd_generations.is_attached: resources.is_attached,
    drbd_new_peer.switch: resources.switch,
    drbd_new_peer.switch_back: resources.switch_back,
    drbd_new_peer.forget_kept: resources.forget_kept,
    drbd_new_peer.forget_files: resources.delete_resource,
    drbd_new_peer.file_names: resources.names_host,
    drbd_new_peer.adjust: resources.adjust,
    drbd_new_peer.copied: resources.copied,
    virsh.define: guests.define,
    virsh.undefine: guests.undefine,
    virsh.start: guests.start,
    virsh.destroy: guests.stop,
    virsh.shutdown: guests.stop,
    virsh.exists: guests.has_domain,
    virsh.is_active: guests.runs,
    virsh.migrate: guests.migrate_to,
    managed_save.discard: guests.discard_saved,
    managed_save.gone: guests.is_not_saved,
    guest_agent.freeze: guests.frozen,
    guest_agent.thaw: guests.thawed,
    guest_agent.thaw_in_time: guests.thawed,
    add.write: files.filled,
    add.unpack: files.filled,
    clone.write: files.filled,
    migrate.harmless: nothing,
    restore_in_place.put_back: files.put_back,
    restore.convert: files.has_file,
    backup_pipeline.bring: nothing,
    backup_pipeline.give_back: files.filled,
    backup_pipeline.prove: nothing,
    backup_pipeline.store_base: files.store,
    backup_pipeline.store_delta: files.store,
    backup_pipeline.store_thin_base: files.store_thin,
    backup_pipeline.store_thin_delta: files.store_thin,
    backup_pipeline.seal: files.seal,
    node_files.has_space: nothing,
    backup_plan.remove_unfinished: files.delete_unfinished,
    prune.remove: files.delete_backup,
    remove_steps.unfinished: files.delete_unfinished,
}
