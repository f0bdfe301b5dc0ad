"""A cluster that applies a plan: what it holds meanwhile, and how it is walked back."""

from __future__ import annotations

from typing import Any

import pytest

from pmc.command import Command, command
from pmc.errors import Interrupted, StepFailed
from pmc.lock import ALLOCATION
from pmc.plan import Step, plan
from tests.unit.counted import CountedNode, counted
from tests.unit.stories import with_web


def test_the_numbers_are_free_again_when_a_plan_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """vm.peer finishing a copy that is there already may take hours; nobody needs to wait for that."""
    cluster = counted(monkeypatch, with_web())
    with cluster.lock("test", "web"), cluster.lock("test", ALLOCATION) as numbers:
        cluster.apply(plan("nothing to allocate"))
        assert numbers.holds == {}
        assert cluster.locked[0].holds != {}


def test_ctrl_c_does_not_end_what_undoes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Putting a disk back takes long: a second of it would leave half a disk."""
    cluster, ran = counted(monkeypatch, with_web()), list[tuple[str, bool]]()

    def run(node: CountedNode, given: Command, **how: Any) -> str:
        ran.append((given.argv[0], how["stopped"]()))
        if given.argv[0] == "write":
            cluster.stop.set()
            raise Interrupted()
        return ""

    monkeypatch.setattr(CountedNode, "run", run)
    steps = Step("pm-1", "keep it", command("keep"), undo=command("back")), Step("pm-1", "write", command("write"))
    with pytest.raises(StepFailed, match=r"Undone: keep it"):
        cluster.apply(plan("restore", *steps))
    assert ran == [("keep", False), ("write", False), ("back", False)]
