"""LVM's parsers against captured output."""

from __future__ import annotations

import pytest

from pmc import lvm
from pmc.model import Volume
from tests.unit.samples import data

VOLUMES = data("lvs-2.03.16-json.txt")
GROUP = data("vgs-2.03.16-json.txt")


def test_volumes() -> None:
    assert lvm.parse_volumes(VOLUMES) == {
        "vg/web": Volume("web", "vg", 71303168, ("pmc",), "", "-wi-ao----"),
        "vg/web2": Volume("web2", "vg", 75497472, ("pmc",), "", "-wi-ao----"),
    }


def test_a_snapshot_tells_its_origin_and_how_full_it_is() -> None:
    row = '{"vg_name":"vg", "lv_name":"web.backup", "lv_size":"8388608", "lv_tags":"pmc,x", "origin":"web", '
    text = '{"report": [{"lv": [' + row + '"lv_attr":"swi-a-s---", "data_percent":"12.50"}]}]}'
    assert lvm.parse_volumes(text)["vg/web.backup"] == Volume(
        "web.backup", "vg", 8388608, ("pmc", "x"), "web", "swi-a-s---", 12.5
    )


def test_no_volumes() -> None:
    assert lvm.parse_volumes('{"report": [{"lv": []}]}') == {}


def test_group() -> None:
    assert lvm.parse_group(GROUP) == (8585740288, 8438939648)


@pytest.mark.parametrize("parse", [lvm.parse_volumes, lvm.parse_group])
@pytest.mark.parametrize(
    "text", ["", "no such group", "{}", '{"report": []}', '{"report": [{"lv": [{}], "vg": [{}]}]}']
)
def test_what_is_no_report_is_an_error(parse: object, text: str) -> None:
    assert callable(parse)
    with pytest.raises((ValueError, KeyError, IndexError)):
        parse(text)


@pytest.mark.parametrize(("parse", "text"), [(lvm.parse_volumes, VOLUMES), (lvm.parse_group, GROUP)])
def test_a_report_cut_short_is_an_error(parse: object, text: str) -> None:
    assert callable(parse)
    for length in range(len(text.rstrip())):
        with pytest.raises((ValueError, KeyError, IndexError)):
            parse(text[:length])
