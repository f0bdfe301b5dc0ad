"""The lists of what a thin volume has and of what changed: the text that makes them, run with made-up tools."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pmc import lock_files, lvm_thin
from pmc.command import Command
from pmc.lvm_thin import Range

CHUNK = 65536
DELTA = """\
<superblock uuid="" time="2" transaction="3" data_block_size="128" nr_data_blocks="1000">
  <diff left="4" right="7">
    <same begin="0" length="1"/>
    <different begin="1" length="2"/>
    <same begin="3" length="3"/>
    <left_only begin="10" length="1"/>
    <right_only begin="11" length="2"/>
    <left_only begin="100" length="2"/>
  </diff>
</superblock>
"""
DUMP = """\
<superblock uuid="" time="2" transaction="3" flags="0" version="2" data_block_size="128" nr_data_blocks="1000">
  <device dev_id="7" mapped_blocks="8" transaction="1" creation_time="1" snap_time="1">
    <single_mapping origin_block="0" data_block="0" time="0"/>
    <range_mapping origin_begin="1" data_begin="30" length="2" time="1"/>
    <single_mapping origin_block="3" data_block="3" time="0"/>
    <range_mapping origin_begin="4" data_begin="20" length="2" time="0"/>
    <range_mapping origin_begin="11" data_begin="70" length="2" time="1"/>
  </device>
</superblock>
"""
# As thin_dump writes it since 1.0 (src/thin/xml.rs).
SHARED = """\
<superblock uuid="" time="2" transaction="3" version="2" data_block_size="128" nr_data_blocks="1000">
  <def name="0">
    <range_mapping origin_begin="1" data_begin="30" length="2" time="1"/>
  </def>
  <def name="1">
    <single_mapping origin_block="0" data_block="0" time="0"/>
    <ref name="0"/>
  </def>
  <device dev_id="7" mapped_blocks="4" transaction="1" creation_time="1" snap_time="1">
    <ref name="1"/>
    <single_mapping origin_block="9" data_block="3" time="0"/>
  </device>
</superblock>
"""

DMSETUP = """
echo "$*" >>log
case $1 in
status) held=-; [ ! -e held ] || held=17
    [ ! -e failed ] || { echo "0 100 thin-pool Fail"; exit; }
    echo "0 100 thin-pool 1 5/1024 3/100 $held rw discard_passdown queue_if_no_space - 1024";;
info) [ ! -e reader ] || { echo 2; rm reader; exit; }; echo 1;;
message) case $4 in
    reserve_metadata_snap) [ ! -e held ] || exit 1; touch held;;
    release_metadata_snap) rm held;;
    esac;;
esac
"""


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heed() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


class Tools:
    """lvs, dmsetup, thin_delta and thin_dump of a node, made up, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.lvs("  new pool-1 7\n  old pool-1 4\n")
        self.make("dmsetup", DMSETUP)
        self.make("sleep", ":")
        self.delta(DELTA)
        self.make("thin_dump", f"echo thin_dump \"$@\" >>log; cat <<'EOF'\n{DUMP}EOF")

    def make(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/bash\ncd {self.folder}\n{script}\n")
        path.chmod(0o755)

    def lvs(self, rows: str) -> None:
        self.make("lvs", f"cat <<'EOF'\n{rows}EOF")

    def delta(self, text: str, version: str = "0.9.0", act: str = "") -> None:
        self.make(
            "thin_delta",
            f'[ "$1" != --version ] || {{ echo "{version}"; exit; }}; echo thin_delta "$@" >>log; {act}\n'
            f"cat <<'EOF'\n{text}EOF",
        )

    def start(self, listing: Command) -> subprocess.Popen[str]:
        # The lock's folder in place of /run/pmc; all the rest is what a node runs.
        argv = [word.replace(lock_files.FOLDER, str(self.folder)) for word in listing.argv]
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        # A shell cannot trap what it was started to ignore, as `make test &` and `nohup make test` make it.
        return subprocess.Popen(
            argv, cwd=self.folder, env={"PATH": path, "TMPDIR": str(self.folder)}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=heed,
        )  # fmt: skip

    def run(self, listing: Command) -> tuple[int, str, str]:
        process = self.start(listing)
        out, err = process.communicate(timeout=60)
        assert not list(self.folder.glob("tmp.*")), "no list stays"
        return process.returncode, out, err

    @property
    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    @property
    def held(self) -> bool:
        return (self.folder / "held").exists()


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(tmp_path)


CHANGED = lvm_thin.changed("my-vg", "old", "new", 1000 * CHUNK)
MAPPED = lvm_thin.mapped("my-vg", "new", 1000 * CHUNK)


def chunks(*pairs: tuple[int, int]) -> list[Range]:
    return [Range(start * CHUNK, length * CHUNK) for start, length in pairs]


def test_changed_is_what_differs_and_what_only_one_has(tools: Tools) -> None:
    exit, out, err = tools.run(CHANGED)
    assert (exit, err) == (0, "")
    assert list(lvm_thin.parse(out)) == chunks((1, 2), (10, 3), (100, 2))
    assert tools.log == [
        "status my--vg-pool--1-tpool",
        "message my--vg-pool--1-tpool 0 reserve_metadata_snap",
        "thin_delta -m --snap1 4 --snap2 7 /dev/mapper/my--vg-pool--1_tmeta",
        "message my--vg-pool--1-tpool 0 release_metadata_snap",
    ]
    assert not tools.held


def test_a_list_may_go_to_a_file(tools: Tools) -> None:
    for number, listing in enumerate(
        (
            lvm_thin.changed("my-vg", "old", "new", 1000 * CHUNK, str(tools.folder / "0")),
            lvm_thin.mapped("my-vg", "new", 1000 * CHUNK, str(tools.folder / "1")),
        )
    ):
        _, printed, _ = tools.run((CHANGED, MAPPED)[number])
        assert tools.run(listing)[:2] == (0, "")
        path = tools.folder / str(number)
        assert path.read_text() == printed
        assert path.stat().st_mode & 0o777 == 0o600


def test_mapped_is_what_the_volume_has(tools: Tools) -> None:
    exit, out, err = tools.run(MAPPED)
    assert (exit, err) == (0, "")
    assert list(lvm_thin.parse(out)) == chunks((0, 6), (11, 2))
    assert "thin_dump -m --dev-id 7 /dev/mapper/my--vg-pool--1_tmeta" in tools.log
    assert not tools.held


def test_what_thin_dump_names_once_and_refers_to_is_counted_where_it_is_used(tools: Tools) -> None:
    tools.make("thin_dump", f"cat <<'EOF'\n{SHARED}EOF")
    exit, out, _ = tools.run(MAPPED)
    assert exit == 0
    assert list(lvm_thin.parse(out)) == chunks((0, 3), (9, 1))


@pytest.mark.parametrize(
    ("size", "found"),
    [
        (12 * CHUNK + 512, [(1, 2), (10, 2)]),
        (10 * CHUNK, [(1, 2)]),
        (CHUNK, []),
    ],
)
def test_the_list_ends_where_the_disk_ends(tools: Tools, size: int, found: list[tuple[int, int]]) -> None:
    """DRBD's metadata lies behind it; and a discarded chunk may lie behind the end of a volume made smaller."""
    _, out, _ = tools.run(lvm_thin.changed("my-vg", "old", "new", size))
    expected = chunks(*found)
    if size % CHUNK:
        expected[-1] = Range(expected[-1].start, expected[-1].length + 512)
    assert list(lvm_thin.parse(out)) == expected


def test_nothing_changed_is_an_empty_list(tools: Tools) -> None:
    tools.delta(DELTA.replace("different", "same").replace("left_only", "same").replace("right_only", "same"))
    assert tools.run(CHANGED) == (0, "", "")


def test_large_volumes_have_large_numbers(tools: Tools) -> None:
    blocks = 1 << 30  # 64 TiB in chunks of 64 KiB
    tools.delta(DELTA.replace('"100"', f'"{blocks}"'))
    _, out, _ = tools.run(lvm_thin.changed("my-vg", "old", "new", 1 << 62))
    assert list(lvm_thin.parse(out))[-1] == Range(blocks * CHUNK, 2 * CHUNK)


@pytest.mark.parametrize("lines", [1, 4, 8])
@pytest.mark.parametrize(("listing", "text"), [(CHANGED, DELTA), (MAPPED, DUMP)])
def test_a_list_cut_short_is_an_error_and_prints_nothing(tools: Tools, listing: Command, text: str, lines: int) -> None:
    cut = "".join(text.splitlines(keepends=True)[:-lines])
    tools.delta(cut)
    tools.make("thin_dump", f"cat <<'EOF'\n{cut}EOF")
    exit, out, err = tools.run(listing)
    assert (exit, out) == (1, "")
    assert "the metadata of the thin pool is not understood" in err
    assert not tools.held


@pytest.mark.parametrize(
    "text",
    [
        DUMP.replace('"8"', '"9"'),  # a block is missing
        DUMP.replace('origin_begin="4"', 'origin_begin="2"'),  # not rising
        DUMP.replace("origin_block", "block"),
        "".join(line + "\n" for line in DUMP.splitlines() if "mapping" not in line and "device" not in line),
        SHARED.replace('<def name="1"', '<def name="2"'),
        "",
    ],
)
def test_a_dump_that_is_not_whole_is_an_error(tools: Tools, text: str) -> None:
    """Of a volume that is not there thin_dump 0.9.0 prints nothing and ends well."""
    tools.make("thin_dump", f"cat <<'EOF'\n{text}EOF")
    exit, out, err = tools.run(MAPPED)
    assert (exit, out) == (1, "")
    assert "not understood" in err
    assert not tools.held


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("  new pool-1 7\n  old        \n", "my-vg/old is no thin volume"),
        ("  new        \n  old pool-1 7\n", "my-vg/new is no thin volume"),
        ("  new pool-1 7\n  old other 3\n", "my-vg/old is in the pool other, my-vg/new in pool-1"),
    ],
)
def test_only_two_thin_volumes_of_one_pool_can_be_compared(tools: Tools, rows: str, said: str) -> None:
    tools.lvs(rows)
    exit, out, err = tools.run(CHANGED)
    assert (exit, out, err.strip()) == (1, "", said)


def test_no_such_volume(tools: Tools) -> None:
    tools.make("lvs", 'echo "  Failed to find logical volume my-vg/new" >&2; exit 5')
    exit, out, err = tools.run(CHANGED)
    assert (exit, out) == (5, "")
    assert "Failed to find" in err


@pytest.mark.parametrize("version", ["1.0.0", "thin_delta 1.0.5", "0.6.3"])
def test_a_thin_delta_that_misses_changes_is_not_asked(tools: Tools, version: str) -> None:
    tools.delta(DELTA, version)
    exit, out, err = tools.run(CHANGED)
    assert (exit, out) == (1, "")
    assert "misses changes" in err


@pytest.mark.parametrize("version", ["thin_delta 1.0.6", "thin_delta 1.0.10", "1.1.0", "0.7.6"])
def test_a_thin_delta_that_is_right_is_asked(tools: Tools, version: str) -> None:
    tools.delta(DELTA, version)
    assert tools.run(CHANGED)[0] == 0


def test_a_failure_gives_the_metadata_back(tools: Tools) -> None:
    tools.delta(DELTA, act="echo 'no mapping tree' >&2; exit 1")
    exit, out, err = tools.run(CHANGED)
    assert exit != 0
    assert out == ""
    assert "no mapping tree" in err
    assert tools.log[-1].endswith("release_metadata_snap")
    assert not tools.held


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_gives_the_metadata_back(tools: Tools, number: signal.Signals) -> None:
    tools.delta(DELTA, act=": >begun; exec /bin/sleep 30")
    process = tools.start(CHANGED)
    deadline = time.monotonic() + 30
    while not (tools.folder / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert tools.held
    os.killpg(process.pid, number)  # as timeout(1) does
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert out == ""
    assert not tools.held


def test_one_that_a_killed_command_left_is_given_back_first(tools: Tools) -> None:
    (tools.folder / "held").touch()
    (tools.folder / "reader").touch()  # somebody reads it once more; then nobody
    exit, out, _ = tools.run(CHANGED)
    assert exit == 0
    assert list(lvm_thin.parse(out)) == chunks((1, 2), (10, 3), (100, 2))
    assert sum(line.endswith("release_metadata_snap") for line in tools.log) == 2
    assert not tools.held


def test_one_that_another_program_reads_is_left_alone(tools: Tools) -> None:
    (tools.folder / "held").touch()
    tools.make("dmsetup", DMSETUP.replace("[ ! -e reader ] || { echo 2; rm reader; exit; }; echo 1", "echo 2"))
    exit, out, err = tools.run(CHANGED)
    assert (exit, out) == (1, "")
    assert "another program reads the metadata of my-vg/pool-1" in err
    assert tools.held


def test_a_pool_that_failed(tools: Tools) -> None:
    (tools.folder / "failed").touch()
    exit, out, err = tools.run(CHANGED)
    assert (exit, out) == (1, "")
    assert err.strip() == "the pool my-vg/pool-1 does not work: 0 100 thin-pool Fail"


def test_two_at_once_take_turns(tools: Tools) -> None:
    tools.delta(DELTA, act="/bin/sleep 0.3")
    both = [tools.start(CHANGED) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert len(out.splitlines()) == 3


@pytest.mark.parametrize("text", ["1", "x 2", "0 0", "0 -1", "5 5\n5 5", "5 5\n10 1", "5 5\n11 1\n3 1", "1 2 3"])
def test_what_is_no_rising_list_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a rising list|unpack|not a number"):
        list(lvm_thin.parse(text))


def test_the_list_as_data() -> None:
    assert lvm_thin.ranges(CHANGED).command is CHANGED
    assert lvm_thin.ranges(CHANGED).parse("0 5\n6 1\n") == [Range(0, 5), Range(6, 1)]
