"""Does a lab test fail when what guards against its fault is taken out? In a clone of what is committed:

    python -m tests.guards           all of them, one after the other, some minutes each
    python -m tests.guards 0 3       these (their numbers, from 0)

Ends with 1 when a test passed all the same: then it proves nothing.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Guard:
    """`without` is put at the end of `file`: it defines anew what guards; then `test`, of tests/lab, must fail."""

    what: str
    file: str
    without: str
    test: str


def of_output(function: str, old: str, new: str, kind: str = "text") -> str:
    """The function, which makes a text, a command or an argv, makes it with `new` in place of `old`."""
    words = f"tuple(word.replace({old!r}, {new!r}) for word in %s)"
    inner = {
        "text": f"made.replace({old!r}, {new!r})",
        "argv": words % "made",
        "command": f"replace(made, argv={words % 'made.argv'})",
    }[kind]
    return f"""
from dataclasses import replace
_{function} = {function}
def {function}(*given, **named):
    made = _{function}(*given, **named)
    return {inner}
"""


GUARDS = (
    Guard(
        "that the VM's disk is what its resource file names", "pmc/facts/backing.py",
        "def of(node, vm): return node.volumes.get(vm)",
        "test_volumes.py::test_a_disk_of_another_name_beside_anothers_volume",
    ),
    Guard(
        "that a snapshot of pmc's has its name", "pmc/facts/backing.py",
        "def snapshots(node, vm): return {name: each for name, each in node.volumes.items() if each.origin == vm}",
        "test_volumes.py::test_a_thin_clone_is_another_vms_disk",
    ),
    Guard(
        "the watch on DRBD's link during a migration", "pmc/transport/migration.py",
        "@contextmanager\ndef _linked(node, name): yield threading.Event()",
        "test_failover.py::test_a_link_that_drops_during_a_migration",
    ),
    Guard(
        "the lock of a VM", "pmc/lock_files.py",
        of_output("hold", "flock -n $lock || {", "true || {", "command"), "test_races.py::test_two_managers_at_once",
    ),
    Guard(
        "that vm.rm removes the volumes of what is half made", "pmc/plans/remove_steps.py",
        "def removed(vm, group, volume, nodes): return []", "test_killed.py::test_a_manager_that_dies",
    ),
    Guard(
        "that a step is in doubt when its connection was lost", "pmc/plan.py", "def _unclear(error): return False",
        "test_killed.py::test_a_connection_that_is_lost_inside_a_step",
    ),
    Guard(
        "that DRBD resolves no split brain by itself", "pmc/drbd.py",
        of_output("resource_text", "after-sb-1pri disconnect;", "after-sb-1pri discard-secondary;"),
        "test_repair.py::test_a_split_brain",
    ),
    Guard(
        "that a disk with errors is detached", "pmc/drbd.py",
        of_output("resource_text", "on-io-error detach;", "on-io-error pass_on;"),
        "test_repair.py::test_a_disk_that_is_bad_in_places",
    ),
    Guard(
        "that a sign of life refuses a failover", "pmc/plans/failover.py", "def alive(dead, signs, settings): pass",
        "test_failover.py::test_a_dead_nodes_vm_starts_on_the_other",
    ),
    Guard(
        "that room for a snapshot is seen first", "pmc/plans/room.py", 'def no_snapshot_room(*_): return ""',
        "test_full.py::test_what_is_full",
    ),
    Guard(
        "that ssh between nodes notices a dead link", "pmc/backup_pipeline.py",
        'QUIET = QUIET.replace(" -o ServerAliveInterval=10 -o ServerAliveCountMax=3", "")',
        "test_full.py::test_the_link_is_cut_during_a_backup",
    ),
    Guard(
        "the checksum of what a backup decodes to", "pmc/remote/stream.py",
        'def put(size, expected, *given, _put=put): _put(size, "", *given)',
        "test_backups.py::test_a_chain_while_the_guest_writes[short]",
    ),
    Guard(
        "that the marks of a restore that was interrupted are seen", "pmc/plans/unfinished_restore.py",
        "def restoring(state, vm): return []", "test_backups.py::test_a_restore_in_place",
    ),
    Guard(
        "that two primaries are closed after a migration", "pmc/plans/close_migration.py",
        "def forbid_two_primaries(nodes, name, state): return []", "test_killed.py::test_a_manager_that_dies",
    ),
    Guard(
        "that a side holds its writes when it loses its peer in a move", "pmc/drbd.py",
        of_output("two_primaries", "resource-and-stonith", "dont-care", "command"),
        "test_network.py::test_drbd_is_cut_off_while_a_vm_moves",
    ),
    Guard(
        "that a node that hangs is given up", "pmc/transport/connection.py", "Pulse.lost = lambda self: False",
        "test_killed.py::test_a_node_that_hangs_while_a_vm_is_made",
    ),
    Guard(
        "that one primary only is allowed after a migration, also when the other node is dead", "pmc/drbd.py",
        of_output("two_primaries", "--allow-two-primaries=no", "--allow-two-primaries=yes", "command"),
        "test_killed.py::test_the_standby_dies_during_a_migration_or_a_backup[vm.mv-migrate web]",
    ),
    Guard(
        "that a node that comes back with a stale copy is told from the VM", "pmc/model.py",
        "ClusterState._claims = lambda self, vm: list("
        "{frozenset(n.files[vm].hosts): n.files[vm].hosts for n in self.knowing(vm) if vm in n.files}.values())",
        "test_three.py::test_a_vm_on_one_node_gets_a_peer_and_a_dead_one_is_replaced",
    ),
    Guard(
        "that what was done is undone", "pmc/plan.py",
        "def _walk_back(plan, failed, done, run, _back=_walk_back): return _back(plan, failed, [], run)",
        "test_faults.py::test_a_killed_step_of_vm_add_leaves_nothing[pm-1-virsh-start-True]",
    ),
    Guard(
        "that a step holds its VM when its manager is gone", "pmc/lock_files.py",
        of_output("fence", "flock --shared $busy", "true", "argv"),
        "test_backups.py::test_a_restore_that_nobody_watches_is_alone_on_the_disk",
    ),
    Guard(
        "that what a thin volume reads from an external origin is backed up", "pmc/plans/base_snapshot.py",
        'Place.outside = ""',
        "test_thin.py::test_a_volume_that_is_read_through_to_another_is_backed_up_whole",
    ),
)  # fmt: skip


def taken_out(guard: Guard, text: str) -> str:
    """The text of the guard's file without it; a program runs at its end, so it is defined before that."""
    before, main, end = text.partition('\nif __name__ == "__main__":')
    return f"{before}\n\n{guard.without}\n{main}{end}"


def main() -> int:
    chosen = [int(word) for word in sys.argv[1:]] or range(len(GUARDS))
    unproven = 0
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="pmc-guards-") as folder:
        clone = Path(folder, "pmc")
        subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
        subprocess.run(["./setup.sh", ".venv"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
        for number in chosen:
            guard = GUARDS[number]
            began = time.monotonic()
            fails, said = tried(clone, guard)
            print(f"{number}. without {guard.what}: {guard.test} ({time.monotonic() - began:.0f} s)", flush=True)
            print(f"   {said}", flush=True)
            unproven += not fails
    return min(unproven, 1)


def tried(clone: Path, guard: Guard) -> tuple[bool, str]:
    """Whether the test fails, and by what: a reader sees whether that is what the guard is for. Its lab is its own."""
    path = clone / guard.file
    text = path.read_text()
    path.write_text(taken_out(guard, text))
    command = [".venv/bin/python", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/lab/{guard.test}"]
    try:
        done = subprocess.run(
            command, cwd=clone, env={**os.environ, "PMC_TEST_LAB": "guards"}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True,
        )  # fmt: skip
    finally:
        path.write_text(text)
    lines = done.stdout.splitlines()
    if not re.search(r"^1 (passed|failed)\b", lines[-1] if lines else ""):
        return False, f"the lab is ill: pytest ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr}"
    if done.returncode != 1:
        return False, "PASSES ALL THE SAME"
    return True, "fails: " + " ".join(" ".join(line[1:] for line in lines if line.startswith("E  ")).split())[:300]


if __name__ == "__main__":
    sys.exit(main())
