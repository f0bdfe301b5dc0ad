"""A guest's memory that libvirt keeps on some node: nothing starts beside it, nothing changes the disk under it, in
silence."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from pmc.errors import PmcError, Refused
from pmc.facts import managed_save
from pmc.health import node_checks, node_saving
from pmc.health.check import About
from pmc.model import ClusterState
from pmc.plans import backup, evacuate, failover, migrate, repair, restore, restore_in_place, split_brain, start
from pmc.plans import remove as remove_plan
from pmc.plans.repair_context import RepairOptions
from pmc.tasks import ns
from pmc.units import GiB
from pmc.view.rows import vm_rows
from tests.sim.fake import World, done
from tests.unit.counted import counted
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, XML, cells, changed, cluster, documents, home, running, stopped
from tests.unit.stories import (
    ALIKE,
    DELTA,
    PARTED,
    STORED,
    STORIES,
    half_restored_web,
    orphaned_saved_web,
    parted_web,
    saved_web,
    stopped_web,
    taken,
    with_web,
)

REMOVE = "virsh managedsave-remove web"


def asleep(state: ClusterState, *nodes: str) -> ClusterState:
    for name in nodes:
        state = changed(state, name, saved=frozenset({"web"}))
    return state


# -- what a node says --


def test_the_folder_is_listed(tmp_path: Path) -> None:
    def asked(folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(managed_save.query(str(folder)).command.argv, capture_output=True, text=True, check=False)

    assert managed_save.parse(asked(tmp_path).stdout) == frozenset()
    for name in ("web.save", "a b.save", ".hidden.save", "web.save.new", "lost+found"):
        (tmp_path / name).touch()
    assert managed_save.parse(asked(tmp_path).stdout) == {"web", "a b", ".hidden"}
    gone = asked(tmp_path / "elsewhere")
    assert gone.returncode != 0, "what a node cannot tell is a failure"


@pytest.mark.parametrize("text", ["", "web.save\n", ".\n", "Segmentation fault\n"])
def test_what_is_no_list_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="not the list"):
        managed_save.parse(text)


def test_memory_of_a_domain_that_is_gone_is_removed_as_well(tmp_path: Path) -> None:
    """And of one that is there by virsh, which then knows that it is gone."""
    (tmp_path / "virsh").write_text('#!/bin/sh\necho "$@" >>"$LOG"\n[ "$3" != dominfo ] || [ "$DEFINED" ]\n')
    (tmp_path / "virsh").chmod(0o755)
    for defined, calls in (("", 1), ("yes", 2)):
        file, log = tmp_path / "web.save", tmp_path / f"log{defined}"
        file.touch()
        argv = [str(file) if word == managed_save.path("web") else word for word in managed_save.discard("web").argv]
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "LOG": str(log), "DEFINED": defined}
        subprocess.run(argv, env=environment, check=True)
        assert not file.exists()
        assert len(log.read_text().splitlines()) == calls


# -- what starts --


@pytest.mark.parametrize("at", ["pm-1", "pm-2", "pm-3"])
@pytest.mark.parametrize("on", ["", "pm-1", "pm-2"])
def test_nothing_starts_beside_saved_memory(at: str, on: str) -> None:
    """On whatever node it is, and wherever one would start it."""
    again = f"fab vm.start web{f' --on {on}' if on else ''} --discard-saved"
    with raises(Refused, "saved_memory.start", f"web: its memory is saved on {at}", again):
        start.start("web", on, asleep(stopped(), at), SETTINGS)


def test_it_starts_when_that_is_thrown_away() -> None:
    world = saved_web()
    plan = start.start("web", "", world.state(), SETTINGS, discard=True)
    after = done(world, plan)
    assert not any(machine.saved for machine in after.nodes.values())
    assert after.nodes["pm-1"].domains["web"] == "running"


def test_no_start_goes_on_with_memory_that_came_after_one_looked() -> None:
    world = stopped_web()
    plan = start.start("web", "", world.state(), SETTINGS)
    world.nodes["pm-1"].saved.add("web")
    assert not done(world, plan).nodes["pm-1"].saved
    lines = [str(step.do) for name in STORIES for step in STORIES[name]().plan.steps if " start " in str(step.do)]
    assert lines
    assert [line for line in lines if "--force-boot" not in line] == []


def test_a_failover_is_refused_until_that_is_thrown_away() -> None:
    state = orphaned_saved_web().state()
    with raises(Refused, "saved_memory.start", "saved on pm-2", "fab vm.failover web --discard-saved"):
        failover.failover("web", state, SETTINGS)
    wanted = evacuate.start_all("pm-1", (), state, SETTINGS)
    assert not wanted.leaving
    assert "its memory is saved on pm-2" in wanted.staying["web"]
    (each,) = evacuate.start_all("pm-1", (), state, SETTINGS, discard=True).leaving
    after = done(orphaned_saved_web(), each.plan)
    assert (after.nodes["pm-2"].domains["web"], after.nodes["pm-2"].saved) == ("running", set())


@pytest.mark.parametrize("discard", [False, True])
def test_the_tasks_have_the_flag(discard: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = counted(monkeypatch, saved_web())
    if discard:
        ns["vm.start"](Context(), name="web", discard_saved=True)
        assert not any(machine.saved for machine in cluster.world.nodes.values())
    else:
        with raises(Refused, "saved_memory.start", "--discard-saved"):
            ns["vm.start"](Context(), name="web")
        assert cluster.world.nodes["pm-1"].saved == {"web"}
    with raises(Refused, "failover.evacuate", "--discard-saved", "--failover"):
        ns["pm.evacuate"](Context(), node="pm-1", discard_saved=True)


# -- what moves, and what changes the disk --


@pytest.mark.parametrize("at", ["pm-1", "pm-2", "pm-3"])
def test_it_does_not_move_to_where_old_memory_of_it_is(at: str) -> None:
    remove = REMOVE if at != "pm-3" else "rm /var/lib/libvirt/qemu/save/web.save"  # no domain is defined there
    with raises(Refused, "saved_memory.beside", f"web: old memory of it is saved on {at}", f"on {at}: {remove}"):
        migrate.move("web", "", asleep(running(), at), SETTINGS)


CHANGES: list[Callable[[], object]] = [
    lambda: restore_in_place.in_place(restore.find(DELTA.id, STORED), GiB, XML, asleep(stopped(), "pm-2"), SETTINGS),
    lambda: restore_in_place.undo_in_place("web", GiB, asleep(half_restored_web().state(), "pm-2"), SETTINGS),
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_disk_is_not_changed_under_it(change: Callable[[], object]) -> None:
    with raises(Refused, "saved_memory.written", "saved on pm-2", f"on pm-2: {REMOVE}"):
        change()


def test_no_side_is_thrown_away_under_it() -> None:
    state = asleep(parted_web().state(), "pm-2")
    wishes = RepairOptions(datetime(2026, 1, 2, tzinfo=UTC), keep="pm-1")
    (split,) = [a for a in repair.conditions("web", state, PARTED, SETTINGS, wishes) if a.code == split_brain.CODE]
    assert "its memory is saved on pm-2 (virsh managedsave)" in split.refusal
    assert split.refusal.endswith(f"on pm-2: {REMOVE}")
    assert not split.steps


def test_no_new_disk_is_made_under_it() -> None:
    world = with_web()
    world.nodes["pm-2"].resources["web"].disk = "Diskless"
    wishes = RepairOptions(datetime(2026, 1, 2, tzinfo=UTC), new_disk=True)
    found = repair.conditions("web", asleep(world.state(), "pm-2"), ALIKE, SETTINGS, wishes)
    assert ["its memory is saved on pm-2" in each.refusal for each in found] == [True]
    assert not repair.conditions("web", world.state(), ALIKE, SETTINGS, wishes)[0].refusal


def test_a_backup_of_it_is_as_after_a_power_cut() -> None:
    """The guest has not come to its end: what it had not written yet is not there."""
    assert taken(stopped())[0].consistency == "off"
    assert taken(asleep(stopped(), "pm-2"))[0].consistency == "crash"
    assert taken(asleep(running(), "pm-2"))[0].consistency == "crash"
    assert backup.consistency(backup.Source("pm-2", "standby", "pm-1", agent=True), ("pm-2",)) == "frozen"


def test_removing_it_leaves_none() -> None:
    world = saved_web()
    after = done(world, remove_plan.remove("web", world.state(), SETTINGS))
    assert not any(machine.saved or machine.domains for machine in after.nodes.values())


def test_a_new_vm_of_the_name_boots(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what an old one left on a node it would be another machine's memory on its disk."""
    world = World()
    world.nodes["pm-1"].saved.add("new")
    cluster = counted(monkeypatch, world)
    ns["vm.add"](
        Context(), name="new", primary="pm-1", secondary="pm-2", size="1G", memory="1G", address="10.0.0.9"
    )  # fmt: skip
    assert not cluster.world.nodes["pm-1"].saved


# -- what is told --


def test_it_is_listed() -> None:
    (row,) = cells(vm_rows(asleep(stopped(), "pm-1", "pm-2")))
    assert row["state"] == "saved on pm-1,pm-2"
    (row,) = documents(vm_rows(asleep(stopped(), "pm-1")))
    assert (row["state"], row["saved"]) == ("saved", ["pm-1"])
    (row,) = cells(vm_rows(asleep(running(), "pm-2")))
    assert row["state"] == "running (old memory saved on pm-2)"
    (row,) = documents(vm_rows(asleep(running(), "pm-2")))
    assert (row["state"], row["saved"]) == ("running", ["pm-2"])
    assert [row["state"] for row in cells(vm_rows(stopped()))] == ["shut off"]


def test_one_that_is_off_with_saved_memory_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counted(monkeypatch, saved_web())
    ns["vm.stop"](Context(), name="web")
    said = capsys.readouterr().err
    assert "web was off already; its memory is saved on pm-1 and pm-3, and fab vm.start web refuses" in said


def test_a_node_that_cannot_tell_is_not_taken_for_one_without() -> None:
    state = stopped()
    for name in ("pm-1", "pm-2"):
        with raises(PmcError, "requirements.answering", "saved memory: no such folder"):
            start.start("web", "", changed(state, name, failures={"saved memory": "no such folder"}), SETTINGS)


def test_a_name_alone_makes_no_vm() -> None:
    state = asleep(cluster(), "pm-3")
    assert state.vm_names() == []
    assert [node.name for node in state.knowing("web")] == ["pm-3"]
    off = cluster(home("pm-1", active=False, primary=False), home("pm-2", active=False, primary=False))
    assert asleep(off, "pm-3").about("web") == ["pm-1", "pm-2", "pm-3"], "locked and looked at again there too"


# -- pm.init --

NODE = About("pm-1", SETTINGS)
SUSPENDS = "unit enabled\nfile {}\nON_SHUTDOWN {}\nend\n"
SCRIPT, CONF = "/usr/lib/libvirt/libvirt-guests.sh", "/etc/default/libvirt-guests"


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        (f"unit enabled\nfile {SCRIPT}\nON_SHUTDOWN shutdown\nfile {CONF}\nend\n", True),
        (f"unit enabled\nfile {SCRIPT}\nON_SHUTDOWN shutdown\nfile {CONF}\nON_SHUTDOWN suspend\nend\n", False),
        (f"unit enabled\nfile {SCRIPT}\nON_SHUTDOWN suspend\nfile {CONF}\nON_SHUTDOWN shutdown\nend\n", True),
        (f"unit enabled\nfile {CONF}\nON_SHUTDOWN shutdown\nON_SHUTDOWN suspend\nend\n", False),  # the last one counts
        (f"unit enabled\nfile {SCRIPT}\nfile {CONF}\nend\n", False),  # its own default, where nobody says otherwise
        (f"unit masked\nfile {CONF}\nON_SHUTDOWN suspend\nend\n", True),
        (f"unit disabled\nfile {CONF}\nON_SHUTDOWN suspend\nend\n", True),
        (f"unit disabled active\nfile {CONF}\nON_SHUTDOWN suspend\nend\n", False),  # it runs, and will stop
        ("unit not-found\nend\n", True),
        ("unit not-found\nfile /etc/libvirt/qemu.conf\nauto_shutdown_try_save none\nend\n", True),
        ("unit not-found\nfile /etc/libvirt/qemu.conf\nauto_shutdown_try_save persistent\nend\n", False),
    ],
)
def test_what_saves_memory_when_a_node_goes_down(text: str, ok: bool) -> None:
    found = node_saving.judge(node_saving.parse(text), NODE)
    assert found.ok is ok, found
    assert bool(found.advice) is not ok


def test_what_is_safe_to_mend_is_mended_and_undone(tmp_path: Path) -> None:
    conf = tmp_path / "libvirt-guests"
    conf.write_text("ON_SHUTDOWN=suspend")
    found = node_saving.judge(node_saving.parse(f"unit enabled\nfile {CONF}\nON_SHUTDOWN suspend\nend\n"), NODE)
    (step,) = found.steps
    assert not found.partly
    assert "Next: fab pm.init pm-1 --fix" in node_checks.line(node_checks.Finding("pm-1", "saved memory", found))

    def run(action: Any) -> int:
        argv = [word.replace(CONF, str(conf)) for word in action.argv]
        return subprocess.run(argv, check=False).returncode

    assert run(step.check) == 1
    assert run(step.do) == run(step.check) == 0
    assert conf.read_text().startswith("ON_SHUTDOWN=suspend\n# By pmc: ")
    assert run(step.undo) == 0
    assert conf.read_text() == "ON_SHUTDOWN=suspend"
    both = node_saving.Saving("enabled", {CONF: "suspend"}, {"/etc/libvirt/qemu.conf": "all"})
    assert node_saving.judge(both, NODE).partly
    assert not node_saving.judge(node_saving.Saving("enabled", {SCRIPT: "suspend"}), NODE).steps


def test_the_files_are_read(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    conf.write_text("#ON_SHUTDOWN=shutdown\nON_SHUTDOWN=shutdown\n  export ON_SHUTDOWN='suspend' # x\nON_SHUTDOWNS=1\n")
    (tmp_path / "systemctl").write_text('#!/bin/sh\n[ "$1" = is-enabled ] && echo enabled; [ "$1" = is-enabled ]\n')
    (tmp_path / "systemctl").chmod(0o755)
    argv = [
        {CONF: str(conf), managed_save.FOLDER: str(tmp_path)}.get(word, word)
        for word in node_saving.query(NODE).command.argv
    ]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    got = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    found = node_saving.parse(got.stdout.replace(str(conf), CONF))
    assert (found.unit, found.guests[CONF]) == ("enabled", "suspend")
    argv = [str(tmp_path / "none") if word == str(tmp_path) else word for word in argv]
    gone = subprocess.run(argv, env=environment, capture_output=True, check=False)
    assert gone.returncode != 0, "libvirt keeps it elsewhere, so pmc would not see it"
