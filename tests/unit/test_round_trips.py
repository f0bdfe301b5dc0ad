"""How often each task asks which nodes, in a cluster of a hundred: the whole fleet once, then the VM's own nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from pmc.errors import PmcError
from pmc.tasks import balance, failover, ns, peer, pm, repair, verify, vm
from tests.sim.fake import World
from tests.unit.counted import counted
from tests.unit.stories import (
    BASE,
    DELTA,
    backed_up_web,
    changed_web,
    crowded,
    half_restored_web,
    half_web,
    moved_web,
    orphaned_web,
    stopped_web,
    with_backups,
    with_two,
    with_web,
)


@dataclass(frozen=True)
class Count:
    """Round trips of the task: on each node that has nothing to do with the VM, and on the `homes` together. `fails`:
    what it says at its end, in a world that does not answer all that it asks."""

    task: Callable[[Context], Any]
    others: dict[str, int]
    own: dict[str, int]
    begin: Callable[[], World] = with_web
    homes: tuple[str, ...] = ("pm-1", "pm-2")
    fails: str = ""


LOOK = {"look": 1}
# A look over all, then the lock on its two nodes and another look at them; `run` counts the plan's steps, `ask` what it
# waits for and second looks.
NEAR = {"look": 4, "lock": 2}
# What must be unique in the cluster is looked for everywhere, under a lock that is everywhere.
ALLOCATING = {"look": 1, "lock": 2}

# Before the steps, and after them what closes two primaries.
ONE_MOVE = NEAR | {"look": 8, "ask": 2, "run": 7}
# One after the other, each with its own lock, and looked at again when its turn comes.
TWO_MOVES = {"look": 2 + 2 * 6, "lock": 4, "ask": 4, "run": 14}


COUNTS = {
    "vm.ls": Count(vm.ls, LOOK, {"look": 2}),
    "pm.ls": Count(pm.ls, LOOK, {"look": 2}),
    "vm.backups": Count(vm.backups, LOOK, {"look": 2}),
    "vm.start": Count(lambda c: vm.start(c, "web"), LOOK, NEAR | {"run": 2}, stopped_web),
    "vm.stop": Count(lambda c: vm.stop(c, "web", force=True), LOOK, NEAR | {"run": 2}),
    "vm.mv": Count(lambda c: vm.mv(c, "web"), LOOK, ONE_MOVE),
    "vm.mv --cleanup": Count(lambda c: vm.mv(c, "web", cleanup=True), LOOK, NEAR | {"look": 6, "run": 3}, moved_web),
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
        lambda c: peer.peer(c, "web", secondary="pm-2"), ALLOCATING, {"look": 4, "lock": 4, "ask": 2}
    ),
    "vm.peer --cleanup": Count(lambda c: peer.peer(c, "web", cleanup=True), LOOK, NEAR),
    "pm.evacuate": Count(lambda c: failover.evacuate(c, "pm-1"), LOOK, ONE_MOVE),
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
    "vm.mv of two": Count(lambda c: vm.mv(c, "web,web2"), LOOK, TWO_MOVES, with_two),
    "vm.mv --all-from": Count(lambda c: vm.mv(c, all_from="pm-1"), LOOK, TWO_MOVES, with_two),
    # What is unfinished of it is removed wherever it may be.
    "vm.rm --backups": Count(
        lambda c: vm.rm(c, "web", backups=True, yes=True),
        {"look": 1, "lock": 1, "run": 1}, {"look": 2, "lock": 2, "run": 14},
        lambda: with_backups(stopped_web()),
    ),
    "vm.backup of a delta": Count(lambda c: vm.backup(c, "web"), LOOK, NEAR | {"ask": 3, "run": 9}, backed_up_web),
    "vm.backup --to NODE": Count(
        lambda c: vm.backup(c, "web", to="pm-3"),
        LOOK, {"look": 6, "lock": 3, "ask": 3, "run": 10}, homes=("pm-1", "pm-2", "pm-3"),
    ),
    "vm.backup --all of two": Count(
        lambda c: vm.backup(c, all=True),
        LOOK, {"look": 2 + 2 * 2, "lock": 4, "ask": 6, "run": 20}, with_two,
    ),
    "vm.verify_backup": Count(
        lambda c: vm.verify_backup(c, "web", backup=DELTA.id),
        LOOK, {"look": 2, "run": 2}, backed_up_web,
    ),
    "vm.verify_backup --all": Count(
        lambda c: vm.verify_backup(c, all=True),
        LOOK, {"look": 2, "run": 8}, backed_up_web,
    ),
    "vm.prune of some": Count(
        lambda c: vm.prune(c, "web", keep_last="1", together=True), LOOK, NEAR | {"run": 3}, backed_up_web
    ),
    "vm.restore --as": Count(
        lambda c: vm.restore(c, "web", backup=DELTA.id, as_="new"),
        ALLOCATING, {"look": 2, "lock": 4, "ask": 2, "run": 17}, backed_up_web,
    ),
    "vm.restore --in-place": Count(
        lambda c: vm.restore(c, "web", backup=DELTA.id, in_place=True, yes=True), LOOK, NEAR | {"ask": 5, "run": 14},
        lambda: with_backups(stopped_web()),
    ),
    "vm.restore --put-back": Count(
        lambda c: vm.restore(c, "web", put_back=True),
        LOOK, NEAR | {"ask": 1, "run": 8}, half_restored_web,
    ),
    "vm.restore --to FILE": Count(
        lambda c: vm.restore(c, "web", backup=BASE.id, to="x.qcow2"), LOOK, NEAR | {"run": 5}, backed_up_web
    ),
    # Of the homes: a look and two questions before, the step, what it waits for, and the same again after it.
    "vm.repair of a lost disk": Count(
        lambda c: repair.repair(c, "web"), LOOK, NEAR | {"look": 6, "ask": 7, "run": 1}, changed_web(disk="Diskless")
    ),
    "vm.repair of two primaries": Count(
        lambda c: repair.repair(c, "web"), LOOK, NEAR | {"look": 6, "ask": 6, "run": 1}, changed_web(two_primaries=True)
    ),
    "pm.init": Count(lambda c: pm.init(c, "pm-1,pm-2"), {"ask": 1}, {"ask": 2}, fails="checks failed"),
    "pm.init --fix": Count(
        lambda c: pm.init(c, "pm-1,pm-2", fix=True),
        {"ask": 2, "lock": 1}, {"ask": 4, "lock": 2, "run": 2}, fails="checks failed",
    ),
    "pm.verify": Count(verify.verify_, {"look": 1, "ask": 1}, {"look": 2, "ask": 2}, fails="found"),
    "pm.verify --vm": Count(
        lambda c: verify.verify_(c, vm="web"),
        {"look": 1, "ask": 1}, {"look": 2, "ask": 2}, fails="found",
    ),
    "pm.balance": Count(lambda c: balance.balance(c, yes=True), LOOK, ONE_MOVE, crowded),
    "pm.evacuate of two": Count(lambda c: failover.evacuate(c, "pm-1"), LOOK, TWO_MOVES, with_two),
    # As vm.failover; what is to be locked is known only after a look, and what is true only after another.
    "pm.evacuate --failover": Count(
        lambda c: failover.evacuate(c, "pm-1", failover=True, dead="pm-1"),
        {"look": 2, "lock": 1}, {"look": 4, "lock": 1, "ask": 3, "run": 2}, orphaned_web,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_round_trips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    count = COUNTS[name]
    cluster = counted(monkeypatch, count.begin())
    with pytest.raises(PmcError, match=count.fails) if count.fails else nullcontext():
        count.task(Context())
    others = {name: dict(asked) for name, asked in cluster.asked.items() if name not in count.homes}
    assert others == {name: count.others for name in cluster.asked if name not in count.homes}
    assert dict(sum((cluster.asked[home] for home in count.homes), Counter())) == count.own


def test_each_task_is_counted() -> None:
    assert {name.split()[0] for name in COUNTS} == {name for name in ns.task_names if "." in name}
