# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's command line, the files that lead to the nodes, and what the lab refuses."""

import stat
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from invoke.exceptions import Exit
from paramiko import SSHConfig
from paramiko.hostkeys import HostKeys

from lab import cluster, initrd, keys, paths, ports, reach, saved, tasks
from lab.cluster import Lab
from lab.errors import LabError
from lab.image import Image
from lab.machine import Machine


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short(tmp_path)))
    monkeypatch.delenv("PMC_LAB", raising=False)


def short(path: Path) -> Path:
    """pytest's own paths may be too long for sockets."""
    folder = path / "r"
    folder.mkdir(exist_ok=True)
    return folder


def machine(node: int = 1, accel: str = "tcg") -> Machine:
    image = Image("0123456789ab", Path("/c/image-0123456789ab"))
    return Machine(node, image, accel, 22001, Path("/r/lab"), Path("/c/disks/lab"))


def value(argv: list[str], option: str, start: str = "") -> str:
    found = [after for one, after in pairwise(argv) if one == option]
    (only,) = [one for one in found if one.startswith(start)]
    return only


def test_command_line() -> None:
    argv = machine(2).command()
    assert value(argv, "-accel") == "tcg,thread=multi,tb-size=256"
    assert value(argv, "-netdev", "user") == "user,id=host,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:22001-:22"
    assert value(argv, "-netdev", "dgram") == (
        "dgram,id=private,local.type=unix,local.path=/r/lab/node2,remote.type=unix,remote.path=/r/lab/hub2"
    )
    assert "host_mtu=9000" in value(argv, "-device", "virtio-net-pci,netdev=private")
    for disk, form in (("root", "qcow2"), ("vg", "raw")):
        drive = value(argv, "-drive", f"id={disk}")
        assert drive.endswith(f"file=nbd+unix:///{disk}?socket=/r/lab/pm-2.{disk}")
        # Not unsafe: flushes must reach the disk, which forgets what is not flushed.
        assert f"format={form},if=none,cache=writeback,discard=ignore,detect-zeroes=off," in drive
    assert value(argv, "-chardev", "file,id=heard3") == "file,id=heard3,path=/r/lab/pm-2.heard3,append=on"
    assert "systemd.hostname=pm-2 " in value(argv, "-append")
    assert value(argv, "-append").endswith("lab.node=2")
    assert "-incoming" not in argv


def test_machine_id_is_32_digits_and_differs() -> None:
    ids = set()
    for node in range(1, 5):
        (found,) = [word for word in machine(node).append().split() if word.startswith("systemd.machine_id=")]
        assert len(found.partition("=")[2]) == 32
        ids.add(found)
    assert len(ids) == 4


def test_a_saved_state_is_the_same_command_line_and_more() -> None:
    plain, waking = machine().command(), machine().command(Path("/c/a b/state"))
    assert waking[: len(plain)] == plain
    assert waking[len(plain) :] == ["-S", "-incoming", "exec:cat < '/c/a b/state'"]


def test_kvm_is_not_given_what_is_meant_for_emulation() -> None:
    argv = machine(accel="kvm").command()
    assert value(argv, "-cpu") == "host"
    assert "lpj=" not in value(argv, "-append")


def test_state_key_ignores_where_the_lab_lies_but_not_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved, "qemu_version", lambda: "7.2")
    one = machine()
    assert saved.folder(one) == saved.folder(replace(one, port=9, run=Path("/x"), disks=Path("/y")))
    assert saved.folder(one) != saved.folder(replace(one, node=2))
    assert saved.folder(one) != saved.folder(replace(one, accel="kvm"))
    before = saved.folder(one)
    monkeypatch.setattr(saved, "qemu_version", lambda: "8.0")
    assert saved.folder(one) != before


def test_configuration_files(tmp_path: Path) -> None:
    found = reach.write(tmp_path, [machine(1), replace(machine(2), port=22002)])
    settings = tomllib.loads(found.pmc.read_text())
    assert settings["nodes"] == {
        "pm-1": {"replication": "10.77.0.1"},
        "pm-2": {"replication": "10.77.0.2"},
    }
    assert settings["ssh_config"] == str(tmp_path / "ssh_config")
    assert settings["deadlines"]["connect"] == 30

    host = SSHConfig.from_path(str(found.ssh)).lookup("pm-2")
    assert (host["hostname"], host["port"], host["user"]) == ("127.0.0.1", "22002", "root")
    assert str(found.key) in host["identityfile"]
    assert stat.S_IMODE(found.key.stat().st_mode) == 0o600

    known = HostKeys(str(found.known_hosts))
    for name in ("pm-2", "[127.0.0.1]:22002"):
        entry = known.lookup(name)
        assert entry is not None
        assert entry["ssh-ed25519"].get_base64() in (keys.folder() / "host2.pub").read_text()


def test_module_load_order() -> None:
    dep = (
        "kernel/virtio_net.ko: kernel/net_failover.ko kernel/failover.ko kernel/virtio.ko\n"
        "kernel/net_failover.ko: kernel/failover.ko\nkernel/failover.ko:\nkernel/virtio.ko:\n"
        "kernel/virtio-rng.ko: kernel/virtio.ko\n"
    )
    names = [Path(path).stem for path in initrd.load_order(dep, ["virtio_rng", "virtio_net", "built_in"])]
    assert names == ["virtio", "virtio-rng", "failover", "net_failover", "virtio_net"]


def test_free_ports_are_different_ones() -> None:
    assert len(set(ports.free_ports(20))) == 20


@pytest.mark.parametrize("name", ["", "x" * 17, "../up", "A", "a b", "-a", "a\n"])
def test_bad_lab_names(name: str) -> None:
    if name:
        with pytest.raises(LabError, match="a lab's name"):
            paths.name(name)
    else:
        assert paths.name(name) == "lab"


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(LabError, match="not a folder of yours"):
        paths.folder(tmp_path / "link")


def test_long_run_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with pytest.raises(LabError, match="too long"):
        Lab("h1")


@pytest.mark.parametrize("nodes", [-1, 0, 1, 5, 7])
def test_wrong_number_of_nodes(nodes: int) -> None:
    with pytest.raises(LabError, match="2 to 4"):
        Lab().up(nodes)


def test_number_is_a_number() -> None:
    with pytest.raises(LabError, match="--nodes=two"):
        tasks.number("two")


def test_not_up_is_one_line_and_status_2() -> None:
    lab = Lab("h1")
    for act in (
        lab.status,
        lab.heal,
        lab.conf,
        lambda: lab.kill("pm-1"),
        lambda: lab.start("pm-1"),
        lambda: lab.cut("pm-1", "pm-2"),
    ):
        with pytest.raises(Exit, match="not up") as caught:
            act()
        assert caught.value.code == 2
        assert "\n" not in str(caught.value)


def test_down_of_nothing_is_fine() -> None:
    assert Lab("h1").down() is False


def test_down_sweeps_what_a_crash_left(tmp_path: Path) -> None:
    lab = Lab("h1")
    lab.run.mkdir(parents=True)
    lab.disks.mkdir(parents=True)
    (lab.run / "lab.json").write_text('{"image": "0", "accel": "tcg", "ports": [1, 2]}')
    (lab.run / "hub.pid").write_text('{"pid": 1, "started": 0, "boot": "before"}')
    (lab.run / "pm-1.pid").write_text("half a rec")
    assert not lab.is_up()
    assert lab.down()
    assert not lab.run.exists()
    assert not lab.disks.exists()


def test_clean_removes_images_and_keeps_keys() -> None:
    folder = paths.cache() / "image-0"
    folder.mkdir()
    kept = keys.folder()
    assert str(folder) in cluster.clean()
    assert not folder.exists()
    assert (kept / "id_ed25519").exists()


def test_the_cable_to_the_host_is_taken_out_and_put_in_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the test that took it out fails; a node that lost its power meanwhile has none."""
    asked: list[str] = []
    dead: set[str] = set()
    monkeypatch.setattr(Machine, "plug", lambda self, plugged: asked.append(f"{self.name} {plugged}"))
    monkeypatch.setattr(Machine, "process", lambda self: None if self.name in dead else object())
    monkeypatch.setattr(
        Lab, "need", lambda self, *names: [machine(int(name[-1])) for name in names or ("pm-1", "pm-2")]
    )
    monkeypatch.setattr(Lab, "ask_hub", lambda self, text: [])

    def fail() -> None:
        with Lab("test").unplugged("pm-1", "pm-2"):
            dead.add("pm-2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert asked == ["pm-1 False", "pm-2 False", "pm-1 True"]
    Lab("test").heal()
    assert asked[3:] == ["pm-1 True"]
