"""The checks of pm.init, against what nodes of the lab answered (tests/data/pm)."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from typing import Any

import pytest

from pmc.actions import Relay
from pmc.command import Command
from pmc.errors import CommandFailed
from pmc.health import node_checks, node_drbd, node_libvirt, node_lvm
from pmc.health.node_checks import CHECKS, About, Finding, Seen, Verdict
from pmc.plan import Step
from pmc.plans import node_keys
from pmc.plans.node_keys import AUTHORIZED, KNOWN, Keys
from pmc.settings import Settings, parse
from tests.unit.samples import data, framed

LAB = parse(
    """
    ports = "7800-7899"
    virt_type = "qemu"
    [nodes.pm-1]
    replication = "10.77.0.1"
    [nodes.pm-2]
    replication = "10.77.0.2"
    """,
    "pmc.conf",
)
ABOUT = About("pm-1", LAB, asked=(1795412786.0, 1795412790.0))
NAMES = [check.name for check in CHECKS]


def captured(name: str) -> str:
    return data(f"pm/{name.replace(' ', '-')}.txt")


def verdict(name: str, text: str, about: About = ABOUT) -> Verdict:
    check = CHECKS[NAMES.index(name)]
    return node_checks.judge(check, check.query(about).parse(text), about)


def with_(**changes: Any) -> About:
    return replace(ABOUT, settings=replace(LAB, **changes))


def seen(about: About = ABOUT, **texts: str) -> Seen:
    answers = [c.query(about).parse(texts.get(c.name.replace(" ", "_"), captured(c.name))) for c in CHECKS]
    return Seen(about, tuple(answers))


def test_names_are_unlike() -> None:
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_node_that_is_ready_passes(name: str) -> None:
    found = verdict(name, captured(name))
    assert found.ok, found
    assert not found.steps
    assert found.text


@pytest.mark.parametrize("name", NAMES)
def test_a_tool_that_fails_is_told_and_not_taken_for_an_answer(name: str) -> None:
    failed = CommandFailed("pm-1", "x", 127, "timeout: failed to run command 'x':\n No such file\n")
    found = node_checks.judge(CHECKS[NAMES.index(name)], failed, ABOUT)
    assert not found.ok
    assert found.text == "timeout: failed to run command 'x': No such file"
    assert "{" not in found.advice


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"hostname", "bridge", "tools", "virt-install"}))
@pytest.mark.parametrize("text", ["", "maybe\n", "\n\n\n", "x=y z\n"])
def test_an_answer_that_makes_no_sense_never_passes(name: str, text: str) -> None:
    """`Node` turns these exceptions of a parser into a failed question."""
    try:
        found = verdict(name, text)
    except (ValueError, KeyError, IndexError, TypeError):
        return
    assert not found.ok


def test_the_volume_group_of_the_advice_is_the_configured_one() -> None:
    check = CHECKS[NAMES.index("volume group")]
    said = '  Volume group "fast" not found\n  Cannot process volume group fast\n'
    found = node_checks.judge(check, CommandFailed("pm-1", "vgs", 5, said), with_(volume_group="fast"))
    assert found.text == 'Volume group "fast" not found Cannot process volume group fast'
    assert "vgcreate fast DISK" in found.advice


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("none\n", "not installed"),
        (captured("xdelta3").replace("LZMA=1", "LZMA=0"), "without lzma"),
        ("usage: xdelta3 [command]\n", "says 'usage"),
    ],
)
def test_a_xdelta3_that_cannot_read_deltas(text: str, says: str) -> None:
    found = verdict("xdelta3", text)
    assert not found.ok
    assert says in found.text
    assert found.advice


# -- thin volumes --

THIN = with_(volumes="thin")


def test_a_thin_pool_that_serves() -> None:
    found = verdict("thin pool", captured("thin pool-thin"), THIN)
    assert found == node_checks.good("vg/pool: 1 GiB free of 1 GiB, zeroing")


@pytest.mark.parametrize(
    ("changes", "says", "advice"),
    [
        (('"twi-aotz--"', '"-wi-a-----"'), "vg/pool is no thin pool", "choose another name as thin_pool"),
        (('"twi-aotz--"', '"twi-aot---"'), "does not zero what it hands out", "lvchange --zero y vg/pool"),
        (('"twi-aotz--"', '"twi-aotzD-"'), "has no space for data left", "lvextend --extents +25%LV vg/pool"),
        (('"twi-aotz--"', '"twi-cotzM-"'), "read only", "lvconvert --repair vg/pool"),
        (('"twi-aotz--"', '"twi---tz--"'), "is not active", "lvchange --activate y vg/pool"),
        (('"data_percent":"0', '"data_percent":"90'), "data are 90 % full", "lvextend --extents +25%LV vg/pool"),
        (("\nend", "\nmissing thin_delta\nmissing awk\nend"), "not installed: thin_delta, awk", "apt install"),
        (("\nend", "\nwrong thin_delta 1.0.5\nend"), "thin_delta 1.0.5 misses changes", "1.0.6"),
    ],
)
def test_a_thin_pool_that_does_not_serve(changes: tuple[str, str], says: str, advice: str) -> None:
    text = captured("thin pool-thin")
    assert changes[0] in text
    found = verdict("thin pool", text.replace(*changes), THIN)
    assert not found.ok
    assert says in found.text
    assert advice in found.advice
    assert not found.steps, "making or changing a pool is for a person"


def test_no_thin_pool() -> None:
    said = '  Failed to find logical volume "vg/p0"\n'
    check = CHECKS[NAMES.index("thin pool")]
    about = with_(volumes="thin", thin_pool="p0")
    found = node_checks.judge(check, CommandFailed("pm-1", "lvs", 5, said), about)
    assert found == node_checks.bad(
        'Failed to find logical volume "vg/p0"',
        "make it: lvcreate --type thin-pool --zero y --extents 90%FREE --name p0 vg",
    )
    assert check.query(about).command.argv[-1] == "vg/p0"
    assert check.query(ABOUT).command.argv[-1] == "pmc", "classic: not asked"


@pytest.mark.parametrize("text", ["", "maybe", "end\n", "maybe\nend\n", "missing awk\nend\n"])
def test_an_answer_about_a_pool_that_is_cut_short_never_passes(text: str) -> None:
    try:
        found = verdict("thin pool", text, THIN)
    except ValueError:
        return
    assert not found.ok


# -- DRBD --


@pytest.mark.parametrize(
    ("text", "ok", "says"),
    [
        ("loaded\n8.4.11\n", True, "8.4.11, loaded"),
        ("loadable\n9.2.13\n", True, "9.2.13, not loaded now"),
        ("loaded\n8.3.16\n", False, "version 8.3.16"),
        ("loadable\n", False, "version unknown"),
        ("none\n", False, "no module"),
    ],
)
def test_module(text: str, ok: bool, says: str) -> None:
    found = verdict("drbd", text)
    assert found.ok == ok
    assert says in found.text


def test_module_at_boot_is_fixed_by_a_file() -> None:
    [step] = verdict("drbd at boot", captured("drbd at boot-bare")).steps
    assert str(step.do) == "install -m 644 /dev/stdin /etc/modules-load.d/pmc.conf <<'EOF'\ndrbd\nEOF"
    assert str(step.undo) == "rm -f /etc/modules-load.d/pmc.conf"


def test_utils_tell_what_is_wrong_with_the_configuration() -> None:
    assert "does not include" in verdict("drbd utils", captured("drbd utils-bare")).text
    assert "drbdadm: drbd.d/bad.res:2: Parse error" in verdict("drbd utils", captured("drbd utils-wrong")).text
    old = captured("drbd utils").replace("DRBDADM_VERSION=9.22.0", "DRBDADM_VERSION=8.4.4")
    assert "8.9.2" in verdict("drbd utils", old).advice


@pytest.mark.parametrize(
    ("versions", "broken"),
    [
        ({"a": "8.4.11", "b": "9.1.7"}, ["b"]),
        ({"a": "8.4.11", "b": "9.1.0", "c": "9.1.7-1"}, ["b", "c"]),
        ({"a": "8.4.11", "b": "9.1.8"}, []),
        ({"a": "8.4.11", "b": "9.1.17"}, []),
        ({"a": "9.2.0", "b": "9.1.4"}, []),
        ({"a": "8.4.11", "b": "8.4.10"}, []),
        ({}, []),
    ],
)
def test_versions_that_cannot_talk(versions: dict[str, str], broken: list[str]) -> None:
    assert [finding.node for finding in node_drbd.mixed_versions(versions)] == broken


def test_a_node_whose_qemu_or_libvirt_is_older_is_told() -> None:
    said = {"pm-1": "libvirt 9.0.0, QEMU 10.0.2", "pm-2": "libvirt 10.1.0, QEMU 7.2.22", "pm-3": "?"}
    first, second = node_libvirt.mixed_versions(said)
    assert (first.node, second.node) == ("pm-2", "pm-3")
    assert first.verdict.text == (
        "libvirt 10.1.0, QEMU 7.2.22, and pm-1 has libvirt 9.0.0, QEMU 10.0.2: what was started there may not move here"
    )
    for fixes in ({"pm-1": "libvirt 9.0.0, QEMU 7.2.22", "pm-2": "libvirt 9.0.1, QEMU 7.2.3"}, {}):
        assert node_libvirt.mixed_versions(fixes) == []


def test_versions_are_compared_over_the_nodes_asked() -> None:
    other = replace(ABOUT, node="pm-2")
    found = node_checks.findings([seen(), seen(other, drbd="loadable\n9.1.4\n"), Seen(ABOUT, down="no ssh")])
    assert [(f.node, f.check) for f in found if f.check == "drbd peers"] == [("pm-2", "drbd peers")]
    assert ("pm-1", "answers") in [(f.node, f.check) for f in found]


# -- LVM --


def test_filter_that_nobody_set_is_set() -> None:
    found = verdict("global_filter", captured("global_filter-bare"))
    assert not found.ok
    [step] = found.steps
    assert str(step.undo) == "cp -p /etc/lvm/lvm.conf.before-pmc /etc/lvm/lvm.conf"


@pytest.mark.parametrize(
    "patterns",
    ['"r|^/dev/drbd|"', '["r|/dev/drbd.*|","a|.*|"]', '["a|^/dev/sda|","r|.*|"]', '["r#^/dev/drbd#"]'],
)
def test_filters_that_reject(patterns: str) -> None:
    assert verdict("global_filter", f"global_filter={patterns}\ngiven\n").ok


@pytest.mark.parametrize(
    "patterns",
    ['"a|.*|"', '["a|.*|","r|^/dev/drbd|"]', '["r|^/dev/sd|"]', '"r|^/dev/drbd[0-9]$|"', '["r|/dev/drbd[0-9]+|"]'],
)
def test_filters_that_do_not_are_somebodys_and_not_touched(patterns: str) -> None:
    found = verdict("global_filter", f"global_filter={patterns}\ngiven\n  /dev/sda\n")
    assert not found.ok
    assert not found.steps
    assert '[ "r|^/dev/drbd|", "' in found.advice


def test_a_physical_volume_on_drbd_is_not_shut_out() -> None:
    found = verdict("global_filter", captured("global_filter-bare") + "  /dev/drbd7\n")
    assert not found.ok
    assert not found.steps
    assert "/dev/drbd7" in found.advice


# -- libvirt --


def test_libvirt_is_enabled_and_started_at_once() -> None:
    [step] = verdict("libvirt at boot", captured("libvirt at boot-bare")).steps
    assert str(step.do) == "systemctl enable --now libvirtd.service"
    modular = "virtqemud.service disabled disabled\nvirtqemud.socket  disabled enabled\n"
    [step] = verdict("libvirt at boot", modular).steps
    assert str(step.do) == "systemctl enable --now virtqemud.socket"


@pytest.mark.parametrize("text", ["libvirtd.service masked enabled\n", "libvirtd.service static -\n"])
def test_libvirt_that_cannot_be_enabled_is_only_told(text: str) -> None:
    found = verdict("libvirt at boot", text)
    assert not found.ok
    assert not found.steps


# -- network, tools, folder, machine --


@pytest.mark.parametrize(
    ("text", "says"),
    [(captured("bridge-down"), "br0 is down"), ("none\n", "no bridge br0"), ("other\n", "br0 is not a bridge")],
)
def test_bridge(text: str, says: str) -> None:
    found = verdict("bridge", text)
    assert not found.ok
    assert found.text == says


def test_replication_address_is_compared_as_an_address() -> None:
    nodes = {**LAB.nodes, "pm-1": replace(LAB.nodes["pm-1"], replication="FE80:0::5054:ff:fe4c:1")}
    assert verdict("replication address", captured("replication address"), with_(nodes=nodes)).ok
    assert not verdict("replication address", captured("replication address"), replace(ABOUT, node="pm-2")).ok


def test_ports_count_drbd_and_strangers() -> None:
    assert verdict("ports", captured("ports")).text == "98 of 100 free in 7800-7899"
    file = framed('resource "web" { device minor 1; on a { address 10.77.0.1:7800; } }')
    text = f"10.77.0.1:7800\n*:7801\n[::]:7802\n--\n{file}"
    assert verdict("ports", text).text == "97 of 100 free in 7800-7899; others listen on 7801, 7802"
    found = verdict("ports", text, with_(ports="7800-7802"))
    assert not found.ok
    assert "widen ports" in found.advice


def test_tools_that_are_missing_are_named_with_their_packages() -> None:
    found = verdict("tools", "blkdiscard\nflock\nqemu-img\n")
    assert found.text == "not installed: blkdiscard, flock, qemu-img"
    assert found.advice == "Debian: apt install util-linux qemu-utils"
    assert verdict("virt-install", "virt-install\n").advice == "Debian: apt install virtinst"


def test_backup_directory() -> None:
    [step] = verdict("backup directory", captured("backup directory-bare")).steps
    assert str(step.do).endswith('install -d -m "$2" "$1"\' pmc /var/lib/pmc/backups 700')
    [step] = verdict("backup directory", captured("backup directory-wrong")).steps
    assert (str(step.do), str(step.undo)) == ("chmod 00700 /var/lib/pmc/backups", "chmod 755 /var/lib/pmc/backups")
    # /srv, say: what others read there stays readable.
    for text in ("regular file|600\nyes\n9\n", "directory|700\nno\n9\n", "directory|755\nyes\n9\nshared\n"):
        found = verdict("backup directory", text)
        assert not found.ok
        assert not found.steps


def test_kvm_is_needed_only_when_configured() -> None:
    kvm = with_(virt_type="kvm")
    assert "not needed" in verdict("kvm", captured("kvm")).text
    assert verdict("kvm", "yes\nyes\n", kvm).ok
    assert "though the CPU can" in verdict("kvm", captured("kvm"), kvm).text
    assert "firmware" in verdict("kvm", "no\nno\n", kvm).advice


@pytest.mark.parametrize(
    ("answer", "ok", "says"),
    [
        ("100.5", True, "as the manager's"),
        ("98.5", True, "as the manager's"),
        ("112.0", True, "10 s ahead"),
        ("69.0", False, "31 s behind"),
        ("4000.0", False, "ahead of"),
    ],
)
def test_clock(answer: str, ok: bool, says: str) -> None:
    found = verdict("clock", f"{answer}\n", replace(ABOUT, asked=(100.0, 102.0)))
    assert found.ok == ok
    assert says in found.text


# -- what people see --


def test_a_line_tells_the_way_out() -> None:
    assert node_checks.line(Finding("pm-1", "hostname", node_checks.good("pm-1"))) == "pm-1  ✓ hostname: pm-1"
    [fix] = verdict("backup directory", "none\n").steps
    broken = Finding("pm-1", "backups", node_checks.bad("none", "make it", fix))
    assert node_checks.line(broken) == "pm-1  ✗ backups: none; make it. Next: fab pm.init pm-1 --fix"
    assert (
        node_checks.line(Finding("pm-1", "bridge", node_checks.bad("none", "make one")))
        == "pm-1  ✗ bridge: none; make one"
    )


# -- node-to-node ssh --

HOST_1, HOST_2 = "ssh-ed25519 AAAAhost1", "ssh-ed25519 AAAAhost2"
KEY_1, KEY_2 = "ssh-ed25519 AAAAroot1", "ssh-ed25519 AAAAroot2"
UNKNOWN = (255, "No ED25519 host key is known for 10.77.0.2 and you have requested strict checking.")
DENIED = (255, "root@10.77.0.2: Permission denied (publickey).")
GOOD_1 = Keys((KEY_1,), (), (HOST_1,), (f"{KEY_2} x",), {"10.77.0.2": frozenset({HOST_2})}, {"pm-2": (0, "")})
GOOD_2 = Keys((KEY_2,), (), (HOST_2,), (f"{KEY_1} x",), {"10.77.0.1": frozenset({HOST_1})}, {"pm-1": (0, "")})
LINE_1 = f'restrict,from="10.77.0.1" {KEY_1} pmc-pm-1'


def ssh(mine: Keys | str, other: Keys | str, settings: Settings = LAB) -> Verdict:
    return node_keys.judged("pm-1", "pm-2", {"pm-1": mine, "pm-2": other}, settings).verdict


def lines(step: Step) -> tuple[str, str, str]:
    assert not isinstance(step.do, Relay)
    return step.node, step.do.argv[-1], step.do.stdin or ""  # type: ignore[union-attr]


def edited(step: Step) -> tuple[str, ...]:
    assert isinstance(step.do, Command)
    return step.node, *step.do.argv[-3:]


def test_keys_as_nodes_show_them() -> None:
    keys = node_keys.parse(captured("ssh"))
    [own], [host] = keys.own, keys.host
    assert own.startswith("ssh-ed25519 AAAA")
    assert " " not in own.removeprefix("ssh-ed25519 ")
    assert keys.locked == ()
    assert keys.tried == {"pm-2": (0, "")}
    assert keys.known["10.77.0.2"] == keys.known["pm-2"]
    assert keys.known["10.77.0.2"] != {host}
    assert len(keys.allowed) == 3
    assert keys.allowed[0].endswith(" pmc-lab")


def test_a_hashed_and_foreign_host_key_and_a_locked_key() -> None:
    keys = node_keys.parse(captured("ssh-wrong"))
    assert keys.own == ()
    assert keys.locked == ("/root/.ssh/id_ed25519",)
    assert set(keys.known) == {"10.77.0.1"}
    status, said = keys.tried["pm-1"]
    assert status == 255
    assert "HAS CHANGED" in said


def test_without_a_host_key_there_is_no_answer() -> None:
    with pytest.raises(ValueError, match="host key"):
        node_keys.parse("own ssh-ed25519 AAAA\n")


def test_ssh_that_works_needs_nothing() -> None:
    assert ssh(GOOD_1, GOOD_2) == Verdict(True, "root, both ways")


def test_a_host_key_is_added_under_address_and_name() -> None:
    mine = replace(GOOD_1, known={}, tried={"pm-2": UNKNOWN})
    found = ssh(mine, GOOD_2)
    assert found.text == "pm-1 to pm-2: its host key is not known"
    [step] = found.steps
    assert lines(step) == ("pm-1", KNOWN, f"10.77.0.2,pm-2 {HOST_2}\n")
    assert step.undo is not None
    assert step.undo.stdin == f"10.77.0.2,pm-2 {HOST_2}\n"


def test_a_name_that_is_known_already_is_left_as_it_is() -> None:
    mine = replace(GOOD_1, known={"pm-2": frozenset({"ssh-rsa AAAAmanagement"})}, tried={"pm-2": UNKNOWN})
    [step] = ssh(mine, GOOD_2).steps
    assert lines(step)[2] == f"10.77.0.2 {HOST_2}\n"


def test_another_host_key_is_never_replaced() -> None:
    mine = replace(GOOD_1, known={"10.77.0.2": frozenset({"ssh-ed25519 AAAAother"})}, tried={"pm-2": UNKNOWN})
    found = ssh(mine, GOOD_2)
    assert not found.ok
    assert found.steps == ()
    assert "ssh-keygen -R 10.77.0.2" in found.advice


def test_of_two_ways_the_one_that_can_be_is_mended() -> None:
    mine = replace(GOOD_1, known={"10.77.0.2": frozenset({"ssh-ed25519 AAAAother"})}, tried={"pm-2": UNKNOWN})
    found = ssh(mine, replace(GOOD_2, known={}, tried={"pm-1": UNKNOWN}))
    assert found.partly
    assert [step.node for step in found.steps] == ["pm-2"]
    assert "; --fix does a part of it. Next: fab pm.init pm-1 --fix" in node_checks.line(Finding("pm-1", "ssh", found))


def test_a_key_that_is_there_is_let_in() -> None:
    found = ssh(replace(GOOD_1, tried={"pm-2": DENIED}), replace(GOOD_2, allowed=(f"{HOST_1} stranger",)))
    assert found.text == "pm-1 to pm-2: root is not let in"
    [step] = found.steps
    assert edited(step) == ("pm-2", AUTHORIZED, LINE_1, LINE_1)
    assert isinstance(step.undo, Command)
    assert step.undo.argv[-3:] == (AUTHORIZED, LINE_1, "")
    comes = replace(GOOD_1, tried={"pm-2": DENIED}, comes={"pm-2": "10.9.0.1", "pm-3": "10.9.0.3"})
    [step] = ssh(comes, replace(GOOD_2, allowed=())).steps
    assert edited(step)[3] == f'restrict,from="10.77.0.1,10.9.0.1" {KEY_1} pmc-pm-1'


@pytest.mark.parametrize(
    "before",
    [
        (f"{KEY_1} pmc-pm-1",),
        (f"{KEY_1} pmc-pm-1", LINE_1),
        (f"{KEY_1} pmc-pm-1", "ssh-ed25519 AAAAold pmc-pm-1"),  # of pm-1 before it was installed anew
        (LINE_1.replace("10.77.0.1", "10.66.0.1"),),
    ],
)
def test_a_key_that_lets_in_from_everywhere_is_restricted(before: tuple[str, ...]) -> None:
    """As pmc wrote them once; also when the login works."""
    for tried in ((0, ""), DENIED):
        found = ssh(replace(GOOD_1, tried={"pm-2": tried}), replace(GOOD_2, allowed=(*before, f"{KEY_1}9 him")))
        assert not found.ok
        assert "pm-2 lets the key of pm-1 in from more than its addresses" in found.text or tried[0]
        [step] = found.steps
        out = [each for each in before if each != LINE_1]
        assert edited(step) == ("pm-2", AUTHORIZED, "\n".join([*out, LINE_1]), LINE_1)
        assert isinstance(step.undo, Command)
        assert step.undo.argv[-3:] == (AUTHORIZED, "\n".join([LINE_1, *out]), "\n".join(out))


def test_a_line_that_somebody_else_wrote_is_left() -> None:
    assert ssh(GOOD_1, replace(GOOD_2, allowed=(LINE_1,))) == Verdict(True, "root, both ways")
    assert ssh(GOOD_1, replace(GOOD_2, allowed=(f"{KEY_1} admin",))) == Verdict(True, "root, both ways")


def test_the_address_that_a_node_says_it_has_must_be_one() -> None:
    said = "host ssh-ed25519 AAAA\ncomes pm-2  src 10.9.0.1\ncomes pm-3  src *\ncomes pm-4 \ncomes pm-5  src 10.*,x\n"
    said += 'comes pm-6  src fe80::1%*,x" ssh-ed25519 AAAA x\ncomes pm-7  src fe80::1%eth0\n'
    assert node_keys.parse(said).comes == {"pm-2": "10.9.0.1"}


def test_a_key_is_made_where_there_is_none_and_handed_over() -> None:
    found = ssh(replace(GOOD_1, own=(), tried={"pm-2": DENIED}), replace(GOOD_2, allowed=("ssh-ed25519 AA pmc-pm-1",)))
    made, let_in = found.steps
    assert made.node == "pm-1"
    assert isinstance(let_in.do, Relay)
    assert (let_in.node, let_in.do.source) == ("pm-2", "pm-1")
    assert let_in.do.reader.argv == ("cat", f"{node_keys.KEY}.pub")
    assert let_in.do.target.argv[6:9] == (AUTHORIZED, 'restrict,from="10.77.0.1"', "pmc-pm-1")
    # What an earlier installation of pm-1 left there is not taken out by the undo.
    assert let_in.undo is not None
    assert let_in.undo.stdin == "ssh-ed25519 AA pmc-pm-1\n"


@pytest.mark.parametrize(
    ("mine", "says"),
    [
        (replace(GOOD_1, own=(), locked=(node_keys.KEY,), tried={"pm-2": DENIED}), "passphrase"),
        (replace(GOOD_1, tried={"pm-2": DENIED}), "PermitRootLogin"),
        (replace(GOOD_1, tried={"pm-2": (255, "ssh: connect to host 10.77.0.2 port 22: No route to host")}), "link"),
        (replace(GOOD_1, known={}, tried={"pm-2": (255, "ssh: connect to host: Connection timed out")}), "link"),
        (replace(GOOD_1, tried={}), "link"),
    ],
)
def test_what_a_person_must_mend(mine: Keys, says: str) -> None:
    found = ssh(mine, GOOD_2)
    assert not found.ok
    assert found.steps == ()
    assert says in found.advice


def test_a_node_that_is_down_is_a_line() -> None:
    assert ssh(GOOD_1, "no ssh within 10 s") == node_checks.bad(
        "pm-2 could not be asked: no ssh within 10 s", "correct that first"
    )
    assert "pm-1 could not be asked" in ssh("x", GOOD_2).text


def test_migration_in_tls_needs_its_certificates() -> None:
    tls = with_(migration="tls")
    asked = node_checks.CHECKS[NAMES.index("migration")].query
    assert "/etc/pki/qemu/ca-cert.pem" in asked(tls).command.argv
    assert not any("pki" in word for word in asked(ABOUT).command.argv[5:])
    found = verdict("migration", "end\n", tls)
    assert not found.ok
    assert "ca-cert.pem, server-cert.pem, server-key.pem" in found.text
    assert "pm-1" in found.advice
    qemu = "".join(f"/etc/pki/qemu/{name}.pem\n" for name in ("ca-cert", "server-cert", "server-key"))
    assert verdict("migration", f"{qemu}end\n", tls).ok
    mixed = qemu.replace("qemu/ca", "libvirt-migrate/ca")
    assert not verdict("migration", f"{mixed}end\n", tls).ok
    with pytest.raises(ValueError, match="cut short"):
        verdict("migration", qemu, tls)
    assert "in the clear" in verdict("migration", "end\n").text
    assert "in the clear" not in verdict("migration", "end\n", with_(migration="tunnelled")).text


@pytest.mark.parametrize("pattern", ["r|[[:digit:]]|", "r|[x&&y]|"])
def test_a_pattern_that_python_warns_of_is_tried_all_the_same(pattern: str) -> None:
    """Here a warning is an error."""
    found = node_lvm.parse_filter(f"global_filter={json.dumps(pattern)}\ngiven\n")
    with warnings.catch_warnings(action="error"):
        re.purge()
        assert node_lvm.rejects(found.patterns, "/dev/drbd") is False
