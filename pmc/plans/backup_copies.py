"""Backups that go to a directory of the manager (vm.backup --to DIR) and come back (vm.restore --from DIR). Pure.

They are the same files there as on a node, so everything that reads them by hand does so there, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from pmc import backup_pipeline
from pmc.actions import Fetch, Transfer, Watch
from pmc.backup import LONGEST, NOTES, Backup
from pmc.command import Command, bash, operation
from pmc.errors import Refused
from pmc.plan import Plan, Step, plan
from pmc.plans import node_files, vm_steps
from pmc.plans.backup import bring, enough_space
from pmc.plans.restore import Found
from pmc.settings import Settings
from pmc.units import KiB, show_size


@operation
def receive(part: str, target: str, size: int) -> Command:
    """The stdin, under the name `part` until it is whole. A manager that dies ends the stdin of its last command: the
    size tells."""
    script = (
        'umask 077; trap \'rm -f "$1"\' EXIT; cat >"$1"; '
        '[ "$(stat -c %s "$1")" = "$3" ] || { echo "it did not come whole" >&2; exit 1; }; '
        'sync "$1"; mv "$1" "$2"; sync "${2%/*}"'
    )
    return bash(script, part, target, str(size), long=True)


def is_directory(to: str) -> bool:
    """What --to names: a directory of the manager has a slash in it, a node has none."""
    return "/" in to


def parts(found: Found) -> list[Backup]:
    """What must be there to restore it: its base comes first."""
    return [*([found.base] if found.base else []), found.backup]


def files(backup: Backup) -> list[str]:
    """The manifest last: what has none is no backup. When it was verified is known of that copy only."""
    manifest, *others = (name for name in backup.files if not name.endswith(NOTES))
    return [*others, manifest]


def to_manager(found: Found, directory: str, there: Collection[str], settings: Settings, limit: int = 0) -> Plan:
    """All files of a backup, and of its base; `there` are the ids that the directory has, whole. Of what may be large
    no more than `limit` bytes a second (0: as fast as it goes)."""
    steps = list[Step]()
    for each in parts(found):
        if each.id in there:
            continue
        for name in files(each):
            path, size = f"{settings.backup_dir}/{name}", each.stored if name == each.file else 0
            # An index has 32 bytes for each block of 64 KiB.
            known = size or (-(-each.size // (64 * KiB)) * 32 if name.endswith(".index") else 0)
            source = backup_pipeline.passed(path, known, limit) if limit and known else node_files.read(path)
            steps.append(
                Step(
                    found.node,
                    f"copy {name} to {directory}",
                    Fetch(source, f"{directory}/{name}", size, known or LONGEST),
                    watch=Watch("bytes", name, each.stored) if size else None,
                )
            )
    program = [bring(found.node)] if steps and limit else []
    return plan(f"copy {found.backup.id} to {directory}", [*program, *steps])


def to_node(
    found: Found, node: str, directory: str, sizes: Mapping[str, int], there: Collection[str], settings: Settings,
    doubtful: Collection[str] = (),
) -> Plan:  # fmt: skip
    """The files of a backup, and of its base, that are not on the node yet (`there` are the manifests that are, of what
    is sound); `sizes` of those in the directory. `doubtful`: the ids that the node has and that are not sound. A good
    copy takes their place and stays there: what is there may be needed by others."""
    folder, steps = settings.backup_dir, [vm_steps.folder(node, settings.backup_dir, "700")]
    missing = [each for each in parts(found) if f"{each.id}.json" not in there]
    needed = sum(each.stored for each in missing)
    if missing:
        steps.append(enough_space(node, folder, needed))
    for each in missing:
        for name in files(each):
            if name not in sizes:
                if name.endswith(".index"):
                    continue  # only new deltas need it
                raise Refused(f"--from {directory}: {name} is missing there")
            target, part = f"{folder}/{name}", f"{folder}/.{name}.part"
            put, old = receive(part, target, sizes[name]), each.id in doubtful
            steps.append(
                Step(
                    node,
                    f"copy {name} ({show_size(sizes[name])}) to {node}",
                    Transfer(f"{directory}/{name}", sizes[name], put),
                    undo=None if old else node_files.remove(part, target),
                    check=None if old else node_files.exists(target),
                    watch=Watch("bytes", name, sizes[name]),
                )
            )
        if each.id in doubtful:
            notes = (f"{folder}/{each.id}.{note}" for note in NOTES)
            steps.append(
                Step(node, f"forget what was noted of the {each.id} that was there", node_files.remove(*notes))
            )
    return plan(f"copy {found.backup.id} from {directory} to {node}", steps)


def on(node: str, found: Found) -> Found:
    """The same backup where it was copied to."""
    return replace(found, node=node)
