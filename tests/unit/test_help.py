"""What `pmc --list` and `pmc TASK --help` print, as a file, so that a change of help is seen as a difference.

After a change of help that is meant, write the file anew and read the difference:

    PMC_WRITE_HELP=1 pytest tests/unit/test_help.py; git diff tests/data/help.txt
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.unit.samples import DATA, data

# In a process of its own: a task gives its flags' help away when it is asked for it, whoever asks.
ALL = r"""
import contextlib, io
from unittest import mock
from pmc.main import program
from pmc.tasks import ns
from pmc.tasks.arguments import install

install()
texts = []
given = {name: dict(ns[name].help) for name in ns.task_names}
for words in (["--list"], *([name, "--help"] for name in sorted(ns.task_names))):
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        with mock.patch("invoke.program.pty_size", lambda: (100, 24)):
            program.run(["pmc", *words])
    for name, help in given.items():
        ns[name].help = dict(help)
    lines = [line.rstrip() for line in said.getvalue().strip("\n").splitlines()]
    texts.append("\n".join(["$ pmc " + " ".join(words), *lines, ""]))
print("\n".join(texts), end="")
"""


@pytest.fixture(scope="module")
def helped() -> str:
    """All of it, 100 columns wide."""
    done = subprocess.run([sys.executable, "-c", ALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_help_is_as_expected(helped: str) -> None:
    if os.environ.get("PMC_WRITE_HELP"):
        (DATA / "help.txt").write_text(helped, encoding="utf-8")
    assert helped == data("help.txt")


def test_values_read_like_what_they_are_and_defaults_have_one_form(helped: str) -> None:
    """invoke writes =STRING for all of them."""
    assert "=STRING" not in helped
    assert "--size=SIZE" in helped
    assert not re.search(r"left out,|\(the default\)|in place of", helped)
    for found in re.findall(r"\((\S*)default\S*", " ".join(helped.split())):
        assert found == "", "(default: ...), (default) or (default with ...)"
