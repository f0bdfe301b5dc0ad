"""What pm.verify asks the nodes: each question's output, right and broken; and verify on states that make no sense."""

from __future__ import annotations

import fcntl
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmc import drbd, lock_files
from pmc.command import Answer
from pmc.drbd_generations import Generation
from pmc.errors import NodeDown
from pmc.health import deep, drbd_options, questions, verify
from pmc.health.cluster_facts import Facts
from pmc.health.deep import Log, Pass
from pmc.health.finding import CODES
from pmc.health.questions import DomainFile, Extra, FileFacts
from pmc.model import ClusterState, NodeState, Volume
from pmc.tasks.verify import _ask
from pmc.transport.node import Node
from tests.sim.fake import World
from tests.sim.machine import Kernel
from tests.unit.samples import SETTINGS, data, running, with_resource
from tests.unit.test_verify import extra, healthy

DOMAIN = """\
<domain type='qemu'>
 <name>web</name><devices><interface><mac address='52:54:00:77:E7:DB'/></interface></devices></domain>
"""


def test_domains() -> None:
    found = questions.parse_domain_files(
        f"== manual\n<!-- generated -->\n{DOMAIN}== autostart\n{DOMAIN.replace('web', 'db')}"
    )
    assert set(found) == {"web", "db"}
    assert (found["web"].autostart, found["db"].autostart) == (False, True)
    assert found["web"].macs == ("52:54:00:77:e7:db",)
    assert questions.parse_domain_files("") == {}
    for broken in ("<domain/>", "== manual\nnot xml"):
        with pytest.raises((ValueError, SyntaxError)):
            questions.parse_domain_files(broken)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (DOMAIN.replace("\n", "\n\n  "), True),
        (f"<!-- by hand -->{DOMAIN}", True),
        (DOMAIN.replace("<interface>", "<interface >"), True),
        (DOMAIN.replace("E7:DB", "E7:DC"), False),
        (DOMAIN.replace("<devices>", "<vcpu>2</vcpu><devices>"), False),
    ],
)
def test_a_domains_hash_is_that_of_what_it_means(text: str, same: bool) -> None:
    one, other = (questions.parse_domain_files(f"== manual\n{xml}")["web"].hash for xml in (DOMAIN, text))
    assert (one == other) is same


def framed(text: str, mode: str = "600") -> str:
    return "".join(f"== {mode} {'a' * 64}\nresource {part}" for part in re.split(r"^resource ", text, flags=re.M)[1:])


# The secrets were cut out of what was kept.
WITH_SECRETS = re.sub(
    r"(cram-hmac-alg sha256;\n) *\n", r"\1        shared-secret;\n", data("drbd-8.4.11-resource-files.txt")
)


def test_resource_files_as_pmc_writes_them() -> None:
    found = questions.parse_resource_files(framed(WITH_SECRETS))
    addresses = {"pm-1": "10.77.0.1", "pm-2": "10.77.0.2"}
    said = {
        "protocol": "C", "cram-hmac-alg": "sha256", "shared-secret": "yes", "allow-two-primaries": "no",
        "after-sb-0pri": "disconnect", "after-sb-1pri": "disconnect", "after-sb-2pri": "disconnect",
        "on-io-error": "detach",
    }  # fmt: skip
    assert found == {name: FileFacts("600", "a" * 64, said, addresses) for name in ("web", "web2")}
    assert drbd_options.dangerous(said) == ()


@pytest.mark.parametrize(
    ("old", "new", "bad"),
    [
        ("after-sb-0pri disconnect", "after-sb-0pri discard-zero-changes", "after-sb-0pri discard-zero-changes"),
        ("allow-two-primaries no;", "allow-two-primaries yes;", "allow-two-primaries yes"),
        ("allow-two-primaries no;", "allow-two-primaries;", "allow-two-primaries yes"),
        ("protocol C", "protocol A", "protocol A"),
        ("after-sb-1pri disconnect;", "# after-sb-1pri discard-secondary;", ""),
        ("after-sb-1pri disconnect;", "", ""),
        ("on-io-error detach;", "on-io-error pass_on; no-disk-flushes;", "on-io-error pass_on; disk-flushes no"),
        ("on-io-error detach;", 'md-flushes no; disk-drain "no"; disk-barrier;',
         "md-flushes no; disk-drain no; disk-barrier yes"),
        ("ping-int 3;", "rr-conflict violently;", "rr-conflict violently"),
        ("ping-int 3;", 'handlers { split-brain "notify; protocol A;"; } # protocol B;', ""),
    ],
)  # fmt: skip
def test_dangerous_options(old: str, new: str, bad: str) -> None:
    text = framed(WITH_SECRETS.replace(old, new))
    said = questions.parse_resource_files(text)["web"].said
    assert drbd_options.shown(said, *drbd_options.dangerous(said)) == bad


def test_the_common_section() -> None:
    """As drbd-utils bring it, and with options. What is written for one resource is not the common section's."""
    text = data("drbd-utils-9.22.0-global_common.txt")
    assert drbd_options.common(text) == {}
    text = text.replace("\tnet {", "\tnet {\n protocol A; shared-secret;").replace(
        "\tdisk {", "\tdisk { disk-flushes no;"
    )
    said = {"disk-flushes": "no", "protocol": "A", "shared-secret": "yes"}
    assert drbd_options.common(text) == said
    assert (
        drbd_options.common(f"resource web {{ net {{ protocol B; }} }}\n{text}\nresource db {{ md-flushes no; }}")
        == said
    )
    assert drbd_options.common("") == drbd_options.common('include "drbd.d/*.res";') == {}


@pytest.mark.parametrize(
    "line",
    ['shared-secret "hunter2";', "shared-secret hunter2;", 'shared-secret "hunter2" ;', 'shared-secret"hunter2";',
     'shared-secret "hun ter2;{" ; # x', 'shared-secret\n# its value\n"hunter2"\n;', 'shared-secret "a\\"hunter2";',
     'shared-secret hunter2; # shared-secret "hunter2";', '# shared-secret "hunter2" before\nshared-secret x;'],
)  # fmt: skip
def test_a_secret_stays_on_the_node_but_that_there_is_one_is_told(line: str, tmp_path: Path) -> None:
    found, common = _read_there(f"cram-hmac-alg sha1; {line}\n", tmp_path)
    assert found["web"].said == {"cram-hmac-alg": "sha1", "shared-secret": "yes", "md-flushes": "no"}
    assert drbd_options.authenticated(common)


@pytest.mark.parametrize(
    "line",
    ['shared-secret "hunter2"', "shared-secret   hunter2 # x", 'shared-secret "hunter2\n', 'shared-secret = hunter2;',
     'shared-secret "x" hunter2;', 'shared-secret {"hunter2"};', 'shared-secret', 'shared-secret "\nhunter2";'],
)  # fmt: skip
def test_a_secret_of_another_form_stays_on_the_node_with_all_that_follows(line: str, tmp_path: Path) -> None:
    """drbdadm does not take these: the look tells of such a file."""
    assert _read_there(f"cram-hmac-alg sha1; {line}\n", tmp_path) == ({}, {})


def _read_there(inner: str, tmp_path: Path) -> tuple[Mapping[str, FileFacts], Mapping[str, str]]:
    """What the node tells of files with this in them; of the second, as the common section."""
    (tmp_path / "web.res").write_text(f"resource web {{ net {{ {inner} }}\ndisk {{ no-md-flushes; }} }}\n")
    (tmp_path / "global_common.conf").write_text(f"common {{ net {{ {inner} }} }}\n")
    script = questions.resource_files().command.argv
    told = subprocess.run([*script[:6], str(tmp_path), *script[7:]], capture_output=True, text=True, check=True).stdout
    assert "hunter2" not in told
    script = questions.common().command.argv
    files = [str(tmp_path / name) for name in ("nothing.conf", "global_common.conf")]
    text = subprocess.run([*script[:7], *files], capture_output=True, text=True, check=True).stdout
    assert "hunter2" not in text
    look = drbd.files().command.argv
    seen = subprocess.run([*look[:6], str(tmp_path), *look[7:]], capture_output=True, text=True, check=True).stdout
    assert "==\nweb.res\n" in seen
    assert "hunter2" not in seen
    return questions.parse_resource_files(told), drbd_options.common(text)


@pytest.mark.parametrize(("ago", "some"), [("tomorrow", True), ("60 seconds ago", False)])
def test_what_is_left_of_backups(ago: str, some: bool, tmp_path: Path) -> None:
    whole, torn = "web.20260101T000000Z", "web.20260102T000000Z"
    files = ("base.img.zst", "base.index", "delta.xd3")
    left = {*(f"{torn}.{file}" for file in files), f"{torn}.base.img", f".{torn}.base.part"}
    others = {*(f"{whole}.{file}" for file in (*files, "base.json", "delta.json")), "web.pmc.iso", "notes.img"}
    # A copy whose index is still coming.
    copied = "web.20260103T000000Z.base"
    others |= {f"{copied}.img.zst"}
    left |= {f".{copied}.index.part"}
    for name in left | others:
        (tmp_path / name).touch()
    argv = questions.parts(SETTINGS).command.argv
    script = [word.replace("60 seconds ago", ago) for word in argv[:6]]
    done = subprocess.run([*script, str(tmp_path), str(tmp_path)], capture_output=True, text=True, check=True)
    assert {Path(line).name for line in done.stdout.splitlines()} == (left if some else set())


def test_what_a_locked_vm_has_unfinished_is_not_left(tmp_path: Path) -> None:
    """Whatever the node's clock says: it may have been set forward while a command works."""
    for name in (
        ".web.20260102T000000Z.base.part",
        ".db.20260102T000000Z.base.part",
        "web.pmc.upload",
        "odd.pmc.upload",
    ):
        (tmp_path / name).touch()
    argv = questions.parts(SETTINGS).command.argv
    script = [word.replace("60 seconds ago", "tomorrow").replace(lock_files.FOLDER, str(tmp_path)) for word in argv[:6]]

    def left() -> set[str]:
        done = subprocess.run([*script, str(tmp_path), str(tmp_path)], capture_output=True, text=True, check=True)
        return {Path(line).name for line in done.stdout.splitlines()}

    every = left()
    assert len(every) == 4
    with (tmp_path / "web.lock").open("w") as held:
        assert left() == every
        fcntl.flock(held, fcntl.LOCK_EX)
        assert left() == {".db.20260102T000000Z.base.part", "odd.pmc.upload"}
    assert left() == every


def test_addresses_of_both_families() -> None:
    sides = (
        "on pm-1 { address ipv6 [2001:db8::1]:7800; node-id 0; }\non pm-2 { node-id 1; address 10.0.0.2:7800; }\n"
        "on pm-3 {\n volume 0 { }\n}\n"
    )
    found = questions.parse_resource_files(f"== 644 {'b' * 64}\nresource web {{\n{sides}}}\n")["web"]
    assert found.addresses == {"pm-1": "2001:db8::1", "pm-2": "10.0.0.2"}
    assert found.mode == "644"
    with pytest.raises(ValueError, match="not the resource files"):
        questions.parse_resource_files("resource web {}")


def test_generations() -> None:
    row = f"D4D3260C8FBF5E93:{11:016X}:{0:016X}:{0:016X}:1:1:1:1:0:0:0"
    found = questions.parse_generations(f"web {row}\nlost \nother\n")
    assert found == {"web": Generation(0xD4D3260C8FBF5E92, 0xA, (0, 0))}


def test_space() -> None:
    assert questions.parse_used("") is None
    assert questions.parse_used(" 25 75\n") == 25.0
    assert questions.parse_used("0 0\n") == 0.0
    with pytest.raises(ValueError, match="not a number"):
        questions.parse_used("Used Avail\n1 2\n")


def test_further_questions_are_asked_only_when_they_matter() -> None:
    seen = running().nodes["pm-1"]
    usual = set(questions.questions(seen, SETTINGS))
    assert usual == {"domains", "files", "common", "filter", "clock", "folder_used", "parts", "future"}
    assert usual <= set(Extra.__dataclass_fields__)
    lonely = with_resource(running(), "pm-1", connection="StandAlone").nodes["pm-1"]
    assert set(questions.questions(lonely, SETTINGS)) - usual == {"generations"}
    aged = replace(SETTINGS, verify=replace(SETTINGS.verify, backup_max_age_days=1))
    assert set(questions.questions(seen, aged)) - usual == {"backups"}


class Told(Node):
    """A node whose answers are given; those it has none to are failures."""

    def __init__(self, said: dict[str, str] | None) -> None:
        super().__init__(SETTINGS.nodes["pm-1"], SETTINGS, None)
        self.said = said

    def ask_each(self, *queries: Any, seconds: float | None = None) -> list[Any]:
        if self.said is None:
            raise NodeDown("pm-1: the connection was lost")
        names = questions.questions(running().nodes["pm-1"], SETTINGS)
        answers = (
            Answer(0, self.said[name], "") if name in self.said else Answer(1, "", "no such tool") for name in names
        )
        return [self._parsed(query, answer) for query, answer in zip(queries, answers, strict=True)]


SAID = {
    "domains": f"== manual\n{DOMAIN}",
    "files": framed(data("drbd-8.4.11-resource-files.txt")),
    "common": "common { net { protocol A; } }\n",
    "filter": 'global_filter="r|^/dev/drbd|"\ngiven\n  /dev/vdb\n',
    "clock": "1800000000.5\n",
    "folder_used": "25 75\n",
    "parts": "/b/.web.part\n/b/.a.part\n",
    "future": "web.21000101T000000Z.base\n",
}


def test_the_second_round_trip() -> None:
    found = _ask(Told(SAID), running().nodes["pm-1"])
    assert found.failures == {}
    assert (set(found.domains), set(found.files)) == ({"web"}, {"web", "web2"})
    assert found.common == {"protocol": "A"}
    assert (found.clock, found.folder_used, found.parts) == (1800000000.5, 25.0, ("/b/.a.part", "/b/.web.part"))
    assert found.future == ("web.21000101T000000Z.base",)
    assert 0 < found.asked[0] <= found.asked[1]


@pytest.mark.parametrize("what", SAID)
def test_a_question_that_fails_is_unknown_and_hides_no_other(what: str) -> None:
    found = _ask(Told({name: text for name, text in SAID.items() if name != what}), running().nodes["pm-1"])
    assert found.failures == {what: "no such tool"}
    assert getattr(found, what) == getattr(Extra(), what)
    assert what == "domains" or found.domains


def test_a_node_that_is_lost_between_the_two_round_trips() -> None:
    found = _ask(Told(None), running().nodes["pm-1"])
    assert found.failures == {"the questions": "pm-1: the connection was lost"}


# -- deep --

LOG = """\
[  900.000001] block drbd1: Out of sync: start=8, size=8 (sectors)
[ 1000.500000] block drbd1: conn( Connected -> VerifyS )
[ 1001.000000] block drbd1: Out of sync: start=138000, size=16 (sectors)
[ 1002.000000] block drbd1: Online verify done (total 9 sec; paused 0 sec; 7732 K/sec)
"""


def test_the_kernels_log() -> None:
    assert deep.parse_log(LOG, 1000) == Log(True, ((138000, 138016),))
    assert deep.parse_log(LOG, 2000) == Log(False, ())
    assert deep.parse_log(LOG, deep.parse_newest(LOG)) == Log(True, ((138000, 138016),))
    assert deep.parse_log(LOG, deep.parse_newest(LOG.splitlines()[-1])) == Log(False, ())
    assert deep.parse_newest("") == 0.0
    nine = "[ 5.0] drbd web/0 drbd1 pm-2: Out of sync: start=8, size=8 (sectors)\n[ 6.0] drbd web/0 drbd1 pm-2: "
    assert deep.parse_log(f"{nine}Online verify done\n", 0) == Log(True, ((8, 16),))


def test_progress() -> None:
    assert deep.parse_done("verified: 53.0\n") == 53.0
    assert deep.parse_done("done:7.25\n") == 7.25
    assert deep.parse_done("") == 0.0


def test_what_both_passes_found() -> None:
    assert deep.common(((0, 8), (16, 32)), ((8, 16), (24, 40))) == ((24, 32),)
    assert deep.common(((0, 100),), ((8, 16), (24, 40))) == ((8, 16), (24, 40))
    assert deep.common((), ((8, 16),)) == ()


@pytest.mark.parametrize(
    ("first", "second", "code", "words"),
    [
        (Pass(Log(True, ((8, 16),)), 4096), Pass(Log(True, ((8, 16),)), 4096), "VERIFY_DIFFERS", "sectors 8-15"),
        (Pass(Log(True, ((8, 16),)), 4096), Pass(Log(True, ((24, 32),)), 8192), "VERIFY_ONCE", "once"),
        (Pass(Log(True, ((8, 16),)), 4096), Pass(Log(True, ()), 4096), "VERIFY_ONCE", "once"),
        (Pass(Log(False, ()), 4096), Pass(Log(True, ((8, 16),)), 4096), "VERIFY_DIFFERS", "does not tell"),
        (Pass(Log(True, ((8, 16),)), 4096), Pass(Log(False, ()), 4096), "VERIFY_DIFFERS", "does not tell"),
    ],
)
def test_only_what_is_found_twice_is_an_error(first: Pass, second: Pass, code: str, words: str) -> None:
    found = deep.judged("web", "pm-1", first, second, healthy())
    assert found is not None
    assert (found.code, found.vm) == (code, "web")
    assert words in found.text
    assert "fab vm.repair web" in found.remedy


def test_a_clean_pass() -> None:
    assert deep.clean(Pass(Log(True, ()), 0))
    assert not deep.clean(Pass(Log(False, ()), 0))
    assert not deep.clean(Pass(Log(True, ((0, 8),)), 0))
    assert not deep.clean(Pass(Log(False, ()), 4096))


def test_a_pass_without_an_end_has_shown_nothing() -> None:
    lost, well = Pass(Log(False, ()), 0), Pass(Log(True, ()), 0)
    assert deep.judged("web", "pm-1", lost, well, healthy()) is None
    found = deep.judged("web", "pm-1", lost, lost, healthy())
    assert found is not None
    assert (found.code, found.node, found.vm) == ("VERIFY_FAILED", "pm-1", "web")
    differs = deep.judged("web", "pm-1", lost, Pass(Log(False, ()), 4096), healthy())
    assert differs is not None
    assert differs.code == "VERIFY_DIFFERS"


def test_what_can_be_verified() -> None:
    assert deep.candidates(healthy()) == {"web": "pm-1"}
    assert deep.candidates(healthy(), "web") == {"web": "pm-1"}
    assert deep.candidates(healthy(), "mail") == {}
    broken: list[dict[str, str]] = [{"disk": "Inconsistent"}, {"connection": "StandAlone"}, {"replication": "VerifyT"}]
    for changes in (*broken, {"suspended": "user"}):
        assert deep.candidates(healthy(with_resource(running(), "pm-2", **changes))) == {}


def test_the_command_of_each_version() -> None:
    assert str(deep.start("web", "8.4.11", "pm-2")) == "drbdadm verify web"
    assert str(deep.start("web", "9.2.1", "pm-2")) == "drbdadm verify web:pm-2/0"


# -- states that make no sense --

NAMES = st.sampled_from(["web", "db", "web.backup", "db.lost-1"])
HOSTS = st.sampled_from(["pm-1", "pm-2", "pm-3", "pm-9"])
KERNELS = st.builds(
    Kernel,
    st.integers(-1, 2),
    st.sampled_from(["Primary", "Secondary", "Unknown"]),
    st.sampled_from(["UpToDate", "Inconsistent", "Diskless", "Outdated"]),
    st.booleans(),
)
VOLUMES = st.builds(
    Volume,
    st.just("web"),
    st.just("vg"),
    st.integers(0, 9),
    st.sampled_from([(), ("pmc",)]),
    st.sampled_from(["", "web"]),
    st.sampled_from(["", "-wi-a-----", "swi-aos---", "twi-aotz--"]),
    st.sampled_from([None, 95.0]),
)


def resource_file(name: str, one: str, other: str) -> str:
    sides = "".join(f"on {host} {{ address 10.0.0.1:7800; }} " for host in (one, other))
    return f"resource {name} {{ device minor 1; disk /dev/vg/{name}; {sides} }}\n"


@st.composite
def worlds(draw: st.DrawFn) -> ClusterState:
    """Anything on any node: the fake world's parts, put together by chance."""
    world = World()
    for machine in world.nodes.values():
        machine.volumes = {name: replace(draw(VOLUMES), name=name) for name in draw(st.sets(NAMES))}
        machine.resources = draw(st.dictionaries(NAMES, KERNELS))
        machine.domains = draw(st.dictionaries(NAMES, st.sampled_from(["running", "shut off", "paused"])))
        for name in draw(st.sets(NAMES)):
            machine.files[f"/etc/drbd.d/{name}.res"] = resource_file(name, draw(HOSTS), draw(HOSTS))
    state = world.state()
    nodes: dict[str, NodeState] = dict(state.nodes)
    for name in draw(st.sets(st.sampled_from(sorted(nodes)))):
        trouble = draw(st.sampled_from(["down", "libvirt", "drbd files", "drbd status", "volumes"]))
        empty = NodeState(name, down="gone") if trouble == "down" else replace(nodes[name], failures={trouble: "no"})
        nodes[name] = empty
    return ClusterState(nodes)


@given(worlds(), st.sets(st.sampled_from(["pm-1", "pm-2", "pm-3"])), st.booleans())
def test_verify_never_raises(state: ClusterState, without: set[str], backups: bool) -> None:
    domains = {"web": DomainFile("x", ("52:54:00:77:00:01",), True), "db": DomainFile("y", ("52:54:00:77:00:01",))}
    files = {"web": FileFacts("644", "x", {"protocol": "A"}, {"pm-1": "::", "pm-2": "not one"})}
    extras = {name: extra(domains=domains, files=files, parts=("/x",)) for name in state.nodes if name not in without}
    settings = replace(SETTINGS, verify=replace(SETTINGS.verify, backup_max_age_days=float(backups)))
    facts = Facts(state, extras, settings, 0.0, {name: node.resources for name, node in state.nodes.items()})
    for finding in verify.findings(facts):
        assert finding.code in CODES
        assert finding.text
        assert finding.remedy
    deep.candidates(facts)


@given(*[st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=12)] * 2)
def test_what_lies_in_ranges_of_both(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    ranges = [tuple(sorted({(begin, begin + size) for begin, size in each})) for each in (first, second)]
    sectors = [{n for begin, end in each for n in range(begin, end)} for each in (*ranges, deep.common(*ranges))]
    assert sectors[2] == sectors[0] & sectors[1]
    assert deep.common(*ranges) == tuple(sorted(deep.common(*ranges)))


def test_very_many_ranges_are_compared_in_one_walk() -> None:
    compared = 0

    class Sector(int):
        def __lt__(self, other: int) -> bool:
            nonlocal compared
            compared += 1
            return int(self) < int(other)

        def __gt__(self, other: int) -> bool:
            return Sector(other) < self

    ranges = tuple((Sector(10 * n), Sector(10 * n + 2)) for n in range(1000))
    assert deep.common(ranges, ranges) == ranges
    assert 0 < compared < 20 * len(ranges)
