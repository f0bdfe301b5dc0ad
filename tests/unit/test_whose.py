"""What has a VM's name and is not, or not only, that VM's. And what is a VM's still, though some of it was lost."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pmc import drbd, drbd_new_peer
from pmc.capacity import memory
from pmc.capacity.memory import Memory
from pmc.errors import Refused
from pmc.facts import drbd_files
from pmc.health import verify
from pmc.health.cluster_facts import Facts
from pmc.health.finding import Finding
from pmc.model import ClusterState, Domain, NodeState, Odd, Volume
from pmc.node_state import cluster_state
from pmc.plan import Plan
from pmc.plans import add, failover, peer, remove, remove_steps, repair, start, stop
from pmc.units import GiB
from pmc.view.rows import vm_rows
from tests.sim.fake import World, done
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, cells, changed, cluster, framed, home, node, running, stopped, with_resource
from tests.unit.stories import peered, with_two, with_web

NOT_PMCS = r"the domain web on pm-3 is not pmc's: .*Next: on pm-3: virsh domrename web NEW"


def beside(state: ClusterState, how: str, **more: Any) -> ClusterState:
    """pm-3 has a domain of that name, and nothing else."""
    return changed(state, "pm-3", domains={"web": Domain("web", how, GiB, 1)}, **more)


def drbd_text(name: str) -> str:
    hosts = [("pm-1", "10.0.0.1"), ("pm-2", "10.0.0.2")]
    return drbd.resource_text(name, len(name), 7797 + len(name), f"/dev/vg/{name}", hosts, "hunter2", "8.4.11")


def touched(plan: Plan) -> list[str]:
    return [step.note for step in plan.steps if step.node == "pm-3" and "virsh" in str(step.do)]


@pytest.mark.parametrize(
    "build",
    [
        lambda: remove.remove("web", beside(running(), "running"), SETTINGS),
        lambda: remove_steps.cleanup("web", beside(running(), "shut off"), SETTINGS),
        lambda: stop.stop("web", True, beside(running(), "running"), SETTINGS),
        lambda: start.start("web", "", beside(stopped(), "running"), SETTINGS),
        lambda: start.start("web", "", beside(stopped(), "shut off", saved=frozenset({"web"})), SETTINGS, discard=True),
    ],
    ids=["rm", "cleanup", "stop", "start", "discard-saved"],
)
def test_somebody_elses_domain_of_that_name_is_left_alone(build: Callable[[], Plan]) -> None:
    assert touched(build()) == []


@pytest.mark.parametrize(
    "build",
    [
        lambda state: remove.remove("web", state, SETTINGS),
        lambda state: stop.stop("web", True, state, SETTINGS),
        lambda state: start.start("web", "", state, SETTINGS),
    ],
    ids=["rm", "stop", "start"],
)
def test_where_there_is_no_other_it_is_refused_by_name(build: Callable[[ClusterState], Plan]) -> None:
    with pytest.raises(Refused, match=NOT_PMCS):
        build(beside(cluster(), "running"))


def test_no_second_copy_comes_to_where_it_is() -> None:
    with pytest.raises(Refused, match=NOT_PMCS):
        peer.choose("web", "pm-3", beside(running(), "shut off"), SETTINGS)


def test_no_new_vm_takes_its_name() -> None:
    with pytest.raises(Refused, match="something on pm-3 has this name, which is not pmc's"):
        add.check_cluster("web", beside(cluster(), "running"), SETTINGS)


def test_a_failover_is_not_held_up_by_it() -> None:
    state = with_resource(beside(running(), "running"), "pm-2", connection="Connecting", peer_disk="DUnknown")
    state = cluster_state({**state.nodes, "pm-1": NodeState("pm-1", down="no ssh", answers=False)})
    assert failover.failover("web", state, SETTINGS).steps


def test_both_are_listed() -> None:
    rows = cells(vm_rows(beside(running(), "running")))
    assert [(row["vm"], row["on"]) for row in rows] == [("web", "pm-1"), ("web", "pm-3")]


def test_the_memory_that_it_has_is_no_vms() -> None:
    state = beside(running(), "running")
    full = changed(state, "pm-3", memory_available=16 * GiB)
    assert Memory(full, memory.running(full)).used["pm-3"] == GiB


@pytest.mark.parametrize(
    "more",
    [
        {"files": home("pm-3", active=False, primary=False).files},
        {"resources": running().nodes["pm-2"].resources},
        {"volumes": {"web": Volume("web", "vg", GiB, ("pmc",))}},
        {"odd": (Odd("the file", "cannot be read", "web"),)},
        {"failures": {"drbd files": "no answer"}},
        {"failures": {"drbd status": "no answer"}},
        {"failures": {"volumes": "no answer"}},
    ],
    ids=str,
)
def test_what_has_more_than_a_domain_or_may_have_is_pmcs(more: dict[str, Any]) -> None:
    assert beside(running(), "running", **more).active_on("web") == ["pm-1", "pm-3"]


def test_a_home_that_lost_all_but_its_guest_is_seen_still() -> None:
    """Its file is gone; that of its other node names it."""
    lost = changed(running(), "pm-1", files={}, resources={}, volumes={})
    assert lost.active_on("web") == ["pm-1"]


def test_whose_it_is_shows_when_another_node_is_looked_at_again() -> None:
    file = home("pm-1", active=False, primary=False).files["web"]
    alone = node("pm-3", domains={"web": Domain("web", "running", GiB, 1)})
    there = node("pm-1", files={"web": replace(file, hosts=("pm-1", "pm-3"))})
    assert cluster_state({"pm-3": alone}).active_on("web") == []
    assert cluster_state({"pm-3": alone, "pm-1": there}).active_on("web") == ["pm-3"]


# -- a resource file that pmc did not write --


def shared(text: str = "") -> World:
    """web and web2 run on pm-1, and one file has both."""
    world = with_two()
    for name in ("pm-1", "pm-2"):
        files = world.nodes[name].files
        files["/etc/drbd.d/web.res"] += text or files.pop("/etc/drbd.d/web2.res")
    return world


CHANGES: list[Callable[[World], Plan]] = [
    lambda world: remove.remove("web", world.state(), SETTINGS),
    peered,
    lambda world: peered(world, "pm-2"),
]


@pytest.mark.parametrize("build", CHANGES, ids=["rm", "peer", "peer again"])
@pytest.mark.parametrize(("text", "rest"), [("", "resource web2"), ("common { }\n", "common"), ("skip { }\n", "skip")])
def test_a_file_that_holds_more_is_neither_removed_nor_replaced(
    build: Callable[[World], Plan], text: str, rest: str
) -> None:
    with pytest.raises(Refused, match=rf"web\.res on pm-\d holds more than that resource \({rest}\), which would go"):
        build(shared(text))


def test_nor_one_that_is_cut_off_behind_it() -> None:
    found = drbd_files.parse(framed(drbd_text("web") + 'resource "db" {'))
    assert found.resources["web"].beside == ("what cannot be read",)


def test_nor_one_of_another_name() -> None:
    world = with_two()
    for name in ("pm-1", "pm-2"):
        files = world.nodes[name].files
        files["/etc/drbd.d/shop.res"] = files.pop("/etc/drbd.d/web.res")
    for build in CHANGES[:2]:
        with raises(Refused, "whose.own_file", "on pm-1 is /etc/drbd.d/shop.res", "cat /etc/drbd.d/shop.res"):
            build(world)


def test_nor_another_resources_file_of_that_name() -> None:
    """web itself has none on pm-1: what is there of it is its volume."""
    world = shared()
    world.nodes["pm-1"].files["/etc/drbd.d/web.res"] = drbd_text("web2")
    with pytest.raises(Refused, match=r"web\.res on pm-1 holds more than that resource \(resource web2\)"):
        remove.remove("web", world.state(), SETTINGS)


def test_files_of_their_own_are_removed() -> None:
    world = with_two()
    gone = done(world, remove.remove("web", world.state(), SETTINGS)).state()
    assert (set(gone.nodes["pm-1"].files), gone.active_on("web2")) == ({"web2"}, ["pm-1"])


def test_the_file_is_looked_at_again_on_the_node(tmp_path: Path) -> None:
    path = tmp_path / "web.res"
    forget = [each.replace("/etc/drbd.d", str(tmp_path)) for each in drbd_new_peer.forget_files("web").argv]
    path.write_text(drbd_text("web") + drbd_text("web2"))
    refused = subprocess.run(forget, capture_output=True, text=True)
    assert (refused.returncode, path.exists()) == (1, True)
    assert "holds other resources too" in refused.stderr
    path.write_text(drbd_text("web"))
    for _ in range(2):  # also when it is gone already
        subprocess.run(forget, check=True)
        assert not path.exists()


# -- what was lost is no reason to remove the rest --


def without_files() -> World:
    world = with_web()
    for machine in world.nodes.values():
        machine.files.clear()
    return world


def findings(state: ClusterState, code: str) -> list[Finding]:
    return [each for each in verify.findings(Facts(state, {}, SETTINGS)) if each.code == code]


def test_a_vm_that_runs_without_a_file_gets_it_again() -> None:
    state = without_files().state()
    assert state.active_on("web") == ["pm-1"]
    with raises(Refused, "repair.homes", "pm-1", "drbdsetup show web"):
        repair.homes("web", state, SETTINGS)
    assert {each.node for each in findings(state, "DRBD_NO_FILE")} == {"pm-1", "pm-2"}


def test_so_does_one_that_is_not_up() -> None:
    world = without_files()
    for machine in world.nodes.values():
        machine.resources.clear()
        machine.domains.update(dict.fromkeys(machine.domains, "shut off"))
    with raises(Refused, "repair.homes", "pm-1", "virsh dumpxml web", "lvs -o +tags"):
        repair.homes("web", world.state(), SETTINGS)
    [found] = findings(world.state(), "DOMAIN_NO_DRBD")
    assert found.text.startswith("is a domain with a volume of pmc's, and without")
    assert found.remedy.endswith("Next: on pm-1: virsh dumpxml web; lvs -o +tags")


def test_one_without_file_and_domain_that_is_up_gets_its_file_again() -> None:
    world = without_files()
    for machine in world.nodes.values():
        machine.domains.clear()
    [found] = findings(world.state(), "VM_HALF_MADE")
    assert found.remedy.endswith("Only of a VM that is to go: fab vm.rm web. Next: on pm-1: drbdsetup show web")


def test_of_a_vm_without_domains_both_causes_are_named() -> None:
    world = with_web()
    for machine in world.nodes.values():
        machine.domains.clear()
    [found] = findings(world.state(), "VM_HALF_MADE")
    assert "or its definitions are lost" in found.text
    assert found.remedy.startswith("If they are lost, define it again by the XML of a backup")


def test_a_volume_alone_may_be_the_only_copy() -> None:
    world = World()
    world.nodes["pm-1"].volumes["web"] = Volume("web", "vg", GiB, ("pmc",), attributes="-wi-a-----")
    [found] = findings(world.state(), "LV_ORPHAN")
    assert "fab vm.add web --reuse --primary pm-1 makes a VM of it" in found.remedy
    assert found.remedy.endswith("Next: on pm-1: lvs -o +lv_time,lv_tags vg/web")
