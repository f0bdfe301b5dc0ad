"""vm.prune and vm.rm --backups: the files that go, in which order, under the VM's lock, and what is said of it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from fabric import Config
from invoke.context import Context

from pmc import plan as planning
from pmc.backup import Backup, Stored
from pmc.errors import NodeDown, PmcError, Refused
from pmc.model import ClusterState
from pmc.plan import Plan
from pmc.plans import prune, remove
from pmc.remote.manifest import manifest_sum
from pmc.tasks import ns
from pmc.tasks import prune as tasks
from pmc.tasks import restore as restoring
from pmc.tasks import verify_backup as verifying
from tests.sim.fake import World
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, running
from tests.unit.stories import BASE, DELTA, NEWER, backed_up_web, gone_web, stored_in, with_web
from tests.unit.test_backup import DISK, fine, found, made, run

FOLDER = SETTINGS.backup_dir
KINDS = [BASE, replace(BASE, compression="none"), DELTA]


# -- files --


def lay(folder: Path, each: Backup) -> None:
    for name in each.files:
        (folder / name).write_text(name)


@pytest.mark.parametrize("each", KINDS)
def test_every_file_goes_and_no_other(tmp_path: Path, each: Backup) -> None:
    lay(tmp_path, each)
    lay(tmp_path, NEWER)
    (tmp_path / f"{each.id}.json.mine").write_text("somebody else's")
    going = prune.files(Stored("pm-1", each.id, 1, each))
    assert going[0] == f"{each.id}.json", "its manifest goes first"
    fine(prune.remove(str(tmp_path), going))
    assert {path.name for path in tmp_path.iterdir()} == {*NEWER.files, f"{each.id}.json.mine"}


@pytest.mark.parametrize("each", KINDS)
def test_of_one_whose_manifest_cannot_be_read_every_file_goes_too(each: Backup) -> None:
    for damaged in (Stored("pm-1", each.id, 1, None, "x"), Stored("pm-1", each.id, 1, each, "its file is missing")):
        assert set(prune.files(damaged)) >= set(each.files)
        assert prune.files(damaged)[0] == each.files[0] == f"{each.id}.json"


def test_what_is_removed_by_half_is_no_backup_and_is_found_as_unfinished(tmp_path: Path) -> None:
    """The first file that cannot be moved ends it: the manifest is out of the way by then."""
    lay(tmp_path, BASE)
    blocked = tmp_path / f".{BASE.file}.part"
    blocked.mkdir()
    (blocked / BASE.file).mkdir()
    got = run(prune.remove(str(tmp_path), BASE.files))
    assert got.returncode != 0
    assert found(tmp_path) == []
    left = {path.name for path in tmp_path.iterdir()}
    assert f".{BASE.id}.json.part" in left
    assert BASE.file in left
    subprocess.run(["rm", "-r", blocked], check=True)
    fine(prune.remove(str(tmp_path), BASE.files))
    assert list(tmp_path.iterdir()) == []


def test_again_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    fine(prune.remove(str(tmp_path), BASE.files))


# -- the tasks, in the fake world --


@dataclass
class Site:
    """A world, the locks held in it, and what the person saw."""

    world: World
    call: Callable[..., tuple[str, str]]
    locked: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    broken: list[Stored] = field(default_factory=list)  # backups beside those of the world
    proved: set[str] = field(default_factory=set)  # those that were read back
    looked: list[set[str]] = field(default_factory=list)  # the locks held when backups were listed

    def files(self) -> set[tuple[str, str]]:
        return {(node, path) for node, machine in self.world.nodes.items() for path in machine.files if FOLDER in path}

    def ids(self) -> set[str]:
        return {each.id for each in stored_in(self.world)}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    nodes = "".join(f'[nodes.pm-{n}]\nreplication = "10.0.0.{n}"\n' for n in (1, 2, 3))
    conf = tmp_path / "pmc.conf"
    conf.write_text(f'audit_log = ""\n{nodes}')

    def call(task: str, keep: str = "", **given: Any) -> tuple[str, str]:
        conf.write_text(f'audit_log = ""\n{keep}\n{nodes}')
        ns[task](Context(Config()), conf=str(conf), **given)
        said = capsys.readouterr()
        return said.out, said.err

    site = Site(backed_up_web(), call)

    @contextmanager
    def lock(self: Any, what: str, *names: str, on: Sequence[str] | None = None) -> Iterator[None]:
        site.locked += names
        site.held |= set(names)
        yield
        site.held -= set(names)

    def apply(self: Any, plan: Plan, **how: Any) -> None:
        assert site.held == {"web"}, "the VM is not locked"
        planning.apply(plan, site.world.carry_out)

    def stored(*args: Any) -> list[Stored]:
        site.looked.append(set(site.held))
        when = {id: "2026-01-31T03:00:00Z" for id in site.proved}
        return [replace(s, verified=when.get(s.id, "")) for s in stored_in(site.world)] + site.broken

    monkeypatch.setattr("pmc.cluster.Cluster.lock", lock)
    monkeypatch.setattr("pmc.cluster.Cluster.apply", apply)
    monkeypatch.setattr("pmc.cluster.Cluster.state", lambda *args, **kwargs: site.world.state())
    monkeypatch.setattr("pmc.tasks.lookups.stored", stored)
    monkeypatch.setattr("pmc.tasks.vm.confirm", lambda question, answer: site.asked.append(f"{question} [{answer}]"))
    return site


def test_pruning_removes_what_no_rule_keeps_with_all_its_files(site: Site) -> None:
    before = site.files()
    out, err = site.call("vm.prune", name="web", keep_last="1", together=True)
    assert site.files() == {("pm-2", f"{FOLDER}/{name}") for name in NEWER.files} < before
    assert "web: 3 to remove (3 GiB), 1 to keep" in err
    assert re.search(rf"{re.escape(DELTA.id)} .* remove +no rule keeps it", out)
    assert site.locked == ["web"]
    assert site.looked == [set(), {"web"}], "what was seen before the lock may not be so any more"


def test_each_nodes_own_count_for_themselves_unless_together(site: Site) -> None:
    site.call("vm.prune", name="web", keep_last="1")
    assert [(each.id, each.node) for each in stored_in(site.world)] == [(BASE.id, "pm-1"), (NEWER.id, "pm-2")]


def test_what_was_read_back_stays_beside_what_the_rules_keep(site: Site) -> None:
    site.proved.add(DELTA.id)
    for flags, said in (({"keep_verified": "0"}, "2 to remove"), ({}, "0 to remove (0 B), 4 to keep (1 of them only")):
        assert f"web: {said}" in site.call("vm.prune", name="web", keep_last="1", dry_run=True, **flags)[1]
    with pytest.raises(Refused, match=r"no rule says what to keep, and .* has none"):
        site.call("vm.prune", name="web", keep_verified="3")
    with raises(Refused, "prune.rules", "--keep-verified", "'x'"):
        site.call("vm.prune", name="web", keep_last="1", keep_verified="x")


def test_a_base_that_only_a_delta_needs_stays_on_every_node_and_that_is_said(site: Site) -> None:
    before = site.files()
    out, err = site.call("vm.prune", name="web", keep_last="2", together=True)
    assert site.files() == before
    assert site.locked == []
    assert out.count(f"needed by {DELTA.id}") == 2
    assert "web: 0 to remove (0 B), 4 to keep (2 of them only as the base of a delta)" in err


def test_a_dry_run_prints_the_table_and_the_plan(site: Site) -> None:
    before = site.world.copy()
    out, err = site.call("vm.prune", name="web", keep_last="1", together=True, dry_run=True)
    assert site.world == before
    assert site.locked == []
    assert re.search(rf"^# {re.escape(NEWER.id)} .* keep +last 1$", out, re.M)
    assert "# vm.prune web: 3 steps" in out
    assert "web: 3 to remove" in err


def test_the_rules_of_the_configuration_count_when_none_is_given(site: Site) -> None:
    assert "3 to remove" in site.call("vm.prune", keep="[keep]\nlast = 1", name="web", together=True, dry_run=True)[1]
    site.call("vm.prune", keep="[keep]\nlast = 1", all=True, keep_last="3")
    assert site.ids() == {BASE.id, DELTA.id, NEWER.id}


def test_what_becomes_of_each_comes_as_json(site: Site) -> None:
    rows = json.loads(site.call("vm.prune", name="web", keep_last="1", together=True, json=True)[0])
    assert [(row["id"], row["node"], row["action"]) for row in rows] == [
        (BASE.id, "pm-1", "remove"), (BASE.id, "pm-2", "remove"), (DELTA.id, "pm-2", "remove"),
        (NEWER.id, "pm-2", "keep"),
    ]  # fmt: skip
    assert {row["stored"] for row in rows} == {1 << 30}
    assert site.ids() == {NEWER.id}


def test_what_is_broken_is_only_removed_when_asked_for(site: Site) -> None:
    odd = Stored("pm-3", "web.20260104T000000Z.base", 1 << 30, None, "its manifest is damaged")
    for end in prune.ENDS:
        site.world.nodes["pm-3"].files[f"{FOLDER}/{odd.id}.{end}"] = "x"
    site.broken.append(odd)
    out, err = site.call("vm.prune", name="web", keep_last="3")
    assert re.search(rf"{re.escape(odd.id)} .* leave +its manifest is damaged", out)
    assert "4 to keep; 1 that cannot be used are left as they are" in err
    assert len([path for node, path in site.files() if node == "pm-3"]) == len(prune.ENDS)
    site.call("vm.prune", name="web", keep_last="3", broken=True)
    assert [path for node, path in site.files() if node == "pm-3"] == []
    assert site.ids() == {BASE.id, DELTA.id, NEWER.id}


def test_a_node_that_is_down_keeps_the_bases(site: Site) -> None:
    site.world.dead.add("pm-3")
    with raises(PmcError, "base.complain", "pm-3: no ssh"):
        site.call("vm.prune", name="web", keep_last="1")
    assert site.ids() == {BASE.id, NEWER.id}


def test_nothing_is_pruned_when_a_node_went_away_before_the_lock_was_had(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies on it may be the base of a delta elsewhere, or need one."""
    before, looks = site.files(), iter(range(9))

    def state(*args: Any, **kwargs: Any) -> ClusterState:
        if next(looks):
            site.world.dead.add("pm-2")
        return site.world.state()

    monkeypatch.setattr("pmc.cluster.Cluster.state", state)
    with raises(PmcError, "prune.pruned", "web: ", "pm-2: no ssh"):
        site.call("vm.prune", name="web", keep_last="1")
    assert site.files() == before


def test_the_backups_of_a_vm_that_is_gone_are_pruned(site: Site) -> None:
    site.world = gone_web()
    site.call("vm.prune", name="web", keep_last="1", together=True)
    assert site.ids() == {NEWER.id}


def test_no_backups(site: Site) -> None:
    site.world = with_web()
    assert "web has no backups" in site.call("vm.prune", name="web", keep_last="1")[1]
    with pytest.raises(Refused, match=r"vm\.prune mail: no such VM, and no backup"):
        site.call("vm.prune", name="mail", keep_last="1")


def test_the_copies_in_a_directory_of_the_manager_are_pruned_by_the_same_rules(site: Site, tmp_path: Path) -> None:
    folder, disk, before = tmp_path / "copies", tmp_path / "disk", site.world.copy()
    folder.mkdir()
    disk.write_bytes(DISK)
    made(disk, folder, base=made(disk, folder))
    there = set(folder.iterdir())
    _, err = site.call("vm.prune", name="web", from_=str(folder), keep_last="1")
    assert "web: 0 to remove (0 B), 2 to keep (1 of them only as the base of a delta)" in err
    later = BASE.id.replace("20260101", "20270101")
    for name in [path.name for path in there if path.name.startswith(BASE.id)]:
        shutil.copy(folder / name, folder / name.replace(BASE.id, later))
    table = {**json.loads((folder / f"{BASE.id}.json").read_text()), "id": later}
    (folder / f"{later}.json").write_text(json.dumps({**table, "manifest_sha256": manifest_sum(table)}))
    (folder / f".{BASE.id}.img.zst.part").write_text("left of a copy that was interrupted")
    there = set(folder.iterdir())
    out, err = site.call("vm.prune", all=True, from_=str(folder), keep_last="1", dry_run=True)
    assert (f"{folder} " in out, "web: 2 to remove" in err, site.locked) == (True, True, [])
    assert set(folder.iterdir()) == there
    rows = json.loads(site.call("vm.prune", name="web", from_=str(folder), keep_last="1", json=True)[0])
    assert [row["action"] for row in rows] == ["remove", "remove", "keep"]
    assert {path.name[: len(later)] for path in folder.iterdir()} == {later}
    assert (site.locked, site.held) == (["web"], set())
    assert site.world == before
    with raises(Refused, "prune.prune", "--broken: not with --from"):
        site.call("vm.prune", name="web", from_=str(folder), keep_last="1", broken=True)
    with raises(Refused, "prune.none", "vm.prune mail: --from", "no backup of it"):
        site.call("vm.prune", name="mail", from_=str(folder), keep_last="1")
    with raises(Refused, "lookups.kept", "--from", "/none'", "no directory"):
        site.call("vm.prune", name="web", from_=str(tmp_path / "none"), keep_last="1")


def test_a_vm_goes_and_its_backups_stay(site: Site) -> None:
    before = site.files()
    assert site.call("vm.rm", name="web")[1] == (
        "web is removed; what stays: 3 backups of web on pm-1 and pm-2 (4 GiB), see fab vm.backups web\n"
    )
    assert site.files() == before
    assert site.asked == ["removed for good: web and its disk (vg/web on pm-1 and pm-2); it RUNS on pm-1 [web]"]
    assert not any(node.knows("web") for node in site.world.state())
    assert site.looked == [{"web"}]


def test_a_vm_goes_with_its_backups(site: Site) -> None:
    said = site.call("vm.rm", name="web", backups=True)[1]
    words = "web and its disk (vg/web on pm-1 and pm-2) and 3 backups of web on pm-1 and pm-2 (4 GiB)"
    assert site.asked == [f"removed for good: {words}; it RUNS on pm-1 [web]"]
    assert said == f"removed: {words}\n"
    assert site.files() == set()
    assert not any(node.knows("web") for node in site.world.state())


def test_a_vm_without_backups(site: Site) -> None:
    site.world = with_web()
    assert site.call("vm.rm", name="web", yes=True)[1] == "web is removed\n"
    site.world = with_web()
    assert (
        site.call("vm.rm", name="web", backups=True, yes=True)[1]
        == "removed: web and its disk (vg/web on pm-1 and pm-2)\n"
    )
    assert site.asked == []


def test_the_backups_of_a_vm_that_is_gone_go_when_named(site: Site) -> None:
    site.world = gone_web()
    before = site.files()
    with raises(Refused, "remove.remove", "3 backups of web", "fab vm.backups web"):
        site.call("vm.rm", name="web")
    assert site.files() == before
    site.call("vm.rm", name="web", backups=True)
    assert site.asked == ["removed for good: 3 backups of web on pm-1 and pm-2 (4 GiB) [web]"]
    assert site.files() == set()
    with pytest.raises(Refused, match="web: no such VM; there are: none yet"):
        site.call("vm.rm", name="web", backups=True)


def test_backups_are_not_removed_while_a_node_that_may_have_some_is_away() -> None:
    world = gone_web()
    world.dead.add("pm-3")
    with pytest.raises(NodeDown, match="pm-3"):
        remove.remove("web", world.state(), SETTINGS, stored_in(world), backups=True)


def test_one_backup_in_words() -> None:
    one = Stored("pm-1", BASE.id, 1 << 20, BASE)
    assert prune.lying("web", [one]) == "1 backup of web on pm-1 (1 MiB)"
    assert prune.lying("web", [one, replace(one, node="pm-2")]) == "1 backup of web on pm-1 and pm-2 (2 MiB)"


def test_a_step_that_was_lost_is_looked_at_by_its_manifest() -> None:
    (step,) = prune.removed([Stored("pm-1", BASE.id, 1, BASE)], SETTINGS)
    assert step.check is not None
    assert step.check.argv[-1] == f"{FOLDER}/{BASE.files[0]}"


def test_a_directory_is_told_as_one_word_of_the_shell(tmp_path: Path) -> None:
    folder = tmp_path / "the disk; reboot"
    folder.mkdir()
    state = running()
    state = ClusterState({name: replace(node, backups=[]) for name, node in state.nodes.items()})
    context: Any = None
    for call in (
        lambda: tasks._none("web", None, str(folder)),
        lambda: restoring._found(state, "web", (BASE.id, str(folder)), SETTINGS),
        lambda: verifying._proved(context, context, BASE.id, [], str(folder), False),
    ):
        with pytest.raises(Refused) as caught:
            call()
        assert shlex.split(str(caught.value).partition("Next: ")[2])[-2:] == ["--from", str(folder)]
