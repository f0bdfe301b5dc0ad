"""Resource files in every form that drbdadm takes, and in none: what cannot be read costs only itself."""

from __future__ import annotations

import os
import re
import subprocess
import time
import tracemalloc
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pmc import drbd
from pmc.capacity import allocate
from pmc.errors import Refused
from pmc.facts import drbd_files
from pmc.facts.drbd_conf import DEEPEST, read
from pmc.facts.drbd_files import Files
from pmc.health import drbd_options
from pmc.model import Domain, Odd, ResourceFile
from pmc.node_state import node_state
from pmc.plans import requirements
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, changed, cluster, data, framed, node, parsed_files, running

WEB = drbd.resource_text(
    "web", 1, 7800, "/dev/vg/web", [("pm-1", "10.0.0.1"), ("pm-2", "10.0.0.2")], "hunter2", "8.4.11"
)
NFS = 'resource "nfs" { device /dev/drbd7; disk /dev/vg/nfs; on pm-1 { address 10.0.0.1:7789; } }\n'


def files(*texts: str) -> Files:
    return drbd_files.parse("".join(framed(f"{text}\n", f"{number}.res") for number, text in enumerate(texts)))


def there(folder: Path) -> Files:
    """As a node with this directory answers."""
    argv = list(drbd.files().command.argv)
    argv[argv.index(drbd.DIRECTORY)] = str(folder)
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    done = subprocess.run(argv, check=True, capture_output=True, text=True, env=environment, timeout=60)
    assert "hunter2" not in done.stdout
    assert done.stderr == ""
    return drbd_files.parse(done.stdout)


# -- what drbdadm takes --


def test_each_form_is_read_as_drbdadm_reads_it() -> None:
    found = files(data("drbd-handwritten-every-form.res"))
    assert found.odd == ()
    said = {
        each.get("name"): each
        for each in ET.fromstring(data("drbdadm-9.22.0-dump-xml-every-form.xml")).iter("resource")
    }
    assert set(found.resources) == set(said)
    for name, file in found.resources.items():
        xml = said[name]
        assert {file.minor, *file.more_minors} == {int(str(each.get("minor"))) for each in xml.iter("device")}
        ports = {each.get("port") for tag in ("address", "inside", "outside") for each in xml.iter(tag)}
        assert set(map(str, file.ports)) == ports - {"(null)"}  # of a host that has addresses per connection
        assert file.disk in {each.text for each in xml.iter("disk")}
        for host in () if name == "upper" else xml.findall("host"):
            disks = [each.text or "none" for each in host.iter("disk")]
            assert list(file.disks_on(str(host.get("name")))) == disks, f"{name} on {host.get('name')}"
        if name != "upper":  # a stacked one is no host's own: drbdadm needs --stacked for it
            hosts = [str(each.get("name")) for each in xml.findall("host") if not each.get("floating")]
            assert list(file.hosts) == " ".join(hosts).split()
    assert found.resources["upper"].hosts == ("z",)
    assert found.minors == {97, 98}, "what is skipped may come back"
    assert found.ports == {7898, 7899}


OWN = """resource web { device minor 1; disk /dev/vg/web;
    on pm-1 { address 10.0.0.1:7800; } on pm-2 { address 10.0.0.2:7800; disk /dev/vg/old; disk "/dev/vg/web_b"; } }"""


def test_what_a_host_says_of_its_disk_counts_before_what_the_resource_says() -> None:
    file = files(OWN).resources["web"]
    assert [file.disk_on(host) for host in ("pm-1", "pm-2", "pm-3")] == ["/dev/vg/web", "/dev/vg/web_b", "/dev/vg/web"]
    assert file.disks_on("pm-2") == ("/dev/vg/web_b",)


@pytest.mark.parametrize("own", ["", "volume 1 { disk /dev/vg/d; }", "volume 0 { disk /dev/vg/a; }"])
def test_every_volume_counts(own: str) -> None:
    text = f"""resource web {{
        volume 0 {{ device minor 1; disk /dev/vg/a; }} volume 1 {{ device minor 2; disk /dev/vg/b; }}
        on pm-1 {{ address 10.0.0.1:7800; }} on pm-2 {{ address 10.0.0.2:7800; {own} }} }}"""
    file = files(text).resources["web"]
    assert file.disks_on("pm-1") == ("/dev/vg/a", "/dev/vg/b")
    assert file.disks_on("pm-2") == ("/dev/vg/a", "/dev/vg/d" if "/vg/d" in own else "/dev/vg/b")
    assert set(file.disks_on("another")) >= {"/dev/vg/a", "/dev/vg/b"}, "which it is is not known"


def test_a_quoted_device_without_minor() -> None:
    expected = ResourceFile("nfs", 7, "/dev/vg/nfs_data", ("pm-1", "pm-2"), (7789,))
    assert files(data("drbd-handwritten-quoted-device.res")) == Files({"nfs": expected})


def test_a_file_without_a_resource_is_no_trouble() -> None:
    assert files(data("drbd-published-linstor-include-only.res")) == Files()
    skipped = files(data("drbd-handwritten-skip-only.res"))
    assert skipped == Files(minors=frozenset({0}), ports=frozenset({7788}))
    assert files("", "# nothing\n", "global { usage-count no; }") == Files()


@pytest.mark.parametrize("text", ['handlers { split-brain "/x \\"; protocol A;"; }', "skip net { protocol A; }"])
def test_options_in_a_handler_or_skipped_are_none(text: str) -> None:
    (part,) = read(f"resource web {{ {text} net {{ protocol C; }} }}").parts
    assert drbd_options.said(part.inside("skip", "handlers")) == {"protocol": "C"}


# -- what it does not take --


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cannot open", "line 1: words that are no statement"),
        ("}", "line 1: a brace too many"),
        ('resource bad {\n disk "/dev/x;\n}', "line 2: a quote without its end"),
        ("resource bad {\n on a {\n", "line 1: a section without its end"),
        ("resource bad { device minor 3 }", "line 1: a statement without its semicolon"),
        ("resource bad { disk /dev/x; }", "resource bad: it has no volume"),
        ("resource bad { device minor x; }", "resource bad: its device is not understood"),
        ("resource bad { device /dev/other; }", "resource bad: its device is not understood"),
        ("resource bad { device minor 99999999; }", "resource bad: its device is not understood"),
        ("resource bad " + "{ a " * (DEEPEST + 1), "line 1: sections nested too deeply"),
        (WEB, "resource web is in another file too"),
    ],
)
def test_what_cannot_be_read_is_told_and_costs_only_itself(text: str, why: str) -> None:
    found = files(WEB, NFS, text)
    assert set(found.resources) == {"web", "nfs"}
    assert [(odd.what, odd.said) for odd in found.odd] == [("/etc/drbd.d/2.res", why)]
    state = node_state("pm-1", SETTINGS, {"drbd files": found})
    assert state.trouble == ""
    assert set(state.files) == {"web", "nfs"}


def test_a_file_that_is_too_long_costs_only_itself() -> None:
    """What is made of a text takes many times its room, and a node may say whatever it likes."""
    long = "resource x { device minor 77; }" + "a{}" * 400_000
    small = "resource web { device minor 1; disk /dev/vg/web; on a { address 10.0.0.1:7800; } }"
    tracemalloc.start()
    found = drbd_files.parse(f"==\nx.res\n{long}\n==\nweb.res\n{small}\n")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10 * len(long)
    assert set(found.resources) == {"web"}
    assert [str(odd) for odd in found.odd] == ["/etc/drbd.d/x.res: it has more than 1 MiB"]
    assert 77 in found.minors
    with pytest.raises(ValueError, match="longer than 8 MiB"):
        drbd_files.parse("==\nx.res\n" + "a;" * (drbd_files.LONGEST // 2))


def test_all_numbers_of_what_cannot_be_read_are_taken() -> None:
    text = 'resource bad { device minor 3; device /dev/drbd4; on a { address 10.0.0.1:7801; "\n port 7802;'
    found = files(WEB, text)
    assert found.minors == {3, 4}
    assert found.ports == {7801, 7802}
    state = cluster(node_state("pm-1", SETTINGS, {"drbd files": found}))
    assert allocate.minor(state) == 2
    assert allocate.port(state, SETTINGS) == 7803
    state = cluster(node_state("pm-1", SETTINGS, {"drbd files": files("resource a.b { device minor 1; }")}))
    assert state.nodes["pm-1"].files == {}
    assert allocate.minor(state) == 2


def test_a_vm_whose_own_file_cannot_be_read_is_refused_by_name_and_others_go_on() -> None:
    odd = (Odd("/etc/drbd.d/nfs.res", "line 2: a quote without its end", "nfs"),)
    state = changed(running(), "pm-1", odd=odd)
    assert requirements.defined_everywhere(state, "web") == ["pm-1", "pm-2"]
    with raises(Refused, "requirements.readable", "web: on pm-2", "/etc/drbd.d/web.res: line 2: a quote"):
        requirements.defined_everywhere(
            changed(state, "pm-2", odd=(Odd("/etc/drbd.d/web.res", "line 2: a quote", "web"),)), "web"
        )


def test_nothing_of_a_file_is_quoted() -> None:
    """Where a quote is missing, what follows it may be the secret."""
    found = files('resource web { net { shared-secret hunter2"; } }', "resource a { hunter2 }", 'password "hunter2')
    assert len(found.odd) == 3
    assert "hunter2" not in str(found)


# -- reading them on the node --


def test_all_files_are_read_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "drbd.d"
    folder.mkdir()
    assert there(folder) == Files(), "a node without VMs"
    (folder / "global_common.conf").write_text('common { net { shared-secret "hunter2"; } }\n')
    (tmp_path / "drbd.conf").write_text('include "drbd.d/global_common.conf";\ninclude "drbd.d/*.res";\n')
    (folder / "web.res").write_text(WEB.rstrip())  # the last line has no end
    (folder / "nfs.res").write_text(NFS)
    assert there(folder) == Files({**parsed_files(NFS), **parsed_files(WEB)})
    (folder / "c.res").mkdir()  # drbdadm passes over these
    (folder / "d.res").symlink_to("nowhere")
    (folder / "e.res").touch()
    assert there(folder) == Files({**parsed_files(NFS), **parsed_files(WEB)})


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "web.res").write_text(WEB)
    (tmp_path / "nfs.res").symlink_to("/proc/self/mem")  # whose first byte cannot be read: EIO
    found = there(tmp_path)
    assert set(found.resources) == {"web"}
    assert found.odd == (Odd("/etc/drbd.d/nfs.res", "cannot be read", "nfs"),)


def test_included_files_count_and_are_nobodys_vms(tmp_path: Path) -> None:
    """As LINSTOR has them: their numbers are taken, their names are known, and they are not in /etc/drbd.d."""
    folder, linstor = tmp_path / "drbd.d", tmp_path / "linstor.d"
    (folder / "more").mkdir(parents=True)
    linstor.mkdir()
    (folder / "linstor-resources.res").write_text(f'# include "nothing";\ninclude "{linstor}/*.res"; include more/*;\n')
    (folder / "web.res").write_text(WEB)
    (linstor / "pvc-1.res").write_text(
        'resource "pvc-1" { on pm-1 { volume 0 { device minor 1000; } node-id 0; } on pm-2 { node-id 1; }\n'
        'net { shared-secret "hunter2"; }\n'
        "connection { host pm-1 address 10.0.0.1:7000; host pm-2 address 10.0.0.2:7000; } }"
    )
    (folder / "more" / "x").write_text('include "y";\nresource x { device minor 5; }\n')
    (folder / "more" / "y").write_text(
        'include "../linstor-resources.res"; include "x"; resource y { device minor 6; }\n'
    )
    (tmp_path / "drbd.conf").write_text('include "drbd.d/*.res";\nresource z { device minor 9; disk /dev/z; }\n')
    found = there(folder)
    assert found.odd == ()
    assert set(found.resources) == {"web"}
    assert found.elsewhere == {"pvc-1", "x", "y", "z"}
    assert found.minors == {1000, 5, 6, 9}
    assert found.ports == {7000}
    resources = drbd.parse_status(
        "exists resource name:pvc-1 role:Primary\nexists device name:pvc-1 volume:0 minor:1000 disk:UpToDate size:8\n"
        "exists -\n"
    )
    state = node_state("pm-1", SETTINGS, {"drbd files": found, "drbd status": resources})
    assert (set(state.resources), set(state.foreign_resources)) == (set(), {"pvc-1"})
    domains = {"pvc-1": Domain("pvc-1", "running", 1 << 30, 1)}
    state = node_state("pm-1", SETTINGS, {"drbd files": found, "drbd status": resources, "libvirt": domains})
    assert set(state.resources) == {"pvc-1"}, "somebody keeps the files of VMs elsewhere"


# -- anything --

WORD = st.sampled_from(
    ["resource", "web", '"a b"', "{", "}", ";", "device", "minor", "7", "/dev/drbd1", "disk", "on", "pm-1", "address",
     "10.0.0.1:7800", "skip", "include", '"', "\\", "#", "\n", "==", "==?", "==\nx.res\n", "shared-secret", "volume",
     "0", "none", "floating", "ipv6", "[::1]:7801", "host", "port", "\x1b[2J", "\0", "é", "..", "/", "common"]
)  # fmt: skip


@settings(deadline=None)  # the machine may be busy; the processor's time is looked at below
@given(st.one_of(st.text(), st.lists(WORD).map(" ".join), st.lists(WORD).map("".join)))
@example('"\\' * 20000)
@example("{" * 100000)
@example("resource a { device minor ٣; }")
@example("resource a { device minor ²; on a { address x:²; } }")
def test_any_text_is_read_or_told(text: str) -> None:
    began = time.process_time()
    found = drbd_files.parse(f"==\nany.res\n{text}")
    assert time.process_time() - began < 5
    for odd in found.odd:
        assert str(odd).isprintable()
        assert len(str(odd)) < 300
    state = node_state("pm-1", SETTINGS, {"drbd files": found})
    for name in state.files:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)


@settings(deadline=None)
@given(st.binary())
@example(b'resource a { net { shared-secret\n"hunter2"\n; } }')
@example(b"\0\n==\n../x\nresource a { }")
def test_any_file_on_the_node(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("drbd.d")
    (folder / "any.res").write_bytes(content)
    (folder / "web.res").write_text(WEB)
    argv = list(drbd.files().command.argv)
    argv[argv.index(drbd.DIRECTORY)] = str(folder)
    done = subprocess.run(argv, check=True, capture_output=True, env={"PATH": os.environ["PATH"], "LC_ALL": "C"})
    found = drbd_files.parse(done.stdout.decode(errors="replace"))
    assert found.resources["web"] == parsed_files(WEB)["web"]
    assert b"hunter2" not in done.stdout


def test_a_node_without_answers_is_no_node_without_files() -> None:
    with pytest.raises(ValueError, match="not the resource files"):
        drbd_files.parse("Segmentation fault\n")
    assert node("pm-1").odd == ()
