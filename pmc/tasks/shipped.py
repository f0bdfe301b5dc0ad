"""What comes with the package: a configuration to begin with, and the documentation."""

from __future__ import annotations

import re
from importlib.resources import files

from invoke.context import Context

from pmc.errors import Refused
from pmc.tasks.base import task
from pmc.view.output import show


@task()
def conf(c: Context) -> None:
    """Print a configuration to begin with: pmc conf > /etc/pmc.conf

    Every key is in it, with its default. Name your nodes at its end.
    """
    show(files("pmc").joinpath("pmc.conf").read_text(encoding="utf-8").rstrip("\n"))


@task(place="page", page="its name in the list")
def doc(c: Context, page: str = "") -> None:
    """Print a page of the documentation, or list the pages: doc [PAGE]"""
    folder = files("pmc").joinpath("docs")
    names = sorted(each.name[:-3] for each in folder.iterdir() if re.fullmatch(r"[\w-]+\.md", each.name))
    if page and page not in names:
        raise Refused(f"no page {page!r:.60}; there are: {', '.join(names)}")
    texts = {name: folder.joinpath(f"{name}.md").read_text(encoding="utf-8") for name in names if page in ("", name)}
    if page:
        show(texts[page].rstrip("\n"))
        return
    for name, text in texts.items():
        show(f"{name:{max(map(len, names))}}  {text.splitlines()[0].lstrip('# ')}")
