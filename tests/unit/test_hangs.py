"""A node that hangs: its kernel answers ping and keeps DRBD's link, and nothing else of it works. vm.failover and
pm.evacuate --failover, from the command line to what they do to a world."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fabric import Config
from invoke.context import Context

from pmc.command import Query
from pmc.errors import Interrupted, PmcError, Refused
from pmc.model import ClusterState, NodeState
from pmc.plan import Plan
from pmc.tasks import ns
from tests.sim.fake import World, done
from tests.sim.machine import Machine
from tests.unit.refusals import raises
from tests.unit.stories import with_web

CONF = """\
[deadlines]
peer = 0.1
[nodes.pm-1]
replication = "10.0.0.1"
fence = "fence_test"
[nodes.pm-2]
replication = "10.0.0.2"
[nodes.pm-3]
replication = "10.0.0.3"
"""


class Hanging(World):
    """`speaks`: the manager gets as far as a login."""

    speaks = False

    def _node_state(self, name: str, machine: Machine) -> NodeState:
        if name == "pm-1" and name not in self.dead:
            return NodeState(name, down="does it hang?", answers=self.speaks)
        return super()._node_state(name, machine)


class Site:
    """Cluster's part in it. `power`: what the fence command does."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.world: Any = with_web()
        self.world.__class__ = Hanging
        self.world.log.clear()
        self.conf = folder / "pmc.conf"
        self.conf.write_text(f'audit_log = "{folder}/audit"\n{CONF}')
        self.power: Callable[[], object] = lambda: self.world.dead.add("pm-1")
        self.did: list[str] = []
        self.locks: list[list[str]] = []
        self.closed: list[str] = []
        patch.setattr("pmc.transport.fence_command.run", self.fence)
        patch.setattr("pmc.transport.node.Node.close", lambda node: self.closed.append(node.name))
        patch.setattr("pmc.cluster.Cluster.state", lambda *_, **__: self.state())
        for name in ("on_all", "lock", "apply"):
            ours = getattr(self, name)
            patch.setattr(f"pmc.cluster.Cluster.{name}", lambda *args, ours=ours, **how: ours(*args, **how))

    def state(self) -> ClusterState:
        seen: ClusterState = self.world.state()
        return seen

    def fence(self, spec: Any, seconds: float) -> None:
        self.did.append(f"fence {spec.name}")
        self.power()

    def on_all(self, cluster: Any, work: Callable[[Any], Any], names: Any = None) -> list[Any]:
        return [work(Asked(self.world, name)) for name in (cluster.nodes if names is None else names)]

    @contextmanager
    def lock(self, cluster: Any, what: str, *names: str, on: Any = None) -> Iterator[None]:
        self.locks.append(list(on))
        yield

    def apply(self, cluster: Any, plan: Plan, **how: Any) -> None:
        self.did.append(plan.title)
        self.world = done(self.world, plan)

    def run(self, task: str, **given: Any) -> None:
        ns[task](Context(Config()), conf=str(self.conf), **given)


class Asked:
    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name

    def ask_each(self, *queries: Query[Any]) -> list[Any]:
        return [query.parse(self.world._say(self.name, query.command)) for query in queries]

    def close(self) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Site:
    return Site(monkeypatch, tmp_path)


TASKS = [("vm.failover", {"name": "web"}), ("pm.evacuate", {"node": "pm-1", "failover": True})]


@pytest.mark.parametrize(("task", "given"), TASKS)
@pytest.mark.parametrize("speaks", [False, True])
def test_it_is_fenced_looked_at_again_and_then_its_vm_starts(
    site: Site, task: str, given: dict[str, Any], speaks: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    site.world.speaks = speaks
    site.run(task, **given, dead="pm-1")
    assert site.did == ["fence pm-1", "vm.failover web"]
    assert site.closed == ["pm-1", "pm-1", "pm-2", "pm-3"], "a connection from before would look alive"
    assert site.world.nodes["pm-2"].domains["web"] == "running"
    assert site.locks == [["pm-2", "pm-3"]], "a node that hangs would not give its lock"
    err = capsys.readouterr().err
    assert "pm-1 gives signs of life" in err
    assert "DRBD of web is Connected to it" in err
    assert ("it answers the manager: does it hang?" in err) == speaks
    assert "may be old" not in err, "what is connected has all"


@pytest.mark.parametrize(("task", "given"), TASKS)
def test_signs_that_do_not_go_start_nothing(site: Site, task: str, given: dict[str, Any]) -> None:
    """Another plug was pulled."""
    site.power = lambda: None
    with raises(PmcError, "fencing.silent", "pm-1") as caught:
        site.run(task, **given, dead="pm-1")
    assert caught.value.code == 1, "its power may be away: not nothing was touched"
    assert site.did == ["fence pm-1"]
    log = [json.loads(line) for line in (site.conf.parent / "audit").read_text().splitlines()]
    assert [line["plan"] for line in log] == [["pm-1: take its power away"]] * 2
    assert log[0]["result"] == "begun"
    assert "still gives signs of life" in log[1]["result"]


@pytest.mark.parametrize(("task", "given"), TASKS)
def test_what_is_seen_after_the_fence_counts(site: Site, task: str, given: dict[str, Any]) -> None:
    """The survivor's disk broke in between."""

    def power() -> None:
        site.world.dead.add("pm-1")
        site.world.nodes["pm-2"].resources["web"].disk = "Inconsistent"

    site.power = power
    if task == "vm.failover":
        with raises(PmcError, "failover.complete", "on pm-2 is Inconsistent") as caught:
            site.run(task, **given, dead="pm-1")
        assert caught.value.code == 1
    else:
        with raises(PmcError, "migrate.see_done", "1 of 1", "pm-1: web"):
            site.run(task, **given, dead="pm-1")
    assert site.did == ["fence pm-1"]


@pytest.mark.parametrize(("task", "given"), TASKS)
@pytest.mark.parametrize("fence", [True, False])
def test_without_the_word_or_without_the_command_it_is_left_alone(
    site: Site, task: str, given: dict[str, Any], fence: bool
) -> None:
    if not fence:
        site.conf.write_text(site.conf.read_text().replace('fence = "fence_test"\n', ""))
    with raises(Refused, "failover.alive", "lives: pm-2") as caught:
        site.run(task, **given, dead="" if fence else "pm-1")
    assert ("configure fence for it" in str(caught.value)) == (not fence)
    assert ("give --dead pm-1" in str(caught.value)) == fence
    assert site.did == []


@pytest.mark.parametrize("alone", [False, True])
def test_marks_are_blocks_that_differ_unless_the_survivor_wrote_alone(
    site: Site, alone: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a silent node. What the survivor wrote itself, when it was primary, only the dead one lacks."""
    site.world.dead.add("pm-1")
    kernel = site.world.nodes["pm-2"].resources["web"]
    kernel.marked, kernel.role = 4096, "Primary" if alone else "Secondary"
    site.run("vm.failover", name="web", dead="pm-1")
    assert ("4 KiB of its disk differ" in capsys.readouterr().err) == (not alone)


def test_what_was_off_there_is_left_off(site: Site) -> None:
    site.world.nodes["pm-1"].domains["web"] = "shut off"
    site.world.nodes["pm-1"].resources["web"].role = "Secondary"
    site.run("pm.evacuate", node="pm-1", failover=True, dead="pm-1")
    assert site.did == []


def test_ctrl_c_during_the_fence_command_starts_nothing(site: Site) -> None:
    """It is no fence command that failed, past which --dead goes."""

    def power() -> None:
        site.world.dead.add("pm-1")
        signal.raise_signal(signal.SIGINT)

    site.power = power
    site.world.dead.add("pm-1")
    with pytest.raises(Interrupted, match="interrupted; not begun: the start of web"):
        site.run("vm.failover", name="web", dead="pm-1")
    assert site.did == ["fence pm-1"]
    assert site.world.nodes["pm-2"].domains["web"] == "shut off"
