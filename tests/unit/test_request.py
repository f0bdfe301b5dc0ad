"""What people type at vm.add: each careless input is refused before anything is touched, and the flag is named."""

from __future__ import annotations

import os
import shlex
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from pmc.actions import identity
from pmc.errors import Refused
from pmc.plans import request
from pmc.plans.request import Add, Image
from pmc.units import GiB, MiB
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS

GOOD = {"name": "web", "primary": "pm-1", "secondary": "pm-2", "size": "50G", "memory": "4G", "cpus": "2"}


def add(**flags: object) -> Add:
    return request.add(SETTINGS, {**GOOD, **flags})


def refused(**flags: object) -> str:
    with pytest.raises(Refused) as caught:
        add(**flags)
    assert caught.value.code == 2
    assert len(str(caught.value)) < 400
    return str(caught.value)


def qcow2(version: int = 3, backing: int = 0, size: int = 10 * GiB, features: int = 0) -> bytes:
    """The header of such an image."""
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", version, backing, 0, 16, size)
    return head.ljust(72, b"\0") + struct.pack(">Q", features) + bytes(424)


def test_a_whole_request() -> None:
    assert add(address="10.0.3.7", virt_install="--cloud-init 'user-data=/a b'") == Add(
        "web", "pm-1", "pm-2", 50 * GiB, 4 * GiB, 2, address="10.0.3.7", virt_install="--cloud-init 'user-data=/a b'"
    )
    assert add().nodes == ("pm-1", "pm-2")


def test_a_request_without_a_second_copy_and_with_what_is_left_out() -> None:
    found = request.add(SETTINGS, {"name": "web", "primary": "pm-1", "size": "1", "memory": "512M", "secondary": None})
    assert (found.nodes, found.size, found.memory, found.cpus) == (("pm-1",), GiB, 512 * MiB, 1)


def test_a_request_that_leaves_the_nodes_to_pmc() -> None:
    for primary in ("", None):
        found = add(primary=primary, secondary=None)
        assert (found.primary, found.secondary, found.single) == ("", "", False)
    assert add(primary="", secondary="pm-2").secondary == "pm-2"
    assert add(primary="", secondary="", single=True).single
    assert add(secondary="", single=True).nodes == ("pm-1",)


def test_a_full_sync_is_asked_for() -> None:
    assert [add(sync=sync).full for sync in (None, "", "skip", "full")] == [False, False, False, True]
    assert add(sync="full", primary="", secondary="").full


def test_from_python_numbers_are_welcome() -> None:
    assert (add(size=50, memory=4, cpus=2).size, add(cpus=2).cpus) == (50 * GiB, 2)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"name": ""}, "vm.add '': a new VM's name is a-z"),
        ({"name": "Web"}, "vm.add 'Web'"),
        ({"name": "web; rm -rf /"}, "vm.add 'web; rm -rf /'"),
        ({"name": "x" * 5000}, "vm.add 'xxx"),
        ({"name": "all"}, "choose another"),
        ({"name": 5}, "vm.add '5'"),
        (
            {"primary": "", "secondary": "", "size": "", "reuse": True},
            "--primary is missing: with --reuse, the node that",
        ),
        ({"single": True}, "--single and --secondary: choose one"),
        ({"primary": "", "single": True}, "--single and --secondary: choose one"),
        ({"sync": "half"}, "--sync 'half': skip (both copies begin as zeros, the default) or full"),
        ({"sync": "full", "secondary": ""}, "--sync full: there is no second copy; give --secondary"),
        ({"sync": "full", "primary": "", "secondary": "", "single": True}, "--sync full: there is no second copy"),
        ({"sync": "skip", "size": "", "reuse": True}, "--sync skip and --reuse: what is on the volume must be copied"),
        ({"primary": "pm-9"}, "--primary 'pm-9': no such node; pmc.conf has pm-1, pm-2, pm-3"),
        ({"primary": "PM-1"}, "--primary 'PM-1'"),
        ({"secondary": "pm-9"}, "--secondary 'pm-9'"),
        ({"secondary": "pm-1"}, "--secondary pm-1: is the primary as well"),
        ({"secondary": "pm-2 pm-3"}, "--secondary 'pm-2 pm-3'"),
        ({"size": ""}, "--size is missing: such as --size 50G"),
        ({"size": "fifty"}, "--size: 'fifty' is not a size: write 50G"),
        ({"size": "-5G"}, "--size: '-5G'"),
        ({"size": "0"}, "--size: '0'"),
        ({"size": "512k"}, "--size 512k: at least 1M"),
        ({"memory": ""}, "--memory is missing: such as --memory 4G"),
        ({"memory": "4X"}, "--memory: '4X'"),
        ({"memory": "99999999999"}, "--memory: "),
        ({"cpus": "0"}, "--cpus '0': a number from 1 to 512"),
        ({"cpus": "513"}, "--cpus '513'"),
        ({"cpus": "two"}, "--cpus 'two'"),
        ({"cpus": "1.5"}, "--cpus '1.5'"),
        ({"cpus": "²"}, "--cpus '²'"),
        ({"cpus": "9" * 5000}, "--cpus '999"),
        ({"cpus": ""}, "--cpus ''"),
        ({"address": "10.0.3"}, "--address '10.0.3': an IPv4 address like"),
        ({"address": "10.0.3.300"}, "--address"),
        ({"address": "10.0.3.7/24"}, "--address"),
        ({"address": "2001:db8::1"}, "--address"),
        ({"virt_install": "--pxe\n--noreboot"}, "--virt-install: one line of printable characters"),
        ({"virt_install": "--disk 'x"}, "--virt-install: No closing quotation"),
        ({"iso": "a", "pxe": True}, "--iso and --pxe: choose one"),
        ({"image": "a", "clone": "b"}, "--image and --clone: choose one"),
        ({"clone": "b", "reuse": True, "size": ""}, "--clone and --reuse: choose one"),
        ({"clone": "B.b"}, "--clone 'B.b'"),
        ({"reuse": True}, "--size and --reuse: choose one"),
        ({"iso": "none"}, "--iso 'none': no such file in"),
        ({"iso": "../etc/passwd"}, "--iso '../etc/passwd'"),
        ({"iso": "a\0b"}, "--iso"),
        ({"iso": "x" * 5000}, "--iso"),
        ({"image": "/no/such/image"}, "--image '/no/such/image': No such file"),
        ({"image": "/"}, "--image '/': Is a directory"),
        ({"image": "a\0b"}, "--image"),
        ({"image": "x" * 5000}, "--image"),
    ],
)
def test_refused_by_flag(flags: dict[str, object], words: str) -> None:
    assert words in refused(**flags)


def test_sources_that_say_how_large_the_disk_is() -> None:
    assert add(reuse=True, size="").size == 0
    assert add(clone="mail", size="").size == 0
    assert add(clone="mail").size == 50 * GiB


def test_a_raw_image(tmp_path: Path) -> None:
    path = tmp_path / "disk image.raw"
    path.write_bytes(bytes(3 * MiB))
    found = add(image=str(path), size="")
    assert found.image == Image(str(path), "raw", 3 * MiB, 3 * MiB, identity(path.stat()))
    assert found.size == 3 * MiB
    assert add(image=str(path)).size == 50 * GiB
    assert f"--size 2M: the image {path} needs 3M" in refused(image=str(path), size="2M")


@pytest.mark.parametrize("version", [2, 3])
def test_a_qcow2_image(tmp_path: Path, version: int) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(qcow2(version))
    assert add(image=str(path), size="").image == Image(str(path), "qcow2", 10 * GiB, 504, identity(path.stat()))
    assert add(image=str(path), size="").size == 10 * GiB
    assert "the image" in refused(image=str(path), size="9G")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (qcow2(backing=512), "needs another file beside it; first: qemu-img convert"),
     (qcow2(features=4), "needs another file"), (qcow2()[:20], "is cut short"), (qcow2(size=0), "0 bytes"),
     (qcow2(version=1), "qcow version 1")],
)  # fmt: skip
def test_images_that_do_not_do(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    assert words in refused(image=str(path), size="")


def test_what_to_do_with_an_image_can_be_pasted(tmp_path: Path) -> None:
    path = tmp_path / "an image; reboot.qcow2"
    path.write_bytes(qcow2(backing=512))
    line = refused(image=str(path), size="").partition("first: ")[2]
    assert shlex.split(line) == ["qemu-img", "convert", "-O", "qcow2", str(path), "NEW"]


def test_isos_by_name(tmp_path: Path) -> None:
    (tmp_path / "debian.iso").write_bytes(b"cd")
    with_isos = replace(SETTINGS, iso_dir=str(tmp_path))
    for name in ("debian", "debian.iso"):
        assert request.add(with_isos, {**GOOD, "iso": name}).iso == Image(
            str(tmp_path / "debian.iso"), "iso", 2, 2, identity((tmp_path / "debian.iso").stat())
        )
    for name in ("ubuntu", str(tmp_path / "debian.iso"), ".", ".."):
        with raises(Refused, "request.iso", "there: debian.iso"):
            request.add(with_isos, {**GOOD, "iso": name})


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_image_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x")
    path.chmod(0)
    assert "Permission denied" in refused(image=str(path))
