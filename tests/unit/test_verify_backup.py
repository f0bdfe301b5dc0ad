"""vm.verify_backup beside commands that remove backups: it holds no lock, and tells a removed one from a bad one."""

from __future__ import annotations

from typing import Any

import pytest
from invoke.context import Context

from pmc.command import Command
from pmc.errors import CommandFailed, PmcError
from pmc.plan import Action, Watch
from pmc.tasks import vm
from tests.unit.counted import counted
from tests.unit.fake import World
from tests.unit.samples import SETTINGS
from tests.unit.stories import BASE, DELTA, NEWER, backed_up_web

MANIFEST = f"{SETTINGS.backup_dir}/{DELTA.id}.json"


class Reading(World):
    """The delta cannot be read; with `removed` because it goes just then."""

    removed = False

    def carry_out(self, name: str, action: Action, watch: Watch | None = None) -> None:
        if isinstance(action, Command) and f"{DELTA.id}.xd3" in str(action):
            if self.removed:
                del self.nodes[name].files[MANIFEST]
            raise CommandFailed(name, "xdelta3", 1, "xdelta3: no such file")
        super().carry_out(name, action, watch)


def proved(monkeypatch: pytest.MonkeyPatch, removed: bool, **given: Any) -> str:
    world = Reading()
    world.nodes, world.removed = backed_up_web().nodes, removed
    cluster = counted(monkeypatch, world)
    said = ""
    try:
        vm.verify_backup(Context(), "web", **given)
    except PmcError as error:
        said = str(error)
    assert not any(asked["lock"] for asked in cluster.asked.values())
    return said


def test_a_backup_that_is_removed_meanwhile_is_not_bad(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert proved(monkeypatch, True, all=True) == ""
    rows = [line.split(None, 2) for line in capsys.readouterr().out.splitlines()[2:]]
    right = [[BASE.id, "pm-1", "right"], [BASE.id, "pm-2", "right"], [NEWER.id, "pm-2", "right"]]
    assert rows == [*right[:2], [DELTA.id, "pm-2", "removed meanwhile"], right[2]]


def test_when_nothing_else_was_proved_the_status_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proved(monkeypatch, True, backup=DELTA.id).startswith(
        f"nothing was proved: {DELTA.id} was removed meanwhile"
    )


def test_one_that_is_still_there_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proved(monkeypatch, False, all=True) == f"1 of 4 cannot be used: {DELTA.id}"
