"""pm.balance as it is typed: what it shows, that it asks, that it goes on past a VM that fails. No node is asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from pmc.capacity.memory import Guest
from pmc.cluster import Cluster
from pmc.errors import Interrupted, PmcError, Refused, StepFailed
from pmc.model import ClusterState, NodeState, Resource
from pmc.tasks import balance as task
from pmc.tasks import migrate
from pmc.tasks.migrate import Moved
from pmc.units import GiB
from tests.unit.fleets import build, moved
from tests.unit.refusals import raises

NODES = {"pm-1": 64 * GiB, "pm-2": 64 * GiB}
CROWDED = build(NODES, [Guest(f"vm-{number}", 8 * GiB, "pm-1", "pm-2") for number in range(1, 7)])


@dataclass
class Lab:
    """In place of the nodes: `state` is what a look at them tells; a VM in `failing` does not move."""

    conf: str
    state: ClusterState = CROWDED
    failing: dict[str, PmcError] = field(default_factory=dict)
    moves: list[tuple[str, str]] = field(default_factory=list)
    stopping: str = ""  # Ctrl-C while this one moves
    together: threading.Barrier | None = None  # all of its parties move at the same time, or it breaks
    prefixes: set[str] = field(default_factory=set)
    rate: set[tuple[str, int]] = field(default_factory=set)
    _one: threading.Lock = field(default_factory=threading.Lock)

    def move(self, cluster: Cluster, name: str, first: ClusterState, to: str = "", prefix: str = "") -> Moved:
        self.moves.append((name, to))
        self.prefixes.add(prefix)
        self.rate.add((cluster.settings.migration_bandwidth, cluster.settings.migration_pause))
        if self.together:
            self.together.wait(5)
        if name in self.failing:
            raise self.failing[name]
        if name == self.stopping:
            cluster.stop.set()
        with self._one:
            memory = self.state.nodes[to].domains[name].memory
            (source,) = self.state.active_on(name)
            self.state = moved(self.state, [Guest(name, memory, source, to)])
        return Moved(name, to, 0.17)

    def balance(self, **flags: Any) -> None:
        task.balance(Context(), conf=self.conf, **flags)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lab:
    conf = tmp_path / "pmc.conf"
    conf.write_text(
        f'audit_log = "{tmp_path}/audit"\n'
        + "".join(f'[nodes.pm-{number}]\nreplication = "10.0.0.{number}"\n' for number in (1, 2, 3, 4)),
    )
    lab = Lab(str(conf))
    monkeypatch.setattr(Cluster, "state", lambda self: lab.state)
    monkeypatch.setattr(migrate, "moved", lab.move)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    return lab


Said = pytest.CaptureFixture[str]


def test_it_shows_moves_and_is_then_done(lab: Lab, capsys: Said) -> None:
    lab.balance(yes=True)
    assert lab.moves == [("vm-1", "pm-2"), ("vm-2", "pm-2"), ("vm-3", "pm-2")]
    out, err = capsys.readouterr()
    assert out.splitlines()[:4] == [
        "node    memory    running    then    used    used then    lacks    lacks then",
        "------  --------  ---------  ------  ------  -----------  -------  ------------",
        "pm-1    64 GiB    6          3       77%     39%",
        "pm-2    64 GiB    0          3       2%      39%",
    ]
    assert "vm-1  pm-1    pm-2  8 GiB\n" in out
    assert "now:  spread 37.5 %, N+1 holds\nthen: spread 0.0 %, N+1 holds\n" in out
    assert "vm-3  pm-1    pm-2  moved     0.17 s\n" in out
    assert "move 2 of 3: vm-2 from pm-1 to pm-2\n" in err

    lab.moves.clear()
    lab.balance(yes=True)
    out, err = capsys.readouterr()
    assert (lab.moves, out) == ([], "")
    assert err == "nothing to move: no VM's other node is enough less full (spread 0.0 %, N+1 holds)\n"


def test_a_dry_run_prints_what_one_could_type(lab: Lab, capsys: Said) -> None:
    lab.balance(dry_run=True)
    assert lab.moves == []
    assert capsys.readouterr().out.splitlines()[-3:] == [f"fab vm.mv vm-{number} --to pm-2" for number in (1, 2, 3)]


def test_it_asks(lab: Lab, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match=r"3 moves, one after the other: this is no terminal.*; give --yes"):
        lab.balance()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: "no\n", raising=False)
    with pytest.raises(Refused, match="not confirmed; nothing was touched"):
        lab.balance()
    assert lab.moves == []
    assert "vm-3  pm-1    pm-2  8 GiB" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin.readline", lambda: "yes\n", raising=False)
    lab.balance()
    assert len(lab.moves) == 3


def test_it_goes_on_past_a_vm_that_fails_and_reports(lab: Lab, capsys: Said) -> None:
    lab.failing["vm-2"] = StepFailed("virsh migrate failed\n  vm-2 runs on pm-1, closed")
    with raises(PmcError, "migrate.see_done", "1 of 3", "vm-2") as caught:
        lab.balance(yes=True)
    assert caught.value.code == 1
    assert [name for name, _ in lab.moves] == ["vm-1", "vm-2", "vm-3"]
    out, err = capsys.readouterr()
    assert "vm-2  pm-1    pm-2  virsh migrate failed\n" in out
    assert "vm-2 runs on pm-1, closed" in err


FOUR = {f"pm-{number}": 64 * GiB for number in (1, 2, 3, 4)}
PAIRS = build(FOUR, [Guest(f"{name}-{n}", 8 * GiB, on, to) for name, on, to in (("vm", "pm-1", "pm-2"),
                     ("db", "pm-3", "pm-4")) for n in range(1, 5)])  # fmt: skip


def test_only_moves_that_share_no_node_run_at_the_same_time(lab: Lab, capsys: Said) -> None:
    lab.state, lab.together = PAIRS, threading.Barrier(2)
    lab.balance(yes=True)
    assert {frozenset(lab.moves[:2]), frozenset(lab.moves[2:])} == {
        frozenset({("db-1", "pm-4"), ("vm-1", "pm-2")}), frozenset({("db-2", "pm-4"), ("vm-2", "pm-2")}),
    }  # fmt: skip
    assert lab.prefixes == {"db-1", "db-2", "vm-1", "vm-2"}
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines() if " moved " in line] == ["db-1", "vm-1", "db-2", "vm-2"]
    assert "move 4 of 4: vm-2 from pm-1 to pm-2\n" in err


def test_parallel_one_is_one_after_the_other(lab: Lab) -> None:
    lab.state = PAIRS
    lab.balance(yes=True, parallel="1")
    assert [name for name, _ in lab.moves] == ["db-1", "vm-1", "db-2", "vm-2"]
    assert lab.prefixes == {""}
    lab.state = PAIRS
    for parallel, words in (("1", "4 moves, one after the other"), ("7", "4 moves, up to 2 at the same time")):
        with pytest.raises(Refused, match=words):
            lab.balance(parallel=parallel)


def test_bandwidth_and_pause_reach_the_migrations(lab: Lab) -> None:
    lab.balance(yes=True, bandwidth="50M", pause_after="9")
    assert lab.rate == {("50M", 9)}


def test_a_refusal_on_the_way_is_no_status_2_for_something_was_touched(lab: Lab) -> None:
    lab.failing["vm-3"] = Refused("vm-3: needs 8 GiB of memory, pm-2 has 4 GiB free")
    with raises(PmcError, "migrate.see_done", "vm-3") as caught:
        lab.balance(yes=True)
    assert caught.value.code == 1


def test_ctrl_c_ends_it_after_the_move_that_is_under_way(lab: Lab, capsys: Said) -> None:
    lab.stopping = "vm-1"
    with pytest.raises((Interrupted, PmcError)):
        lab.balance(yes=True)
    assert [name for name, _ in lab.moves] == ["vm-1"]
    assert capsys.readouterr().out.count("not begun: interrupted") == 2


def documents(lab: Lab, capsys: Said) -> Callable[..., Any]:
    def told(**flags: bool) -> Any:
        lab.balance(json=True, **flags)
        return json.loads(capsys.readouterr().out)

    return told


def test_json(lab: Lab, capsys: Said) -> None:
    told = documents(lab, capsys)
    planned = told(dry_run=True)
    assert planned["moves"][0] == {"vm": "vm-1", "from": "pm-1", "to": "pm-2", "memory": 8 * GiB}
    assert (planned["before"]["spread"], planned["after"]) == (0.375, {"lacking": 0, "spread": 0.0})
    done = told(yes=True)
    assert [move["result"] for move in done["moves"]] == ["moved"] * 3
    assert told(yes=True)["moves"] == []


def test_what_is_left_out_is_told(lab: Lab, capsys: Said) -> None:
    first = CROWDED.nodes["pm-1"]
    first = replace(first, resources={name: Resource(name, each.minor) for name, each in first.resources.items()})
    silent = NodeState("pm-3", down="no ssh within 10 s")
    lab.state = ClusterState({**CROWDED.nodes, "pm-1": first, "pm-3": silent})
    lab.balance(yes=True)
    err = capsys.readouterr().err
    assert "pm-3 is left out: no ssh within 10 s\n" in err
    assert err.count(" stays: DRBD on pm-1 is StandAlone") == task.SHOWN
    assert "... and 1 more that cannot move now; fab pm.verify\n" in err
    assert "nothing to move" in err
