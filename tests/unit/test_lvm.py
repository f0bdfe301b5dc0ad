"""LVM's parsers against captured output."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pmc import lvm
from pmc.command import Command
from pmc.facts import lvm_report, thin_pool
from pmc.model import Volume
from pmc.units import GiB, MiB
from tests.unit.samples import data

VOLUMES = data("lvs-2.03.16-json.txt")
THIN_VOLUMES = data("lvs-2.03.16-thin-json.txt")
GROUP = data("vgs-2.03.16-json.txt")


def test_volumes() -> None:
    assert lvm_report.parse_volumes(VOLUMES) == {
        "vg/web": Volume("web", "vg", 71303168, ("pmc",), "", "-wi-ao----"),
        "vg/web2": Volume("web2", "vg", 75497472, ("pmc",), "", "-wi-ao----"),
    }


def test_a_snapshot_tells_its_origin_and_how_full_it_is() -> None:
    row = '{"vg_name":"vg", "lv_name":"web.backup", "lv_size":"8388608", "lv_tags":"pmc,x", "origin":"web", '
    row += '"lv_attr":"swi-a-s---", "data_percent":"12.50", "metadata_percent":"", "pool_lv":""}'
    text = '{"report": [{"lv": [' + row + "]}]}"
    assert lvm_report.parse_volumes(text)["vg/web.backup"] == Volume(
        "web.backup", "vg", 8388608, ("pmc", "x"), "web", "swi-a-s---", 12.5
    )


def test_a_group_with_its_volumes() -> None:
    report = lvm_report.volumes("vg").parse(data("lvm-2.03.16-fullreport-json.txt"))
    assert report == (lvm_report.parse_group(GROUP), {v.name: v for v in lvm_report.parse_volumes(VOLUMES).values()})


def reported(**said: str) -> Volume:
    row = {"vg_name": "vg", "lv_name": "web", "lv_size": "1", "lv_attr": "-wi-ao----", **said}
    (found,) = lvm_report.parse_volumes(json.dumps({"report": [{"lv": [row]}]})).values()
    return found


def test_a_word_that_is_none_of_lvms_is_empty() -> None:
    """It is shown, in lines that a person pastes."""
    for odd in ("a\nb", "a b", "x" * 2000, "[x", "$(x)", ".."):
        found = reported(origin=odd, pool_lv=odd, lv_attr=odd, lv_tags=f"{odd},pmc")
        assert found == Volume("web", "vg", 1, ("..", "pmc") if odd == ".." else ("pmc",))
        group = {"vg_size": "1", "vg_free": "1", "vg_attr": odd}
        assert lvm_report.parse_group(json.dumps({"report": [{"vg": [group]}]})).attributes == ""
    found = reported(origin="[web_rimage_0]", pool_lv="pool-1", lv_attr="Cwi-aoC---", lv_tags="a+b.c-d/=!:&#,pmc.of.x")
    assert (found.origin, found.pool, found.attributes) == ("[web_rimage_0]", "pool-1", "Cwi-aoC---")
    assert found.tags == ("a+b.c-d/=!:&#", "pmc.of.x")


def test_a_group_that_has_no_name_of_lvms_is_an_error() -> None:
    for odd in ("", "vg\nx", "vg x", "..", "x" * 2000):
        with pytest.raises(ValueError, match="no name of LVM's"):
            reported(vg_name=odd)


def test_no_volumes() -> None:
    assert lvm_report.parse_volumes('{"report": [{"lv": []}]}') == {}


def test_group() -> None:
    assert lvm_report.parse_group(GROUP) == lvm_report.Group(8585740288, 8438939648, "wz--n-")


@pytest.mark.parametrize("parse", [lvm_report.parse_volumes, lvm_report.parse_group])
@pytest.mark.parametrize(
    "text", ["", "no such group", "{}", '{"report": []}', '{"report": [{"lv": [{}], "vg": [{}]}]}']
)
def test_what_is_no_report_is_an_error(parse: object, text: str) -> None:
    assert callable(parse)
    with pytest.raises((ValueError, KeyError, IndexError)):
        parse(text)


@pytest.mark.parametrize(
    ("parse", "text"),
    [(lvm_report.parse_volumes, VOLUMES), (lvm_report.parse_volumes, THIN_VOLUMES), (lvm_report.parse_group, GROUP)],
)
def test_a_report_cut_short_is_an_error(parse: object, text: str) -> None:
    assert callable(parse)
    for length in range(len(text.rstrip())):
        with pytest.raises((ValueError, KeyError, IndexError)):
            parse(text[:length])


POOL = Volume("pool", "vg", 8 * GiB, (), "", "twi-aotz--", 25.0, 12.5)
THIN = Volume("web", "vg", GiB, ("pmc",), "", "Vwi-aotz--", 50.0, pool="pool")


def test_thin_volumes() -> None:
    found = lvm_report.parse_volumes(THIN_VOLUMES)
    assert found["vg/pool"] == Volume("pool", "vg", GiB, (), "", "twi-aotz--", 0.0, 11.04)
    assert found["vg/web"] == Volume("web", "vg", 68 * MiB, ("pmc",), "", "Vwi-a-tz--", 0.0, pool="pool")
    assert found["vg/web.backup"] == replace(found["vg/web"], name="web.backup", origin="web", attributes="Vri-a-tz--")
    assert found["vg/web2"] == Volume("web2", "vg", 68 * MiB, ("pmc",), "", "-wi-a-----")


def test_a_thin_volume_tells_its_pool_and_how_much_of_it_has_data() -> None:
    assert (THIN.thin, THIN.is_pool, THIN.used) == (True, False, GiB // 2)
    assert (POOL.thin, POOL.is_pool) == (False, True)
    assert not lvm_report.parse_volumes(VOLUMES)["vg/web"].thin


def test_a_snapshot_is_of_its_volumes_kind() -> None:
    assert str(lvm.snapshot_of(THIN, "vg", "web.backup", MiB)).endswith(
        " lvcreate --yes --snapshot --setactivationskip n --permission r --addtag pmc --name web.backup vg/web"
    )
    classic = lvm.snapshot_of(replace(THIN, attributes="-wi-ao----"), "vg", "web.backup", MiB)
    assert str(classic).endswith(f" {lvm.snapshot('vg', 'web.backup', 'web', MiB)}")


def ran(command: Command, folder: Path, fails: str = "") -> tuple[int, list[str]]:
    """The tools that it called, with their last argument; `fails` is one of them."""
    for tool in ("lvcreate", "lvchange", "lvremove", "sync"):
        (folder / tool).write_text(f'#!/bin/bash\necho {tool} "${{@: -1}}" >>{folder}/log\nexit {int(tool == fails)}\n')
        (folder / tool).chmod(0o755)
    done = subprocess.run(command.argv, env={"PATH": f"{folder}:/usr/bin:/bin"}, capture_output=True)
    return done.returncode, (folder / "log").read_text().splitlines()


@pytest.mark.parametrize("volume", [THIN, replace(THIN, attributes="-wi-ao----")])
def test_a_snapshot_is_on_the_disk_or_is_none(tmp_path: Path, volume: Volume) -> None:
    """Seen on the lab: a power loss took the unflushed head of one, and its origin could not be activated any more."""
    taken = lvm.snapshot_of(volume, "vg", "web.backup", MiB)
    assert ran(taken, tmp_path) == (0, ["lvcreate vg/web", "sync /dev/vg/web.backup"])
    (tmp_path / "log").unlink()
    gone = ["lvcreate vg/web", "sync /dev/vg/web.backup", "lvremove /dev/vg/web.backup"]
    assert ran(taken, tmp_path, "sync") == (1, gone)
    (tmp_path / "log").unlink()
    assert ran(taken, tmp_path, "lvcreate") == (1, ["lvcreate vg/web"])


def test_what_must_not_come_back_is_gone_from_the_disk(tmp_path: Path) -> None:
    there = f"grep -qs lvremove {tmp_path}/log && {{ echo Failed to find logical volume; exit 5; }}; echo pmc"
    (tmp_path / "lvs").write_text(f"#!/bin/sh\n{there}\n")
    (tmp_path / "lvs").chmod(0o755)
    gone = lvm.discard_for_good("vg", "web.before", "web")
    assert ran(gone, tmp_path) == (0, ["lvremove vg/web.before", "sync /dev/vg/web"])
    assert ran(gone, tmp_path) == (0, ["lvremove vg/web.before", "sync /dev/vg/web", "sync /dev/vg/web"])
    (tmp_path / "log").unlink()
    assert ran(gone, tmp_path, "lvremove") == (1, ["lvremove vg/web.before"] * 2)
    # An LVM that does not tell is no proof that it is gone.
    (tmp_path / "log").write_text("")
    (tmp_path / "lvs").write_text("#!/bin/sh\necho Locking failed >&2; exit 5\n")
    assert ran(gone, tmp_path) == (1, [])


@pytest.mark.parametrize("on", [True, False])
def test_a_mark_is_on_the_disk(tmp_path: Path, on: bool) -> None:
    group = str(tmp_path.relative_to("/"))
    (tmp_path / "web").touch()
    mark = lvm.mark(f"../{group}", "web", on, "x")
    assert ran(mark, tmp_path) == (0, [f"lvchange ../{group}/web", f"sync /dev/../{group}/web"])
    (tmp_path / "log").unlink()
    (tmp_path / "web").unlink()  # not active
    assert ran(mark, tmp_path) == (0, [f"lvchange ../{group}/web"])


@pytest.mark.parametrize(
    ("volume", "made"),
    [
        (Volume("web.backup", "vg", MiB, ("pmc",), "web", "swi-a-s---"), ("web", "backup")),
        (Volume("web.backup", "vg", MiB, ("pmc",), "web", "swi-I-s---"), ("web", "backup")),
        (Volume("web.before", "vg", MiB, ("pmc",), "web", "Vri-a-tz--"), ("web", "before")),
        (
            Volume("3cx.lost-20260102T030405Z", "vg", MiB, ("x", "pmc"), "", "Vri---tz-k"),
            ("3cx", "lost-20260102T030405Z"),
        ),
        (Volume("web.base", "vg", MiB, ("pmc", "pmc.of.X"), "db_disk0", "Vri-a-tz--"), ("web", "base")),
        (Volume("mine", "vg", MiB, (), "web", "swi-a-s---"), None),
        (Volume("mine", "vg", MiB, ("pmc",), "web", "Vwi-a-tz--"), None),  # a thin clone
        (Volume("web.backup", "vg", MiB, (), "web", "Vri-a-tz--"), None),
        (Volume("web.backup", "vg", MiB, ("pmc",), "", "-wi-a-----"), None),  # a disk that was renamed
        (Volume("web.backup", "vg", MiB, ("pmc",), "", "Vwi-a-tz--"), None),
        (Volume("web.lost-1", "vg", MiB, ("pmc",), "web", "swi-a-s---"), None),
        (Volume("web.other.base", "vg", MiB, ("pmc",), "web", "swi-a-s---"), None),
        (THIN, None),
    ],
)
def test_a_snapshot_of_ours_is_known_by_its_name_and_tag(volume: Volume, made: tuple[str, str] | None) -> None:
    assert lvm.snapshot_for(volume) == made


@pytest.mark.parametrize(
    ("snapshot", "pool_", "said"),
    [
        ("swi-a-s---  ", "", ""),
        ("swi-I-s---  ", "", "the snapshot overflowed or failed (swi-I-s---)"),
        ("swi-S-s---  ", "", "the snapshot overflowed or failed (swi-S-s---)"),
        ("Vri-a-tz-- pool", "twi-aotz--", ""),
        ("Vri-a-tz-k pool", "twi-aotz--", ""),
        ("Vri-a-tzF- pool", "twi-aotz--", "the snapshot overflowed or failed (Vri-a-tzF-)"),
        ("Vri---tz-- pool", "twi-aotz--", "the snapshot overflowed or failed (Vri---tz--)"),
        ("Vri-a-tz-- pool", "twi-aotzD-", "the thin pool vg/pool is full or failed (twi-aotzD-)"),
        ("Vri-a-tz-- pool", "twi-aotzM-", "the thin pool vg/pool is full or failed (twi-aotzM-)"),
        ("Vri-a-tz-- pool", "twi-aotzF-", "the thin pool vg/pool is full or failed (twi-aotzF-)"),
        ("Vri-a-tz-- pool", "twi-cotz--", "the thin pool vg/pool is full or failed (twi-cotz--)"),
    ],
)
def test_a_snapshot_that_overflowed_or_whose_pool_is_full_is_not_intact(
    tmp_path: Path, snapshot: str, pool_: str, said: str
) -> None:
    tool = tmp_path / "lvs"
    tool.write_text(f'#!/bin/bash\ncase "$*" in */pool) echo "  {pool_}";; *) echo "  {snapshot}";; esac\n')
    tool.chmod(0o755)
    done = subprocess.run(
        lvm.intact("vg", "web.backup").argv, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.strip()) == (1 if said else 0, said)


def test_no_snapshot_to_look_at_is_no_good_one(tmp_path: Path) -> None:
    (tmp_path / "lvs").write_text("#!/bin/bash\nexit 5\n")
    (tmp_path / "lvs").chmod(0o755)
    done = subprocess.run(lvm.intact("vg", "x").argv, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True)
    assert done.returncode == 5


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ("twi-aotz--", ""),
        ("twi-a-t---", ""),
        ("twi---tz--", "is not active"),
        ("twi-cotzM-", "has no space for metadata left, so it is read only"),
        ("twi-aotzD-", "has no space for data left"),
        ("twi-aotzF-", "has failed"),
        ("twi-cotz--", "needs its metadata checked"),
        ("twi-CotzM-", "has no space for metadata left, so it is read only"),
    ],
)
def test_a_pool_that_cannot_be_written_to(attributes: str, why: str) -> None:
    assert thin_pool.broken(replace(POOL, attributes=attributes)) == why


def test_what_a_pool_has_left() -> None:
    assert thin_pool.free(POOL) == 6 * GiB
    assert thin_pool.zeroes(POOL)
    assert not thin_pool.zeroes(replace(POOL, attributes="twi-aot---"))


def test_a_compact_report_is_the_same() -> None:
    """report/compact_output = 1 leaves out what is empty in every row; pmc asks without it, and could read it."""
    found = lvm_report.parse_volumes(data("lvm-2.03.16-fullreport-compact-json.txt"))
    assert found == {"vg/web": Volume("web", "vg", 71303168, ("pmc",), "", "-wi-ao----")}
    group = lvm_report.parse_group(data("lvm-2.03.16-fullreport-compact-json.txt"))
    assert (group.size, group.free) == (8585740288, 8514437120)


@pytest.mark.parametrize(
    "row",
    [
        {"vg_name": "vg", "lv_name": "x"}, {"lv_size": "1"}, {"vg_name": "vg", "lv_name": "x", "lv_size": "unknown"},
        {"vg_name": "vg", "lv_name": "[lvol0_pmspare]", "lv_size": "4194304", "lv_attr": "ewi-------"},
        {"vg_name": "vg", "lv_name": "[mirror_rimage_0]", "lv_size": "4194304", "lv_attr": "iwi-aor---"},
    ],
)  # fmt: skip
def test_a_volume_that_is_not_understood_costs_only_itself(row: dict[str, str]) -> None:
    report = json.loads(data("lvm-2.03.16-fullreport-json.txt"))
    report["report"][0]["lv"].append(row)
    assert set(lvm_report.parse_volumes(json.dumps(report))) == {"vg/web", "vg/web2"}


@pytest.mark.parametrize(
    ("attributes", "percent"),
    [("Vwi-XXtX-X", "-1.00"), ("rwi-aor-r-", "100.00"), ("Cwi-a-C---", "12.5"), ("vwi-a-v---", ""), ("?", "nan")],
)
def test_a_volume_in_an_unknown_state_or_of_another_kind_is_listed(attributes: str, percent: str) -> None:
    report = json.loads(data("lvm-2.03.16-fullreport-json.txt"))
    report["report"][0]["lv"][0] |= {"lv_attr": attributes, "data_percent": percent}
    found = lvm_report.parse_volumes(json.dumps(report))["vg/web"]
    assert found.attributes == attributes
    assert found.data_percent in (None, 100.0, 12.5)


def test_the_log_of_commands_in_a_report_is_passed_over() -> None:
    report = {**json.loads(data("lvm-2.03.16-fullreport-json.txt")), "log": [{"log_seq_num": "1"}]}
    assert set(lvm_report.parse_volumes(json.dumps(report))) == {"vg/web", "vg/web2"}


def test_every_report_is_asked_for_in_the_same_form() -> None:
    """Whatever lvm.conf says: each place that reads what lvs or pvs print, in a shell's text too."""
    seen = 0
    for path in Path(lvm.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for part in ast.parse(text).body:
            source = ast.get_source_segment(text, part) or ""
            if re.search(r"[lpv][gv]s [^\n]*--noheadings [^\n]*-o", source):
                seen += 1
                assert "LVS}" in source or "lvm.CONFIG" in source, f"{path}: reads a report of whatever form\n{source}"
    assert seen == 8
    for argv in (lvm.REPORT, lvm_report.volumes("vg").command.argv, lvm_report.group("vg").command.argv):
        assert set(lvm.CONFIG) <= set(argv)


def test_a_path_that_is_longer_than_any_volumes_is_none() -> None:
    """To try how its dashes may be read would take very long."""
    assert lvm.split(f"/dev/mapper/{'a--' * 40}b-web") == ("a-" * 40 + "b", "web")
    for path in (f"/dev/mapper/vg-{'--' * 200}web", f"/dev/vg/{'a' * 250}"):
        assert lvm.split(path) is None
