"""vm.repair: what is wrong with a VM, and for each condition the steps that fix it, or why a person must decide.
State, and what the sides tell about themselves, in; conditions out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pmc import drbd, drbd_generations
from pmc.errors import Refused
from pmc.model import ClusterState, Resource
from pmc.plain import then
from pmc.plan import Step, on_each
from pmc.plans import close_migration, requirements, suspended_io
from pmc.plans.out_of_sync import differing
from pmc.plans.repair_context import Condition, RepairContext, RepairOptions, SideFacts
from pmc.plans.repair_side import defined, disks, not_up
from pmc.plans.split_brain import split
from pmc.settings import Settings

WELL, WAITS, BROKEN = "well", "waits", "broken"


def homes(name: str, state: ClusterState, settings: Settings) -> tuple[str, ...]:
    """The VM's sides. Refused unless they all answer, it is known where it lives, and it runs there, once at most.
    Other nodes may be away. A stale copy elsewhere is no side, and stays as it is: `remove_steps.cleanup` wants the VM
    whole before that goes."""
    named = tuple(requirements.known_nodes(state, name))
    requirements.configured(state, name, named)
    requirements.consistent_placement(state, name)
    there = [home for home in named if name in state.nodes[home].files]
    if not there:
        lost = f"{name}: {drbd.path(name)} is lost on all of its nodes (pmc writes it first and removes it last)"
        if up := [home for home in named if name in state.nodes[home].resources]:
            raise Refused(
                f"{lost}. Write it again by what DRBD says: fab doc repair", next=f"on {up[0]}: drbdsetup show {name}"
            )
        look = f"on {named[0]}: virsh dumpxml {name}; lvs -o +tags"
        raise Refused(f"{lost}. Write it again: fab doc repair", next=look)
    for home in named:
        if home not in there:
            raise Refused(f"{name}: {drbd.path(name)} is missing on {home}. Copy it there from {there[0]}, mode 600")
    requirements.runs_once(name, state)
    return named


def conditions(
    name: str, state: ClusterState, about: Mapping[str, SideFacts], settings: Settings, wishes: RepairOptions
) -> list[Condition]:
    """In the order in which they are fixed. After each one must look again: what comes next may have changed."""
    case = RepairContext(name, homes(name, state, settings), state, about, settings, wishes)
    if wishes.keep and wishes.keep not in case.homes:
        raise Refused(f"--keep {wishes.keep}: {name} has its disks on {' and '.join(case.homes)}; choose one of them")
    if stands := standing(case):
        return stands
    apart = between(case) if len(case.homes) == 2 else []
    found = [*open_apart(case), *not_up(case), *apart, *disks(case), *defined(case), *two_primaries(case)]
    return found or differing(case)  # which wants it to run, and for that the rest to be well


def standing(case: RepairContext) -> list[Condition]:
    """Whatever is done to a disk that stands still hangs. What DRBD itself suspended for want of data goes on when the
    disk or the connection is fixed; so does what a secondary holds that lost its peer in the middle of a move."""
    found = []
    for home in case.homes:
        why = suspended_io.suspended(case.name, case.node(home))
        secondary = (now := case.resource(home)) is not None and now.role == "Secondary"
        fixed = {"no-data", "quorum", *(("fencing",) if secondary else ())}
        if why and not fixed & set(why.split(",")):
            way = suspended_io.remedy(case.name, home, why)
            text = f"its I/O is suspended on {home} ({why})"
            found.append(Condition("suspended", text, refusal=f"{text}. {way}"))
        if (its := suspended_io.volume(case.name, case.node(home))) and its.stands and its.hangs:
            found.append(Condition("stands", f"{its} ({home})", refusal=f"{its}; on {home}: {its.remedy}"))
    return found


def outlook(resources: Sequence[Resource | None]) -> str:
    """Of all sides: well; broken (it does not get better by waiting); or it waits for the peer or a resync."""
    if len(resources) == 1:
        return WELL if resources[0] and resources[0].good else BROKEN
    if any(r is None or r.standalone for r in resources):
        return BROKEN
    if any(r and r.diskless for r in resources) and all(r and r.connected for r in resources):
        return BROKEN
    return WELL if all(r and r.healthy for r in resources) else WAITS


def score(resources: Sequence[Resource | None]) -> tuple[int, int, int]:
    """Rises while things get better: sides connected, disks up to date, and the less there is to copy."""
    known = [r for r in resources if r]
    connected = sum(r.connected for r in known)
    return connected, sum(r.good for r in known), -sum(r.out_of_sync for r in known if connected)


def between(case: RepairContext) -> list[Condition]:
    """What is wrong with the connection of two sides that are up."""
    up = case.up
    if len(up) < 2:
        return []
    if all(its.connected for its in up.values()):
        return _connected(case, up)
    alone = [home for home in up if up[home].standalone]
    told = ", ".join(f"{up[home].connection} on {home}" for home in up)
    if any(its.diskless for its in up.values()):
        return [_connect(case, alone, told)]
    verdict = compare(case)
    if verdict == "split":
        return [split(case)]
    if verdict in ("unrelated", "unknown"):
        why = "have nothing in common" if verdict == "unrelated" else "do not tell what they have in common"
        advice = then("fab doc repair says how to give one of them up", f"on both nodes: drbdadm get-gi {case.name}")
        return [
            Condition(
                "unrelated", f"{told}; the two sides {why}", refusal=f"its two sides {why}, so it is {told}. {advice}"
            )
        ]
    stale = {"ahead": case.homes[1], "behind": case.homes[0]}.get(verdict, "")
    if stale and stale == case.wishes.keep:
        text = f"no split brain, but the disk on {stale} lacks what {case.other(stale)} wrote"
        refusal = (
            f"--keep {stale}: {text}, and would be overwritten by it. If that is right, leave --keep out; "
            f"fab doc repair says how to give {case.other(stale)} up instead"
        )
        return [Condition("stale-kept", text, refusal=refusal)]
    if stale and up[stale].primary:
        text = f"the disk on {stale} lacks what {case.other(stale)} wrote, and {stale} is primary"
        refusal = then(f"{text}. Stop it first", f"fab vm.stop {case.name} vm.repair {case.name}")
        return [Condition("stale-primary", text, refusal=refusal)]
    return [_connect(case, alone, told)]


def compare(case: RepairContext) -> str:
    first, second = (case.about.get(home, SideFacts()).generation for home in case.homes)
    return drbd_generations.compare(first, second) if first and second else "unknown"


def _connect(case: RepairContext, alone: Sequence[str], told: str) -> Condition:
    name = case.name
    link = (
        f"the two sides do not find each other. Does the replication network carry the port between the nodes? "
        f"Next: on each: ss -tn | grep :{next(iter(case.node(case.homes[0]).files[name].ports), 'PORT')}; "
        f"journalctl -k | grep {name}"
    )
    if not alone:
        refusal = f"{told}: {link}" if case.wishes.stalled else ""
        return Condition("connecting", f"not connected: {told}", refusal=refusal, advice=link)
    steps = [
        Step(home, f"connect {name}", drbd_generations.connect(name), undo=drbd_generations.disconnect(name))
        for home in alone
    ]
    return Condition("standalone", f"disconnected, no split brain: {told}", tuple(steps), advice=link)


def _connected(case: RepairContext, up: Mapping[str, Resource]) -> list[Condition]:
    """Connected, and yet not equal: a resync that goes on, waits, or does not begin."""
    name = case.name
    if all(r.healthy for r in up.values()) or any(r.diskless for r in up.values()):
        return []
    disks = "/".join(f"{up[home].disk} on {home}" for home in case.homes)
    good = [home for home in up if up[home].good]
    if not good:
        text = f"no side is up to date ({disks})"
        advice = "Restore a backup, or declare one side right by hand (fab doc repair)"
        return [Condition("no-good-side", text, refusal=then(f"{text}. {advice}", f"fab vm.backups {name}"))]
    if any("Paused" in r.replication for r in up.values()):
        steps = on_each(case.homes, lambda home: Step(home, f"let {name} resync", drbd_generations.resume(name)))
        return [Condition("paused", f"its resync is paused ({disks})", tuple(steps))]
    if not case.wishes.stalled:
        return [Condition("syncing", f"not equal yet ({disks}, {up[good[0]].percent:.1f} % in sync)")]
    target = case.other(good[0])
    text = f"its resync has stalled ({disks})"
    if up[target].primary:
        refusal = f"{text}, and {target} is primary: it can only read while it is connected. Stop it first"
        refusal = then(refusal, f"fab vm.stop {name} vm.repair {name}")
        return [Condition("stalled", text, refusal=refusal)]
    steps = [
        Step(
            target,
            f"disconnect {name}, whose disk there is not good anyway",
            drbd_generations.disconnect(name),
            undo=drbd_generations.connect(name),
        ),
        Step(target, f"connect {name} again", drbd_generations.connect(name), pivot=True),
        *([Step(good[0], f"connect {name} again", drbd_generations.connect_if_alone(name))]),
    ]
    return [Condition("stalled", text, tuple(steps), advice=f"journalctl -k | grep {name} on both nodes")]


def open_apart(case: RepairContext) -> list[Condition]:
    """Before anything is connected: DRBD leaves two sides StandAlone of which only one allows two primaries."""
    up = case.up
    opened = [home for home, r in up.items() if r.two_primaries and not r.standalone]
    if not opened or (len(up) == len(case.homes) and all(r.connected for r in up.values())):
        return []
    text = f"two primaries are allowed ({', '.join(opened)}), and the two sides are apart"
    return [
        Condition("two-primaries", text, tuple(close_migration.forbid_two_primaries(opened, case.name, case.state)))
    ]


def two_primaries(case: RepairContext) -> list[Condition]:
    """Left by a migration that was interrupted. The side where it does not run is demoted first."""
    up = case.up
    primaries = [home for home in up if up[home].primary]
    opened = [home for home in up if up[home].two_primaries]
    if (not opened and len(primaries) < 2) or open_apart(case):
        return []
    if len(up) > 1 and not all(r.connected for r in up.values()):
        return []  # when they are connected again
    idle = [home for home in primaries if home != case.active] if len(primaries) > 1 else []
    steps = [Step(home, f"make {case.name} secondary", drbd.secondary(case.name), pivot=True) for home in idle]
    text = f"two primaries are {'there' if idle else 'allowed'} ({', '.join(idle or opened)})"
    return [
        Condition("two-primaries", text, (*steps, *close_migration.forbid_two_primaries(opened, case.name, case.state)))
    ]
