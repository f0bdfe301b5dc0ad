"""pm.init --fix and pm.ready_drbd as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pmc import drbd, lvm
from pmc.actions import Relay
from pmc.cluster import Cluster
from pmc.command import command
from pmc.health.node_checks import Finding, bad, good
from pmc.model import ClusterState, NodeState, Resource, ResourceFile, Volume
from pmc.plan import Step
from pmc.plans import pm
from pmc.plans.node_keys import Keys, judged
from pmc.settings import NodeSettings
from pmc.tasks import pm as pm_tasks
from tests.unit.samples import CLOSE, SETTINGS, cells, changed, cluster, documents, node, running, with_resource

WELL = Resource("web", 1, "Secondary", "UpToDate", "Connected", "Established", "Secondary", "UpToDate", size=1 << 30)
LONELY = replace(WELL, connection="WFConnection", replication="Off", peer_disk="DUnknown")
FILE = ResourceFile("web", 1, "/dev/vg/web", ("pm-1", "pm-2"), (7800,))
ALONE = replace(FILE, hosts=("pm-1",))
ON, OFF = Volume("web", "vg", 1 << 30, attributes="-wi-a-----"), Volume("web", "vg", 1 << 30, attributes="-wi-------")


def home(name: str, resource: Resource | None = WELL, file: ResourceFile = FILE, **changes: Any) -> NodeState:
    resources = {"web": resource} if resource else {}
    return node(name, resources=resources, files={"web": file}, volumes={"web": ON}, **changes)


def steps(state: NodeState) -> list[list[tuple[str, str]]]:
    return [[(step.node, str(step.do)) for step in plan.steps] for plan in pm.ready(state, SETTINGS, cluster(state))]


def nodes_of(step: Step) -> list[str]:
    return [step.node, step.do.source] if isinstance(step.do, Relay) else [step.node]


def side(first: NodeState, second: NodeState | None = None) -> pm.Side:
    """Of pm-1."""
    [found] = pm.sides(ClusterState({n.name: n for n in (first, second or home("pm-2"))}), ["pm-1"])
    return found


# -- pm.init --fix --


def test_each_fix_is_done_once() -> None:
    one, other = Step("pm-1", "one", command("a")), Step("pm-2", "other", command("b"))
    found = [
        Finding("pm-1", "ssh", bad("", "", one, other)),
        Finding("pm-1", "hostname", good("")),
        Finding("pm-2", "ssh", bad("", "", other, one)),
    ]
    assert pm.init(found).steps == (one, other)


def test_nodes_are_mended_side_by_side() -> None:
    """Four new nodes let each other in: a node has 10 of the 28 steps, its own or to give its key away, never two at a
    time; and a key is made before it is given away."""
    names = [f"pm-{number}" for number in range(1, 5)]
    settings = replace(SETTINGS, nodes={name: NodeSettings(name, name, name) for name in names})
    tried = {name: (255, "No ED25519 host key is known for it") for name in names}
    keys = {name: Keys(host=(f"ssh-ed25519 {name}",), tried=tried) for name in names}
    found = [judged(one, other, keys, settings) for one in names for other in names if one != other]
    groups: list[list[Step]] = []
    for step in pm.init(found).steps:
        groups += [] if step.beside else [[]]
        groups[-1].append(step)
    for group in groups:
        busy = [node for step in group for node in nodes_of(step)]
        assert sorted(busy) == sorted(set(busy))
    done = [step for group in groups for step in group]
    assert {replace(step, beside=False) for step in done} == {step for each in found for step in each.verdict.steps}
    makes = {
        step.node: number for number, group in enumerate(groups) for step in group if "make an ssh key" in step.note
    }
    gives = [
        (number, step.do.source) for number, group in enumerate(groups) for step in group if isinstance(step.do, Relay)
    ]
    assert all(makes[source] < number for number, source in gives)
    assert (len(done), len(gives), len(groups)) == (28, 12, 16)


def test_nothing_to_fix_is_a_plan_without_steps() -> None:
    assert pm.init([Finding("pm-1", "hostname", good("")), Finding("pm-1", "bridge", bad("none", ""))]).steps == ()


# -- pm.ready_drbd: what it does --


def test_what_is_up_is_left_alone() -> None:
    assert steps(home("pm-1")) == []
    assert steps(home("pm-1", LONELY)) == []


def test_after_a_boot_module_and_volumes_come_first() -> None:
    state = replace(home("pm-1", None, drbd=""), volumes={"web": OFF})
    assert steps(state) == [
        [("pm-1", "modprobe drbd"), ("pm-1", "vgchange --activate y vg")],
        [("pm-1", "drbdadm up web")],
    ]


def test_each_resource_has_its_own_plan_and_no_undo() -> None:
    files = {name: replace(FILE, name=name) for name in ("b", "a")}
    plans = pm.ready(node("pm-1", files=files), SETTINGS, cluster(node("pm-1", files=files)))
    assert [str(plan.steps[0].do) for plan in plans] == ["drbdadm up a", "drbdadm up b"]
    assert all(step.undo is None for plan in plans for step in plan.steps)


@pytest.mark.parametrize(
    ("now", "done"),
    [
        (Resource("web"), drbd.up("web")),
        (replace(LONELY, disk="Diskless", connection="StandAlone"), drbd.up("web")),
        (replace(WELL, disk="Diskless"), None),
        (replace(LONELY, connection="StandAlone"), None),
    ],
    ids=["half up", "its volume came late", "detached", "split brain"],
)
def test_half_up(now: Resource, done: object) -> None:
    assert steps(home("pm-1", now)) == ([[("pm-1", str(done))]] if done else [])


def test_a_resource_of_one_node_does_without_a_peer() -> None:
    assert steps(home("pm-1", None, ALONE)) == [[("pm-1", str(drbd.up("web", alone=True)))]]
    detached = Resource("web", 1, "Secondary", "Diskless")
    assert steps(home("pm-1", detached, ALONE)) == [[("pm-1", "drbdadm attach web")]]


def test_a_file_for_other_hosts_and_a_volume_of_no_resource_are_not_touched() -> None:
    assert steps(node("pm-3", files={"web": FILE})) == []
    assert steps(replace(home("pm-1"), volumes={"web": ON, "other": replace(OFF, name="other")})) == []


@pytest.mark.parametrize("question", ["drbd status", "drbd files", "drbd version", "volumes"])
def test_what_is_not_known_is_not_acted_on(question: str) -> None:
    state = home("pm-1", None, failures={question: "no such tool"})
    assert steps(state) == []
    assert side(state) == pm.Side("pm-1", "", None, note=f"{question}: no such tool")


def test_libvirt_may_still_be_starting() -> None:
    assert steps(home("pm-1", None, failures={"libvirt": "no socket"})) == [[("pm-1", "drbdadm up web")]]


def test_a_node_that_is_down_gets_no_steps() -> None:
    assert steps(NodeState("pm-1", down="no ssh")) == []


def test_volumes_of_another_group_are_not_ours() -> None:
    files = {"web": replace(FILE, disk=lvm.path("other", "web"))}
    assert steps(replace(home("pm-1"), files=files, volumes={"web": OFF})) == []


# -- pm.ready_drbd: what it says --


@pytest.mark.parametrize(
    ("first", "second", "note", "waiting"),
    [
        (home("pm-1"), None, "", False),
        (home("pm-1", replace(LONELY, disk="UpToDate"), ALONE), None, "", False),
        (home("pm-1", replace(LONELY, disk="Inconsistent"), ALONE), None, "its own disk is not usable", False),
        (home("pm-1", None), None, "not up", False),
        # The kernel has its name and no more: drbdadm up was interrupted.
        (home("pm-1", Resource("web")), None, "not up", False),
        (home("pm-1", LONELY), home("pm-2", Resource("web")), "not up on pm-2: fab pm.ready_drbd pm-2", False),
        (home("pm-1", LONELY), None, "waits for pm-2", True),
        (home("pm-1", LONELY), NodeState("pm-2", down="no ssh"), "pm-2 is down", False),
        (home("pm-1", LONELY), home("pm-2", None), "not up on pm-2: fab pm.ready_drbd pm-2", False),
        (home("pm-1", LONELY), home("pm-2", replace(LONELY, connection="StandAlone")), "StandAlone on pm-2", False),
        (
            home("pm-1", replace(WELL, disk="Diskless")),
            None,
            "its own disk is not usable; journalctl -k, then fab vm.repair web",
            False,
        ),
        (home("pm-1", replace(WELL, disk="Inconsistent", out_of_sync=4096)), None, "syncing", True),
        (home("pm-1", replace(WELL, peer_disk="Inconsistent")), None, "waits for pm-2", True),
    ],
)
def test_notes(first: NodeState, second: NodeState | None, note: str, waiting: bool) -> None:
    found = side(first, second)
    assert (found.note, found.waiting) == (note, waiting)


def test_a_split_brain_is_named_and_not_waited_for() -> None:
    found = side(home("pm-1", replace(LONELY, connection="StandAlone")))
    assert "split brain" in found.note
    assert not found.waiting


def test_connected_although_ssh_to_the_peer_fails_is_well() -> None:
    assert side(home("pm-1"), NodeState("pm-2", down="no ssh")).note == ""


def test_a_peer_outside_the_configuration_is_waited_for() -> None:
    assert side(home("pm-1", LONELY, replace(FILE, hosts=("pm-1", "old")))).waiting


def test_a_resource_without_a_file_is_shown() -> None:
    assert side(node("pm-1", resources={"web": LONELY})).waiting


# -- pm.ready_drbd: how long it waits --

SYNCS = replace(WELL, disk="Inconsistent", replication="SyncTarget")


def looks(*copied: Resource) -> list[pm.Side]:
    """The VMs web, web2, ... on pm-1, as they are seen at one moment."""
    names = [f"web{number or ''}" for number in range(len(copied))]
    files = {name: replace(FILE, name=name) for name in names}
    up = {name: replace(now, name=name) for name, now in zip(names, copied, strict=True)}
    state = {name: node(name, resources=up, files=files) for name in ("pm-1", "pm-2")}
    return pm.sides(ClusterState(state), ["pm-1"])


@pytest.mark.parametrize(
    ("seen", "better"),
    [
        ([[LONELY], [LONELY]], [False, False]),
        ([[LONELY], [replace(SYNCS, out_of_sync=9)], [replace(SYNCS, out_of_sync=8)]], [False, True, True]),
        # A guest writes as fast as DRBD copies.
        ([[replace(SYNCS, out_of_sync=size)] for size in (9, 10, 9, 10, 9)], [False] * 5),
        # A link that comes and goes, and what was written meanwhile.
        ([[LONELY], [replace(SYNCS, out_of_sync=9)], [LONELY], [replace(SYNCS, out_of_sync=9)], [LONELY]],
         [False, True, False, False, False]),
        # One that begins to sync with much does not hide the other one's progress, nor is it progress.
        ([[replace(SYNCS, out_of_sync=9), WELL], [replace(SYNCS, out_of_sync=9), replace(SYNCS, out_of_sync=99)],
          [replace(SYNCS, out_of_sync=8), replace(SYNCS, out_of_sync=99)], [WELL, replace(SYNCS, out_of_sync=98)]],
         [False, False, True, True]),
    ],
)  # fmt: skip
def test_what_is_better_than_all_that_was_seen(seen: list[list[Resource]], better: list[bool]) -> None:
    best, told = pm.Best(), []
    for each in seen:
        best, got = best.after(looks(*each))
        told.append(got)
    assert told == better


@pytest.mark.parametrize(
    ("copied", "seconds", "said"),
    [
        # An hour's resync is waited for.
        (lambda now: replace(SYNCS, out_of_sync=3600 - int(now)) if now < 3600 else WELL, 3600, ""),
        # One that stands still after ten minutes is not.
        (lambda now: replace(SYNCS, out_of_sync=4096 - min(int(now), 600)), 660,
         "pm-1: web: syncing (no progress for 60 s; does the link between the nodes work?)"),
        (lambda now: LONELY, 60, "pm-1: web: waits for pm-2 (after 60 s; does the link between the nodes work?)"),
    ],
)  # fmt: skip
def test_a_resync_is_waited_for_as_long_as_it_gets_on(
    monkeypatch: pytest.MonkeyPatch, copied: Callable[[float], Resource], seconds: float, said: str
) -> None:
    clock = [0.0]

    def sleep(time: float) -> None:
        clock[0] += time

    def looked(cluster: Cluster, before: ClusterState, names: Sequence[str]) -> ClusterState:
        now = copied(clock[0])
        return ClusterState({"pm-1": home("pm-1", now), "pm-2": home("pm-2", now)})

    monkeypatch.setattr(pm_tasks, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    monkeypatch.setattr(pm_tasks, "_looked", looked)
    sides = pm_tasks._settled(Cluster(SETTINGS), cluster(), ["pm-1"])
    told = [f"{side.node}: {side.resource}: {side.note}{pm.late(side, 60)}" for side in sides if side.note]
    assert told == ([said] if said else [])
    assert seconds <= clock[0] <= seconds + 2


def test_rows() -> None:
    state = ClusterState({
        "pm-1": home("pm-1", replace(WELL, peer_disk="Inconsistent", out_of_sync=1 << 29)),
        "pm-2": NodeState("pm-2", down="no ssh within 10 s; is it up?"),
    })  # fmt: skip
    sides = pm.sides(state, ["pm-1", "pm-2"])
    assert cells(sides, pm.READY_COLUMNS) == [
        {"node": "pm-1", "resource": "web", "note": "syncing", "role": "Secondary", "connection": "Connected",
         "disks": "UpToDate/Inconsistent", "in sync": "50.0 %"},
        {"node": "pm-2", "resource": "", "note": "down: no ssh within 10 s"},
    ]  # fmt: skip
    first, second = documents(sides)
    assert (first["sync_percent"], first["out_of_sync"], first["peer_disk"]) == (50.0, 1 << 29, "Inconsistent")
    assert second["note"] == "down: no ssh within 10 s; is it up?"


def test_a_resource_of_one_node_has_nothing_to_be_in_sync_with() -> None:
    [row] = cells([side(home("pm-1", replace(LONELY, out_of_sync=1 << 30), ALONE))])
    assert (row["connection"], row["disks"], row["in sync"]) == ("no peer", "UpToDate", "")


def test_what_a_migration_left_open_is_closed_before_the_other_side_comes_up() -> None:
    state = with_resource(running(), "pm-1", two_primaries=True, connection="Connecting")
    state = changed(state, "pm-2", resources={})
    lines = [str(step.do) for each in pm.ready_all(["pm-2"], state, SETTINGS).plans for step in each.steps]
    assert lines[0] == CLOSE
    assert lines[-1] == "drbdadm up web"
    assert pm.ready_all(["pm-2"], state, SETTINGS, only=["mail"]).plans == (), "web is not locked"
    # A migration that goes on is nobody else's business.
    going_on = with_resource(running(), "pm-1", two_primaries=True)
    lines = [str(step.do) for each in pm.ready_all(["pm-1", "pm-2"], going_on, SETTINGS).plans for step in each.steps]
    assert not any("drbdadm" in line for line in lines)
