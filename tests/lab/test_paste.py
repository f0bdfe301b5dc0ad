"""What --dry-run prints, pasted into a shell, does what the commands do."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lab.ears import ears
from lab.witness import Guest

from .conftest import Pmc, broken_invariants, healthy
from .rig import until

Clean = Callable[[], list[str]]
Does = Callable[..., object]
NODES = ("--primary", "pm-1", "--secondary", "pm-2", "--memory", "16M", "--size", "64M")


def pasted(lab: Pmc, *argv: str) -> None:
    script = lab.ok(*argv, "--dry-run")
    done = subprocess.run(["bash", "-e"], input=script, capture_output=True, text=True, timeout=600, check=False)
    ears(lab.lab.run).listen()
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"


def seen(lab: Pmc) -> dict[str, Any]:
    """Of each node: its domains, what DRBD does, the resource files, the volumes."""
    until(lambda: all(healthy(lab.state(), name) for name in lab.state().vm_names()), "both sides are up to date")
    return {
        node.name: (
            node.domains, {name: replace(its, out_of_sync=0) for name, its in node.resources.items()}, node.files,
            {name: (its.size, its.tags, its.attributes) for name, its in node.volumes.items()},
        )
        for node in lab.state()
    }  # fmt: skip


def backups(lab: Pmc) -> list[tuple[Any, ...]]:
    rows = json.loads(lab.ok("vm.backups", "--json"))
    return sorted((row["vm"], row["kind"], row["node"], row["broken"]) for row in rows)


def life(lab: Pmc, does: Does) -> list[object]:
    """What there is after each of its steps."""
    does("vm.add", "web", *NODES, "--image", str(lab.tick_image))
    guest, found = Guest(lab.lab, "web"), list[object]()
    tick = guest.ticking(20)
    found.append(seen(lab))
    does("vm.mv", "web")
    found.append(seen(lab))
    assert lab.state().active_on("web") == ["pm-2"]
    assert broken_invariants(lab.state()) == []
    tick = guest.ticking(tick.counter + 20)
    assert tick.boots == 1, "it never stopped"
    does("vm.backup", "web")
    found += [seen(lab), backups(lab)]
    lab.ok("vm.verify_backup", "--all")
    assert guest.ticking(tick.counter).boots == 1
    guest.whole("pm-1", "pm-2")
    does("vm.rm", "web", "--backups", *(["--yes"] if does == lab.ok else []))
    return [*found, seen(lab), backups(lab)]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_pasted_plans_do_what_the_commands_do(lab: Pmc, clean: Clean) -> None:
    by_command = life(lab, lab.ok)
    by_hand = life(lab, lambda *argv: pasted(lab, *argv))
    assert by_hand == by_command
    assert clean() == []
