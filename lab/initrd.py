# SPDX-License-Identifier: GPL-3.0-or-later
"""The nodes' initrd: busybox, our init, and the few modules between the kernel and its disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from lab.recipe import INITRD_INIT, INITRD_MODULES
from lab.run import run


def build(tree: Path, version: str, work: Path) -> None:
    """Make `work`/initrd from the file system `tree`; modules are numbered as they load."""
    modules = tree / "usr/lib/modules" / version
    inside = work / "initrd.tree"
    for name in ("bin", "dev", "proc", "sys", "root", "modules"):
        (inside / name).mkdir(parents=True)
    shutil.copy(tree / "usr/bin/busybox", inside / "bin/busybox")
    shutil.copyfile(INITRD_INIT, inside / "init")
    (inside / "init").chmod(0o755)
    for number, path in enumerate(load_order((modules / "modules.dep").read_text(), INITRD_MODULES)):
        shutil.copyfile(modules / path, inside / "modules" / f"{number:02}-{Path(path).name}")
    names = "\n".join(str(path.relative_to(inside)) for path in sorted(inside.rglob("*")))
    file = str(work / "initrd")
    run(["cpio", "--quiet", "-o", "-H", "newc", "--owner=0:0", "-F", file], cwd=inside, stdin=names)
    shutil.rmtree(inside)


def load_order(modules_dep: str, wanted: Sequence[str]) -> list[str]:
    """Paths of the wanted modules, each behind those it needs.

    A line of modules.dep(5) names a module and all it needs, in the reverse of the order in which they load.
    """
    needs = {}
    for line in modules_dep.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {Path(path).stem.replace("-", "_"): path for path in needs}
    order: list[str] = []
    for name in wanted:
        if name not in by_name:
            continue  # built into this kernel
        path = by_name[name]
        order += [one for one in (*reversed(needs[path]), path) if one not in order]
    return order
