"""The listings: what a person reads of a state, most of all of a bad one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pmc.backup import Stored
from pmc.model import ClusterState, Domain, ResourceFile, Volume
from pmc.units import GiB, MiB
from pmc.view.output import document, table
from pmc.view.rows import BACKUP_COLUMNS, PM_COLUMNS, VM_COLUMNS, backup_rows, pm_rows, vm_rows
from tests.unit.samples import alone, cells, changed, cluster, documents, home, node, running, stopped, with_resource
from tests.unit.stories import BASE, DELTA


def web(state: ClusterState, text: bool = True) -> dict[str, Any]:
    (row,) = cells(vm_rows(state)) if text else documents(vm_rows(state))
    return row


def test_a_vm_that_runs() -> None:
    assert web(running()) == {
        "vm": "web", "state": "running", "on": "pm-1", "secondary": "pm-2", "drbd": "Connected UpToDate/UpToDate",
        "size": "10 GiB", "memory": "1 GiB", "minor": 1,
    }  # fmt: skip


def test_why_a_state_is_so_stands_beside_it_in_json() -> None:
    silent = changed(running(), "pm-1", domains={}, failures={"libvirt": "no answer"})
    row = web(silent, text=False)
    assert (row["state"], row["why"]) == ("unknown", "libvirt on pm-1 gave no answer")
    twice = cluster(home("pm-1", active=True, primary=True), home("pm-2", active=True, primary=True))
    assert (web(twice, text=False)["state"], web(running(), text=False)["why"]) == ("runs twice", "")
    [node, *_] = documents(pm_rows(changed(running(), "pm-1", failures={"libvirt": "no"})))
    assert (node["state"], node["why"]) == ("trouble", "libvirt: no")


def test_a_vm_that_runs_as_json() -> None:
    row = web(running(), text=False)
    assert (row["size"], row["memory"], row["nodes"], row["cpus"]) == (10 * GiB, GiB, ["pm-1", "pm-2"], 1)
    assert (row["connection"], row["disk"], row["peer_disk"], row["sync_percent"]) == (
        "Connected", "UpToDate", "UpToDate", 100.0,
    )  # fmt: skip
    assert row["two_primaries"] is False
    json.dumps(row)


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (stopped(), {"state": "shut off", "on": "", "secondary": "pm-1,pm-2"}),
        (alone(active=True), {"state": "running", "on": "pm-1", "secondary": "", "drbd": "no peer UpToDate"}),
        (cluster(home("pm-1", active=True, primary=True), home("pm-2", active=True, primary=True)),
         {"state": "RUNS TWICE", "on": "pm-1,pm-2", "secondary": ""}),
        (cluster(node("pm-1", down="no ssh"), home("pm-2", active=False, primary=False)),
         {"state": "unknown (pm-1 is down)", "on": "", "secondary": "pm-2"}),
        # Its domains are not known there, and what it is elsewhere says nothing of whether it runs.
        (changed(running(), "pm-1", domains={}, failures={"libvirt": "no answer"}),
         {"state": "unknown (libvirt on pm-1 gave no answer)", "on": "", "secondary": "pm-2"}),
        (cluster(home("pm-1", active=True, primary=True), node("pm-2", down="no ssh")),
         {"state": "running", "on": "pm-1", "secondary": "pm-2"}),
        (with_resource(running(), "pm-1", connection="StandAlone", peer_disk="DUnknown"),
         {"state": "running", "drbd": "StandAlone UpToDate/DUnknown"}),
        (with_resource(running(), "pm-1", peer_disk="Inconsistent", out_of_sync=5 * GiB),
         {"drbd": "Connected UpToDate/Inconsistent 50.0 %"}),
        (with_resource(running(), "pm-1", two_primaries=True),
         {"drbd": "Connected UpToDate/UpToDate TWO PRIMARIES ALLOWED"}),
        (changed(stopped(), "pm-1", resources={}), {"drbd": "Connected UpToDate/UpToDate"}),
        (cluster(node("pm-1", files={"web": ResourceFile("web", 1, "/dev/vg/web", ("pm-1", "pm-2"), (7800,))})),
         {"state": "not defined", "drbd": "not up", "size": "", "memory": "", "minor": 1}),
        (cluster(node("pm-3", domains={"web": Domain("web", "paused", GiB, 1)})),
         {"state": "paused", "on": "pm-3", "secondary": "", "drbd": "not up", "minor": ""}),
    ],
)  # fmt: skip
def test_states_of_a_vm(state: ClusterState, shown: dict[str, str]) -> None:
    row = web(state)
    assert {key: row[key] for key in shown} == shown


def test_a_bare_volume_is_no_vm() -> None:
    volumes = running().nodes["pm-1"].volumes
    assert cells(vm_rows(cluster(node("pm-1", volumes=volumes)))) == []


def test_nodes() -> None:
    rows = cells(pm_rows(changed(changed(running(), "pm-2", failures={"libvirt": "no"}), "pm-3", down="no ssh")))
    assert rows[0] == {
        "node": "pm-1", "state": "up", "running": 1, "defined": 1, "memory used": "8 GiB", "memory": "16 GiB",
        "vg free": "90 GiB", "drbd": "1 Connected UpToDate/UpToDate",
    }  # fmt: skip
    assert rows[1]["state"] == "trouble: libvirt: no"
    assert rows[2] == {"node": "pm-3", "state": "down: no ssh"}


def test_a_thin_pool_is_shown_beside_the_free_space() -> None:
    pool = Volume("pool", "vg", 50 * GiB, (), "", "twi-aotz--", 43.21, 5.5)
    state = changed(running(), "pm-1", volumes={"pool": pool})
    assert cells(pm_rows(state))[0]["vg free"] == "90 GiB, pool 43 % full"
    shown = {"size": 50 * GiB, "data_percent": 43.21, "metadata_percent": 5.5}
    assert [row["thin_pools"] for row in documents(pm_rows(state))] == [{"pool": shown}, {}, {}]


def test_nodes_as_json() -> None:
    rows = documents(pm_rows(changed(running(), "pm-3", down="no ssh")))
    assert (rows[0]["memory_used"], rows[0]["vg_free"], rows[0]["drbd_version"]) == (8 * GiB, 90 * GiB, "8.4.11")
    assert rows[2] == {"node": "pm-3", "state": "down", "why": "no ssh"}


def test_backups() -> None:
    stored = [
        Stored("pm-2", DELTA.id, MiB, DELTA),
        Stored("pm-2", BASE.id, GiB, BASE),
        Stored("pm-1", "x", 5, None, "bad"),
    ]
    rows = cells(backup_rows(stored))
    assert [row["id"] for row in rows] == [BASE.id, DELTA.id, "x"]
    assert (rows[0]["kind"], rows[0]["stored"], rows[0]["disk"]) == ("base", "1 GiB", "1 GiB")
    assert rows[1]["base"] == BASE.id
    assert rows[2]["kind"] == "BROKEN: bad"
    assert documents(backup_rows(stored))[2]["broken"] == "bad"


def test_tables() -> None:
    assert table(vm_rows(running()), VM_COLUMNS).splitlines()[0].split() == list(VM_COLUMNS)
    down = table(pm_rows(changed(running(), "pm-3", down="no ssh")), PM_COLUMNS)
    assert "down: no ssh" in down
    assert table([], BACKUP_COLUMNS).splitlines()[0].split() == list(BACKUP_COLUMNS)
    assert json.loads(document(vm_rows(running())))[0]["vm"] == "web"
    assert json.loads(document([])) == []
