"""DRBD's parsers against captured output, and the resource file as DRBD 8.4 and 9 want it."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from pmc import drbd, drbd_new_peer
from pmc.model import Resource, ResourceFile
from pmc.units import GiB, KiB, MiB
from tests.unit.samples import data, parsed_files

EVENTS_84 = data("drbdsetup-9.22.0-module-8.4.11-events2.txt")
EVENTS_9 = data("drbdsetup-9-handwritten-events2.txt")
EVENTS_9_MESH = data("drbdsetup-9-published-events2-three-nodes.txt")
FILES = data("drbd-8.4.11-resource-files.txt")
FILES_9 = data("drbd-utils-9-published-resource-files.txt")


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


def mesh(*changes: tuple[str, str]) -> Resource:
    """The three nodes' resource after changes of its lines: (how a line begins, its new word)."""
    lines = EVENTS_9_MESH.splitlines()
    for start, word in changes:
        key = word.partition(":")[0]
        number = next(n for n, line in enumerate(lines) if line.startswith(f"exists {start} "))
        lines[number] = " ".join(word if part.startswith(f"{key}:") else part for part in lines[number].split())
    return drbd.parse_status("\n".join(lines))["drbd1"]


FIRST, SECOND = "name:drbd1 peer-node-id:0", "name:drbd1 peer-node-id:1"


def test_three_nodes_of_9_are_one_resource_and_healthy_when_all_are() -> None:
    assert mesh() == Resource(
        "drbd1", 1, "Secondary", "UpToDate", "Connected", "Established", "Primary", "UpToDate", 765868 * KiB
    )
    assert mesh().healthy


@pytest.mark.parametrize("peer", [FIRST, SECOND])
@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ([("connection", "connection:StandAlone")], {"connection": "StandAlone"}),
        ([("connection", "connection:Connecting")], {"connection": "Connecting"}),
        ([("connection", "connection:NoSuchWord")], {"connection": "NoSuchWord"}),
        ([("peer-device", "peer-disk:Outdated")], {"peer_disk": "Outdated"}),
        ([("peer-device", "peer-disk:NoSuchWord")], {"peer_disk": "NoSuchWord"}),
        ([("peer-device", "peer-disk:Inconsistent"), ("peer-device", "replication:SyncSource"),
          ("peer-device", "out-of-sync:4")],
         {"peer_disk": "Inconsistent", "replication": "SyncSource", "out_of_sync": 4 * KiB}),
    ],
)  # fmt: skip
def test_of_several_peers_the_worst_is_told(
    peer: str, changes: list[tuple[str, str]], shown: dict[str, object]
) -> None:
    """Whichever of the two it is."""
    resource = mesh(*[(f"{kind} {peer}", word) for kind, word in changes])
    assert {key: getattr(resource, key) for key in shown} == shown
    assert not resource.healthy
    assert resource.peer_role == "Primary"


def test_a_split_brain_with_one_peer_is_not_hidden_by_a_sync_with_the_other() -> None:
    resource = mesh(
        (f"connection {SECOND}", "connection:StandAlone"), (f"peer-device {SECOND}", "peer-disk:DUnknown"),
        (f"peer-device {SECOND}", "replication:Off"), (f"peer-device {FIRST}", "replication:SyncTarget"),
    )  # fmt: skip
    assert (resource.connection, resource.peer_disk, resource.replication) == ("StandAlone", "DUnknown", "SyncTarget")


def test_a_peer_that_tells_nothing_of_its_disk_has_no_known_copy() -> None:
    lines = [line for line in EVENTS_9_MESH.splitlines() if not line.startswith(f"exists peer-device {SECOND}")]
    assert drbd.parse_status("\n".join(lines))["drbd1"].peer_disk == "DUnknown"


def test_a_tiebreaker_has_no_copy_and_is_missed_when_it_is_away() -> None:
    """`peer-client:yes`: diskless on purpose, as its resource file says `disk none`."""
    without = [(f"peer-device {SECOND}", "peer-client:yes"), (f"peer-device {SECOND}", "peer-disk:Diskless")]
    assert mesh(*without).healthy
    assert not mesh(*without, (f"connection {SECOND}", "connection:Connecting")).healthy
    both = [(f"peer-device {FIRST}", "peer-client:yes"), (f"peer-device {FIRST}", "peer-disk:Diskless")]
    assert not mesh(*without, *both).healthy, "no copy anywhere"


def test_of_several_volumes_the_worst_is_told() -> None:
    more = EVENTS_9_MESH.replace("exists -", "exists device name:drbd1 volume:1 minor:7 disk:Inconsistent size:10")
    for peer in ("0", "1"):
        line = f"exists peer-device name:drbd1 peer-node-id:{peer} volume:1 replication:SyncTarget"
        more += f"{line} peer-disk:UpToDate peer-client:no out-of-sync:{peer}\n"
    resource = drbd.parse_status(more + "exists -")["drbd1"]
    assert (resource.minor, resource.more_minors, resource.disk) == (1, (7,), "Inconsistent")
    assert (resource.size, resource.out_of_sync) == (765878 * KiB, KiB)


@pytest.mark.parametrize("events", [EVENTS_84, EVENTS_9, EVENTS_9_MESH])
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


def test_a_state_that_is_no_word_is_not_known() -> None:
    for odd in ("x" * 100, "é", "$(x)", "1"):
        resource = mesh((f"peer-device {FIRST}", f"peer-disk:{odd}"), (f"connection {FIRST}", f"connection:{odd}"))
        assert (resource.peer_disk, resource.connection, resource.healthy) == ("Unknown", "Unknown", False)
        resource = mesh(("resource name:drbd1", f"role:{odd}"), ("resource name:drbd1", f"suspended:{odd}"))
        assert (resource.role, resource.suspended) == ("Unknown", "Unknown")


def test_which_resources_allow_two_primaries() -> None:
    assert drbd.parse_open(data("drbdsetup-9.22.0-module-8.4.11-show-filtered.txt")) == frozenset()
    assert drbd.parse_open(data("drbdsetup-9-handwritten-show-filtered.txt")) == {"web"}
    assert drbd.parse_open("") == frozenset()
    holding = "resource web {\n        fencing         resource-and-stonith;\nresource db {\n"
    assert drbd.parse_open(holding) == {"web"}
    assert drbd.parse_open(f"{holding}file /etc/drbd.d/web.res\n") == frozenset()
    assert drbd.parse_open(f"{holding}file /etc/drbd.d/db.res\n") == {"web"}
    assert drbd.parse_open(f"{holding}file /etc/drbd.d/global_common.conf\n") == frozenset()
    assert drbd.parse_open(holding.replace("resource-and-stonith", "dont-care")) == frozenset()
    with pytest.raises(ValueError, match="drbdsetup show"):
        drbd.parse_open("drbdsetup: failed\n")


def test_the_secret_does_not_leave_the_node() -> None:
    assert "shared-secret" not in FILES
    assert "shared-secret" in str(drbd.files().command)


def test_files_of_pmc() -> None:
    assert parsed_files(FILES) == {
        "web": ResourceFile("web", 1, "/dev/vg/web", ("pm-1", "pm-2"), (7800,)),
        "web2": ResourceFile("web2", 2, "/dev/vg/web2", ("pm-1", "pm-2"), (7801,)),
    }
    assert parsed_files("") == {}


def test_a_file_written_by_hand() -> None:
    text = """
    # resource gone { device minor 9; }
    resource "old" { net { shared-secret "x"; }
      volume 0 { device /dev/drbd7; disk /dev/sdb1; meta-disk internal; }
      on "alpha" { address 192.0.2.1:7790; } on beta { address ipv6 [2001:db8::1]:7791; }
    }
    """
    assert parsed_files(text) == {"old": ResourceFile("old", 7, "/dev/sdb1", ("alpha", "beta"), (7790, 7791))}


# The witness has a disk statement of its own: none.
DISKLESS = (("undertest", "/dev/foo/bar42"), ("other", "/dev/foo/bar42"), ("witness", "none"))


def test_files_of_9() -> None:
    assert parsed_files(FILES_9) == {
        "tiebreaker-test": ResourceFile(
            "tiebreaker-test", 43, "/dev/foo/bar42", ("undertest", "other", "witness"), (7000,), (), DISKLESS
        ),
        "nat-address": ResourceFile("nat-address", 99, "/dev/foo/bar4", ("undertest", "other"), (7001, 7002)),
        "r0": ResourceFile("r0", 1, "/dev/sda7", ("undertest", "bob"), (7003, 7004)),
    }


def test_a_file_with_several_volumes_holds_several_minors() -> None:
    sides = "".join(
        f"on {host} {{ address 10.0.0.{n}:7790; volume 0 {{ device /dev/drbd3; disk /dev/vg/a; }}\n"
        "volume 1 { device minor 4; disk /dev/vg/b; } }\n"
        for n, host in enumerate(("alpha", "beta"))
    )
    found = parsed_files(f"resource old {{ {sides} }}")["old"]
    more = (("alpha", "/dev/vg/b"), ("beta", "/dev/vg/b"))
    assert found == ResourceFile("old", 3, "/dev/vg/a", ("alpha", "beta"), (7790,), (4,), (), more)


@pytest.mark.parametrize("version", ["8.4.11", "9.1.12"])
def test_the_file_that_pmc_writes_is_the_one_it_reads(version: str) -> None:
    hosts = [("pm-1", "10.0.0.1"), ("pm-2", "2001:db8::2")]
    text = drbd.resource_text("web", 3, 7805, "/dev/vg/web", hosts, "hunter2", version)
    assert parsed_files(text) == {"web": ResourceFile("web", 3, "/dev/vg/web", ("pm-1", "pm-2"), (7805,))}
    assert ("node-id" in text) == version.startswith("9")
    assert "address ipv6 [2001:db8::2]:7805;" in text
    for rule in ("protocol C;", "allow-two-primaries no;", 'shared-secret "hunter2";'):
        assert rule in text
    assert text.count("disconnect;") == 3


@pytest.mark.parametrize("name", ["net", "proxy", "disk", "web"])
def test_names_that_are_words_of_drbd_conf_are_quoted_and_read_back(name: str) -> None:
    """`drbdadm sh-resources` of drbd-utils 9.22: "Parse error: 'TK_STRING' expected, but got 'net'"."""
    text = drbd.resource_text(name, 3, 7805, f"/dev/vg/{name}", [("proxy", "10.0.0.1")], "hunter2", "8.4.11")
    assert f'\nresource "{name}" {{\n' in text
    assert '\n    on "proxy" {\n' in text
    assert parsed_files(text)[name].hosts == ("proxy",)


@pytest.mark.parametrize(("line", "found"), [("on pm-3 {", True), ('on "pm-3" {', True), ("on pm-33 {", False)])
def test_whether_a_file_has_a_host(tmp_path: Path, line: str, found: bool) -> None:
    """Also in the form that earlier versions of pmc wrote."""
    (tmp_path / "web.res").write_text(f"resource web {{\n    {line}\n")
    argv = list(drbd_new_peer.file_names("web", "pm-3").argv)
    argv[argv.index(drbd.path("web"))] = str(tmp_path / "web.res")
    assert (subprocess.run(argv, check=False).returncode == 0) is found


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
    assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.parametrize("came", ["", "resource web {\n    net {"])
def test_a_piece_of_a_resource_file_gets_no_final_name(tmp_path: Path, came: str) -> None:
    """As when the manager dies before it has sent the text: it would be in the way of drbdadm, or of vm.add."""
    write = drbd.write_file("web", "resource web {\n}\n", "hunter2")
    done = subprocess.run([*write.argv[:-1], str(tmp_path / "web.res")], input=came, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "its text did not come whole\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tool", ["cat", "sync"])
def test_a_resource_file_that_cannot_be_written_gets_no_final_name(tmp_path: Path, tool: str) -> None:
    """As on a full disk."""
    tools, folder = tmp_path / "tools", tmp_path / "drbd.d"
    tools.mkdir()
    folder.mkdir()
    (tools / tool).write_text("#!/bin/sh\necho 'resource'; exit 1\n")
    (tools / tool).chmod(0o755)
    write = drbd.write_file("web", "resource web {\n}\n", "hunter2")
    environment = {"PATH": f"{tools}:/usr/bin:/bin"}
    argv = [*write.argv[:-1], str(folder / "web.res")]
    assert subprocess.run(argv, input=write.stdin, text=True, env=environment, check=False).returncode == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("size", [MiB, 10 * MiB, 36 * MiB, GiB, 50 * GiB, 1 << 40, 16 << 40])
def test_metadata_has_room_for_the_bitmap(size: int) -> None:
    """User's guide, "Estimating metadata size": in sectors, ceil(size / 2**18) * 8 + 72."""
    sectors = -(-(size // 512) // (1 << 18)) * 8 + 72
    assert drbd.metadata_size(size) >= sectors * 512
    assert drbd.metadata_size(size) % 512 == 0, "LVM takes no other size"


def test_names_that_drbdadm_takes_for_something_else() -> None:
    assert drbd.RESERVED.fullmatch("all")
    assert drbd.RESERVED.fullmatch("minor-7")
    assert not drbd.RESERVED.fullmatch("allways")
