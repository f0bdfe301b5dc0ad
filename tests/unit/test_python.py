"""What docs/python.md promises to those who write Python, and what comes with the package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pmc
from pmc.settings import parse
from tests.unit.test_tasks import script

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/python.md").read_text()


def test_the_page_has_each_name_that_is_exported() -> None:
    rows = re.findall(r"^\| (`.*?) \| ", PAGE, re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)", row) if name != "cluster"}
    assert named == set(pmc.__all__)
    for name in pmc.__all__:
        assert getattr(pmc, name).__name__ == name


def test_what_is_not_exported_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="'pmc' has no attribute 'nonsense'"):
        _ = pmc.nonsense


def test_to_import_pmc_imports_nothing_else() -> None:
    program = "import sys, pmc; print(sorted(name for name in sys.modules if name.startswith(('pmc', 'fabric'))))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "['pmc']\n"


@pytest.mark.parametrize("text", [*re.findall(r"```python\n(.*?)```", PAGE, re.S)])
def test_the_examples_are_short_and_import_what_is_there(text: str) -> None:
    """tests/lab/test_extend.py runs them."""
    lines = text.splitlines()
    assert len(lines) < 20
    for line in lines:
        if line.startswith("from pmc"):
            exec(line, {})


# -- the package --


def test_what_is_installed_has_what_messages_point_to(tmp_path: Path) -> None:
    for name in ("pmc", "docs", "etc"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    build = [sys.executable, "-W", "ignore", "-c", "import setuptools; setuptools.setup()", "build", "-b", "made"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "made/lib/pmc"
    for name in ("py.typed", "docs/failover.md", "docs/python.md"):
        assert (made / name).is_file()
        assert not (made / name).is_symlink()
    assert (made / "pmc.conf").read_text() == (ROOT / "etc/pmc.conf").read_text()


def test_the_version_is_in_one_place() -> None:
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_configuration_to_begin_with_is_one() -> None:
    got = script("pmc", "conf")
    assert (got.returncode, got.stderr) == (0, "")
    assert got.stdout == (ROOT / "etc/pmc.conf").read_text()
    assert parse(got.stdout, "pmc.conf").nodes


def test_the_pages_are_listed_and_printed() -> None:
    listed = script("pmc", "doc").stdout
    pages = re.findall(r"^([\w-]+) ", listed, re.M)
    assert set(pages) == {path.stem for path in (ROOT / "docs").glob("*.md")} - {"mutants.head", "reliability.head"}
    text = (ROOT / "docs/failover.md").read_text()
    assert script("fab", "doc", "failover").stdout == text
    assert script("pmc", "doc", "failover").stdout == text.replace("fab vm.", "pmc vm.").replace("fab pm.", "pmc pm.")


@pytest.mark.parametrize("page", ["nix", "../README", "failover.md", "", "reliability.head"])
def test_a_page_that_is_not_there_is_refused_in_a_line(page: str) -> None:
    got = script("pmc", "doc", "--page", page)
    if page:
        assert (got.returncode, got.stdout) == (2, "")
        assert re.fullmatch(r"no page '.*'; there are: README, .*\n", got.stderr)


def test_each_page_that_a_message_names_is_there() -> None:
    for path in [*ROOT.glob("pmc/**/*.py"), ROOT / "etc/pmc.conf"]:
        text = path.read_text()
        for page in re.findall(r"\b(?:fab|pmc) doc (\w[\w-]*)", text):
            assert (ROOT / f"docs/{page}.md").exists(), f"{path}: {page}"
