"""A directory of backups into which a stranger has written: each entry costs itself, and no other."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from pmc import backup
from pmc.plain import plain
from pmc.plans import retention
from pmc.remote.manifest import manifest_sum
from pmc.settings import Keep
from pmc.tasks import lookups
from pmc.view import output, rows
from tests.unit.stories import BASE
from tests.unit.test_hostile_answers import NASTY
from tests.unit.test_plain import EVIL, fit
from tests.unit.test_tasks import Pmc, pmc  # noqa: F401

OTHER = "web.20260909T000000Z.base"
GOOD = backup.to_table(BASE)


def sealed(**changes: Any) -> str:
    table = {**GOOD, **changes}
    return json.dumps({**table, "manifest_sha256": manifest_sum(table)})


def odd_(**changes: Any) -> str:
    """Nothing else is wrong with it."""
    return sealed(**{"id": OTHER, **changes})


ODD = {
    "deep": "[" * 5000, "deep object": '{"a":' * 100_000, "empty": "", "null": "null", "number": "9" * 5000,
    "infinite": '{"pmc": 2, "size": 1e999}', "nan": '{"pmc": NaN}', "text": '"x"', "nul": "\0", "list": "[1]",
    "twice": '{"pmc": 1, "pmc": 2}', "half": odd_()[:100], "deep inside": odd_()[:-1] + ', "x": ' + "[" * 3000,
    "escapes": odd_(time=EVIL), "two lines": odd_(time="2026-01-01T00:00:00\n+00:00"), "role": odd_(role=EVIL),
    "source": odd_(source=EVIL), "consistency": odd_(consistency="\x1b[2J"), "node": odd_(nodes=[EVIL]),
    "nodes": odd_(nodes="\x1b["), "key": odd_(**{EVIL: 1}), "surrogate": odd_(xml="\ud800"),
    "nul in xml": odd_(xml="\0"), "huge size": odd_(size=10**400), "huge": odd_(stored=10**4000),
    "negative": odd_(stored=-1), "exponent": odd_(size=1e3), "float": odd_(read=1.5), "true": odd_(size=True),
    "date": odd_(time="2026-99-99"), "no date": odd_(time=""), "id": odd_(id=EVIL * 1000),
    "sum": odd_(image_sha256=5),
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_one_that_is_none_is_listed_as_unusable(odd: str, tmp_path: Path, pmc: Pmc) -> None:  # noqa: F811
    """As vm.backups --from lists it; beside it one that is right."""
    (tmp_path / f"{OTHER}.json").write_bytes(ODD[odd].encode(errors="surrogatepass"))
    (tmp_path / f"{BASE.id}.json").write_text(sealed())
    (tmp_path / BASE.file).write_bytes(bytes(BASE.stored))
    listed = {each.id: each for each in lookups.kept(str(tmp_path))}
    assert not listed[BASE.id].broken
    assert listed[OTHER].broken
    assert listed[OTHER].backup is None
    for words in ((), ("--json",)):
        status, out, err = pmc("vm.backups", "--from", str(tmp_path), *words)
        assert (status, err) == (0, "")
        fit(out)
    assert {row["id"] for row in json.loads(out)} == set(listed)


def test_one_that_has_no_end_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "web.20260101T000000Z.base.json").open("w") as file:
        file.truncate(1 << 40)
    [listed] = lookups.kept(str(tmp_path))
    assert listed.broken


ROW = f"{BASE.id} 8 512 {BASE.stored} -"


def parsed(text: str) -> list[backup.Stored]:
    return backup.parse_listing(f"{ROW} {base64.b64encode(text.encode(errors='surrogatepass')).decode()}\n", "pm-1")


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), NASTY),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)), max_leaves=5,
)  # fmt: skip


@given(st.one_of(
    NASTY, st.text(), VALUES.map(json.dumps), st.binary().map(lambda some: some.decode(errors="replace")),
    st.dictionaries(st.sampled_from(sorted(asdict(BASE))), VALUES, max_size=2).map(lambda table: sealed(**table)),
    st.tuples(st.integers(0, 3000), NASTY).map(lambda cut: sealed()[: cut[0]] + cut[1] + sealed()[cut[0] :]),
))  # fmt: skip
@example(sealed())
@profile(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_text_in_place_of_one(text: str) -> None:
    found = parsed(text)
    assert len(found) == 1
    retention.decide(found, Keep(last=1))
    told = rows.backup_rows(found)
    shown, as_json = output.table(told, rows.BACKUP_COLUMNS), output.document(told)
    assert (shown, as_json) == (plain(shown), plain(as_json))
    assert len(shown.splitlines()) == 3
    json.loads(as_json, parse_constant=pytest.fail)


@pytest.mark.parametrize("row", [
    f"\x1b[2J {ROW}", ROW.replace("8", "9" * 5000, 1), ROW.replace("8", "-8", 1), f"{ROW[:-1]}\x1b[2J",
    ROW.replace(BASE.id, f"../{BASE.id}"), "", "\0", ROW.replace(" ", "\t"),
])  # fmt: skip
def test_a_row_that_our_own_script_never_prints(row: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        backup.parse_listing(f"{row}\n", "pm-1")
