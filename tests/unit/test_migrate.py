"""Several VMs that move at the same time: vm.mv of several, and pm.evacuate. No node is asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from invoke.context import Context

from pmc.capacity.memory import Guest
from pmc.cluster import Cluster
from pmc.errors import Interrupted, PmcError, Refused, StepFailed
from pmc.model import ClusterState
from pmc.tasks import failover, migrate, vm, vm_lock
from pmc.tasks.migrate import Moved
from pmc.units import GiB
from tests.unit.counted import counted
from tests.unit.fleets import build
from tests.unit.refusals import raises
from tests.unit.stories import with_web

NODES = dict.fromkeys(("pm-1", "pm-2", "pm-3"), 64 * GiB)
GUESTS = [Guest(name, GiB, "pm-1", "pm-2") for name in ("a", "b", "c")]


@dataclass
class Lab:
    """In place of the nodes; a VM in `failing` does not move."""

    conf: str
    state: ClusterState = field(default_factory=lambda: build(NODES, GUESTS))
    failing: dict[str, PmcError] = field(default_factory=dict)
    moves: list[tuple[str, str, str]] = field(default_factory=list)
    stopping: str = ""  # Ctrl-C while this one moves
    together: threading.Barrier | None = None  # all of its parties move at the same time, or it breaks

    def move(self, cluster: Cluster, name: str, first: ClusterState, to: str = "", prefix: str = "") -> Moved:
        self.moves.append((name, to, prefix))
        if self.together:
            self.together.wait(5)
        if name == self.stopping:
            cluster.stop.set()
        if name in self.failing:
            raise self.failing[name]
        return Moved(name, to or "pm-2", 0.17)

    def mv(self, names: str = "", **flags: Any) -> None:
        vm.mv(Context(), names, conf=self.conf, **flags)

    def evacuate(self, **flags: Any) -> None:
        failover.evacuate(Context(), "pm-1", conf=self.conf, **flags)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lab:
    (tmp_path / "pmc.conf").write_text(
        'audit_log = ""\n'
        + "".join(f'[nodes.{name}]\nreplication = "10.0.0.{number}"\n' for number, name in enumerate(NODES, 1))
    )
    lab = Lab(str(tmp_path / "pmc.conf"))
    monkeypatch.setattr(Cluster, "state", lambda self, **_: lab.state)
    for module in (migrate, vm):
        monkeypatch.setattr(module, "moved", lab.move)
    return lab


Said = pytest.CaptureFixture[str]
WAYS: dict[str, Callable[..., None]] = {
    "vm.mv a,b,c": lambda lab, **flags: lab.mv("a,b,c", **flags),
    "vm.mv --all-from": lambda lab, **flags: lab.mv(all_from="pm-1", **flags),
    "pm.evacuate": lambda lab, **flags: lab.evacuate(**flags),
}
several = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@several
def test_a_table_at_the_end(lab: Lab, way: Callable[..., None], capsys: Said) -> None:
    way(lab, parallel="1")
    assert lab.moves == [(name, "pm-2", name) for name in ("a", "b", "c")]
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ["vm", "from", "to", "result", "stood", "still"]
    assert "c     pm-1    pm-2  moved     0.17 s\n" in out
    assert err == ""


@several
def test_so_many_move_at_the_same_time(lab: Lab, way: Callable[..., None]) -> None:
    lab.together = threading.Barrier(3)
    way(lab, parallel="3")
    assert len(lab.moves) == 3


@several
def test_two_do_where_nothing_is_said(lab: Lab, way: Callable[..., None]) -> None:
    lab.state = build(NODES, GUESTS[:2])
    if way is WAYS["vm.mv a,b,c"]:
        way = lambda lab: lab.mv("a,b")  # noqa: E731
    lab.together = threading.Barrier(2)
    way(lab)
    assert len(lab.moves) == 2


@several
def test_it_goes_on_past_one_that_fails(lab: Lab, way: Callable[..., None], capsys: Said) -> None:
    """Also past one that is refused meanwhile, which is status 1 then: something was touched."""
    lab.failing = {"a": Refused("a: needs 1 GiB of memory"), "b": StepFailed("b runs on pm-1\n  virsh failed")}
    with raises(PmcError, "migrate.see_done", "2 of 3", ": a, b") as caught:
        way(lab)
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    assert "b     pm-1    pm-2  b runs on pm-1\n" in out
    assert "c     pm-1    pm-2  moved                     0.17 s\n" in out
    assert "virsh failed" in err


@several
def test_ctrl_c_begins_no_more(lab: Lab, way: Callable[..., None], capsys: Said) -> None:
    lab.stopping = "a"
    with pytest.raises((Interrupted, PmcError)) as caught:
        way(lab, parallel="1")
    assert caught.value.code == 1
    assert [name for name, *_ in lab.moves] == ["a"]
    assert capsys.readouterr().out.count("not begun: interrupted") == 2


@several
def test_ctrl_c_at_the_last_one_is_told_all_the_same(lab: Lab, way: Callable[..., None], capsys: Said) -> None:
    lab.stopping = "c"
    with pytest.raises(Interrupted, match=r"is done, and stays"):
        way(lab, parallel="1")
    assert capsys.readouterr().out.count(" moved ") == 3


@several
def test_what_fits_alone_but_not_together_is_refused_before_the_first(lab: Lab, way: Callable[..., None]) -> None:
    lab.state = build(NODES, GUESTS, {"pm-2": 2 * GiB})
    with raises(Refused, "evacuate.room", "c (1 GiB) on pm-2", "pm-2 2 GiB"):
        way(lab)
    assert lab.moves == []


def test_room_is_counted_on_each_target(lab: Lab) -> None:
    """What a VM leaves behind counts for nobody: it may still be there when the other one comes."""
    swap = [Guest("a", GiB, "pm-1", "pm-2"), Guest("b", GiB, "pm-2", "pm-1"), Guest("c", GiB, "pm-1", "pm-3")]
    lab.state = build(NODES, swap, dict.fromkeys(NODES, GiB))
    lab.mv("b,c,a", parallel="1")
    assert lab.moves == [("b", "pm-1", "b"), ("c", "pm-3", "c"), ("a", "pm-2", "a")]
    lab.state = build(NODES, swap, {"pm-2": GiB // 2})
    with raises(Refused, "evacuate.room", "a (1 GiB) on pm-2", "pm-1 61 GiB, pm-2 512 MiB, pm-3"):
        lab.mv("b,c,a")


def test_one_that_cannot_move_refuses_all_that_were_named(lab: Lab) -> None:
    lab.state = build(NODES, [*GUESTS[:2], Guest("c", GiB, "pm-1", "")])
    for way in ({"names": "a,b,c"}, {"all_from": "pm-1"}):
        with pytest.raises(Refused, match="c: has its disk on pm-1 only, so it cannot move"):
            lab.mv(**way)
    assert lab.moves == []


def test_a_dry_run_shows_all_of_them(lab: Lab, capsys: Said) -> None:
    lab.mv("b,a", dry_run=True)
    titles = [line.split()[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("# vm.mv")]
    assert titles == [["vm.mv", "b:"], ["vm.mv", "b:"], ["vm.mv", "a:"], ["vm.mv", "a:"]]
    assert lab.moves == []


@pytest.mark.parametrize("way", [{"names": "a"}, {"all_from": "pm-1"}])
def test_a_single_one_is_a_line_and_no_table(lab: Lab, capsys: Said, way: dict[str, str]) -> None:
    lab.state = build(NODES, GUESTS[:1])
    lab.mv(**way)
    assert lab.moves == [("a", "", "")]
    assert capsys.readouterr() == ("", "a runs on pm-2; the guest stood still for 0.17 s\n")
    lab.failing["a"] = Refused("a: is locked")
    with pytest.raises(Refused, match="a: is locked"):
        lab.mv(**way)
    lab.state = build(NODES, GUESTS[:1], {"pm-2": GiB // 2})
    with raises(Refused, "room.memory", "a: needs 1 GiB", "pm-2 has 512 MiB"):
        lab.mv(**way)


def test_nothing_to_move(lab: Lab, capsys: Said) -> None:
    lab.mv(all_from="pm-3")
    assert capsys.readouterr() == ("", "nothing runs on pm-3\n")


@pytest.mark.parametrize("kind", ["kvm", "qemu"])
@pytest.mark.parametrize("dry", [False, True])
def test_a_move_asks_libvirt_what_the_guest_runs_on(
    kind: str, dry: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = counted(monkeypatch, with_web())
    cluster.kinds["web"] = kind
    lines = list[str]()
    monkeypatch.setattr("pmc.transport.migration.run", lambda node, action, *_: lines.append(str(action)))
    monkeypatch.setattr("pmc.transport.hypervisor.watch", lambda *_: nullcontext())
    with suppress(PmcError):  # this world does not move it
        vm.mv(Context(), "web", dry_run=dry)
    [line] = lines or [line for line in capsys.readouterr().out.splitlines() if "--p2p" in line]
    assert ("--live" in line) is (kind == "kvm"), line


def test_a_move_that_failed_and_was_closed_says_first_what_is_true() -> None:
    """What the walk back could not undo, and the close did after all, is not left for a person to do."""
    told = "vm.mv web: step 5 of 5 failed: migrate\n  Undone: x.\n  NOT undone; run by hand:\n    y"
    left = StepFailed(told, half=True)
    cluster: Any = SimpleNamespace(half=[left, other := StepFailed("another", half=True)])
    said = migrate.ended(cluster, left, "web runs on pm-2, two primaries closed", "")
    assert str(said).splitlines() == [
        "web runs on pm-2, two primaries closed", "  vm.mv web: step 5 of 5 failed: migrate", "  Undone: x.",
        "  What could not be undone at once was done since; nothing is left to do.",
    ]  # fmt: skip
    assert (said.code, cluster.half) == (1, [other])
    unseen = migrate.ended(cluster, left, "web runs on pm-2, two primaries closed", "; pm-1 does not answer")
    assert str(unseen) == f"web runs on pm-2, two primaries closed; pm-1 does not answer\n  {left}"
    assert unseen.code == 3


def test_a_move_that_could_not_be_closed_is_half_done_also_among_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two primaries may still be allowed: that is said first, and is in the status of the whole command."""
    cluster: Any = SimpleNamespace(half=[])
    left = migrate.ended(cluster, StepFailed("migrate failed"), "a runs on pm-2", "; pm-1 does not answer")
    assert cluster.half == [left]

    def fails(*args: Any, **named: Any) -> Any:
        raise PmcError("settle was refused")

    held: Any = None
    monkeypatch.setattr(vm_lock, "refresh_vm", fails)
    with pytest.raises(StepFailed) as caught:
        migrate.closed(cluster, "a", ClusterState({}), held)
    assert str(caught.value).startswith("a was NOT closed, two primaries may still be allowed: settle was refused")
    assert cluster.half == [left, caught.value]
