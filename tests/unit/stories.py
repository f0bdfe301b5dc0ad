"""A plan of each kind, with the world that it begins in. test_plans reads them, test_rollback breaks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pmc.backup import Backup, Stored
from pmc.drbd_generations import Generation
from pmc.model import ClusterState, NodeState, Volume
from pmc.plan import Plan, apply
from pmc.plans import (
    add,
    backup,
    clone,
    close_migration,
    failover,
    migrate,
    peer,
    prune,
    remove,
    remove_steps,
    repair,
    restore,
    restore_in_place,
    start,
)
from pmc.plans import stop as stop_plan
from pmc.plans.backup_request import BackupRequest
from pmc.plans.repair_context import RepairOptions, SideFacts
from pmc.plans.request import Add, Image
from pmc.plans.retention import decide
from pmc.plans.vm_steps import Given
from pmc.settings import Keep, Settings
from pmc.units import GiB, MiB
from tests.sim.fake import World, done
from tests.sim.machine import Machine
from tests.unit.samples import SETTINGS, XML

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UUID = "00000000-0000-4000-8000-000000000002"
WEB = Given(1, 7800, "52:54:00:77:00:01", "hunter2")
NEW = Given(2, 7801, "52:54:00:77:00:02", "hunter2")
BASE = Backup(
    "web.20260101T000000Z.base", "web", "base", "2026-01-01T00:00:00+00:00", GiB, "/dev/drbd1", ("pm-1", "pm-2"),
    "pm-2", "standby", "crash", XML, "zstd", image_sha256="0" * 64, stored=MiB,
)  # fmt: skip
DELTA = replace(
    BASE,
    id="web.20260102T000000Z.delta",
    kind="delta",
    base=BASE.id,
    compression="none",
    image_sha256="1" * 64,
    file_sha256="2" * 64,
)
NEWER = replace(BASE, id="web.20260103T000000Z.base", time="2026-01-03T00:00:00+00:00")
STORED = (Stored("pm-2", BASE.id, GiB, BASE), Stored("pm-2", DELTA.id, MiB, DELTA))


@dataclass(frozen=True)
class Story:
    world: World
    plan: Plan


def wanted(name: str = "web", secondary: str = "pm-2", **more: object) -> Add:
    plain = Add(name, "pm-1", secondary, GiB, GiB)
    return replace(plain, **more)  # type: ignore[arg-type]


# New volumes are thin; each node has this pool.
THIN = replace(SETTINGS, volumes="thin")
POOL = Volume("pool", "vg", 100 * GiB, (), "", "twi-aotz--", 10.0, 5.0)


def _add(request: Add, world: World, given: Given = WEB, settings: Settings = SETTINGS) -> Plan:
    state, size = world.state(), request.size
    xml = XML.replace("web", request.name)
    content = clone.copy(request, size, state, settings, given) if request.clone else ()
    return add.add(request, size, state, settings, given, xml, content)


def with_web(secondary: str = "pm-2") -> World:
    """web runs on pm-1."""
    return done(World(), _add(wanted(secondary=secondary), World()))


def with_two() -> World:
    """web and web2 run on pm-1."""
    world = with_web()
    return done(world, _add(wanted("web2"), world, NEW))


class Crowded(World):
    """Each VM that runs has taken memory."""

    def _node_state(self, name: str, machine: Machine) -> NodeState:
        seen = super()._node_state(name, machine)
        runs = sum(domain.active for domain in seen.domains.values())
        return replace(seen, memory_available=seen.memory_available - runs * GiB)


def crowded() -> World:
    world = Crowded()
    world.nodes = with_two().nodes
    return world


def with_pools() -> World:
    world = World()
    for machine in world.nodes.values():
        machine.volumes["pool"] = POOL
    return world


def with_thin_web() -> World:
    """web runs on pm-1, its volumes are thin."""
    return done(with_pools(), _add(wanted(), with_pools(), settings=THIN))


def with_kept_web() -> World:
    """As with_thin_web; BASE was made, and the snapshot that it was read from is kept on pm-2."""
    world = with_thin_web()
    volumes = world.nodes["pm-2"].volumes
    volumes["web.base"] = kept_of(BASE.id, volumes["web"])
    return world


def kept_of(id: str, origin: Volume) -> Volume:
    return replace(
        origin, name="web.base", tags=("pmc", f"pmc.of.{id}"), origin=origin.name, attributes="Vri-a-tz--"
    )  # fmt: skip


def stopped_web() -> World:
    world = with_web()
    return done(world, stop_plan.stop("web", False, world.state(), SETTINGS))


def saved_web() -> World:
    """web is off, and libvirt keeps memory of it on pm-1, and on pm-3, where nothing else of it is."""
    world = stopped_web()
    world.nodes["pm-1"].saved.add("web")
    world.nodes["pm-3"].saved.add("web")
    return world


def stopped_thin_web() -> World:
    world = with_kept_web()
    return done(world, stop_plan.stop("web", False, world.state(), SETTINGS))


def moved_web() -> World:
    """web was moved to pm-2 and two primaries are still allowed."""
    world = with_web()
    return done(world, migrate.move("web", "", world.state(), SETTINGS))


def thin_moved_web() -> World:
    """web was moved to pm-2, where the snapshot of its base is kept; pm-1, the standby now, has none."""
    world = with_kept_web()
    world = done(world, migrate.move("web", "", world.state(), SETTINGS))
    return done(world, close_migration.close("web", world.state()))


def orphaned_web() -> World:
    """web ran on pm-1, which is dead."""
    world = with_web()
    world.dead.add("pm-1")
    return world


def orphaned_saved_web() -> World:
    """As orphaned_web, and libvirt keeps old memory of it on the node that is left."""
    world = orphaned_web()
    world.nodes["pm-2"].saved.add("web")
    return world


def torn_web() -> World:
    """pm-1 died while web migrated to pm-2: it is primary there already."""
    world = with_web()
    plan = migrate.move("web", "", world.state(), SETTINGS)
    world = done(world, Plan("half", plan.steps[:-1]))
    world.dead.add("pm-1")
    return world


def half_web() -> World:
    """Of making web only its files and volumes were done; and a backup of a VM of that name was interrupted once."""
    world = World()
    plan = _add(wanted(), world)
    apply(Plan("half", tuple(step for step in plan.steps[:5] if "zero" not in step.note)), world.carry_out)
    world.nodes["pm-1"].files[f"{SETTINGS.backup_dir}/.web.20260101T000000Z.base.part"] = "disk"
    return world


def with_a_volume() -> World:
    world = World()
    world.nodes["pm-1"].volumes["web"] = Volume("web", "vg", GiB, attributes="-wi-a-----")
    return world


def new(**flags: object) -> Callable[[], Story]:
    def tell() -> Story:
        world = World()
        return Story(world, _add(wanted(**flags), world))  # type: ignore[arg-type]

    return tell


def reused() -> Story:
    world = with_a_volume()
    return Story(world, _add(wanted(reuse=True), world))


def half_reused() -> World:
    """The manager died when web, which was to have the volume that was there, was defined on one node."""
    story = reused()
    stop = next(number for number, step in enumerate(story.plan.steps) if step.note == "define web")
    return done(story.world, Plan("half", story.plan.steps[: stop + 1]))


def cloned() -> Story:
    world = with_web()
    return Story(world, _add(wanted("web2", clone="web"), world, NEW))


def new_thin() -> Story:
    world = with_pools()
    return Story(world, _add(wanted(image=RAW), world, settings=THIN))


def of_web(build: Callable[[World], Plan], begin: Callable[[], World] = with_web) -> Callable[[], Story]:
    def tell() -> Story:
        world = begin()
        return Story(world, build(world))

    return tell


def backed_up(stored: tuple[Stored, ...]) -> Callable[[World], Plan]:
    return lambda world: taken(world.state(), stored)[1]


def taken(
    state: ClusterState, stored: Sequence[Stored] = (), size: int = GiB, agent: bool = False, **wish: Any
) -> tuple[Backup, Plan]:
    source = replace(backup.choose_source("web", state), agent=agent)
    return backup.make_backup(BackupRequest("web", **wish), source, size, XML, stored, NOW, state, SETTINGS)


def restored(world: World) -> Plan:
    found = restore.find(DELTA.id, STORED)
    return restore.as_new(found, "web2", ("pm-1", "pm-2"), world.state(), SETTINGS, NEW, UUID)


def restored_in_place(world: World) -> Plan:
    return restore_in_place.in_place(restore.find(DELTA.id, STORED), GiB, XML, world.state(), SETTINGS)


def half_restored_web() -> World:
    """A restore into its disk was interrupted while it was written."""
    world = stopped_web()
    plan = restored_in_place(world)
    until = next(number for number, step in enumerate(plan.steps) if "where it differs" in step.note)
    return done(world, Plan("half", plan.steps[:until]))


def stored_in(world: World) -> list[Stored]:
    """What a listing of the backups of web would find: whatever has a manifest."""
    return [
        Stored(node, each.id, GiB, each)
        for node, machine in world.nodes.items()
        for each in (BASE, DELTA, NEWER)
        if f"{SETTINGS.backup_dir}/{each.id}.json" in machine.files
    ]


def with_backups(world: World) -> World:
    """web has two bases, one of them on both nodes, and a delta against the older one."""
    for node, each in (("pm-2", BASE), ("pm-2", DELTA), ("pm-1", BASE), ("pm-2", NEWER)):
        for name in each.files:
            world.nodes[node].files[f"{SETTINGS.backup_dir}/{name}"] = name
    return world


def backed_up_web() -> World:
    return with_backups(with_web())


def gone_web() -> World:
    """web was removed, its backups stayed; and a copy of the delta was removed by half."""
    world = with_backups(World())
    world.nodes["pm-1"].files[f"{SETTINGS.backup_dir}/.{DELTA.id}.json.part"] = "x"
    return world


def pruned(world: World) -> Plan:
    """The newest one stays."""
    return prune.prune("web", decide(stored_in(world), Keep(last=1), together=True), SETTINGS)


def removed_with_backups(world: World) -> Plan:
    return remove.remove("web", world.state(), SETTINGS, stored_in(world), backups=True)


PARTED = {"pm-1": SideFacts(Generation(0x20, 0x10), xml=XML), "pm-2": SideFacts(Generation(0x30, 0x10), xml=XML)}
ALIKE = {"pm-1": SideFacts(Generation(0x20), xml=XML), "pm-2": SideFacts(Generation(0x20), xml=XML)}


def parted_web(begin: Callable[[], World] = with_web) -> World:
    """web runs on pm-1; pm-2 was written meanwhile."""
    world = begin()
    for machine in ("pm-1", "pm-2"):
        kernel = world.nodes[machine].resources["web"]
        kernel.alone = kernel.split = True
    return world


def changed_web(at: str = "pm-2", **changes: object) -> Callable[[], World]:
    """web runs on pm-1; its DRBD resource on the node `at` is changed."""

    def begin() -> World:
        world = with_web()
        kernel = world.nodes[at].resources["web"]
        world.nodes[at].resources["web"] = replace(kernel, **changes)  # type: ignore[arg-type]
        return world

    return begin


def differing_web() -> World:
    """web runs on pm-1; a verify has found a block that differs on pm-2, which both sides know."""
    world = with_web()
    for machine in ("pm-1", "pm-2"):
        world.nodes[machine].resources["web"].marked = 4096
    return world


def without_domain() -> World:
    world = with_web()
    del world.nodes["pm-2"].domains["web"]
    return world


def not_up() -> World:
    world = with_web()
    del world.nodes["pm-2"].resources["web"]
    return world


def repaired(about: Mapping[str, SideFacts] = ALIKE, **wishes: object) -> Callable[[World], Plan]:
    """The first condition's plan."""

    def build(world: World) -> Plan:
        asked = RepairOptions(NOW, **wishes)  # type: ignore[arg-type]
        return repair.conditions("web", world.state(), about, SETTINGS, asked)[0].plan("web")

    return build


OTHER = {**ALIKE, "pm-2": replace(ALIKE["pm-2"], xml=XML.replace("1048576", "524288"))}


def peered(world: World, name: str = "pm-3", xml: str = XML, settings: Settings = SETTINGS) -> Plan:
    state = world.state()
    return peer.peer(peer.choose("web", name, state, settings), xml, "hunter2", state, settings)


def without_pm_2() -> World:
    """web runs on pm-1; pm-2 was made anew and knows nothing."""
    world = with_web()
    world.nodes["pm-2"] = Machine()
    return world


def half_peered() -> World:
    """web's second copy is on its way to pm-3 when the manager dies; pm-2 knows nothing."""
    world = without_pm_2()
    plan = peered(world)
    stop = next(number for number, step in enumerate(plan.steps) if "wait until pm-3 has all" in step.note)
    apply(Plan("half", plan.steps[:stop]), world.carry_out)
    return world


def half_made_peer() -> World:
    """The manager died before pm-1 was told of pm-3."""
    world = with_web("")
    apply(Plan("half", peered(world).steps[:4]), world.carry_out)
    return world


def with_stale_copy() -> World:
    """web lives on pm-1 and pm-3; pm-2 comes back with what it had."""
    world = with_web()
    before = world.copy().nodes["pm-2"]
    after = done(world, peered(world))
    after.nodes["pm-2"] = before
    return after


RAW = Image("/images/web.raw", "raw", GiB, GiB)
QCOW2 = Image("/images/web.qcow2", "qcow2", GiB, 300 * MiB)
ISO = Image("/iso/debian.iso", "iso", 600 * MiB, 600 * MiB)

XML_ISO = XML.replace("<interface", '<disk><source file="/var/lib/libvirt/images/web.pmc.iso"/></disk>\n    <interface')

STORIES: dict[str, Callable[[], Story]] = {
    "vm.add": new(),
    "vm.add-single": new(secondary=""),
    "vm.add-raw": new(image=RAW),
    "vm.add-qcow2": new(image=QCOW2),
    "vm.add-iso": new(iso=ISO),
    "vm.add-clone": cloned,
    "vm.add-sync-full": new(full=True),
    "vm.add-reuse": reused,
    "vm.add-thin": new_thin,
    "vm.add-clone-thin": of_web(lambda world: _add(wanted("web2", clone="web"), world, NEW, THIN), with_thin_web),
    "vm.start": of_web(lambda world: start.start("web", "", world.state(), SETTINGS), stopped_web),
    "vm.start-on": of_web(lambda world: start.start("web", "pm-2", world.state(), SETTINGS), stopped_web),
    "vm.start-saved": of_web(lambda world: start.start("web", "", world.state(), SETTINGS, discard=True), saved_web),
    "vm.stop": of_web(lambda world: stop_plan.stop("web", False, world.state(), SETTINGS)),
    "vm.stop-force": of_web(lambda world: stop_plan.stop("web", True, world.state(), SETTINGS)),
    "vm.mv": of_web(lambda world: migrate.move("web", "", world.state(), SETTINGS)),
    "vm.mv-close": of_web(lambda world: close_migration.close("web", world.state()), moved_web),
    "vm.failover": of_web(lambda world: failover.failover("web", world.state(), SETTINGS), orphaned_web),
    "vm.failover-torn": of_web(lambda world: failover.failover("web", world.state(), SETTINGS), torn_web),
    "vm.failover-saved": of_web(
        lambda world: failover.failover("web", world.state(), SETTINGS, discard=True), orphaned_saved_web
    ),
    "vm.rm-saved": of_web(lambda world: remove.remove("web", world.state(), SETTINGS), saved_web),
    "vm.rm": of_web(lambda world: remove.remove("web", world.state(), SETTINGS)),
    "vm.rm-half": of_web(lambda world: remove.remove("web", world.state(), SETTINGS), half_web),
    "vm.rm-reused": of_web(lambda world: remove.remove("web", world.state(), SETTINGS), half_reused),
    "vm.rm-backups": of_web(removed_with_backups, backed_up_web),
    "vm.rm-backups-gone": of_web(removed_with_backups, gone_web),
    "vm.backup-base": of_web(backed_up(())),
    "vm.backup-delta": of_web(backed_up(STORED)),
    "vm.backup-frozen": of_web(lambda world: taken(world.state(), agent=True)[1]),
    "vm.backup-base-thin": of_web(backed_up(()), with_thin_web),
    "vm.backup-base-thin-again": of_web(lambda world: taken(world.state(), STORED, base=True)[1], with_kept_web),
    "vm.backup-delta-thin": of_web(backed_up(STORED), with_kept_web),
    "vm.backup-delta-thin-moved": of_web(backed_up(STORED), thin_moved_web),
    "vm.restore": of_web(restored),
    "vm.restore-in-place": of_web(restored_in_place, stopped_web),
    "vm.restore-in-place-thin": of_web(restored_in_place, stopped_thin_web),
    "vm.restore-to-file": of_web(lambda world: restore.to_file(restore.find(DELTA.id, STORED), "/tmp/x", SETTINGS)),
    "vm.restore-to-qcow2": of_web(
        lambda world: restore.to_file(restore.find(BASE.id, STORED), "/tmp/x.qcow2", SETTINGS)
    ),
    "vm.verify_backup": of_web(lambda world: restore.verified(restore.find(DELTA.id, STORED), SETTINGS)),
    "vm.prune": of_web(pruned, backed_up_web),
    "vm.repair-split": of_web(repaired(PARTED, keep="pm-1"), parted_web),
    "vm.repair-split-thin": of_web(repaired(PARTED, keep="pm-1"), lambda: parted_web(with_thin_web)),
    "vm.repair-standalone": of_web(repaired(), changed_web(alone=True)),
    "vm.repair-not-up": of_web(repaired(), not_up),
    "vm.repair-diskless": of_web(repaired(), changed_web(disk="Diskless")),
    "vm.repair-new-disk": of_web(repaired(new_disk=True), changed_web(disk="Diskless")),
    "vm.repair-stalled": of_web(repaired(stalled=True), changed_web(disk="Inconsistent")),
    "vm.repair-differs": of_web(repaired(), differing_web),
    "vm.repair-undefined": of_web(repaired(), without_domain),
    "vm.repair-definitions": of_web(repaired(OTHER)),
    "vm.repair-two-primaries": of_web(repaired(), changed_web(two_primaries=True)),
    "vm.peer": of_web(peered),
    "vm.peer-thin": of_web(lambda world: peered(world, settings=THIN), with_thin_web),
    "vm.peer-alone": of_web(peered, lambda: with_web("")),
    "vm.peer-dead": of_web(peered, without_pm_2),
    "vm.peer-iso": of_web(lambda world: peered(world, xml=XML_ISO)),
    "vm.peer-again": of_web(peered, half_made_peer),
    "vm.peer-finish": of_web(peered, half_peered),
    "vm.peer-cleanup": of_web(lambda world: remove_steps.cleanup("web", world.state(), SETTINGS), with_stale_copy),
}
