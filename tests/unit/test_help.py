"""What `pmc --list` and `pmc TASK --help` print, as a file, so that a change of help is seen as a difference.

After a change of help that is meant, write the file anew and read the difference:

    PMC_WRITE_HELP=1 pytest tests/unit/test_help.py; git diff tests/data/help.txt
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

import pytest
from invoke.parser.context import ParserContext
from invoke.parser.parser import ParseMachine

from pmc.main import program
from pmc.tasks import ns
from pmc.tasks.arguments import install
from tests.unit.samples import DATA, data

TASKS = sorted(ns.task_names)


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """All of it, 100 columns wide."""
    for what, name in ((ParseMachine, "handle"), (ParseMachine, "error"), (ParserContext, "help_for")):
        monkeypatch.setattr(what, name, getattr(what, name))  # put back afterwards
    install()
    monkeypatch.setattr("invoke.program.pty_size", lambda: (100, 24))
    given, texts = {name: dict(ns[name].help) for name in TASKS}, list[str]()
    for words in (["--list"], *([name, "--help"] for name in TASKS)):
        with suppress(SystemExit):
            program.run(["pmc", *words])
        for name, help in given.items():  # a task gives its flags' help away when it is asked for it
            ns[name].help = dict(help)
        lines = [line.rstrip() for line in capsys.readouterr().out.strip("\n").splitlines()]
        texts.append("\n".join([f"$ pmc {' '.join(words)}", *lines, ""]))
    return "\n".join(texts)


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
