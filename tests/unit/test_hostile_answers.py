"""Whatever a node says: each question's answer is understood or is a CommandFailed of that node, soon, and what is
understood can be shown. A node's other answers, and other nodes, are not touched by it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from pmc.command import Query
from pmc.errors import CommandFailed, PmcError
from pmc.facts import domain_xml, drbd_status, lvm_report
from pmc.health import node_checks, node_machine
from pmc.health.check import Seen
from pmc.model import ClusterState, Volume
from pmc.node_state import node_state, state_queries
from pmc.plain import plain
from pmc.plans import split_brain_snapshot
from pmc.tasks import lookups
from pmc.tasks.base import complain
from pmc.transport.node import Node
from pmc.units import GiB
from pmc.view import output, rows
from tests.unit.queries import ABOUT, CHECKED, SAMPLES, Sample, factories
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, answer, node

ALL: dict[str, Sample] = {
    **{f"{name} {number}": each for name, found in SAMPLES.items() for number, each in enumerate(found)},
    **{f"{check.name}": each for check, each in zip(node_checks.CHECKS, CHECKED, strict=True)},
}
PM_1 = Node(SETTINGS.nodes["pm-1"], SETTINGS, None)
NASTY = st.sampled_from([
    "9" * 400, "9" * 4000, "9" * 5000, "-5", "1e400", "1e-400", "nan", "inf", "-inf", "1_000", "１２", "-0", "0x10", "",
    "18446744073709551616", "9223372036854775807", "\ud800", "\0", "\x1b[2J", "\x1b]52;c;QQ==\x07", "\x9b2J", "\u202e",
    "\u2028", "\x85", "\x1c", "\r", "\n", "ä", "😀", "[" * 5000, "{" * 5000, '{"a":' * 5000, "<a>" * 5000, "(" * 500,
    "<!DOCTYPE a [<!ENTITY b 'c'>]>", "&b;", "]]>", '"', "'", "=", ":", ";", "{", "}", "[", "]", "<", ">", "\\", "#",
    "..", "/", "--", "*", "+", "2026-13-45T99:99:99Z", "9999-12-31T23:59:59+23:59", "0001-01-01T00:00:00-23:59", "null",
    "NaN", "Infinity", "true", '{"a":1,"a":2}', "a" * 100_000, " " * 1000, "a b " * 1000,
])  # fmt: skip
RAW = st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda some: some.decode(errors="replace")), NASTY)
SOME = profile(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def changed(draw: st.DrawFn, good: tuple[str, ...]) -> str:
    """A good answer, once or twice changed; or anything."""
    text = draw(st.sampled_from(good or ("",)))
    for _ in range(draw(st.integers(1, 3))):
        way, bad = draw(st.integers(0, 6)), draw(NASTY)
        at = draw(st.integers(0, len(text)))
        if way == 0:
            text = text[:at]
        elif way == 1:
            text = text[:at] + bad + text[at:]
        elif way in (2, 3, 4):  # a number, a word, or a line becomes something else
            pattern = {2: r"[0-9]+", 3: r"[^\s\"'<>=:]+", 4: r"[^\n]*\n"}[way]
            if there := list(re.finditer(pattern, text)):
                found = draw(st.sampled_from(there))
                text = text[: found.start()] + bad + text[found.end() :]
        elif way == 5:
            lines = draw(st.permutations(text.splitlines(keepends=True)[:40]))
            text = "".join(lines)
        else:
            return draw(RAW)
    return text


def numbers(value: Any, name: str = "") -> None:
    """Each can be shown, added up and written as JSON. `ago` alone may be for ever."""
    if dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            numbers(getattr(value, each.name), each.name)
    elif isinstance(value, Mapping):
        numbers([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            numbers(each, name)
    elif isinstance(value, int):
        assert abs(value) < 1 << 80, name
    elif isinstance(value, float):
        assert math.isfinite(value) or (name == "ago" and value == math.inf), name


def tried(query: Query[Any], text: str) -> Any:
    got = PM_1._parsed(query, answer(text))
    if isinstance(got, CommandFailed):
        said = str(got)
        assert "\n" not in said, said
        assert said == plain(said)
        assert len(said) < 1500
    else:
        numbers(got)
    return got


def test_every_question_is_among_them() -> None:
    checked = {name for name in factories() if name.startswith("pmc.health.node_")}
    names = {f"{check.query.__module__}:{check.query.__name__}" for check in node_checks.CHECKS}
    assert checked - names == {"pmc.health.node_machine:has", "pmc.health.node_checks:questions"}, "put it into CHECKS"
    assert factories() - checked == set(SAMPLES), "give it a sample in queries.py"


@pytest.mark.parametrize("name", ALL)
def test_a_good_answer_is_understood(name: str) -> None:
    query, good = ALL[name]
    for text in good:
        assert not isinstance(tried(query, text), CommandFailed), text[:200]


@pytest.mark.parametrize("name", ALL)
@given(some=st.data())
@SOME
def test_any_answer_is_understood_or_fails_alone(name: str, some: st.DataObject) -> None:
    query, good = ALL[name]
    tried(query, some.draw(changed(good)))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.timeout(240)
def test_an_answer_that_repeats_itself_takes_no_time_for_ever(name: str) -> None:
    """Expressions that go back and forth over their text would."""
    query, good = ALL[name]
    words = {word for text in good for word in re.split(r"(\s+)", text)}
    words |= {"[", "<a>", "{", " ", "\n", "#", '"', "on x {"}
    for word in sorted(words, key=len)[:40]:
        tried(query, (word or " ") * (40_000 // max(len(word), 1)))
    for text in good:
        half = len(text) // 2
        tried(query, text * (80_000 // max(len(text), 1)))
        tried(query, text[:half] * (80_000 // max(half, 1)))


BAD = (
    "9" * 400, "9" * 4000, "9" * 5000, "-5", "1e400", "nan", "inf", "18446744073709551616", "1_000", "", "\ud800", "x",
)  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_each_number_of_a_good_answer_that_is_none(name: str) -> None:
    query, good = ALL[name]
    for text in good:
        for found in list(re.finditer(r"[0-9]+", text))[:40]:
            for bad in BAD:
                tried(query, text[: found.start()] + bad + text[found.end() :])


QUERIES = state_queries(SETTINGS, allocating=True)


def test_a_host_name_and_a_version_are_one_short_line() -> None:
    for query in (QUERIES["hostname"], QUERIES["drbd version"], node_machine.query_hostname(ABOUT)):
        assert query.parse("pm-1\n") == "pm-1"
        said = str(query.parse(f"pm-1\n  Next: {'x' * 10_000}"))
        assert "\n" not in said
        assert len(said) < 100


@given(some=st.data())
@SOME
def test_what_was_understood_can_be_shown(some: st.DataObject) -> None:
    """A node whose every answer is odd, beside one that is right: the listings tell of both."""
    samples = dict(zip(QUERIES, SAMPLES["pmc.node_state:state_queries"], strict=True))
    right = {what: PM_1._parsed(query, answer(good[0])) for what, (query, good) in samples.items()}
    odd = {what: PM_1._parsed(query, answer(some.draw(changed(good)))) for what, (query, good) in samples.items()}
    state = ClusterState({
        "pm-1": node_state("pm-1", SETTINGS, odd), "pm-2": node_state("pm-2", SETTINGS, right),
    })  # fmt: skip
    listings: list[tuple[Sequence[output.Row], tuple[str, ...]]] = [
        (rows.vm_rows(state), rows.VM_COLUMNS), (rows.pm_rows(state), rows.PM_COLUMNS),
    ]  # fmt: skip
    for made, columns in listings:
        text = output.table(made, columns)
        assert all(len(line) < 10_000 for line in text.splitlines())
        as_json = output.document(made)
        json.loads(as_json, parse_constant=pytest.fail)
        assert as_json == plain(as_json)
    assert "pm-2" in output.table(rows.pm_rows(state), rows.PM_COLUMNS)


@given(some=st.data())
@SOME
def test_what_pm_init_makes_of_it_is_a_line(some: st.DataObject) -> None:
    answers = tuple(PM_1._parsed(query, answer(some.draw(changed(good)))) for query, good in CHECKED)
    for finding in node_checks.findings([Seen(ABOUT, answers)]):
        line = node_checks.line(finding)
        assert "\n" not in line
        assert line == plain(line)


@pytest.mark.parametrize("pattern", [
    '"r|(|"', '"r|((.*)*)*x|"', '"r|' + "a*" * 50 + '|"', '["a|a|", 5]', '{"a": 1}', "5", "[[[]]]", '"r|(a+)+$|"',
])  # fmt: skip
def test_a_filter_that_cannot_be_tried(pattern: str) -> None:
    """Python would try some of them for ever."""
    query, _ = ALL["global_filter"]
    got = tried(query, f"global_filter={pattern}\ngiven\n")
    assert isinstance(got, CommandFailed)
    assert not node_checks.judge(node_checks.CHECKS[list(ALL).index("global_filter") - len(ALL)], got, ABOUT).ok


def test_what_cannot_be_judged_costs_its_own_line() -> None:
    [check] = [each for each in node_checks.CHECKS if each.name == "clock"]
    assert "makes no sense (TypeError)" in node_checks.judge(check, "noon", ABOUT).text


def test_a_node_whose_backups_are_not_known_hides_no_other() -> None:
    good = PM_1._parsed(*samples_of("pmc.backup:listing", 0))
    bad = PM_1._parsed(SAMPLES["pmc.backup:listing"][0][0], answer("[" * 5000))
    nodes = {name: node_state(name, SETTINGS, {"backups": found}) for name, found in (("pm-1", bad), ("pm-2", good))}
    state = ClusterState(nodes)
    assert lookups.stored(state, partly=True) == good
    with raises(PmcError, "lookups.stored", "pm-1: its backups", "not understood"):
        lookups.stored(state)
    with raises(PmcError, "base.complain", "pm-1: backups: ", "not understood"):
        complain(state)


def samples_of(name: str, number: int) -> tuple[Query[Any], Any]:
    query, good = SAMPLES[name][number]
    return query, answer(good[0])


def test_a_snapshot_whose_name_has_no_time_is_not_ours() -> None:
    volume = Volume("web.lost-20269999T999999Z", "vg", GiB, ("pmc",), "web")
    state = ClusterState({"pm-1": node("pm-1", volumes={volume.name: volume})})
    assert split_brain_snapshot.snapshots(state) == []


def test_what_is_too_long_is_not_parsed() -> None:
    """What is made of it takes many times its room."""
    with pytest.raises(ValueError, match="longer than 1 MiB"):
        domain_xml.parsed(f"<a>{'<b/>' * (domain_xml.LONGEST // 4)}</a>")
    with pytest.raises(ValueError, match="longer than 8 MiB"):
        lvm_report.parse_volumes(f'{{"report":[{{"lv":[{"{}," * (lvm_report.LONGEST // 3)}{{}}]}}]}}')
    with pytest.raises(ValueError, match="longer than 8 MiB"):
        drbd_status.parse_status("exists device name:x\n" * (drbd_status.LONGEST // 20) + "exists -\n")


@pytest.mark.parametrize("xml", [
    "<a>" * 5000 + "</a>" * 5000, "<a>" * 65 + "</a>" * 65, "<a>" * 5000, "", "\0", "<a>\ud800</a>", "<a/><b/>",
    "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", "<a>&#x1b;</a>",
], ids=range(10))  # fmt: skip
def test_xml_that_is_not_read(xml: str) -> None:
    """What walks it, or writes it again, calls itself for each level."""
    with pytest.raises(ValueError, match=r"XML|surrogates"):
        domain_xml.parsed(xml)
    assert domain_xml.parsed("<a>" * 64 + "</a>" * 64).tag == "a"
