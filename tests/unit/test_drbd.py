"""DRBD's parsers against captured output, and the resource file as DRBD 8.4 and 9 want it."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from pmc import drbd
from pmc.model import Resource, ResourceFile
from pmc.units import GiB, KiB, MiB
from tests.unit.samples import data

EVENTS_84 = data("drbdsetup-9.22.0-module-8.4.11-events2.txt")
EVENTS_9 = data("drbdsetup-9-handwritten-events2.txt")
FILES = data("drbd-8.4.11-resource-files.txt")


def test_status_of_8_4() -> None:
    found = drbd.parse_status(EVENTS_84)
    assert list(found) == ["web", "web2"]
    assert found["web"] == Resource(
        "web", 1, "Primary", "UpToDate", "Connected", "Established", "Secondary", "UpToDate", size=69592 * KiB
    )
    assert found["web"].healthy
    assert (found["web2"].role, found["web2"].peer_role, found["web2"].minor) == ("Secondary", "Primary", 2)


def test_status_of_9() -> None:
    found = drbd.parse_status(EVENTS_9)
    assert found["web"] == Resource(
        "web", 1, "Primary", "UpToDate", "Connected", "SyncSource", "Secondary", "Inconsistent", GiB, 256 * MiB
    )
    assert found["web"].percent == 75.0
    assert not found["web"].healthy
    assert found["mail"] == Resource(
        "mail", 2, "Secondary", "UpToDate", "Connecting", "Off", "Unknown", "DUnknown", 2 * GiB
    )
    assert not found["mail"].healthy


def test_status_without_the_module_or_without_resources() -> None:
    assert drbd.parse_status("") == {}
    assert drbd.parse_status("exists -\n") == {}


@pytest.mark.parametrize("events", [EVENTS_84, EVENTS_9])
def test_status_cut_short_anywhere_is_an_error(events: str) -> None:
    for length in range(1, len(events.rstrip())):
        with pytest.raises((ValueError, KeyError)):
            drbd.parse_status(events[:length])


@pytest.mark.parametrize(
    "text",
    [
        "bash: drbdsetup: command not found\n",
        "exists resource name:web\nexists -\n",
        "exists device name:web minor:one disk:UpToDate\nexists -\n",
        "exists peer-device name:web replication:Established\nexists -\n",
    ],
)
def test_status_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        drbd.parse_status(text)


def test_which_resources_allow_two_primaries() -> None:
    assert drbd.parse_open(data("drbdsetup-9.22.0-module-8.4.11-show-filtered.txt")) == frozenset()
    assert drbd.parse_open(data("drbdsetup-9-handwritten-show-filtered.txt")) == {"web"}
    assert drbd.parse_open("") == frozenset()
    with pytest.raises(ValueError, match="drbdsetup show"):
        drbd.parse_open("drbdsetup: failed\n")


def test_the_secret_does_not_leave_the_node() -> None:
    assert "shared-secret" not in FILES
    assert "shared-secret" in str(drbd.files().command)


def test_files_of_pmc() -> None:
    assert drbd.parse_files(FILES) == {
        "web": ResourceFile("web", 1, "/dev/vg/web", ("pm-1", "pm-2"), (7800,)),
        "web2": ResourceFile("web2", 2, "/dev/vg/web2", ("pm-1", "pm-2"), (7801,)),
    }
    assert drbd.parse_files("") == {}


def test_a_file_written_by_hand() -> None:
    text = """
    # resource gone { device minor 9; }
    resource "old" { net { shared-secret "x"; }
      volume 0 { device /dev/drbd7; disk /dev/sdb1; meta-disk internal; }
      on "alpha" { address 192.0.2.1:7790; } on beta { address ipv6 [2001:db8::1]:7791; }
    }
    """
    assert drbd.parse_files(text) == {"old": ResourceFile("old", 7, "/dev/sdb1", ("alpha", "beta"), (7790, 7791))}


@pytest.mark.parametrize("text", ["cannot open\n", "resource web {\n", "resource web {\n    device /dev/dr", "}"])
def test_files_that_are_none_are_an_error(text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        drbd.parse_files(text)


@pytest.mark.parametrize("version", ["8.4.11", "9.1.12"])
def test_the_file_that_pmc_writes_is_the_one_it_reads(version: str) -> None:
    hosts = [("pm-1", "10.0.0.1"), ("pm-2", "2001:db8::2")]
    text = drbd.resource_text("web", 3, 7805, "/dev/vg/web", hosts, "hunter2", version)
    assert drbd.parse_files(text) == {"web": ResourceFile("web", 3, "/dev/vg/web", ("pm-1", "pm-2"), (7805,))}
    assert ("node-id" in text) == version.startswith("9")
    assert "address ipv6 [2001:db8::2]:7805;" in text
    for rule in ("protocol C;", "allow-two-primaries no;", 'shared-secret "hunter2";'):
        assert rule in text
    assert text.count("disconnect;") == 3


def test_the_secret_of_a_file_travels_on_stdin() -> None:
    write = drbd.write_file("web", 'shared-secret "hunter2";', "hunter2")
    assert not any("hunter2" in word for word in write.argv)
    assert "hunter2" not in str(write)


def test_a_resource_file_is_for_root_only_and_never_written_over_another(tmp_path: Path) -> None:
    write = drbd.write_file("web", "resource web {}", "hunter2")
    mine = tmp_path / "web.res"
    argv = [*write.argv[:-1], str(mine)]
    subprocess.run(argv, input=write.stdin, text=True, check=True)
    assert mine.read_text() == "resource web {}"
    assert stat.S_IMODE(mine.stat().st_mode) == 0o600
    mine.write_text("resource other {}")
    done = subprocess.run(argv, input=write.stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert mine.read_text() == "resource other {}"


@pytest.mark.parametrize("size", [MiB, 10 * MiB, GiB, 50 * GiB, 1 << 40, 16 << 40])
def test_metadata_has_room_for_the_bitmap(size: int) -> None:
    """User's guide, "Estimating metadata size": in sectors, ceil(size / 2**18) * 8 + 72."""
    sectors = -(-(size // 512) // (1 << 18)) * 8 + 72
    assert drbd.metadata_size(size) >= sectors * 512


def test_names_that_drbdadm_takes_for_something_else() -> None:
    assert drbd.RESERVED.fullmatch("all")
    assert drbd.RESERVED.fullmatch("minor-7")
    assert not drbd.RESERVED.fullmatch("allways")
