"""How often each task asks which nodes, in a cluster of a hundred: the whole fleet once, then the VM's own nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from invoke.context import Context

from pmc.tasks import failover, ha, pm, repair, vm
from tests.unit.counted import MANY, counted
from tests.unit.fake import World
from tests.unit.stories import half_web, moved_web, orphaned_web, stopped_web, with_web


@dataclass(frozen=True)
class Count:
    """Round trips of the task: on each node that has nothing to do with the VM, and on the VM's two together."""

    task: Callable[[Context], Any]
    others: dict[str, int]
    own: dict[str, int]
    begin: Callable[[], World] = with_web


LOOK = {"look": 1}
# A look over all, then the lock on its two nodes and another look at them; `run` counts the plan's steps, `ask` what it
# waits for and second looks.
NEAR = {"look": 4, "lock": 2}
# What must be unique in the cluster is looked for everywhere, under a lock that is everywhere.
ALLOCATING = {"look": 1, "lock": 2}


COUNTS = {
    "vm.ls": Count(vm.ls, LOOK, {"look": 2}),
    "pm.ls": Count(pm.ls, LOOK, {"look": 2}),
    "vm.backups": Count(vm.backups, LOOK, {"look": 2}),
    "vm.start": Count(lambda c: vm.start(c, "web"), LOOK, NEAR | {"run": 2}, stopped_web),
    "vm.stop": Count(lambda c: vm.stop(c, "web", force=True), LOOK, NEAR | {"run": 2}),
    "vm.mv": Count(lambda c: vm.mv(c, "web"), LOOK, NEAR | {"look": 6, "ask": 2, "run": 7}),
    "vm.mv --cleanup": Count(lambda c: vm.mv(c, "web", cleanup=True), LOOK, NEAR | {"run": 3}, moved_web),
    # Nothing of it may stay anywhere.
    "vm.rm": Count(
        lambda c: vm.rm(c, "web", yes=True), {"look": 1, "lock": 1}, {"look": 2, "lock": 2, "run": 10}, stopped_web
    ),
    "vm.rm of a half-made one": Count(
        lambda c: vm.rm(c, "web", yes=True), {"look": 1, "lock": 1}, {"look": 2, "lock": 2, "run": 6}, half_web
    ),
    "vm.backup": Count(lambda c: vm.backup(c, "web"), LOOK, NEAR | {"ask": 3, "run": 10}),
    "vm.backup --all": Count(lambda c: vm.backup(c, all=True), LOOK, NEAR | {"ask": 3, "run": 10}),
    "vm.prune": Count(lambda c: vm.prune(c, "web", keep_last="1"), LOOK, {"look": 2}),
    "vm.repair": Count(lambda c: repair.repair(c, "web"), LOOK, NEAR | {"ask": 2}),
    "vm.peer": Count(
        lambda c: ha.peer(c, "web", secondary="pm-2"), ALLOCATING, {"look": 4, "lock": 4, "ask": 2}
    ),
    "vm.peer --cleanup": Count(lambda c: ha.peer(c, "web", cleanup=True), LOOK, NEAR),
    "pm.evacuate": Count(lambda c: failover.evacuate(c, "pm-1"), LOOK, NEAR | {"look": 6, "ask": 2, "run": 7}),
    "pm.ready_drbd": Count(pm.ready_drbd, {"look": 1, "ask": 1}, {"look": 2, "ask": 2}),
    # A home is silent: then the lock is taken everywhere, so that a manager that sees the other home only meets it.
    "vm.failover": Count(
        lambda c: failover.failover(c, "web", dead="pm-1"),
        {"look": 1, "lock": 1}, {"look": 2, "lock": 1, "ask": 3, "run": 2}, orphaned_web,
    ),
    "vm.add": Count(
        lambda c: vm.add(c, "new", primary="pm-1", secondary="pm-2", size="1G", memory="1G", address="10.0.0.9"),
        ALLOCATING, {"look": 2, "lock": 4, "ask": 6, "run": 15}, World,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_round_trips(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    count = COUNTS[name]
    cluster = counted(monkeypatch, count.begin())
    count.task(Context())
    homes = ("pm-1", "pm-2")
    others = {name: dict(asked) for name, asked in cluster.asked.items() if name not in homes}
    assert others == {f"pm-{number}": count.others for number in range(3, MANY + 1)}
    assert dict(sum((cluster.asked[home] for home in homes), Counter())) == count.own
