"""What counts as a sign of life, what refuses a failover, what leaves a node and whether there is room."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pmc.errors import NodeDown, Refused
from pmc.facts import dead_node
from pmc.facts.dead_node import LostLink, PeerSigns
from pmc.model import ClusterState, Domain, NodeState, Odd, ResourceFile
from pmc.plan import Plan
from pmc.plans import close_migration, evacuate, failover, interrupted_migration
from pmc.settings import Settings
from pmc.tasks import migrate, vm_lock
from pmc.units import GiB, MiB
from tests.sim.fake import done
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, alone, changed, cluster, home, running, stopped, with_resource
from tests.unit.stories import STORIES

SILENT = "ssh 255 ssh: connect to host 10.0.0.1 port 22: Connection timed out\n"
# Seconds since 1970 (2026-11-23T08:20:31 UTC) at which the link was lost, and since the boot of the survivor.
WALL, MONOTONIC = 1795422031, 5000.0


def entry(
    at: float = 0, wall: float | None = None, peer: str = "Primary", conn: str = "Connected -> NetworkFailure",
    of: str = "web", **fields: Any,
) -> str:  # fmt: skip
    """As Debian 12's kernel 6.1 with DRBD 8.4.11 writes it, `at` seconds after the first loss, read by journalctl -k -b
    -o json; the clock said `wall`."""
    micro = round((MONOTONIC + at) * 1e6)
    table = {
        "__CURSOR": "s=0", "_BOOT_ID": "0", "__MONOTONIC_TIMESTAMP": f"{micro + 150}",
        "__REALTIME_TIMESTAMP": f"{round((WALL + at if wall is None else wall) * 1e6)}",
        "_SOURCE_MONOTONIC_TIMESTAMP": f"{micro}",
        "MESSAGE": f"drbd {of}: peer( {peer} -> Unknown ) conn( {conn} ) pdsk( UpToDate -> DUnknown ) ",
    } | fields  # fmt: skip
    return f"kernel {json.dumps({key: value for key, value in table.items() if value is not None})}\n"


def now(since: float, wall: float | None = None) -> str:
    """So many seconds after the link was lost."""
    return f"now {MONOTONIC + since:.2f} {WALL + since if wall is None else wall:.0f}\n"


def dead(state: ClusterState, name: str, answers: bool = False) -> ClusterState:
    return ClusterState({**state.nodes, name: NodeState(name, down="no ssh within 10 s", answers=answers)})


def orphan(**resource: object) -> ClusterState:
    """web ran on pm-1, which is silent; pm-2 has its second copy."""
    facts = {"connection": "Connecting", "replication": "Off", "peer_disk": "DUnknown", **resource}
    return dead(with_resource(running(), "pm-2", **facts), "pm-1")


def of(*hosts: str) -> dict[str, ResourceFile]:
    """web's resource file, with these hosts in it."""
    return {"web": replace(running().nodes["pm-1"].files["web"], hosts=hosts)}


def plan(state: ClusterState) -> Plan:
    return failover.failover("web", state, SETTINGS)


def fenced(name: str = "pm-1") -> Settings:
    spec = replace(SETTINGS.nodes[name], fence="fence_test")
    return replace(SETTINGS, nodes={**SETTINGS.nodes, name: spec})


def alive(state: ClusterState, seen: PeerSigns, settings: Settings = SETTINGS) -> None:
    failover.alive("pm-1", failover.signs("pm-1", "pm-2", ["web"], state, seen), settings)


@pytest.mark.parametrize("said", ["Connection timed out", "No route to host", "Network is unreachable"])
def test_silence(said: str) -> None:
    assert dead_node.parse_peer(f"ssh 255 ssh: connect to host 10.0.0.1 port 22: {said}\n") == PeerSigns()


@pytest.mark.parametrize(
    "text",
    [
        "ssh 0 \n",
        "ssh 255 ssh: connect to host 10.0.0.1 port 22: Connection refused\n",
        "ssh 255 root@10.0.0.1: Permission denied (publickey).\n",
        "ssh 255 Host key verification failed.\n",
        "ssh 255 \n",
        "ssh 1 This account is currently not available.\n",
        "ssh 124 it lets in, and hangs\n",
        "ssh 255 Connection timed out during banner exchange Connection to 10.0.0.1 port 22 timed out\n",
        f"life it answers ping\n{SILENT}",
    ],
)
def test_signs_of_life(text: str) -> None:
    """Also a refusal, or what is not understood: only a timeout is silence."""
    seen = dead_node.parse_peer(text)
    assert len(seen.life) == 1
    with raises(Refused, "failover.alive", "pm-1: ", "lives: pm-2"):
        alive(orphan(), seen)
    with raises(Refused, "failover.alive", "configure fence"):
        alive(orphan(), seen)
    with raises(Refused, "failover.alive", "--dead pm-1"):
        alive(orphan(), seen, fenced())


def test_a_peer_that_lets_in_and_hangs_is_told_in_time(tmp_path: Path) -> None:
    """The very script; timeout(1) without its seconds."""
    for name, text in {
        "ssh": "sleep 1000",
        "timeout": 'shift 3; exec /usr/bin/timeout 1 "$@"',
        "ping": "exit 1",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    query = dead_node.peer("pm-1", SETTINGS)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(query.command.argv, env=path, capture_output=True, text=True)
    assert query.parse(done.stdout).life == ("ssh there says: it lets in, and hangs",)


def test_drbd_that_is_connected_is_a_sign_of_life() -> None:
    alive(orphan(), PeerSigns())
    with raises(Refused, "failover.alive", "web", "Connected"):
        alive(orphan(connection="Connected"), PeerSigns())


@pytest.mark.parametrize(
    ("state", "sign"),
    [
        (running(), "it answers the manager"),
        (dead(running(), "pm-1", answers=True), "it answers the manager: no ssh within 10 s"),
    ],
)
def test_what_the_manager_sees_is_a_sign_of_life_too(state: ClusterState, sign: str) -> None:
    """After a fence command, when all is looked at again."""
    assert failover.signs("pm-1", "pm-2", [], state, PeerSigns()) == [sign]


def test_one_that_hangs_may_speak_when_a_person_says_so_and_it_can_be_fenced() -> None:
    state = dead(orphan(), "pm-1", answers=True)
    assert (failover.hangs("pm-1", SETTINGS), failover.hangs("", fenced())) == ("", "")
    hangs = failover.hangs("pm-1", fenced())
    assert failover.homes("web", state, fenced(), hangs) == ("pm-1", "pm-2")
    assert failover.failover("web", state, fenced(), hangs=hangs).steps
    wanted = evacuate.start_all("pm-1", (), state, fenced(), hangs=hangs)
    assert [each.name for each in wanted.leaving] == ["web"]
    for other in ("", failover.hangs("pm-2", fenced("pm-2"))):
        with raises(Refused, "failover.homes", "pm-1 is alive", "--dead pm-1"):
            failover.homes("web", state, fenced(), other)
    with raises(Refused, "failover.homes", "pm-1 is alive", "configure fence"):
        failover.homes("web", state, SETTINGS)


def test_what_is_marked_on_the_survivor() -> None:
    assert failover.marked("pm-2", ["web", "other"], orphan(out_of_sync=4096)) == {"web": 4096}
    assert failover.marked("pm-2", ["web"], orphan()) == {}


def test_a_vm_whose_blocks_differ_stays_when_its_node_is_emptied() -> None:
    state = with_resource(running(), "pm-1", out_of_sync=4096)
    wanted = evacuate.move_all("pm-1", state, SETTINGS)
    assert (wanted.leaving, list(wanted.staying)) == ((), ["web"])
    assert "fab vm.repair web" in wanted.staying["web"]


def test_while_the_link_is_there_the_peers_role_tells_what_is_in_use() -> None:
    for role in ("Primary", "Secondary"):
        state = orphan(connection="Connected", peer_role=role)
        assert failover.linked("pm-2", ["web", "other"], state) == {"web": LostLink("", 0, role == "Primary")}
    assert failover.linked("pm-2", ["web"], orphan()) == {}


def test_a_peer_that_was_not_tried_is_no_silent_one() -> None:
    with pytest.raises(ValueError, match="not tried"):
        dead_node.parse_peer("")


def lost(text: str) -> LostLink:
    [found] = dead_node.parse_peer(SILENT + text).lost.values()
    return found


def test_since_when_the_peer_is_lost_and_whether_it_had_the_disk_in_use() -> None:
    assert lost(entry() + now(2370)) == LostLink("2026-11-23T08:20:31+00:00", 2370, True)
    assert lost(entry() + entry(2369, peer="Secondary") + now(2370)) == LostLink("2026-11-23T09:00:00+00:00", 1, False)
    assert dead_node.parse_peer(SILENT + entry(of="3cx_Web-1") + now(5)).lost["3cx_Web-1"].ago == 5
    assert lost(entry(of="web pm-1") + now(2370)) == LostLink("2026-11-23T08:20:31+00:00", 2370, True)


@pytest.mark.parametrize("state", ["VerifyS", "VerifyT", "SyncSource", "PausedSyncS"])
def test_a_link_is_also_lost_while_more_than_a_connection_is_under_way(state: str) -> None:
    """Or an older loss would be taken for the last one."""
    assert lost(entry() + entry(2369, conn=f"{state} -> NetworkFailure") + now(2370)).ago == 1
    assert lost(entry() + entry(2369, conn=f"Connected -> {state}") + now(2370)).ago == 2370


HOUR = 3600


@pytest.mark.parametrize("step", [-3 * HOUR, -2 * HOUR, 0, 300 * 86400])
@pytest.mark.parametrize("since", [2 * HOUR, dead_node.FRESH + 1])
def test_a_clock_that_was_set_does_not_make_an_old_disk_a_fresh_one(step: float, since: float) -> None:
    """NTP after a boot with a wrong clock, between the loss of the link and the question."""
    found = lost(entry() + now(since, wall=WALL + since + step))
    assert found.old
    assert found.ago == max(since, since + step)


def test_a_clock_that_was_set_back_does_not_make_a_fresh_disk_an_old_one() -> None:
    assert not lost(entry() + now(5, wall=WALL - 2 * HOUR)).old
    assert lost(entry() + now(5, wall=WALL - 2 * HOUR)).since == "2026-11-23T06:20:26+00:00", "as its clock goes now"


@pytest.mark.parametrize(
    "text",
    [
        entry(),  # the node does not say what time it is
        entry() + "now  \n",
        entry() + "now 2026-11-23T09:00:00+00:00\n",
        entry() + now(-2),  # later than now
        entry() + now(-2 * HOUR, wall=WALL + 5),
        entry(__MONOTONIC_TIMESTAMP=None) + now(5),
        entry(__MONOTONIC_TIMESTAMP="-5") + now(5),
        entry(__MONOTONIC_TIMESTAMP=[5]) + now(5),
        entry(__MONOTONIC_TIMESTAMP="9" * 400) + now(5),
    ],
)
def test_what_is_not_known_is_not_fresh(text: str) -> None:
    assert lost(text) == LostLink("", math.inf, True)
    assert lost(text).old


def test_the_longest_that_is_said_counts() -> None:
    """A journal that began late again has the kernel's line late; the kernel's own clock runs a little off."""
    late = f"{round((MONOTONIC + 7000) * 1e6)}"
    assert lost(entry(__MONOTONIC_TIMESTAMP=late) + now(7005)).ago == 7005
    assert lost(entry(_SOURCE_MONOTONIC_TIMESTAMP=late) + now(7005)).ago == pytest.approx(7005, abs=0.001)
    assert lost(entry(_SOURCE_MONOTONIC_TIMESTAMP=None) + now(7005)).ago == pytest.approx(7005, abs=0.001)


@pytest.mark.parametrize("line", ["", "{", "[" * 100_000, "[]", "null", '"conn("', '{"MESSAGE": [99]}'])
def test_a_line_of_the_journal_that_cannot_be_read_leaves_the_older_one(line: str) -> None:
    assert lost(entry() + f"kernel {line}\n" + now(2370)).ago == 2370


def test_what_is_asked_of_the_journal_is_of_this_boot_and_has_its_clock(tmp_path: Path) -> None:
    """The very script, on this machine."""
    (tmp_path / "journalctl").write_text(
        "#!/bin/bash\n[[ \"$*\" = *' -k -b -o json '* ]] || exit 1\n"
        "read -r up _ </proc/uptime; up=${up/./}0000\n"
        'echo "{\\"MESSAGE\\": \\"usb 1-1: new\\"}"\n'
        'echo "{\\"MESSAGE\\": \\"drbd web: peer( Primary -> Unknown ) conn( Connected -> NetworkFailure )\\", '
        '\\"__MONOTONIC_TIMESTAMP\\": \\"$((up - 2000000000))\\"}"\n'
        'echo "{\\"MESSAGE\\": \\"drbd db: peer( Primary -> Unknown ) conn( Connected -> NetworkFailure )\\", '
        '\\"__MONOTONIC_TIMESTAMP\\": \\"$up\\"}"\n'
    )
    for name, text in {"ssh": "echo Connection timed out; exit 255", "ping": "exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    query = dead_node.peer("pm-1", SETTINGS)
    where = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    ended = subprocess.run(query.command.argv, env=where, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    found = query.parse(ended.stdout)
    assert (found.life, list(found.lost)) == ((), ["web", "db"])
    assert found.lost["web"].old
    assert not found.lost["db"].old
    (tmp_path / "journalctl").write_text("#!/bin/sh\nexit 1\n")
    ended = subprocess.run(query.command.argv, env=where, capture_output=True, text=True)
    assert (ended.returncode, query.parse(ended.stdout)) == (0, PeerSigns())


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (running(), "is running on pm-1, so there is nothing to fail over"),
        (stopped(), "pm-1 and pm-2 answer ssh, so nothing is dead. Start it. Next: fab vm.start web"),
        (alone(active=False), "pm-1 answers ssh"),
        (dead(running(), "pm-2"), "is running on pm-1"),
        (dead(stopped(), "pm-1", answers=True), "configure fence for it, or cut its power and try again"),
        (dead(orphan(), "pm-2"), "not all answered"),
        (orphan(disk="Inconsistent"), "its disk on pm-2 is Inconsistent: it lacks writes"),
        (orphan(disk="Outdated"), "its disk on pm-2 is Outdated: it lacks writes"),
        (orphan(disk="Consistent"), "its disk on pm-2 is Consistent: it lacks writes"),
        (orphan(disk="Diskless"), "its disk on pm-2 is Diskless"),
        (orphan(connection="StandAlone"), "StandAlone: the sides were apart already"),
        (changed(orphan(), "pm-2", resources={}), "fab pm.ready_drbd --node pm-2"),
        (changed(orphan(), "pm-2", domains={}), "is not defined on pm-2"),
        (changed(orphan(), "pm-2", memory_available=MiB), "pm-2 has 1 MiB free. Move another VM away first"),
        (changed(orphan(), "pm-2", failures={"libvirt": "no"}), "libvirt: no"),
        (
            changed(orphan(), "pm-2", files={}, odd=(Odd("/etc/drbd.d/web.res", "line 2: a quote", "web"),)),
            "web: on pm-2, /etc/drbd.d/web.res: line 2: a quote. Correct the file there",
        ),
        (changed(orphan(), "pm-3", files=of("pm-1", "pm-3")), "its resource files disagree about its nodes"),
        (changed(orphan(), "pm-3", hostname="pm-1"), "pm-3: its host name is 'pm-1'"),
        (
            changed(orphan(), "pm-2", files=of("pm-1", "pm-2", "pm-3")),
            "web: pm-1: no ssh within 10 s. One must be there",
        ),
        (dead(cluster(), "pm-1"), "no node that answers knows it"),
        (dead(alone(active=True), "pm-1"), "no node that answers knows it"),
    ],
)
def test_refused(state: ClusterState, words: str) -> None:
    with pytest.raises(Refused) as caught:
        plan(state)
    assert words in str(caught.value)
    assert caught.value.code == 2


def test_a_vm_without_a_second_copy_that_another_node_still_knows() -> None:
    state = dead(cluster(), "pm-1")
    file = alone(active=False).nodes["pm-1"].files["web"]
    with raises(Refused, "failover.homes", "on pm-1 only", "fab vm.backups web"):
        plan(changed(state, "pm-2", files={"web": file}))


@pytest.mark.parametrize("name", ["vm.failover", "vm.failover-torn"])
def test_after_it_the_vm_runs_on_the_survivor_and_one_primary_is_allowed(name: str) -> None:
    story = STORIES[name]()
    after = done(story.world, story.plan).nodes["pm-2"]
    assert after.domains["web"] == "running"
    assert (after.resources["web"].role, after.resources["web"].two_primaries) == ("Primary", False)


def test_what_is_odd_on_the_survivor_and_of_another_takes_no_failover_away() -> None:
    """A resource file that cannot be read, a domain whose name no command takes, a login script that prints."""
    odd = (Odd("/etc/drbd.d/nfs.res", "line 1: a quote without its end", "nfs"), Odd("the volume a b", "x", named=True))
    foreign = {"Büro (alt)": Domain("Büro (alt)", "running", MiB, 1)}
    state = changed(orphan(), "pm-2", odd=odd, foreign=foreign, prints="Welcome")
    assert str(plan(state)) == str(plan(orphan()))


def test_it_is_never_forced_and_the_node_is_looked_at_again_first() -> None:
    for name in ("vm.failover", "vm.failover-torn"):
        plan = STORIES[name]().plan
        assert "--force" not in str(plan).replace("start --force-boot", "")
        assert [step.note for step in plan.steps[:2]] == [
            "see that pm-1 is silent",
            "see that web has lost its other side",
        ]


def test_a_node_that_came_back_while_the_person_was_asked_stops_it() -> None:
    story = STORIES["vm.failover"]()
    story.world.dead.clear()
    before = story.world.copy()
    with pytest.raises(Exception, match="pm-1 lives: it answers on the replication network"):
        done(story.world, story.plan)
    assert story.world == before


# -- evacuating --


def several(memory: dict[str, int], free: int, active: bool = True) -> ClusterState:
    """VMs of these sizes run on pm-1, with their second copies on pm-2."""
    state = running()
    for place in ("pm-1", "pm-2"):
        node = state.nodes[place]
        on = active and place == "pm-1"
        domains = {n: Domain(n, "running" if on else "shut off", size, 1) for n, size in memory.items()}
        state = changed(
            state, place, domains=domains, memory_available=free,
            resources={n: replace(node.resources["web"], name=n) for n in memory},
            files={n: replace(node.files["web"], name=n) for n in memory},
        )  # fmt: skip
    return state


def test_the_largest_goes_first() -> None:
    wanted = evacuate.move_all("pm-1", several({"a": GiB, "b": 3 * GiB, "c": 2 * GiB, "d": GiB}, 8 * GiB), SETTINGS)
    assert [(each.name, each.target) for each in wanted.leaving] == [(n, "pm-2") for n in ("b", "c", "a", "d")]
    assert all("migrate" in str(each.plan) for each in wanted.leaving)


@pytest.mark.parametrize("build", [
    lambda state: evacuate.move_all("pm-1", state, SETTINGS),
    lambda state: evacuate.start_all("pm-1", (), dead(state, "pm-1"), SETTINGS),
])  # fmt: skip
def test_what_fits_alone_but_not_together_is_refused(build: Callable[[ClusterState], object]) -> None:
    state = several({"a": 2 * GiB, "b": 3 * GiB}, 4 * GiB)
    for name in ("a", "b"):
        resources = state.nodes["pm-2"].resources
        lost = replace(resources[name], connection="Connecting")
        if "start_all" in build.__code__.co_names:
            state = changed(state, "pm-2", resources={**resources, name: lost})
    with pytest.raises(Refused) as caught:
        build(state)
    assert str(caught.value).startswith(
        "no memory for all of them together: a (2 GiB) on pm-2. Free now: pm-2 4 GiB. Nothing was touched"
    )


def test_a_vm_that_cannot_move_does_not_hold_the_others() -> None:
    state = several({"a": GiB, "b": GiB, "off": GiB}, 8 * GiB)
    node = state.nodes["pm-1"]
    state = changed(
        state, "pm-1",
        domains={**node.domains, "off": replace(node.domains["off"], state="shut off"),
                 "one": Domain("one", "running", 64 * GiB, 1)},
        resources={**node.resources, "a": replace(node.resources["a"], connection="StandAlone")},
        files={**node.files, "one": replace(node.files["a"], name="one", hosts=("pm-1",))},
    )  # fmt: skip
    wanted = evacuate.move_all("pm-1", state, SETTINGS)
    assert [each.name for each in wanted.leaving] == ["b"]
    assert sorted(wanted.staying) == ["a", "one"]
    assert wanted.staying["one"].startswith("has its disk on pm-1 only, so it cannot move. Give it a second copy")
    assert wanted.off == ("off",)


def test_a_dead_nodes_vms_start_elsewhere_but_for_those_that_were_off_or_run() -> None:
    state = several({"a": GiB, "off": GiB, "here": GiB}, 8 * GiB)
    node = state.nodes["pm-2"]
    lost = {n: replace(r, connection="Connecting", peer_disk="DUnknown") for n, r in node.resources.items()}
    domains = {**node.domains, "here": replace(node.domains["here"], state="running")}
    state = dead(changed(state, "pm-2", resources=lost, domains=domains), "pm-1")
    wanted = evacuate.start_all("pm-1", ["off", "here"], state, SETTINGS)
    assert [(each.name, each.source, each.target) for each in wanted.leaving] == [("a", "pm-1", "pm-2")]
    assert (wanted.off, wanted.staying) == (("off",), {})
    # Nobody else is kept away from what is not locked.
    stays = evacuate.start_all("pm-1", ["off", "here"], state, SETTINGS, locked=["b"])
    assert (stays.leaving, list(stays.staying)) == ((), ["a"])


def test_the_way_to_evacuate_must_fit_the_node() -> None:
    with raises(NodeDown, "evacuate.move_all", "fab pm.evacuate pm-1 --failover"):
        evacuate.move_all("pm-1", orphan(), SETTINGS)
    with pytest.raises(Refused, match="pm-1: libvirt: no answer"):
        evacuate.move_all("pm-1", changed(running(), "pm-1", failures={"libvirt": "no answer"}), SETTINGS)
    with pytest.raises(Refused, match="pm-1: answers ssh, so it is not dead"):
        evacuate.start_all("pm-1", (), running(), SETTINGS)


def test_a_dead_node_of_which_nobody_knows_a_vm_is_no_success_while_others_are_silent() -> None:
    state = changed(changed(cluster(), "pm-1", down="no ssh"), "pm-3", down="no ssh")
    with pytest.raises(NodeDown, match="pm-1: no node that answers knows a VM of it, and not all could be asked: pm-3"):
        evacuate.start_all("pm-1", (), state, SETTINGS)


def test_homes_that_are_not_configured() -> None:
    state = cluster(home("pm-1", active=False, primary=False))
    elsewhere = replace(state.nodes["pm-1"].files["web"], hosts=("pm-1", "pm-9"))
    with raises(Refused, "requirements.configured", "pm-9", "pmc.conf"):
        plan(changed(state, "pm-1", files={"web": elsewhere}))


# -- a migration that was interrupted --


def apart(**target: object) -> ClusterState:
    """web runs on pm-1 and the sides have lost each other."""
    state = with_resource(running(), "pm-1", connection="Connecting", peer_disk="DUnknown")
    return with_resource(state, "pm-2", **{"connection": "Connecting", "peer_disk": "DUnknown", **target})


def test_a_migration_is_not_over_while_there_are_two_or_one_stands_still() -> None:
    paused = Domain("web", "paused", GiB, 1)
    assert not interrupted_migration.in_progress("web", running())
    assert not interrupted_migration.in_progress("web", stopped())
    assert interrupted_migration.in_progress("web", changed(running(), "pm-2", domains={"web": paused}))
    assert interrupted_migration.in_progress("web", changed(running(), "pm-1", domains={"web": paused}))
    twice = replace(paused, state="running")
    assert interrupted_migration.in_progress("web", changed(running(), "pm-2", domains={"web": twice}))


def test_the_side_that_was_never_written_takes_its_generation_back() -> None:
    (step,) = interrupted_migration.rejoin("web", apart()).steps
    assert (step.node, step.pivot) == ("pm-2", True)
    assert str(step.do).endswith("pmc web 1 /dev/vg/web")
    assert step.do.argv.index("web") > 3, "values are arguments, never part of the script"  # type: ignore[union-attr]


def test_one_that_gave_up_is_connected_again() -> None:
    state = with_resource(apart(connection="StandAlone"), "pm-1", connection="StandAlone")
    assert [(step.node, step.note) for step in interrupted_migration.rejoin("web", state).steps][1:] == [
        ("pm-1", "connect web")
    ]


@pytest.mark.parametrize(
    "state",
    [
        running(), stopped(), alone(active=True),
        apart(out_of_sync=4096), apart(role="Primary"), apart(disk="Inconsistent"), apart(connection="Connected"),
        changed(apart(), "pm-2", drbd="9.1.4"), changed(apart(), "pm-2", resources={}), dead(apart(), "pm-2"),
        changed(apart(), "pm-2", domains={"web": Domain("web", "running", GiB, 1)}),
    ],
)  # fmt: skip
def test_nothing_is_taken_back_otherwise(state: ClusterState) -> None:
    """Above all when something was written there: that is a split brain, and a person's to fix."""
    assert interrupted_migration.rejoin("web", state).steps == ()


def closed_after(monkeypatch: pytest.MonkeyPatch, *looks: ClusterState) -> tuple[list[str], tuple[str, str]]:
    """The notes of the steps that close a migration, and what `closed` tells; each look sees the next state."""
    notes: list[str] = []

    class Applied:
        def apply(self, plan: Plan, **how: object) -> None:
            notes.extend(step.note for step in plan.steps)

    seen = iter(looks)
    monkeypatch.setattr(vm_lock, "refresh_vm", lambda *args: next(seen))
    cluster: Any = Applied()
    held: Any = None
    return notes, migrate.closed(cluster, "web", running(), held)


def test_a_link_lost_between_the_end_of_a_migration_and_its_close_is_no_split_brain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = with_resource(running(), "pm-2", role="Primary")
    notes, told = closed_after(monkeypatch, both, apart())
    assert notes == ["make web secondary", "take the new generation of web back: nothing was written here"]
    assert told == ("pm-1", "")


def test_a_silent_node_may_still_allow_two_primaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that only the manager does not reach is not dead: it is not said to be closed."""
    unseen = dead(with_resource(running(), "pm-1", two_primaries=True), "pm-2")
    notes, (on, more) = closed_after(monkeypatch, unseen, unseen)
    assert (notes, on) == (["allow one primary of web only"], "pm-1")
    assert more == (
        "; pm-2 does not answer, and may still allow two primaries. Once it does: fab vm.mv web --cleanup"
    )  # fmt: skip
    assert close_migration.unreachable_note("web", running()) == ""
