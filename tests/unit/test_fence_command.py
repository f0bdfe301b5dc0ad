"""The fence command, run for real on this machine: what proves death, what does not, and what is never shown."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from pmc.errors import PmcError, SettingsError
from pmc.settings import NodeSettings, parse
from pmc.transport import fence_command
from tests.unit.refusals import raises


def spec(line: str) -> NodeSettings:
    return NodeSettings("pm-1", "10.0.0.1", fence=line)


def script(folder: Path, text: str) -> str:
    path = folder / "fence_test"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def alive(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_status_0_is_the_proof(tmp_path: Path) -> None:
    line = script(tmp_path, f'printf "%s|" "$@" >{tmp_path}/said')
    fence_command.run(spec(f"{line} --action=off 'a b' ; $(id) pm-1"), 10)
    assert (tmp_path / "said").read_text() == "--action=off|a b|;|$(id)|pm-1|", "no shell reads the line"


def test_any_other_status_is_none_and_its_words_are_masked(tmp_path: Path) -> None:
    line = script(tmp_path, 'echo "unable to connect as $2 with $1 to $3" >&2; exit 3')
    with pytest.raises(PmcError) as caught:
        fence_command.run(spec(f"{line} --password=hunter22 hunter33 pm-1"), 10)
    said = str(caught.value)
    assert "its fence command fence_test failed" in said
    assert "status 3: unable to connect as *** with --password=*** to pm-1" in said
    assert "give --dead pm-1" in said
    assert "hunter" not in said
    assert str(tmp_path) not in said


def test_a_password_in_the_word_of_its_option_is_masked(tmp_path: Path) -> None:
    line = script(tmp_path, 'echo "called: $*"; exit 1')
    with pytest.raises(PmcError) as caught:
        fence_command.run(spec(f"{line} -a 10.1.0.1 -phunter22 -P hunter33 -k=hunter44 -lpmc pm-1"), 10)
    assert "called: -a *** -p*** -P *** -k*** -lpmc pm-1" in str(caught.value)


def test_one_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    line = script(tmp_path, f"sleep 60 & echo $! >{tmp_path}/pid; wait")
    began = time.monotonic()
    with raises(PmcError, "fence_command.failed", "no end within 1 s"):
        fence_command.run(spec(line), 1)
    assert time.monotonic() - began < 30
    child = int((tmp_path / "pid").read_text())
    # It is killed but nobody waits for it, as it is not the manager's own child: the kernel ends it a moment later.
    deadline = time.monotonic() + 30
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


@pytest.mark.parametrize("status", [0, 3])
def test_the_status_counts_whatever_a_child_left_behind_does(tmp_path: Path, status: int) -> None:
    """The child has what the program says open still; it is not waited for."""
    child = f"echo $$ >{tmp_path}/pid; echo child; exec sleep 600"
    line = script(
        tmp_path, f"setsid sh -c '{child}' & while [ ! -s {tmp_path}/pid ]; do sleep 0.01; done; exit {status}"
    )
    try:
        if status:
            with raises(PmcError, "fence_command.failed", "status 3: child"):
                fence_command.run(spec(line), 500)
        else:
            fence_command.run(spec(line), 500)
        assert alive(int((tmp_path / "pid").read_text()))
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_one_that_hangs_is_given_up_whatever_a_child_left_behind_does(tmp_path: Path) -> None:
    """The child is no longer of its group, so it is not ended."""
    line = script(tmp_path, f"setsid sh -c 'echo $$ >{tmp_path}/pid; exec sleep 600' & sleep 600")
    try:
        with raises(PmcError, "fence_command.failed", "no end within 1 s"):
            fence_command.run(spec(line), 1)
    finally:
        if there := (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            os.kill(int(there), signal.SIGKILL)


def test_of_what_it_says_without_end_the_last_is_kept(tmp_path: Path) -> None:
    read, write = os.pipe()
    said = fence_command.Said(os.fdopen(read, "rb", 0))
    with os.fdopen(write, "wb", 0) as pipe:
        for _ in range(20):
            pipe.write(b"x" * fence_command.MOST)
        pipe.write(b"the end")
    said.join(60)
    assert (len(said.last), said.last[-8:]) == (fence_command.MOST, b"xthe end")


@pytest.mark.parametrize("name", ["no-such-program", "text"])
def test_one_that_cannot_be_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "text").write_text("no program")
    with pytest.raises(PmcError, match=f"fence command {name} failed.*: (No such file|Permission denied)"):
        fence_command.run(spec(f"{tmp_path}/{name} --password=hunter22"), 10)


def test_the_line_is_checked_and_never_shown() -> None:
    conf = '[nodes.pm-1]\nreplication = "10.0.0.1"\nfence = {}\n'
    settings = parse(conf.format('"fence_ipmilan --password=hunter22"'), "pmc.conf")
    assert "hunter22" not in repr(settings)
    assert fence_command.program(settings.nodes["pm-1"]) == "fence_ipmilan"
    for wrong in ('"fence_ipmilan \'hunter22"', '" "', '["hunter22"]', "5"):
        with pytest.raises(SettingsError) as caught:
            parse(conf.format(wrong), "pmc.conf")
        assert "nodes.pm-1.fence: " in str(caught.value)
        assert "hunter22" not in str(caught.value)
