"""vm.repair: what is found, what is refused, and in which order it is fixed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from pmc import drbd_generations, lvm, virsh
from pmc.actions import Wait
from pmc.drbd_generations import Generation, Past
from pmc.errors import NodeDown, Refused, StepFailed
from pmc.facts import domain_definition
from pmc.model import ClusterState, Odd, Resource, ResourceFile, Volume
from pmc.plan import apply
from pmc.plans import repair, split_brain, split_brain_snapshot
from pmc.plans.repair_context import Condition, RepairContext, RepairOptions, SideFacts
from pmc.settings import Settings
from pmc.units import GiB, MiB
from tests.sim.fake import done
from tests.sim.machine import says
from tests.unit.refusals import raises
from tests.unit.samples import (
    CLOSE,
    SETTINGS,
    XML,
    alone,
    cells,
    changed,
    cluster,
    data,
    documents,
    home,
    running,
    stopped,
    with_resource,
)
from tests.unit.stories import ALIKE, NOW, PARTED, POOL, STORIES, THIN

AHEAD = {"pm-1": SideFacts(Generation(0x20, 0x10), xml=XML), "pm-2": SideFacts(Generation(0x10), xml=XML)}
UNKNOWN = {"pm-1": SideFacts(xml=XML), "pm-2": SideFacts(Generation(0x10), xml=XML)}
KEPT = "web.lost-20260102T030405Z"
FILE = running().nodes["pm-1"].files["web"]


def both(state: ClusterState, **changes: Any) -> ClusterState:
    return with_resource(with_resource(state, "pm-1", **changes), "pm-2", **changes)


def apart(state: ClusterState) -> ClusterState:
    return both(state, connection="StandAlone", replication="Off", peer_disk="DUnknown", out_of_sync=40 * MiB)


def found(
    state: ClusterState, about: Mapping[str, SideFacts] = ALIKE, settings: Settings = SETTINGS, **wishes: Any
) -> list[Condition]:
    return repair.conditions("web", state, about, settings, RepairOptions(NOW, **wishes))


def codes(state: ClusterState, about: Mapping[str, SideFacts] = ALIKE, **wishes: Any) -> list[str]:
    return [each.code for each in found(state, about, **wishes)]


def lines(condition: Condition) -> list[tuple[str, str]]:
    return [(step.node, str(step.do)) for step in condition.steps]


def without(state: ClusterState, place: str, **kinds: Any) -> ClusterState:
    return changed(state, place, **{kind: {} for kind in kinds if kinds[kind]})


OPEN_APART = with_resource(
    with_resource(running(), "pm-1", two_primaries=True, connection="Connecting"), "pm-2", connection="StandAlone"
)


# -- what is found --


@pytest.mark.parametrize("state", [running(), stopped(), alone(active=True), alone(active=False)])
def test_what_is_well_needs_nothing(state: ClusterState) -> None:
    assert codes(state) == []
    assert codes(state, keep="pm-1") == []


@pytest.mark.parametrize(
    ("state", "about", "expected"),
    [
        (apart(running()), PARTED, ["split-brain"]),
        (with_resource(running(), "pm-1", connection="StandAlone"), PARTED, ["split-brain"]),
        (both(running(), connection="WFConnection"), PARTED, ["split-brain"]),
        (apart(running()), ALIKE, ["standalone"]),
        (apart(running()), AHEAD, ["standalone"]),
        (both(running(), connection="WFConnection"), AHEAD, ["connecting"]),
        (apart(running()), UNKNOWN, ["unrelated"]),
        (apart(running()), {**AHEAD, "pm-2": SideFacts(Generation(0x70, 0x60), xml=XML)}, ["unrelated"]),
        (apart(running()), {"pm-1": AHEAD["pm-2"], "pm-2": AHEAD["pm-1"]}, ["stale-primary"]),
        (with_resource(running(), "pm-2", disk="Inconsistent"), ALIKE, ["syncing"]),
        (both(running(), disk="Inconsistent"), ALIKE, ["no-good-side"]),
        (both(running(), disk="Outdated"), ALIKE, ["no-good-side"]),
        (with_resource(running(), "pm-2", disk="Inconsistent", replication="PausedSyncT"), ALIKE, ["paused"]),
        (both(running(), out_of_sync=4096), ALIKE, ["differs"]),
        (with_resource(running(), "pm-2", out_of_sync=4096), ALIKE, ["differs"]),
        (both(running(), out_of_sync=4096, replication="VerifyS"), ALIKE, []),
        (both(with_resource(running(), "pm-2", disk="Inconsistent"), out_of_sync=4096, replication="SyncSource"), ALIKE,
         ["syncing"]),
        (with_resource(both(running(), out_of_sync=4096), "pm-2", role="Primary"), ALIKE, ["two-primaries"]),
        (with_resource(running(), "pm-2", disk="Diskless"), ALIKE, ["diskless"]),
        (with_resource(running(), "pm-1", disk="Diskless"), ALIKE, ["diskless"]),
        (with_resource(running(), "pm-2", disk="Failed", connection="StandAlone"), ALIKE, ["standalone", "diskless"]),
        (without(running(), "pm-2", resources=True), ALIKE, ["not-up"]),
        (without(running(), "pm-2", resources=True, volumes=True), ALIKE, ["no-volume"]),
        (without(running(), "pm-2", domains=True), ALIKE, ["undefined"]),
        (without(without(stopped(), "pm-2", domains=True), "pm-1", domains=True), ALIKE, ["undefined"]),
        (both(running(), two_primaries=True), ALIKE, ["two-primaries"]),
        (with_resource(running(), "pm-2", role="Primary"), ALIKE, ["two-primaries"]),
        (OPEN_APART, ALIKE, ["two-primaries", "standalone"]),
        (without(with_resource(running(), "pm-1", two_primaries=True, connection="Connecting"), "pm-2", resources=True),
         ALIKE, ["two-primaries", "not-up"]),
        (without(with_resource(running(), "pm-1", two_primaries=True), "pm-2", domains=True), ALIKE,
         ["undefined", "two-primaries"]),
    ],
)  # fmt: skip
def test_found(state: ClusterState, about: Mapping[str, SideFacts], expected: list[str]) -> None:
    assert codes(state, about) == expected


def test_what_one_side_allows_is_taken_back_before_it_meets_the_other() -> None:
    """DRBD would leave both StandAlone, again and again."""
    first, second = found(OPEN_APART)
    assert lines(first) == [("pm-1", CLOSE)]
    assert lines(second) == [("pm-2", "drbdadm connect web")]


def test_a_difference_of_definitions_is_found_and_passwords_are_not_shown() -> None:
    other = XML.replace("1048576", "524288").replace("<devices>", '<devices><graphics type="vnc" passwd="hunter2"/>')
    [condition] = found(running(), {**ALIKE, "pm-2": SideFacts(xml=other)})
    assert condition.code == "definitions-differ"
    assert "domain/memory: 1048576 on pm-1, 524288 on pm-2" in condition.ask
    assert "hunter2" not in f"{condition}{condition.plan('web')}"
    assert lines(condition)[0][0] == "pm-2", "it runs on pm-1, which is left alone"


def test_definitions_come_from_where_it_runs() -> None:
    moved = cluster(home("pm-1", active=False, primary=False), home("pm-2", active=True, primary=True))
    [condition] = found(moved, {**ALIKE, "pm-2": SideFacts(xml=XML.replace("1048576", "524288"))})
    assert [step.node for step in condition.steps] == ["pm-1"]
    assert "524288" in str(condition.steps[0].do)


def test_the_emulator_may_be_elsewhere_and_order_of_attributes_does_not_matter() -> None:
    one = "<domain type='kvm' id='1'><devices><emulator>/usr/bin/a</emulator><disk a='1' b='2'/></devices></domain>"
    other = "<domain id='1' type='kvm'>\n<devices><emulator>/b</emulator> <disk b='2' a='1'/></devices></domain>"
    assert domain_definition.differences(one, other) == []
    more = other.replace("</devices>", "<disk/></devices>")
    assert domain_definition.differences(one, more) == [("domain/devices/disk[2]", "", "")]


def test_the_order_of_controllers_is_none_of_the_definition() -> None:
    """As libvirt 9.0 had them on both nodes of the lab after a migration."""
    listed = [f"<controller type='{type}' index='0' model='{model}'/>" for type, model in
              (("usb", "piix3-uhci"), ("pci", "pci-root"), ("virtio-serial", ""))]  # fmt: skip
    one, other, less = (
        f"<domain><devices>{''.join(each)}</devices></domain>" for each in (listed, listed[::-1], listed[:2])
    )
    assert domain_definition.differences(one, other) == []
    assert domain_definition.digest(one) == domain_definition.digest(other) != domain_definition.digest(less)
    assert (
        next(what for what, *_ in domain_definition.differences(one, less))
        == "domain/devices/controller virtio-serial 0"
    )


# -- a split brain --


def test_the_losers_side_is_kept_before_anything_of_it_is_given_up() -> None:
    [condition] = found(apart(running()), PARTED, keep="pm-1")
    steps = lines(condition)
    kept = next(number for number, (_, line) in enumerate(steps) if f"--name {KEPT} vg/web" in line)
    given_up = next(number for number, (_, line) in enumerate(steps) if "--discard-my-data" in line)
    assert kept < given_up
    assert {steps[kept][0], steps[given_up][0]} == {"pm-2"}
    assert str(virsh.is_off("web")) in steps[0][1], "looked at again: the VM must not run on it"
    assert not any("--discard" in line for at, line in steps if at == "pm-1")


def test_the_side_that_stays_gives_nothing_up_though_it_was_to_once() -> None:
    """It still looks for its peer, since a repair that kept the other side was interrupted: as the one that gives
    up."""
    [condition] = found(apart(running()), PARTED, keep="pm-1")
    assert "pm-1" not in [at for at, line in lines(condition) if "disconnect" in line]
    looks = with_resource(with_resource(running(), "pm-2", connection="StandAlone"), "pm-1", connection="WFConnection")
    [condition] = found(looks, PARTED, keep="pm-1")
    steps = lines(condition)
    anew = next(number for number, (at, line) in enumerate(steps) if at == "pm-1" and "drbdadm disconnect" in line)
    assert anew < next(number for number, (_, line) in enumerate(steps) if "--discard-my-data" in line)
    assert condition.steps[anew].undo == drbd_generations.connect("web")


def test_the_snapshot_holds_all_that_the_resync_overwrites() -> None:
    size = int(next(line for _, line in lines(found(apart(running()), PARTED, keep="pm-1")[0]) if "--size" in line)
               .split("--size ")[1].split("b ")[0])  # fmt: skip
    assert size >= 2 * 40 * MiB + 2 * GiB
    whole = both(apart(running()), out_of_sync=10 * GiB)
    size = int(next(line for _, line in lines(found(whole, PARTED, keep="pm-1")[0]) if "--size" in line)
               .split("--size ")[1].split("b ")[0])  # fmt: skip
    assert 10 * GiB + 8 * MiB < size < 10 * GiB + 128 * MiB, "never more than the whole volume and its table"


def test_without_a_snapshot_it_is_asked() -> None:
    [condition] = found(apart(running()), PARTED, keep="pm-1", snapshot=False)
    assert "without a snapshot" in condition.ask
    assert not any("lvcreate" in line for _, line in lines(condition))


@pytest.mark.parametrize(
    ("state", "wishes", "words"),
    [
        (apart(running()), {}, "--keep pm-1 or --keep pm-2"),
        (
            apart(running()),
            {"keep": "pm-2"},
            "it runs on pm-1, whose disk would be overwritten under it. Keep that side (--keep pm-1), or stop it",
        ),
        (with_resource(apart(running()), "pm-1", disk="Outdated"), {"keep": "pm-1"}, "its disk is Outdated there"),
        (changed(apart(running()), "pm-2", group_free=MiB), {"keep": "pm-1"}, "give --no-snapshot"),
        (without(apart(running()), "pm-2", volumes=True), {"keep": "pm-1"}, "no snapshot of it can be kept"),
    ],
)
def test_a_split_brain_is_left_alone(state: ClusterState, wishes: dict[str, Any], words: str) -> None:
    [condition] = found(state, PARTED, **wishes)
    assert words in condition.refusal
    assert condition.steps == ()


def test_both_sides_are_shown_with_what_is_known() -> None:
    about = {
        "pm-1": SideFacts(PARTED["pm-1"].generation, Past(lost=1767322800.0, alone=1767322805.5), XML),
        "pm-2": SideFacts(PARTED["pm-2"].generation, Past(demoted=1767322900.0), XML),
    }
    state = apart(running())
    case = RepairContext("web", ("pm-1", "pm-2"), state, about, SETTINGS, RepairOptions(NOW))
    first, second = cells(split_brain.sides(case))
    assert (first["vm"], first["could write until"], first["differs"]) == ("running", "now", "40 MiB")
    assert first["lost its peer"] == "2026-01-02T03:00:00+00:00"
    assert (second["could write until"], second["went on alone"]) == ("2026-01-02T03:01:40+00:00", "not in the log")
    assert documents(split_brain.sides(case))[1]["went_on_alone"] == ""


def test_times_that_cannot_be_compared_are_told() -> None:
    """A person chooses by them whose data is thrown away."""

    def told(**pasts: Past) -> str:
        about = {name.replace("_", "-"): SideFacts(past=past) for name, past in pasts.items()}
        return split_brain.clocks(
            RepairContext("web", ("pm-1", "pm-2"), apart(running()), about, SETTINGS, RepairOptions(NOW))
        )

    assert told(pm_1=Past(now=1000.0), pm_2=Past(now=1020.0)) == told(pm_1=Past(now=1.0), pm_2=Past()) == told() == ""
    assert told(pm_1=Past(now=1000.0), pm_2=Past(now=8200.0)) == (
        "do not compare the times of the two sides as they stand: the clock of pm-2 is 7200 s ahead of the other one"
    )
    assert "the clock of pm-1 was set back in between" in told(pm_1=Past(now=1000.0, stepped=True), pm_2=Past())


def test_a_node_that_is_none_of_its_own_may_be_away() -> None:
    assert codes(changed(apart(running()), "pm-3", down="no ssh")) == ["standalone"]


def half() -> ClusterState:
    """A domain on pm-1, and nothing else of it."""
    return without(cluster(home("pm-1", active=False, primary=False)), "pm-1", resources=True, volumes=True)


def test_an_old_copy_elsewhere_is_left_as_it_is() -> None:
    """vm.peer --cleanup removes it, when the VM is whole: so the VM must be fixed first."""
    old = stopped().nodes["pm-2"]
    state = changed(apart(running()), "pm-3", domains=old.domains, volumes=old.volumes)
    (split,) = found(state, PARTED, keep="pm-1")
    assert (split.code, split.refusal) == (split_brain.CODE, "")
    assert {step.node for step in split.steps} == {"pm-1", "pm-2"}


def test_a_loser_that_was_not_disconnected_yet_is_connected_again_when_the_next_step_fails() -> None:
    """Else its peer goes on without it."""
    for state, again in ((with_resource(running(), "pm-1", connection="StandAlone"), True), (apart(running()), False)):
        (split,) = found(state, PARTED, keep="pm-1")
        (cut,) = [step for step in split.steps if step.note == "disconnect web"]
        assert (cut.node, cut.undo) == ("pm-2", drbd_generations.connect("web") if again else None)


# -- refused before anything is looked at further --


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (changed(running(), "pm-2", down="no ssh within 10 s"), "pm-2: no ssh within 10 s"),
        (changed(without(running(), "pm-2", files=True), "pm-3", down="no ssh"), "pm-3: no ssh"),
        (changed(without(half(), "pm-1", files=True), "pm-3", down="no ssh"), "pm-3: no ssh"),
        (changed(running(), "pm-2", failures={"drbd status": "not found"}), "pm-2: drbd status"),
        (cluster(home("pm-1", active=True, primary=True), home("pm-2", active=True, primary=True)), "RUNS TWICE"),
        (
            changed(
                running(), "pm-3", **{each: getattr(running().nodes["pm-1"], each) for each in ("domains", "volumes")}
            ),
            "stale copy on pm-3 is in use, where it does not",
        ),
        (changed(stopped(), "pm-3", resources=running().nodes["pm-1"].resources), "primary. Decide which of the two"),
        (without(running(), "pm-2", files=True), "/etc/drbd.d/web.res is missing on pm-2. Copy it there from pm-1"),
        (
            changed(running(), "pm-3", odd=(Odd("/etc/drbd.d/web.res", "a brace too many", "web"),)),
            "a brace too many. Correct",
        ),
        (cluster(), "no such VM"),
        (
            without(without(stopped(), "pm-1", files=True), "pm-2", files=True),
            "web: /etc/drbd.d/web.res is lost on all of its nodes (pmc writes it first and removes it last). Write it "
            "again by what DRBD says: fab doc repair. Next: on pm-1: drbdsetup show web",
        ),
        (
            cluster(home("pm-1", active=True, primary=True, files={"web": replace(FILE, hosts=("pm-1", "pm-9"))})),
            "web: lives on pm-9, which is not in pmc.conf. Add it there",
        ),
    ],
)
def test_refused(state: ClusterState, words: str) -> None:
    with pytest.raises((Refused, NodeDown)) as caught:
        found(state)
    assert words in str(caught.value)
    assert caught.value.code == 2


def test_a_node_that_is_no_side_cannot_be_kept() -> None:
    with raises(Refused, "repair.conditions", "--keep pm-3", "pm-1 and pm-2"):
        found(apart(running()), PARTED, keep="pm-3")


@pytest.mark.parametrize(
    ("state", "wishes", "words"),
    [
        (both(running(), disk="Inconsistent"), {}, "no side is up to date"),
        (with_resource(with_resource(running(), "pm-2", disk="Diskless"), "pm-1", disk="Inconsistent"), {},
         "nothing is attached until it is UpToDate"),
        (both(running(), disk="Diskless"), {}, "nothing is attached until it is UpToDate"),
        (with_resource(running(), "pm-1", disk="Inconsistent"), {"stalled": True}, "pm-1 is primary"),
        (both(stopped(), out_of_sync=4096), {}, "it does not run, so it is not known which side is right; start it"),
        (both(with_resource(stopped(), "pm-1", role="Primary"), out_of_sync=4096), {}, "fab vm.start web --on NODE"),
        (both(running(), out_of_sync=4096), {"keep": "pm-2"}, "those of pm-1, where it runs, would overwrite those"),
        (both(running(), connection="WFConnection"), {"stalled": True}, "do not find each other"),
        (without(running(), "pm-2", resources=True, volumes=True), {}, "fab vm.repair web --new-disk"),
        (without(running(), "pm-1", resources=True, volumes=True), {"new_disk": True}, ""),
        (changed(without(running(), "pm-2", resources=True, volumes=True), "pm-2", group_free=GiB),
         {"new_disk": True}, "pm-2 has 1 GiB free"),
        (with_resource(without(running(), "pm-2", resources=True, volumes=True), "pm-1", disk="Inconsistent"),
         {"new_disk": True}, "Repair that one first"),
        (without(alone(active=False), "pm-1", resources=True, volumes=True), {"new_disk": True}, "Restore a backup"),
        (changed(without(running(), "pm-2", resources=True), "pm-2", drbd=""), {}, "fab pm.ready_drbd pm-2"),
        (without(without(stopped(), "pm-2", domains=True), "pm-1", domains=True), {}, "defined on no node"),
    ],
)  # fmt: skip
def test_left_to_a_person(state: ClusterState, wishes: dict[str, Any], words: str) -> None:
    conditions = found(state, **wishes)
    assert words in conditions[0].refusal
    assert not words or conditions[0].steps == ()


def test_another_machines_definition_is_not_replaced() -> None:
    other = XML.replace("00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000009")
    [condition] = found(running(), {**ALIKE, "pm-2": SideFacts(xml=other)})
    assert "not the same machine" in condition.refusal


def test_a_detached_disk_is_attached_only_while_the_good_side_is_seen() -> None:
    state = with_resource(running(), "pm-2", disk="Diskless")
    [condition] = found(state)
    assert [step.node for step in condition.steps] == ["pm-2", "pm-2"]
    look = condition.steps[0].do
    assert isinstance(look, Wait)
    for connection, peer_disk, good in (
        ("Connected", "UpToDate", True), ("Connecting", "UpToDate", False), ("Connected", "Outdated", False)
    ):  # fmt: skip
        text = (
            "exists resource name:web role:Secondary suspended:no\n"
            f"exists connection name:web peer-node-id:0 conn-name:pm-1 connection:{connection} role:Primary\n"
            "exists device name:web volume:0 minor:1 disk:Diskless\n"
            "exists peer-device name:web peer-node-id:0 conn-name:pm-1 volume:0 replication:Established "
            f"peer-disk:{peer_disk}\nexists -\n"
        )
        assert says(text, look.ask.argv[look.ask.argv.index("web") + 1 :]) == good
    assert lines(condition)[-1] == ("pm-2", "drbdadm attach web")
    [condition] = found(both(state, connection="WFConnection"))[1:]
    assert condition.steps == (), "connected first"


def test_the_side_to_keep_is_not_overwritten_by_one_that_is_ahead() -> None:
    """Disconnected by hand, say before something that went wrong: DRBD would copy it over the older side."""
    [condition] = found(apart(stopped()), AHEAD, keep="pm-2")
    assert (condition.steps, "--keep pm-2: no split brain" in condition.refusal) == ((), True)
    assert codes(apart(stopped()), AHEAD, keep="pm-1") == ["standalone"]


def test_a_disk_that_is_another_volume_is_not_made_anew() -> None:
    state = with_resource(running(), "pm-2", disk="Diskless")
    file = replace(state.nodes["pm-2"].files["web"], disk="/dev/vg/web_data")
    [condition] = found(changed(state, "pm-2", files={"web": file}), new_disk=True)
    assert (condition.steps, "its disk is /dev/vg/web_data, not vg/web" in condition.refusal) == ((), True)


def test_a_new_disk_is_asked_and_never_takes_a_snapshot_with_it() -> None:
    state = with_resource(running(), "pm-2", disk="Diskless")
    [condition] = found(state, new_disk=True)
    assert condition.ask
    volumes = {**state.nodes["pm-2"].volumes, KEPT: Volume(KEPT, "vg", GiB, ("pmc",), "web")}
    [condition] = found(changed(state, "pm-2", volumes=volumes), new_disk=True)
    assert f"has the snapshot {KEPT}" in condition.refusal


def on_thin(state: ClusterState, *names: str, pool: Volume = POOL) -> ClusterState:
    """web's volumes on these nodes are thin, 2 GiB of 10 in use; every node has a pool, its group no space."""
    for each in state:
        volumes = {v.name: thin(v) if each.name in names else v for v in each.volumes.values()}
        state = changed(state, each.name, volumes={**volumes, "pool": pool}, group_free=0)
    return state


def thin(volume: Volume) -> Volume:
    return replace(volume, attributes="Vwi-aotz--", data_percent=20.0, pool="pool")


def test_a_new_disk_is_of_the_configured_kind_and_leaves_thin_snapshots() -> None:
    state = on_thin(with_resource(running(), "pm-2", disk="Diskless"), "pm-1", "pm-2")
    kept = replace(state.nodes["pm-2"].volumes["web"], name=KEPT, origin="web", attributes="Vri-a-tz--")
    state = changed(state, "pm-2", volumes={**state.nodes["pm-2"].volumes, KEPT: kept})
    [condition] = found(state, new_disk=True)
    assert "--new-disk: pm-2 has 0 B free in vg" in condition.refusal, "what the thin one has is the pool's"
    [condition] = found(changed(state, "pm-2", group_free=20 * GiB), new_disk=True)
    assert any(line.startswith("lvcreate") and "--type thin" not in line for _, line in lines(condition))
    [condition] = found(state, settings=THIN, new_disk=True)
    assert any("--type thin" in line for _, line in lines(condition))
    assert not any(KEPT in line for _, line in lines(condition))
    full = on_thin(state, "pm-1", "pm-2", pool=replace(POOL, data_percent=90.0))
    [condition] = found(full, settings=THIN, new_disk=True)
    assert "--new-disk: pm-2 has a thin pool vg/pool whose data are 90 % full" in condition.refusal


def test_the_losing_side_on_a_thin_volume_needs_room_in_the_pool_only() -> None:
    state = on_thin(apart(running()), "pm-1", "pm-2")
    [condition] = found(state, PARTED, keep="pm-1")
    assert any("lvcreate --yes --snapshot --setactivationskip n" in line for _, line in lines(condition))
    full = replace(POOL, data_percent=100.0)
    [condition] = found(on_thin(apart(running()), "pm-2", pool=full), PARTED, keep="pm-1")
    assert "pm-2: a snapshot of web needs" in condition.refusal
    assert "the thin pool vg/pool has 0 B free. Make room" in condition.refusal


def test_the_only_copy_is_attached_again() -> None:
    [condition] = found(with_resource(alone(active=True), "pm-1", disk="Diskless"))
    assert lines(condition) == [("pm-1", "drbdadm attach web")]


def test_what_differs_is_told_when_the_rest_is_well() -> None:
    """Off, it must be started first, and so defined on both nodes."""
    state = stopped()
    for node in ("pm-1", "pm-2"):
        state = with_resource(state, node, out_of_sync=4096)
    [condition] = found(state)
    assert "fab vm.start web" in condition.refusal
    [condition] = found(changed(state, "pm-2", domains={}))
    assert (condition.code, condition.refusal) == ("undefined", "")


def test_what_differs_is_copied_from_where_it_runs_and_the_link_comes_back_when_nothing_is_written() -> None:
    """DRBD copies marked blocks only when the primary has written meanwhile."""
    story = STORIES["vm.repair-differs"]()
    plan = story.plan
    assert [(step.node, step.note) for step in plan.steps] == [
        ("pm-2", "disconnect web"),
        ("pm-1", "wait until web writes without its other side"),
        ("pm-2", "connect web again"),
        ("pm-1", "connect web again"),
    ]
    idle = story.world.copy()
    idle._say = lambda name, command: f"{2:016X}:{0:016X}:{0:016X}:{0:016X}:1:1:1:0:0:0:0"  # type: ignore[method-assign]
    with pytest.raises(StepFailed, match="the guest writes nothing, so DRBD would copy nothing"):
        apply(plan, idle.carry_out)
    assert not idle.nodes["pm-2"].resources["web"].alone, "it is connected again"


@pytest.mark.parametrize(("version", "of"), [("8.4.11", "web"), ("9.2.4", "web:pm-2/0")])
def test_whether_a_side_has_gone_on_alone(version: str, of: str) -> None:
    """How it is judged: test_waits.py."""
    asked = drbd_generations.went_on("web", "pm-2", version)
    assert 'drbdadm get-gi "$1"' in str(asked)
    assert asked.argv[-1] == of


REPAIRS = [name for name in STORIES if name.startswith("vm.repair-")]


@pytest.mark.parametrize("name", REPAIRS)
def test_it_is_mended_once_and_then_there_is_nothing_to_mend(name: str) -> None:
    """At most a resync goes on, which is watched."""
    story = STORIES[name]()
    assert set(codes(done(story.world, story.plan).state())) <= {"syncing"}


# -- waiting --

WELL = running().nodes["pm-1"].resources["web"]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([WELL, WELL], "well"),
        ([WELL, replace(WELL, disk="Inconsistent")], "waits"),
        ([WELL, replace(WELL, connection="WFConnection")], "waits"),
        ([WELL, replace(WELL, connection="StandAlone")], "broken"),
        ([replace(WELL, disk="Diskless"), WELL], "broken"),
        ([replace(WELL, disk="Diskless"), replace(WELL, connection="Connecting")], "waits"),
        ([WELL, None], "broken"),
        ([replace(WELL, connection="StandAlone")], "well"),
        ([replace(WELL, disk="Diskless")], "broken"),
    ],
)
def test_outlook(resources: list[Resource | None], expected: str) -> None:
    assert repair.outlook(resources) == expected


def test_a_resync_that_goes_on_is_not_stalled() -> None:
    begun, later = replace(WELL, disk="Inconsistent", out_of_sync=9), replace(WELL, disk="Inconsistent", out_of_sync=5)
    lonely = replace(WELL, connection="WFConnection", out_of_sync=0)
    steps = [[lonely, lonely], [begun, begun], [later, begun], [later, later], [WELL, later], [WELL, WELL]]
    scores = [repair.score(each) for each in steps]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)
    assert repair.score([replace(lonely, out_of_sync=99)] * 2) == repair.score([lonely] * 2), "flapping is no progress"


# -- snapshots of those who lost --


def with_kept(attributes: str = "swi-a-s---", tags: tuple[str, ...] = (lvm.TAG,), name: str = KEPT) -> ClusterState:
    kept = Volume(name, "vg", 2 * GiB, tags, "web", attributes, 25.0)
    return changed(running(), "pm-2", volumes={**running().nodes["pm-2"].volumes, name: kept})


def test_they_are_listed_beside_the_backups() -> None:
    [kept] = split_brain_snapshot.snapshots(with_kept())
    [row] = cells([kept])
    assert (row["id"], row["kind"], row["node"]) == (KEPT, "lost", "pm-2")
    assert (row["stored"], row["time"]) == ("512 MiB of 2 GiB", "2026-01-02T03:04:05+00:00")
    assert f"fab vm.repair web --drop {KEPT}" in split_brain_snapshot.advice(kept, SETTINGS)
    assert KEPT in split_brain_snapshot.warning(with_kept(), "web")
    assert split_brain_snapshot.warning(running(), "web") == ""


def test_a_thin_one_is_listed_also_when_its_volume_is_gone() -> None:
    kept = Volume(KEPT, "vg", 2 * GiB, ("pmc",), "", "Vri-a-tz--", 25.0, pool="pool")
    [found] = split_brain_snapshot.snapshots(changed(running(), "pm-2", volumes={KEPT: kept}))
    [row] = cells([found])
    assert (row["kind"], row["disk"], row["stored"]) == ("lost", "2 GiB", "512 MiB in the thin pool")
    failed = replace(found, volume=replace(kept, attributes="Vri-a-tzF-"))
    assert cells([failed])[0]["kind"] == "BROKEN: its thin pool failed"


def test_one_that_overflowed_is_shown_as_such() -> None:
    [kept] = split_brain_snapshot.snapshots(with_kept("swi-I-s---"))
    assert cells([kept])[0]["kind"].startswith("BROKEN: it overflowed")
    assert documents([kept])[0]["broken"]
    assert "is read as" not in split_brain_snapshot.advice(kept, SETTINGS)


@pytest.mark.parametrize("state", [with_kept(tags=()), with_kept(name="web.backup"), running()])
def test_what_is_no_such_snapshot_is_not_listed(state: ClusterState) -> None:
    assert split_brain_snapshot.snapshots(state) == []
    with raises(Refused, "split_brain_snapshot.drop", "on no node that answers"):
        split_brain_snapshot.drop("web", KEPT, state, SETTINGS)


def test_one_that_a_resource_file_names_is_somebodys_disk() -> None:
    """Whatever it is called: it was made a VM's, and is neither listed nor dropped."""
    state = with_kept()
    file = ResourceFile("saved", 9, f"/dev/mapper/vg-{KEPT.replace('-', '--')}", ("pm-2",), ())
    state = changed(state, "pm-2", files={**state.nodes["pm-2"].files, "saved": file})
    assert split_brain_snapshot.snapshots(state) == []
    with raises(Refused, "split_brain_snapshot.drop", "on no node that answers"):
        split_brain_snapshot.drop("web", KEPT, state, SETTINGS)
    second = replace(file, disk="/dev/vg/x", more_disks=(("pm-2", f"/dev/vg/{KEPT}"),))
    assert split_brain_snapshot.snapshots(changed(state, "pm-2", files={"saved": second})) == []


def test_dropping_removes_that_snapshot_only() -> None:
    plan = split_brain_snapshot.drop("web", KEPT, with_kept(), SETTINGS)
    [step] = plan.steps
    assert (step.node, str(step.do).rpartition(" ")[2]) == ("pm-2", f"vg/{KEPT}")


@pytest.mark.parametrize("name", ["web", "", "web.backup", "db.lost-20260102T030405Z", f"{KEPT};id", "../web"])
def test_nothing_else_can_be_dropped(name: str) -> None:
    with raises(Refused, "split_brain_snapshot.drop", "no snapshot", "of web"):
        split_brain_snapshot.drop("web", name, with_kept(), SETTINGS)


# -- generation identifiers --


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (Generation(2, 0), Generation(2, 0), "equal"),
        (Generation(6, 2), Generation(2, 0), "ahead"),
        (Generation(8, 6, (2, 0)), Generation(2, 0), "ahead"),
        (Generation(8, 2), Generation(10, 2), "split"),
        (Generation(8, 6, (2, 0)), Generation(10, 12, (2, 0)), "split"),
        (Generation(8, 0), Generation(10, 0), "unrelated"),
        (Generation(8, 6), Generation(4, 0), "ahead"),
    ],
)
def test_generations(one: Generation, other: Generation, verdict: str) -> None:
    assert drbd_generations.compare(one, other) == verdict
    assert drbd_generations.compare(other, one) == {"ahead": "behind", "behind": "ahead"}.get(verdict, verdict)


def test_what_is_no_generation_is_an_error() -> None:
    for text in ("", "web not configured", "0000:0000"):
        with pytest.raises(ValueError, match="not generation"):
            drbd_generations.parse_generation(text)


def generation(what: str) -> Generation:
    return drbd_generations.parse_generation(data(f"drbdadm-9.22.0-module-8.4.11-get-gi-{what}.txt"))


def test_disconnected_by_hand_is_no_split_brain_whatever_the_primary_wrote() -> None:
    primary, secondary = generation("disconnected-primary"), generation("disconnected-secondary")
    assert drbd_generations.compare(primary, secondary) == "ahead"
    assert drbd_generations.compare(secondary, primary) == "behind"
    assert primary.bitmap == secondary.current, "the bit that says primary is no part of an identifier"


def test_a_split_brain_is_told_as_the_kernel_told_it() -> None:
    """uuid_compare()=100 by rule 90, it said."""
    assert drbd_generations.compare(generation("split-primary"), generation("split-secondary")) == "split"
    assert drbd_generations.compare(generation("split-primary"), generation("disconnected-secondary")) == "unrelated"


def test_what_the_kernels_log_tells_of_a_split_brain() -> None:
    primary = drbd_generations.parse_past(data("journalctl-252-module-8.4.11-split-primary.txt"))
    assert primary == Past(lost=1795424149.445427, alone=1795424149.445810, split=1795424173.075492)
    secondary = drbd_generations.parse_past(data("journalctl-252-module-8.4.11-split-secondary.txt"))
    assert secondary == Past(1795424150.641664, 1795424154.376252, 1795424157.387498, 1795424171.913507)


def test_the_log_is_read_with_the_nodes_clock() -> None:
    text = data("journalctl-252-module-8.4.11-split-primary.txt")
    assert drbd_generations.parse_past(f"{text}now 1795424200\n") == replace(
        drbd_generations.parse_past(text), now=1795424200.0
    )
    first = text.splitlines()[0]
    back = re.sub(r"^\d+", lambda time: str(int(time[0]) - 7200), first)
    assert drbd_generations.parse_past(f"{first}\n{back}\n").stepped
    assert not drbd_generations.parse_past(f"{back}\n{first}\n").stepped
    assert drbd_generations.parse_past("now x\nnow \nnow 99999999999999999999\n") == Past()


@pytest.mark.parametrize("time", ["99999999999999.5", "999999999999999999.5"])
def test_a_time_of_a_year_that_has_no_date_is_not_known(time: str) -> None:
    past = drbd_generations.parse_past(f"{time} pm-1 kernel: drbd web: conn( Connected -> BrokenPipe )\n")
    assert past.lost == float(time)
    assert split_brain.moment(past.lost) == ""
