"""Every command of every plan runs under the lock of its VM: Counted refuses one that does not (counted.py). Here are
the tasks whose plans test_round_trips.py does not carry out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
from invoke.context import Context

from pmc.command import command
from pmc.errors import PmcError
from pmc.plans.pm import Side
from pmc.settings import Deadlines
from pmc.tasks import peer, pm, vm
from tests.sim.fake import World
from tests.sim.machine import Unknown
from tests.unit.counted import Counted, CountedNode, counted
from tests.unit.stories import stopped_web, with_stale_copy, with_web

Begin = Callable[[], World]


def asleep() -> World:
    world = stopped_web()
    for machine in world.nodes.values():
        machine.resources.clear()
    return world


TASKS: dict[str, tuple[Callable[[Any], object], Begin, int]] = {
    "vm.peer": (lambda c: peer.peer(c, "web", secondary="pm-3", yes=True), with_web, 12),
    "vm.peer --cleanup": (lambda c: peer.peer(c, "web", cleanup=True, yes=True), with_stale_copy, 2),
    "pm.ready_drbd": (lambda c: pm.ready_drbd(c), asleep, 2),
    "vm.add --clone": (
        lambda c: vm.add(c, "new", primary="pm-1", secondary="pm-2", clone="web", memory="1G", address="10.0.0.9"),
        stopped_web, 17
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_each_step_has_its_lock(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    task, begin, steps = TASKS[name]
    cluster = counted(monkeypatch, begin())
    cluster.settings = replace(cluster.settings, deadlines=Deadlines(peer=0.1))
    # The other side does not come within no time.
    with pytest.raises(PmcError, match="waits for") if name == "pm.ready_drbd" else nullcontext():
        task(Context())
    assert sum(asked["run"] for asked in cluster.asked.values()) >= steps


def test_nothing_is_locked_while_a_resync_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = counted(monkeypatch, asleep())
    seen = list[dict[str, dict[str, str]]]()

    def settled(*_: object) -> list[Side]:
        seen.append({name: dict(tokens) for name, tokens in cluster.tokens.items() if tokens})
        return []

    monkeypatch.setattr(pm, "_settled", settled)
    pm.ready_drbd(Context())
    assert seen == [{}]


def test_one_without_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster: Counted = counted(monkeypatch, with_web())
    node = cluster.nodes["pm-1"]
    assert isinstance(node, CountedNode)
    cluster.tokens["pm-1"] = {"web": "a1", "db": "b2"}
    line = command("drbdadm", "up", "web")
    for wrong in ([], [("web", "b2")], [("db", "b2")], [("other", "")]):
        with pytest.raises(Unknown):
            node.run(line, locks=wrong)
