"""What each verb will do, as text to read and compare: tests/data/plans/*.txt.

After a change of a plan that is meant, write the files anew and read the difference:

    PMC_WRITE_PLANS=1 pytest tests/unit/test_plans.py; git diff tests/data/plans
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pmc import backup_pipeline, drbd
from pmc.backup import Stored
from pmc.errors import NodeDown, Refused, StepFailed
from pmc.model import ClusterState, Domain, NodeState, ResourceFile, Running, Volume
from pmc.plan import Plan, apply
from pmc.plans import (
    add,
    backup,
    clone,
    close_migration,
    evacuate,
    failover,
    migrate,
    repair,
    requirements,
    restore,
    restore_in_place,
)
from pmc.plans import remove as remove_plan
from pmc.plans import start as start_plan
from pmc.plans import stop as stop_plan
from pmc.settings import Settings
from pmc.units import GiB, MiB
from tests.sim.fake import World, done
from tests.unit.refusals import raises
from tests.unit.samples import (
    CLOSE,
    DATA,
    SETTINGS,
    XML,
    alone,
    changed,
    cluster,
    data,
    home,
    node,
    running,
    stopped,
    with_resource,
)
from tests.unit.stories import (
    BASE,
    DELTA,
    NEW,
    POOL,
    STORED,
    STORIES,
    THIN,
    UUID,
    WEB,
    half_restored_web,
    moved_web,
    stopped_web,
    stored_in,
    taken,
    wanted,
    with_backups,
    with_stale_copy,
)  # fmt: skip


def shown(plan: Plan) -> str:
    """The plan as --dry-run prints it, and what is done when a step fails or is in doubt."""
    lines = [f"{plan.title}\n"]
    for number, step in enumerate(plan.steps, 1):
        lines.append(f"{number}. {step.node}: {step.note}{' (no way back)' if step.pivot else ''}\n{step.do}")
        lines += [f"  undo:  {step.undo}"] if step.undo else []
        lines += [f"  instead of that, by hand: {step.instead}"] if step.instead else []
        lines += [f"  check: {step.check}"] if step.check else []
        lines.append("")
    return "\n".join(lines).replace(backup_pipeline.FOLDER, "/run/pmc/stream-VERSION")


@pytest.mark.parametrize("name", STORIES)
def test_the_plan_is_as_expected(name: str) -> None:
    text = shown(STORIES[name]().plan)
    if os.environ.get("PMC_WRITE_PLANS"):
        (DATA / "plans" / f"{name}.txt").write_text(text, encoding="utf-8")
    assert text == data(f"plans/{name}.txt")


def test_every_expected_plan_is_one_of_a_story() -> None:
    assert {path.stem for path in (DATA / "plans").iterdir()} == set(STORIES)


@pytest.mark.parametrize("name", STORIES)
def test_no_plan_shows_the_secret(name: str) -> None:
    plan = STORIES[name]().plan
    assert "hunter2" not in f"{plan}{plan!r}{shown(plan)}"
    assert not any("hunter2" in word for step in plan.steps for word in getattr(step.do, "argv", ()))


def test_a_plan_prints_as_commands_under_their_nodes() -> None:
    plan = STORIES["vm.start"]().plan
    assert str(plan).splitlines() == [
        "# vm.start web: 2 steps",
        "# 1. pm-1: make web primary",
        "drbdadm primary web",
        "# 2. pm-1: start web",
        "virsh --connect qemu:///system start --force-boot web",
    ]


# -- what must hold whatever the text is --


def test_a_new_disk_holds_the_metadata_and_is_zeroed_before_anything_else_sees_it() -> None:
    steps = [(step.node, str(step.do)) for step in STORIES["vm.add"]().plan.steps]
    for place in ("pm-1", "pm-2"):
        zeroed = next(n for n, (at, line) in enumerate(steps) if at == place and line.startswith("blkdiscard"))
        assert all("drbdadm" not in line for at, line in steps[:zeroed])
    created = next(line for _, line in steps if line.startswith("lvcreate"))
    size = int(created.split("--size ")[1].split("b")[0])
    assert size >= GiB + MiB
    assert size % (4 * MiB) == 0


@pytest.mark.parametrize("name", [name for name in STORIES if name.startswith(("vm.add", "vm.peer", "vm.restore"))])
def test_the_numbers_of_a_new_vm_stay_locked_until_each_of_its_nodes_shows_them(name: str) -> None:
    """Else a second manager takes the same minor or port: see Cluster.apply."""
    steps = STORIES[name]().plan.steps
    writes = [number for number, step in enumerate(steps) if re.fullmatch(r"write /etc/drbd.d/web2?.res", step.note)]
    assert [number for number, step in enumerate(steps) if step.claims] == writes
    assert bool(writes) == (
        name not in ("vm.peer-finish", "vm.peer-cleanup") and "in-place" not in name and "to-" not in name
    )


def test_only_migration_opens_two_primaries_and_each_opening_has_the_undo_that_closes() -> None:
    for name, tell in STORIES.items():
        for step in tell().plan.steps:
            if "--allow-two-primaries=yes" in str(step.do):
                assert name == "vm.mv"
                assert step.undo is not None
                assert step.do == drbd.two_primaries("web", True, "8.4.11")
                assert step.undo == drbd.two_primaries("web", False, "8.4.11")


def test_a_backup_reads_a_snapshot_of_the_standby_cut_to_the_disks_size() -> None:
    made, plan = taken(running(), size=10 * GiB, base=True)
    read = next(str(step.do) for step in plan.steps if "pmc.remote.stream base" in str(step.do))
    assert f"--size {10 * GiB} " in read
    assert "--source /dev/vg/web.backup " in read
    assert {step.node for step in plan.steps} == {"pm-2"}
    assert (made.kind, made.source, made.id) == ("base", "pm-2", "web.20260102T030405Z.base")


def test_of_sides_that_are_known_to_differ_the_one_in_use_is_read() -> None:
    for build in (running, stopped):  # a verify that is under way has found nothing yet
        state = with_resource(marked(build()), "pm-2", replication="VerifyT")
        state = with_resource(state, "pm-1", replication="VerifyS")
        assert backup.choose_source("web", state).role == "standby"
    source = backup.choose_source("web", marked(running()))
    assert (source.node, source.role, source.runs) == ("pm-1", "primary", "pm-1")
    assert not backup.equal("web", source, marked(running()))
    assert clone.standby("web", marked(running())) == "pm-1"
    assert clone.standby("web", running()) == "pm-2"


def test_blocks_found_to_differ_since_the_plan_was_made_stop_it() -> None:
    """Both a migration and a backup of the standby look again."""
    for name in ("vm.mv", "vm.backup-base"):
        story = STORIES[name]()
        story.world.nodes["pm-2"].resources["web"].marked = 4096
        with pytest.raises(Exception, match="no blocks known to differ any more"):
            done(story.world, story.plan)


def test_a_delta_lies_where_its_base_lies() -> None:
    stored = [replace(STORED[0], node="pm-1")]
    made, plan = taken(running(), stored, 10 * GiB)
    assert (made.kind, made.base) == ("delta", BASE.id)
    read = next(step for step in plan.steps if " delta --size" in str(step.do))
    assert read.node == "pm-1"
    assert "root@10.0.0.2" in str(read.do), "the standby is read over the replication network"


def test_a_plan_of_add_leads_to_a_vm_that_is_whole() -> None:
    story = STORIES["vm.add"]()
    state = done(story.world, story.plan).state()
    assert requirements.defined_everywhere(state, "web") == ["pm-1", "pm-2"]
    assert state.active_on("web") == state.primaries("web") == ["pm-1"]
    assert all(state.nodes[place].resources["web"].healthy for place in ("pm-1", "pm-2"))


def test_moving_and_closing_leaves_one_primary_and_two_allowed_nowhere() -> None:
    story = STORIES["vm.mv"]()
    moved = done(story.world, story.plan)
    closed = done(moved, close_migration.close("web", moved.state())).state()
    assert closed.active_on("web") == closed.primaries("web") == ["pm-2"]
    assert not any(n.resources["web"].two_primaries for n in closed if "web" in n.resources)
    assert not close_migration.close("web", closed).steps


def test_a_vm_moves_by_the_way_that_is_configured() -> None:
    for way, word in (("tcp", "tcp://10.0.0.2"), ("tunnelled", "--tunnelled"), ("tls", "--tls-destination pm-2")):
        plan = migrate.move("web", "", running(), replace(SETTINGS, migration=way))
        assert word in str(plan.steps[-1].do)


def test_what_a_move_may_take_is_configured() -> None:
    settings = replace(SETTINGS, migration_bandwidth="50M", migration_pause=60)
    assert "--bandwidth 50 --timeout 60" in str(migrate.move("web", "", running(), settings).steps[-1].do)


def test_an_emulated_guest_stands_still_while_it_moves_unless_told_otherwise() -> None:
    kvm = replace(SETTINGS, virt_type="kvm", migration_pause=60)
    emulated = replace(kvm, virt_type="qemu")

    def migrating(settings: Settings, state: ClusterState) -> str:
        step = migrate.move("web", "", state, settings).steps[-1]
        return f"{step.note}: {step.do}"

    still = migrating(emulated, running())
    assert "standing still" in still
    assert not any(word in still for word in ("--live", "--auto-converge", "--timeout")), still
    assert "--live" in migrating(kvm, running())
    assert "--live" in migrating(replace(emulated, migration_emulated="live"), running())

    def known(**kinds: str) -> ClusterState:
        state = running()
        runs = {name: Running(kind) for name, kind in kinds.items()}
        return ClusterState({**state.nodes, "pm-1": replace(state.nodes["pm-1"], running=runs)})

    # What libvirt says counts: virt_type is for new ones, and definitions are edited.
    assert "--live" in migrating(emulated, known(web="kvm"))
    for state in (known(web="qemu"), known(mail="kvm")):
        assert "--live" not in migrating(kvm, state)
        assert "--live" in migrating(replace(kvm, migration_emulated="live"), state)


def test_what_dry_run_says_of_closing_is_what_closing_does() -> None:
    story = STORIES["vm.mv"]()
    moved = done(story.world, story.plan)
    assert close_migration.planned_close("web", "pm-2", story.world.state()) == close_migration.close(
        "web", moved.state()
    )


def test_removing_removes_all() -> None:
    for name in ("vm.rm", "vm.rm-half"):
        story = STORIES[name]()
        after = done(story.world, story.plan)
        assert not any(machine.volumes or machine.files or machine.domains for machine in after.nodes.values())


def test_removing_takes_the_vms_snapshots_first() -> None:
    snapshot = Volume("web.backup", "vg", GiB, ("pmc",), "web", "swi-a-s---")
    state = changed(
        stopped(), "pm-2", volumes={**home("pm-2", active=False, primary=False).volumes, "web.backup": snapshot}
    )
    notes = [f"{step.node}: {step.note}" for step in remove_plan.remove("web", state, SETTINGS).steps]
    assert notes.index("pm-2: remove the volume vg/web.backup") < notes.index("pm-1: remove the volume vg/web")


def test_stopping_what_is_off_does_nothing() -> None:
    assert stop_plan.stop("web", False, stopped(), SETTINGS).steps == ()


def test_a_vm_starts_where_its_drbd_is_primary() -> None:
    state = cluster(home("pm-1", active=False, primary=False), home("pm-2", active=False, primary=True))
    steps = start_plan.start("web", "", state, SETTINGS).steps
    assert [(step.node, str(step.do)) for step in steps] == [
        ("pm-2", "drbdadm secondary web"),
        ("pm-2", "drbdadm primary web"),
        ("pm-2", "virsh --connect qemu:///system start --force-boot web"),
    ]


class Mounted(World):
    """Somebody has the disk of web open on pm-1, which is off."""

    def open(self, name: str, vm: str) -> bool:
        return name == "pm-1" or super().open(name, vm)


def test_a_vm_does_not_start_beside_who_has_its_disk_open() -> None:
    world = Mounted()
    world.nodes = stopped_web().nodes
    world.nodes["pm-1"].resources["web"].role = "Primary"
    before = world.copy()
    with pytest.raises(StepFailed, match=r"only works when nobody has its disk open.*\n.*held open by someone"):
        apply(start_plan.start("web", "", world.state(), SETTINGS), world.carry_out)
    assert world == before


def test_starting_closes_what_a_migration_left_open_also_where_drbd_is_primary_already() -> None:
    for primary in (False, True):
        state = with_resource(stopped(), "pm-1", two_primaries=True, role="Primary" if primary else "Secondary")
        lines = [str(step.do) for step in start_plan.start("web", "", state, SETTINGS).steps]
        assert lines[:-1] == [*["drbdadm secondary web"] * primary, CLOSE, "drbdadm primary web"]


def test_a_vm_that_is_off_is_closed_by_cleaning_up_after_its_move() -> None:
    opened = with_resource(stopped(), "pm-2", two_primaries=True)
    assert [(step.node, str(step.do)) for step in settle(opened).steps] == [("pm-2", CLOSE)]


def test_a_vm_on_one_node_starts_without_a_peer() -> None:
    assert [step.node for step in start_plan.start("web", "", alone(active=False), SETTINGS).steps] == ["pm-1", "pm-1"]


# -- refusals: before the first step --

DOWN = changed(running(), "pm-2", down="no ssh within 10 s")
TWICE = cluster(home("pm-1", active=True, primary=True), home("pm-2", active=True, primary=True))
MISSING_TOOL = changed(running(), "pm-2", failures={"drbd status": "command not found"})
FOREIGN = cluster(
    node("pm-1", volumes={"web": Volume("web", "vg", GiB)}, domains={"web": Domain("web", "shut off", 1, 1)})
)
SPLIT = with_resource(running(), "pm-1", connection="StandAlone", peer_disk="DUnknown")

PAUSED = Domain("web", "paused", GiB, 1)
RUNNING = Domain("web", "running", GiB, 1)
VOLUME = Volume("web", "vg", GiB)


def start(state: ClusterState, on: str = "") -> Plan:
    return start_plan.start("web", on, state, SETTINGS)


def stop(state: ClusterState) -> Plan:
    return stop_plan.stop("web", False, state, SETTINGS)


def move(state: ClusterState, to: str = "") -> Plan:
    return migrate.move("web", to, state, SETTINGS)


def settle(state: ClusterState) -> Plan:
    return close_migration.close("web", state)


def remove(state: ClusterState) -> Plan:
    return remove_plan.remove("web", state, SETTINGS)


def make(state: ClusterState, size: int = GiB, **flags: Any) -> Plan:
    request = wanted(**flags)
    return add.add(request, size, state, SETTINGS, WEB, XML)


def make_thin(*, secondary: str = "pm-2", percent: float = 80, **changes: Any) -> Plan:
    """A VM on thin volumes; pm-2's pool is as `changes` say."""
    pools = {"pool": POOL}
    state = cluster(*(node(f"pm-{number}", group_free=0, volumes=pools) for number in (1, 2, 3)))
    state = changed(state, "pm-2", volumes={"pool": replace(POOL, **changes)})
    request = wanted(secondary=secondary)
    return add.add(request, 500 * GiB, state, replace(THIN, pool_data_percent=percent), WEB, XML)


def take(state: ClusterState) -> Plan:
    return taken(state, size=10 * GiB)[1]


def write(state: ClusterState, size: int = GiB) -> Plan:
    return restore_in_place.in_place(restore.find(DELTA.id, STORED), size, XML, state, SETTINGS)


def with_before(state: ClusterState) -> ClusterState:
    """Somebody's own volume has the name of what a restore keeps."""
    there = state.nodes["pm-1"].volumes
    return changed(state, "pm-1", volumes={**there, "web.before": Volume("web.before", "vg", GiB)})


def put_back(state: ClusterState) -> Plan:
    return restore_in_place.undo_in_place("web", GiB, state, SETTINGS)


def marked(state: ClusterState) -> ClusterState:
    """A verify has found a block that differs."""
    return with_resource(with_resource(state, "pm-1", out_of_sync=4096), "pm-2", out_of_sync=4096)


def thin_web(pool: Volume, used: float = 10 * GiB) -> ClusterState:
    """web's volume on pm-2 is thin, and larger than the pool; `used` bytes of it hold data."""
    state = running()
    size = 1000 * GiB
    volume = Volume("web", "vg", size, ("pmc",), "", "Vwi-aotz--", 100 * used / size, pool="pool")
    return changed(state, "pm-2", group_free=0, volumes={"web": volume, pool.name: pool})


def with_volume(name: str, tags: tuple[str, ...], attributes: str) -> ClusterState:
    """web runs; on pm-1 its volume is the origin of another one."""
    there = running().nodes["pm-1"].volumes
    return changed(running(), "pm-1", volumes={**there, name: Volume(name, "vg", GiB, tags, "web", attributes)})


def without_domain(state: ClusterState, place: str) -> ClusterState:
    return changed(state, place, domains={})


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: start(running()), "web: runs already, on pm-1"),
        (lambda: start(running(), "pm-2"), "It can move while it runs. Next: fab vm.mv web"),
        (lambda: start(stopped(), "pm-3"), "--on pm-3: web has its disks on pm-1 and pm-2"),
        (lambda: start(with_resource(stopped(), "pm-2", role="Primary"), "pm-1"), "fab vm.start web --on pm-2"),
        (lambda: start(with_resource(stopped(), "pm-1", connection="StandAlone")), "StandAlone"),
        (lambda: start(with_resource(stopped(), "pm-1", disk="Inconsistent")), "Inconsistent/UpToDate"),
        (lambda: start(with_resource(stopped(), "pm-1", peer_disk="Outdated")), "UpToDate/Outdated"),
        (lambda: start(changed(stopped(), "pm-1", resources={})), "fab pm.ready_drbd --node pm-1"),
        (lambda: start(changed(stopped(), "pm-1", memory_available=MiB)), "1 GiB of memory, pm-1 has 1 MiB"),
        (lambda: start(with_resource(alone(active=False), "pm-1", disk="Inconsistent")), "its disk on pm-1 is not up"),
        (lambda: start(cluster()), "web: no such VM; there are: none yet"),
        (lambda: start(without_domain(stopped(), "pm-2")), "Else define it there again. Next: fab vm.repair web"),
        (lambda: start(MISSING_TOOL), "drbd status: command not found. Next: fab pm.init pm-2"),
        (lambda: stop(changed(stopped(), "pm-2", down="no ssh")), "start on its other node. Next: fab vm.failover web"),
        (lambda: stop(cluster()), "no such VM"),
        (lambda: stop(changed(running(), "pm-1", failures={"lvs": "not found"})), "pm-1: lvs: not found"),
        (lambda: move(stopped()), "does not run. Start it where you want it"),
        (lambda: move(TWICE), "RUNS TWICE, on pm-1 and pm-2"),
        (lambda: stop(TWICE), "RUNS TWICE, on pm-1 and pm-2"),
        (lambda: move(alone(active=True)), "Give it a second copy first. Next: fab vm.peer web --secondary NODE"),
        (lambda: move(running(), "pm-1"), "--to pm-1: web can move to pm-2"),
        (lambda: move(running(), "pm-3"), "--to pm-3: web can move to pm-2"),
        (lambda: move(SPLIT), "StandAlone, UpToDate/DUnknown"),
        (lambda: move(with_resource(running(), "pm-2", replication="VerifyT")), "VerifyT on pm-2. Wait"),
        (lambda: move(with_resource(running(), "pm-2", role="Primary")), "fab vm.mv web --cleanup"),
        (lambda: move(changed(running(), "pm-2", memory_available=0)), "pm-2 has 0 B free"),
        (lambda: move(changed(running(), "pm-1", domains={"web": PAUSED})), "Next: on pm-1: virsh resume web"),
        (lambda: settle(TWICE), "virsh destroy web. Next: fab vm.repair web"),
        (lambda: settle(with_resource(stopped(), "pm-1", role="Primary")), "Next: fab vm.stop web vm.mv web --cleanup"),
        (lambda: remove(FOREIGN), "was not made by pmc"),
        (lambda: remove(with_volume("own", (), "swi-a-s---")), "vg/own, which pmc did not make, depends on vg/web and "
         "would go with it"),
        (lambda: remove(cluster()), "no such VM"),
        (lambda: make(running()), "there is such a VM already, on pm-1, pm-2"),
        (lambda: make(cluster(node("pm-2", drbd=""))), "fab pm.ready_drbd --node pm-2"),
        (lambda: make(cluster(node("pm-2", hostname="debian"))), "'debian'. DRBD looks for 'pm-2', the "
         "name in pmc.conf. If pmc.conf has another machine there, or two exchanged, correct it. If not: hostnamectl "
         "set-hostname pm-2. Next: on it: hostname; ip"),
        (lambda: make(cluster(node("pm-2", volumes={"web": VOLUME}))), "has a volume vg/web already"),
        (lambda: make(cluster(node("pm-1", volumes={"web": VOLUME}))), "keep what is on it with --reuse"),
        (lambda: make(cluster(), reuse=True), "--reuse: pm-1 has no volume vg/web"),
        (lambda: make(cluster(node("pm-1", volumes={"web": replace(VOLUME, attributes="-wi-ao----")})), reuse=True),
         "--reuse: web on pm-1 is in use. End what has it open first"),
        (lambda: make(cluster(node("pm-2", group_free=GiB))), "--size: pm-2 has 1 GiB free"),
        (lambda: make_thin(data_percent=80.5), "pm-2 has a thin pool vg/pool whose data are 80 % full, more than "
         "pool_data_percent = 80; there: lvextend --extents +25%LV vg/pool"),
        (lambda: make_thin(data_percent=10.5, percent=10), "more than pool_data_percent = 10"),
        (lambda: make_thin(metadata_percent=99.0), "whose metadata are 99 % full, more than "
         "pool_metadata_percent = 80; there: lvextend --poolmetadatasize +64M vg/pool"),
        (lambda: make_thin(attributes="twi-aot---"), "does not zero what it hands out; there: lvchange --zero y vg/"),
        (lambda: make_thin(attributes="twi-aotzD-"), "pm-2 has a thin pool vg/pool that has no space for data left"),
        (lambda: make_thin(attributes="twi---tz--"), "that is not active; there: lvchange --activate y vg/pool"),
        (lambda: make_thin(attributes="-wi-a-----"), "pm-2 has no thin pool vg/pool; fab pm.init tells how"),
        (lambda: make(cluster(node("pm-2", volumes={"pool": POOL})), name="pool"), "has a volume vg/pool already"),
        (lambda: make(cluster(node("pm-1", memory_available=MiB))), "--memory 1 GiB: pm-1 has 1 MiB free"),
        (lambda: make(cluster(node("pm-3", down="no ssh"))), "pm-3: no ssh. A new VM needs"),
        (lambda: make(cluster(node("pm-3", failures={"ports": "ss: not found"}))), "pm-3: ports: ss: not found"),
        (lambda: take(with_resource(stopped(), "pm-2", connection="StandAlone")), "Connected, UpToDate/UpToDate"),
        (lambda: take(with_resource(stopped(), "pm-2", disk="Inconsistent")), "Inconsistent on pm-2"),
        (lambda: take(with_resource(alone(active=True), "pm-1", disk="Diskless")), "Diskless on pm-1"),
        (lambda: move(marked(running())), "web: 4 KiB of its disk differ between pm-1 and pm-2, as a verify found, "
         "and it would go on with those of pm-2. Next: fab vm.repair web"),
        (lambda: take(marked(stopped())), "neither side is known to be right. Next: fab vm.start web vm.repair"),
        (lambda: clone.standby("web", marked(stopped())), "Next: fab vm.start web vm.repair web"),
        (lambda: clone.standby("web", with_resource(running(), "pm-2", connection="StandAlone")), "pm-2 is StandAlone"),
        (lambda: take(TWICE), "RUNS TWICE, on pm-1 and pm-2"),
        (lambda: taken(running(), [Stored("pm-2", "web.20260102T030405Z.base", GiB, None)], base=True)[1],
         "web: there is a backup of this very second. Try again"),
        (lambda: write(marked(stopped())), "as a verify "
         "found, and a restore writes only what differs on pm-1. First make both alike (fab vm.start web "
         "vm.repair web vm.stop web, then this again), or restore it as a new VM: --as NEW"),
        (lambda: write(running()), "web: runs on pm-1; its disk is only written when it is off. Next: fab vm.stop web"),
        (lambda: write(with_resource(stopped(), "pm-1", connection="StandAlone")), "DRBD on pm-1 is StandAlone"),
        (lambda: write(stopped(), 2 * GiB), "web: its disk has 2147483648 bytes, that of web.20260102T000000Z.delta "
         "1073741824. Restore it as a new VM: --as NEW"),
        (lambda: write(changed(stopped(), "pm-1", group_free=GiB)), "pm-1: a snapshot of web needs 10"),
        (lambda: write(changed(stopped(), "pm-2", volumes=thin_web(POOL).nodes["pm-2"].volumes)), "pm-2: a snapshot of "
         "web needs 1000 GiB, the thin pool vg/pool has 90 GiB free"),
        (lambda: taken(changed(running(), "pm-3", failures={"lvs": "not found"}), to="pm-3")[1], "pm-3: lvs"),
        (lambda: write(with_before(stopped())), "pm-1: the volume vg/web.before is no snapshot that pmc made"),
        (lambda: write(half_restored_web().state()), "fab vm.restore web --put-back"),
        (lambda: put_back(changed(half_restored_web().state(), "pm-1", domains={"web": RUNNING})), "web: runs on pm-1. "
         "Next: fab vm.stop web"),
        (lambda: put_back(with_resource(half_restored_web().state(), "pm-1", connection="StandAlone")), "StandAlone"),
        (lambda: take(half_restored_web().state()), "fab vm.restore web --put-back"),
        (lambda: clone.standby("web", half_restored_web().state()), "fab vm.restore web --put-back"),
        (lambda: start(half_restored_web().state()), "fab vm.restore web --put-back"),
        (lambda: take(changed(running(), "pm-2", group_free=MiB)), "free. Make room there, or remove"),
        (lambda: take(thin_web(replace(POOL, data_percent=95.0), 50 * GiB)), "pm-2: a snapshot of web needs 10 GiB, "
         "the thin pool vg/pool has 5 GiB free"),
        (lambda: take(thin_web(replace(POOL, attributes="twi-aotzF-"))), "the thin pool vg/pool of web has failed"),
        (lambda: take(thin_web(Volume("other", "vg", GiB))), "pm-2: the thin pool vg/pool of web is not there"),
    ],
)  # fmt: skip
def test_refused(build: Callable[[], Plan], words: str) -> None:
    with pytest.raises(Refused) as caught:
        build()
    assert words in str(caught.value)
    assert caught.value.code == 2


def test_thin_volumes_may_be_larger_than_their_pool_and_need_no_zeroing() -> None:
    """500 GiB in a pool of 100 GiB, and the volume group is all the pool's. The sides read as zeros, so they are equal
    from the beginning."""
    plan = make_thin()
    lines = [str(step.do) for step in plan.steps]
    assert not any("blkdiscard" in line or "--size" in line for line in lines)
    assert any("new-current-uuid --clear-bitmap" in line for line in lines)
    assert make_thin(secondary="", data_percent=99.0).steps, "pm-2 has no part in it"


def test_a_snapshot_of_a_thin_volume_needs_room_for_a_fifth_of_what_it_holds() -> None:
    """The volume group may be full, the volume larger than its pool."""
    plan = take(thin_web(POOL))
    assert "lvcreate --yes --snapshot --setactivationskip n" in str(plan)
    assert thin_web(POOL).nodes["pm-2"].group_free == 0


def test_a_reused_volume_and_a_new_one_may_differ_in_kind() -> None:
    classic = Volume("web", "vg", GiB, attributes="-wi-a-----")
    thin = Volume("web", "vg", GiB, attributes="Vwi-a-tz--", data_percent=50, pool="pool")
    for kept in (classic, thin):
        state = cluster(node("pm-1", volumes={"pool": POOL, "web": kept}), node("pm-2", volumes={"pool": POOL}))
        for settings in (SETTINGS, THIN):
            text = shown(add.add(wanted(reuse=True), GiB, state, settings, WEB, XML))
            assert ("--thinpool" in text) == (settings is THIN)
            assert "make web primary; its data is the one to keep" in text


def test_a_reused_thin_volume_needs_its_own_pool() -> None:
    thin = Volume("web", "vg", GiB, attributes="Vwi-a-tz--", data_percent=50, pool="pool")
    full = {"web": thin, "pool": replace(POOL, data_percent=81.0)}
    with raises(Refused, "add.check_node", "pm-1 has a thin pool vg/pool", "81 % full"):
        make(cluster(node("pm-1", volumes=full)), reuse=True)


def test_a_pool_is_never_removed_as_if_it_were_a_vm() -> None:
    tagged = cluster(node("pm-1", volumes={"pool": replace(POOL, tags=("pmc",))}))
    with pytest.raises(Refused, match="vg/pool was not made by pmc"):
        remove_plan.remove("pool", tagged, SETTINGS)


def test_a_thin_snapshot_whose_volume_is_gone_goes_with_the_vm() -> None:
    """LVM keeps thin snapshots when their origin is removed."""
    left = Volume("web.backup", "vg", GiB, ("pmc",), "", "Vri-a-tz--", 1.0, pool="pool")
    story = STORIES["vm.add-thin"]()
    state = done(story.world, story.plan).state()
    volumes = {**state.nodes["pm-2"].volumes, "web.backup": left}
    plan = remove_plan.remove("web", changed(state, "pm-2", volumes=volumes), SETTINGS)
    assert ("pm-2", "remove the volume vg/web.backup") in [(step.node, step.note) for step in plan.steps]
    assert "vg/pool" not in str(plan)


@pytest.mark.parametrize("build", [start, stop, move, settle, remove, make, take])
def test_a_node_that_is_needed_and_down_is_named(build: Callable[[ClusterState], Plan]) -> None:
    """Only stopping, closing and a backup go without the secondary: they must work when that node is dead."""
    if build in (stop, settle, take):
        assert {step.node for step in build(DOWN).steps} <= {"pm-1"}
        assert bool(build(DOWN).steps) == (build is not settle)
        return
    with pytest.raises(Refused, match="pm-2: no ssh within 10 s"):
        build(DOWN)


EXCHANGED = changed(changed(running(), "pm-1", hostname="pm-2"), "pm-2", hostname="pm-1")


@pytest.mark.parametrize(
    "build",
    [
        start, stop, move, settle, remove,
        lambda state: failover.failover("web", away(state, "pm-1"), SETTINGS),
        lambda state: repair.homes("web", state, SETTINGS),
        lambda state: evacuate.move_all("pm-1", state, SETTINGS),
    ],
)  # fmt: skip
def test_nodes_that_are_exchanged_in_the_configuration_are_refused(build: Callable[[ClusterState], object]) -> None:
    with raises(Refused, "requirements.own_hostname", "host name is 'pm-", "DRBD looks for 'pm-"):
        build(EXCHANGED)


def test_what_may_run_on_a_node_that_the_configuration_lacks_is_neither_off_nor_removed() -> None:
    known = ClusterState({"pm-2": running().nodes["pm-2"]})
    for build in (stop, remove):
        with pytest.raises(Refused, match=r"web: (may run|lives) on pm-1.*not in pmc.conf.*\. Add it there"):
            build(known)
    gone = with_resource(known, "pm-2", connection="WFConnection")
    assert remove_plan.remove("web", gone, SETTINGS).steps, "taken out of pmc.conf since it is gone for good"


def away(state: ClusterState, name: str) -> ClusterState:
    return ClusterState({**state.nodes, name: NodeState(name, down="no ssh within 10 s", answers=False)})


def test_a_vm_is_removed_without_a_node_that_is_none_of_its_own_and_the_same_again_removes_the_rest() -> None:
    world = with_backups(with_stale_copy())
    world.dead.add("pm-2")
    plan = remove_plan.remove(
        "web", world.state(), SETTINGS, [s for s in stored_in(world) if s.node != "pm-2"], backups=True
    )
    world = done(world, plan)
    assert [node.name for node in world.state().knowing("web")] == []
    world.dead.clear()
    assert world.nodes["pm-2"].volumes, "a stale copy was there"
    world = done(world, remove_plan.remove("web", world.state(), SETTINGS, stored_in(world), backups=True))
    assert {(bool(m.volumes), bool(m.files), bool(m.domains), bool(m.resources)) for m in world.nodes.values()} == {
        (False, False, False, False)
    }


@pytest.mark.parametrize(
    ("state", "stored"),
    [
        (cluster(), ()),  # it may be there
        (cluster(), STORED),  # the VM of these backups may be there
        (changed(running(), "pm-2", files={}), ()),  # who knows which file is there
        (changed(running(), "pm-1", files={}), ()),
        (changed(stopped(), "pm-2", volumes={}, domains={}, resources={}, files={}), ()),
    ],
)
def test_what_is_not_known_to_live_elsewhere_is_not_removed_without_a_node(state: ClusterState, stored: Any) -> None:
    with raises(Refused, "requirements.answering", "pm-3: no ssh within 10 s"):
        remove_plan.remove("web", away(state, "pm-3"), SETTINGS, stored, backups=True)


def test_a_vm_whose_peer_is_silent_is_not_started_and_the_way_on_is_told() -> None:
    with pytest.raises(NodeDown) as caught:
        start(changed(stopped(), "pm-2", down="no ssh within 10 s", domains={}, resources={}, files={}, volumes={}))
    assert "web: may run on pm-2, which does not answer (no ssh within 10 s)" in str(caught.value)
    assert "fab vm.failover web" in str(caught.value)


def test_a_vm_starts_on_the_side_that_a_resync_comes_from() -> None:
    plan = start(with_resource(stopped(), "pm-1", peer_disk="Inconsistent"))
    assert [step.node for step in plan.steps] == ["pm-1", "pm-1"]


def test_a_vm_may_be_on_a_node_that_is_down() -> None:
    with pytest.raises(NodeDown, match="not all answered: pm-2: "):
        start(cluster(node("pm-2", down="no ssh")))


def test_a_vm_on_a_node_that_is_not_configured() -> None:
    elsewhere = ResourceFile("web", 1, "/dev/vg/web", ("pm-1", "pm-9"), (7800,))
    with raises(Refused, "requirements.configured", "pm-9", "pmc.conf"):
        start(changed(stopped(), "pm-1", files={"web": elsewhere}))


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("web", True), ("a", True), ("web-2", True), ("a" * 63, True), ("allow", True),
        ("", False), ("Web", False), ("2web", False), ("-web", False), ("web-", False), ("a" * 64, False),
        ("wéb", False),
        ("a b", False), ("a;id", False), ("$(id)", False), ("../a", False), ("web\n", False), ("all", False),
        ("minor-1", False), ("snapshot1", False), ("pvmove0", False),
    ],
)  # fmt: skip
def test_names_of_new_vms(name: str, fits: bool) -> None:
    if fits:
        assert requirements.check_new("vm.add", name) == name
        return
    with raises(Refused, "requirements.check_new", "vm.add"):
        requirements.check_new("vm.add", name)


@pytest.mark.parametrize("name", ["3cx", "01-web", "web-", "0", "7", "Web_1", "WEB", "1e5", "0x10", "a" * 63, "allow"])
def test_names_of_vms_that_are_there(name: str) -> None:
    """As the scripts took them that pmc came from, and as libvirt, LVM and DRBD take them; virsh takes a number for the
    id of a domain."""
    if name.isdigit():
        with raises(Refused, "requirements.check_name", "virsh takes it for the id"):
            requirements.check_name("vm.mv", name)
        return
    assert requirements.check_name("vm.mv", name) == name


@pytest.mark.parametrize(
    "name",
    ["", "-web", "web.backup", "..", "a/b", "../a", "a b", "wéb", "web\n", "a" * 64, "all", "minor-7", "snapshot1",
     "0-init", "0-allocation", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "x_tdata", "lvol0_pmspare", "\x1b[2J"],
)  # fmt: skip
def test_names_that_no_command_takes(name: str) -> None:
    with pytest.raises(Refused) as caught:
        requirements.check_name("vm.mv", name)
    assert str(caught.value).isprintable()
    with pytest.raises(Refused):
        requirements.check_new("vm.add", name)


# -- choosing a backup --


def choose(id: str = DELTA.id, new: str = "web2", primary: str = "", secondary: str = "", stored: Any = STORED) -> Any:
    requirements.check_new("--as", new)
    found = restore.find(id, stored)
    return found, new, restore.nodes_for(found, primary, secondary, SETTINGS)


def test_a_restored_vm_goes_where_the_old_one_was_unless_told() -> None:
    assert choose()[2] == ("pm-1", "pm-2")
    assert choose(primary="pm-3")[2] == ("pm-3", "pm-1")
    assert choose(secondary="pm-1")[2] == ("pm-2", "pm-1")
    assert choose(primary="pm-3", secondary="pm-1")[2] == ("pm-3", "pm-1")
    gone = [replace(each, backup=replace(each.backup, nodes=("old-1", "old-2"))) for each in STORED if each.backup]
    assert choose(stored=gone)[2] == ("pm-2",), "neither node is left: where the backup lies"


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: choose(new=""), "--as ''"),
        (lambda: choose(new="Web"), "--as 'Web'"),
        (lambda: choose(id=""), "--backup ''"),
        (lambda: choose(id="web.20260101T000000Z.base; id"), "no id of a backup"),
        (lambda: choose(id="web.20270101T000000Z.base"), "on no node that answers"),
        (lambda: choose(primary="pm-9"), "--primary 'pm-9'"),
        (lambda: choose(secondary="pm-9"), "--secondary 'pm-9'"),
        (lambda: choose(primary="pm-1", secondary="pm-1"), "--secondary pm-1: is the primary"),
        (lambda: choose(stored=STORED[1:]), f"its base {BASE.id} is missing on pm-2"),
        (lambda: choose(stored=[replace(STORED[0], node="pm-1"), STORED[1]]), "is missing on pm-2"),
        (lambda: choose(stored=[replace(STORED[0], broken="its file is missing"), STORED[1]]), "cannot be used"),
        (lambda: choose(stored=[STORED[0], replace(STORED[1], broken="x", backup=None)]), "cannot be used: x"),
        (
            lambda: restore.as_new(choose()[0], "web", ("pm-1", "pm-2"), running(), SETTINGS, NEW, UUID),
            "there is such a VM already",
        ),
    ],
)
def test_a_backup_that_cannot_be_restored(ask: Callable[[], Any], words: str) -> None:
    with pytest.raises(Refused) as caught:
        ask()
    assert words in str(caught.value)


def test_a_delta_of_a_disk_that_shrank_is_refused() -> None:
    with raises(Refused, "backup.make_backup", "fab vm.backup web --base"):
        taken(running(), STORED, GiB - 1)


def test_a_clone_reads_the_side_that_no_guest_waits_for() -> None:
    assert clone.standby("web", running()) == "pm-2"
    assert clone.standby("web", moved_web().state()) == "pm-1"
    assert clone.standby("web", alone(active=True)) == "pm-1"


def test_a_snapshot_that_a_broken_command_left_is_removed_first_and_anothers_is_not() -> None:
    left = Volume("web.backup", "vg", GiB, ("pmc",), "web", "swi-a-s---")
    state = running()
    state = changed(state, "pm-1", volumes={**state.nodes["pm-1"].volumes, "web.backup": left})
    _, plan = taken(state, size=10 * GiB, base=True)
    notes = [f"{step.node}: {step.note}" for step in plan.steps]
    removed = "pm-1: remove the snapshot vg/web.backup of an interrupted command"
    assert notes.index(removed) < notes.index("pm-2: take the snapshot vg/web.backup")
    renamed = (replace(left, attributes=each) for each in ("-wi-a-----", "Vwi-a-tz--"))
    for foreign in (replace(left, tags=()), *renamed):
        state = changed(running(), "pm-2", volumes={**running().nodes["pm-2"].volumes, "web.backup": foreign})
        with raises(Refused, "requirements.foreign", "vg/web.backup"):
            taken(state, size=10 * GiB, base=True)


def test_when_the_other_node_is_gone_this_side_is_closed_all_the_same() -> None:
    state = with_resource(running(), "pm-1", two_primaries=True, connection="Connecting")
    state = ClusterState({**state.nodes, "pm-2": node("pm-2", down="no ssh within 10 s")})
    assert [(step.node, str(step.do)) for step in close_migration.close("web", state).steps] == [("pm-1", CLOSE)]
    with pytest.raises(NodeDown):
        close_migration.close("web", ClusterState({**stopped().nodes, "pm-2": node("pm-2", down="no ssh")}))


def test_a_resource_file_is_on_the_disk_before_the_next_step() -> None:
    """A node that lost power a moment after vm.add came back without the file, so without the VM."""
    for name, tell in STORIES.items():
        for step in tell().plan.steps:
            if step.note.startswith("write /etc/drbd.d"):
                assert 'sync "$1.new"; ln -T "$1.new" "$1"; sync "${1%/*}"' in str(step.do), name


def test_a_guest_that_was_left_suspended_is_told() -> None:
    state = running()
    assert close_migration.paused_note("web", state) == ""
    there = state.nodes["pm-1"]
    paused = {**there.domains, "web": replace(there.domains["web"], state="paused")}
    state = ClusterState({**state.nodes, "pm-1": replace(there, domains=paused)})
    assert close_migration.paused_note("web", state).endswith("is suspended there. Next: on pm-1: virsh resume web")
