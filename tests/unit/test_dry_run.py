"""Every task that changes something can be shown as commands, and nothing is touched by showing it; every listing comes
as JSON. The tasks are run whole, in the fake world; whatever would reach a node is an error."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fabric import Config
from invoke.context import Context

from pmc import lvm
from pmc.command import command
from pmc.errors import PmcError, Refused
from pmc.facts import domain_disks
from pmc.health.check import bad
from pmc.health.node_checks import Finding
from pmc.model import ClusterState, Volume
from pmc.plan import Step
from pmc.tasks import ns
from pmc.tasks.fencing import PeerEvidence
from pmc.units import GiB
from tests.sim.fake import World
from tests.unit.refusals import raises
from tests.unit.samples import XML
from tests.unit.stories import (
    ALIKE,
    DELTA,
    NEW,
    PARTED,
    STORED,
    backed_up_web,
    changed_web,
    half_restored_web,
    not_up,
    orphaned_web,
    parted_web,
    stopped_web,
    stored_in,
    with_stale_copy,
    with_web,
)

ROOT = Path(__file__).parents[2]
CONF = "".join(f'[nodes.pm-{n}]\nreplication = "10.0.0.{n}"\n' for n in (1, 2, 3))
TASKS = sorted(name for name in ns.task_names if "." in name)  # the others ask no node
NEW_VM = {"name": "web2", "primary": "pm-1", "secondary": "pm-2", "size": "1G", "memory": "1G"}
FLAGS = {name: set(inspect.signature(ns[name].body).parameters) for name in TASKS}
UNFIT = Finding("pm-1", "x", bad("x", "y", Step("pm-1", "fix it", command("fix", "it"))))

# What is shown of each, in a world where there is something to do, and a command that must be in it.
CHANGES: list[tuple[str, dict[str, Any], Callable[[], World], str]] = [
    ("pm.init", {"nodes": "pm-1", "fix": True}, World, "fix it"),
    ("pm.ready_drbd", {}, not_up, "drbdadm up web"),
    ("pm.evacuate", {"node": "pm-1"}, with_web, "virsh --connect qemu:///system migrate"),
    ("pm.evacuate", {"node": "pm-1", "failover": True}, orphaned_web, "drbdadm primary web"),
    ("vm.add", NEW_VM, World, "lvcreate"),
    ("vm.backup", {"name": "web"}, with_web, "pmc.remote.stream delta"),
    ("vm.backup", {"all": True}, with_web, "pmc.remote.stream delta"),
    ("vm.failover", {"name": "web"}, orphaned_web, "drbdadm primary web"),
    ("vm.mv", {"names": "web"}, with_web, "virsh --connect qemu:///system migrate"),
    ("vm.mv", {"all_from": "pm-1"}, with_web, "virsh --connect qemu:///system migrate"),
    ("vm.mv", {"names": "web", "cleanup": True}, changed_web(two_primaries=True), "--allow-two-primaries=no"),
    ("vm.peer", {"name": "web", "secondary": "pm-3"}, with_web, "drbdadm adjust"),
    ("vm.peer", {"name": "web", "cleanup": True}, with_stale_copy, "lvremove"),
    ("vm.prune", {"name": "web", "keep_last": "1"}, backed_up_web, DELTA.id),
    ("vm.prune", {"all": True, "keep_last": "1"}, backed_up_web, DELTA.id),
    ("vm.repair", {"name": "web", "keep": "pm-1"}, parted_web, "drbdadm connect --discard-my-data web"),
    ("vm.restore", {"name": "web", "backup": DELTA.id, "as_": "web2"}, with_web, "xdelta3 -D -d"),
    ("vm.restore", {"name": "web", "backup": DELTA.id, "in_place": True}, stopped_web, "--compare"),
    ("vm.restore", {"name": "web", "backup": DELTA.id, "to": "/tmp/never.img"}, with_web, "xdelta3 -D -d"),
    ("vm.restore", {"name": "web", "put_back": True}, half_restored_web, "web.before"),
    ("vm.verify_backup", {"name": "web", "backup": DELTA.id}, with_web, "xdelta3 -D -d"),
    ("vm.rm", {"name": "web"}, with_web, "# 8. pm-1: remove the volume vg/web"),
    ("vm.rm", {"name": "web", "backups": True}, backed_up_web, DELTA.id),
    ("vm.start", {"name": "web"}, stopped_web, "virsh --connect qemu:///system start --force-boot web"),
    ("vm.stop", {"name": "web"}, with_web, "virsh --connect qemu:///system shutdown web"),
]
READERS = {"pm.ls", "pm.verify", "vm.backups", "vm.ls"}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A task in a world: what it prints on stdout."""
    (tmp_path / "pmc.conf").write_text(f'audit_log = "{tmp_path}/audit"\n{CONF}')

    def touched(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"a node is touched: {args}")

    for target in (
        "transport.node.Node.run",
        "transport.node.Node.channel",
        "cluster.Cluster.apply",
        "cluster.Cluster.lock",
        "transport.fence_command.run",
    ):
        monkeypatch.setattr(f"pmc.{target}", touched)
    for name, answer in {
        "tasks.lookups.disk_of": (GiB, XML), "tasks.lookups.disk_at": (GiB, XML), "tasks.lookups.given": NEW,
        "tasks.lookups.address_of": "", "tasks.lookups.new_domain": XML, "tasks.lookups.size_for": GiB,
        "tasks.lookups.domain_of": (XML, True), "tasks.pm._examine": [UNFIT], "tasks.fencing.observe": PeerEvidence(),
    }.items():  # fmt: skip
        monkeypatch.setattr(f"pmc.{name}", lambda *args, answer=answer: answer)
    monkeypatch.setattr("pmc.tasks.lookups.agent", lambda cluster, name, source, wanted: source)

    def call(task: str, world: World, **given: Any) -> str:
        monkeypatch.setattr("pmc.cluster.Cluster.state", lambda *args, **kwargs: world.state())
        monkeypatch.setattr("pmc.tasks.lookups.stored", lambda *_, **how: stored_in(world) or list(STORED))
        monkeypatch.setattr("pmc.tasks.lookups.sides", lambda *args: PARTED if world == parted_web() else ALIKE)
        ns[task](Context(Config()), conf=str(tmp_path / "pmc.conf"), **given)
        assert not (tmp_path / "audit").exists(), "what changed nothing is in the audit log"
        return capsys.readouterr().out

    return call


def test_each_task_either_only_reads_or_can_be_shown() -> None:
    # pm.balance shows lines of vm.mv: test_balance.py.
    assert {name for name in TASKS if "dry_run" in FLAGS[name]} == {name for name, *_ in CHANGES} | {"pm.balance"}
    assert {name for name in TASKS if "dry_run" not in FLAGS[name]} == READERS
    assert {name for name in TASKS if "json" in FLAGS[name]} >= READERS


@pytest.mark.parametrize(("task", "given", "begin", "holds"), CHANGES)
@pytest.mark.parametrize("how", ["--dry-run", "fab --dry"])
def test_a_dry_run_shows_commands_and_touches_nothing(
    run: Callable[..., str], task: str, given: dict[str, Any], begin: Callable[[], World], holds: str, how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    world, before = begin(), begin()
    world.log.clear()
    if how == "fab --dry":
        monkeypatch.setattr(Context, "config", Config(overrides={"run": {"dry": True}}), raising=False)
    shown = run(task, world, **given, **({"dry_run": True} if how == "--dry-run" else {}))
    assert holds in shown
    assert re.search(r"^# (vm|pm)\.\S+ .*\d+ steps$", shown, re.M), shown
    assert world == before
    assert world.log == []
    # A shell understands all of it: what is no command is a comment.
    checked = subprocess.run(["bash", "-n"], input=shown, capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "hunter2" not in shown


def pasted(shown: str, folder: Path, **variables: str) -> tuple[int, list[str]]:
    """Its status, and the nodes that it came to."""
    (folder / "ssh").write_text('#!/bin/sh\necho "$2" >>"$0.log"\n')
    (folder / "ssh").chmod(0o755)
    path = {"PATH": f"{folder}:/usr/bin:/bin", **variables}
    status = subprocess.run(
        ["bash", "-e"], input=shown, env=path, capture_output=True, text=True, check=False
    ).returncode
    return status, log.read_text().split() if (log := folder / "ssh.log").exists() else []


@pytest.mark.parametrize(("task", "given"), [("pm.evacuate", {"node": "pm-1"}), ("vm.backup", {"all": True})])
def test_what_a_node_says_is_never_a_command(
    run: Callable[..., str], task: str, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A disk's path in a domain's XML, and what LVM's report has, may have more than one line."""
    evil = f"x\ntouch {tmp_path}/done; # "
    notes = f"./web.xml\n<domain type='kvm'><disk type='file'><source file='{evil.replace(chr(10), '&#10;')}'/>"
    running = domain_disks.parse_running(f"{notes}<target dev='vdb'/></disk>")
    state = with_web().state()
    kept = Volume("web.before", evil, GiB, (lvm.TAG,), "web", "swi-a-s---")
    node = state.nodes["pm-1"]
    node = replace(node, running=running, volumes={**node.volumes, "web.before": kept})
    monkeypatch.setattr(World, "state", lambda world: ClusterState({**state.nodes, "pm-1": node}))
    try:
        shown = run(task, World(), **given, dry_run=True)
    except PmcError:
        shown = capsys.readouterr().out
    assert f"touch {tmp_path}/done" in shown
    assert pasted(shown, tmp_path) == (0, [])
    assert not (tmp_path / "done").exists()


def test_the_sides_of_a_split_brain_are_no_commands(run: Callable[..., str], tmp_path: Path) -> None:
    shown = run("vm.repair", parted_web(), name="web", keep="pm-1", dry_run=True)
    assert pasted(shown, tmp_path)[0] == 0


def test_nobody_gets_past_the_proof_of_death_by_pasting(run: Callable[..., str], tmp_path: Path) -> None:
    for task, given in (("vm.failover", {"name": "web"}), ("pm.evacuate", {"node": "pm-1", "failover": True})):
        shown = run(task, orphaned_web(), **given, dry_run=True)
        assert "\n# first pm-1 must be proved dead: you are asked to type its name\n" in shown
        assert pasted(shown, tmp_path) == (1, [])
    status, nodes = pasted(shown, tmp_path, dead="pm-1")
    assert (status, {node.partition("@")[2] for node in nodes}) == (0, {"pm-2"})


def test_the_close_of_a_move_is_not_begun_when_the_move_fails(run: Callable[..., str]) -> None:
    """Both are in one subshell."""
    shown = run("vm.mv", with_web(), names="web", dry_run=True)
    assert shown.count("(set -e\n") == 1
    assert [line for line in shown.splitlines() if "steps" in line] == [
        "# vm.mv web: 5 steps", "# vm.mv web: close: 3 steps"
    ]  # fmt: skip


def test_what_is_copied_to_a_directory_afterwards_is_shown_too(run: Callable[..., str], tmp_path: Path) -> None:
    """With the base, which the directory lacks."""
    copies = tmp_path / "copies"
    copies.mkdir()
    for given in ({"name": "web"}, {"all": True}):
        shown = run("vm.backup", backed_up_web(), **given, to=str(copies), dry_run=True)
        moved = re.findall(rf"mv {copies}/\.(\S+)\.part {copies}/\1\)$", shown, re.M)
        assert [name.split(".")[2] for name in moved] == ["base", "base", "base", "delta", "delta"]
        assert [name.split(".", 3)[-1] for name in moved if name.endswith("json")] == ["json", "json"]
        assert list(copies.iterdir()) == []


def test_what_is_drawn_by_lot_is_said(run: Callable[..., str]) -> None:
    for task, given in (
        ("vm.add", NEW_VM), ("vm.restore", {"name": "web", "backup": DELTA.id, "as_": "web2"}),
    ):  # fmt: skip
        assert "\n# the MAC address, if no --address gives it, and the UUID are drawn" in run(
            task, with_web(), **given, dry_run=True
        )


@pytest.mark.parametrize(
    ("task", "given", "begin"),
    [
        ("vm.mv", {"names": "web", "cleanup": True}, changed_web(two_primaries=True)),
        ("pm.evacuate", {"node": "pm-1", "failover": True}, orphaned_web),
    ],
)
def test_what_moves_nothing_live_does_not_care_for_how_long_that_may_take(
    run: Callable[..., str], task: str, given: dict[str, Any], begin: Callable[[], World], tmp_path: Path
) -> None:
    conf = tmp_path / "pmc.conf"
    conf.write_text("migration_pause = 3600\n" + conf.read_text())
    with raises(Refused, "migrate.with_overrides", "migration_pause", "pmc.conf", "3600"):
        run("vm.mv", with_web(), names="web", dry_run=True)
    run(task, begin(), **given, dry_run=True)


def test_a_node_that_cannot_be_looked_at_is_named(run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is none of the VM's own."""
    said: list[str] = []
    world = with_web()
    for module in ("vm", "repair"):
        monkeypatch.setattr(f"pmc.tasks.{module}.note", said.append)
    for task in ("vm.rm", "vm.repair"):
        run(task, world, name="web", dry_run=True)
        assert said == []
    world.dead.add("pm-3")
    run("vm.rm", world, name="web", backups=True, dry_run=True)
    assert said.pop().startswith("pm-3 cannot be looked at; when it is back, run fab vm.rm web --backups again")
    assert run("vm.repair", world, name="web", dry_run=True) == "# web: nothing to repair\n"
    assert said == ["pm-3 cannot be asked, so what is there of web, if anything, is not known"]


@pytest.mark.parametrize("task", sorted(READERS - {"pm.verify"}))
def test_listings_come_as_json(run: Callable[..., str], task: str) -> None:
    rows = json.loads(run(task, with_web(), json=True))
    assert rows
    assert all(isinstance(row, dict) for row in rows)


def test_the_readme_has_each_task() -> None:
    table = (ROOT / "README.md").read_text().partition("## The tasks")[2].partition("\n## ")[0]
    told = set(re.findall(r"`((?:vm|pm)\.\w+)", "\n".join(r for r in table.splitlines() if r.startswith("| `"))))
    assert told == set(TASKS)
