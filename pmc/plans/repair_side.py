"""What can be wrong with one side alone: its resource is not up, its disk is detached, its definition is missing or
differs. Pure."""

from __future__ import annotations

from dataclasses import replace

from pmc import drbd, drbd_generations, lvm, virsh
from pmc.actions import Wait
from pmc.errors import Refused
from pmc.facts import backing, domain_definition
from pmc.plain import then
from pmc.plan import Step
from pmc.plans import other_disks, restore_marks, room, saved_memory, unfinished_restore, vm_steps
from pmc.plans.repair_context import Condition, RepairContext


def not_up(case: RepairContext) -> list[Condition]:
    return [_not_up(case, home) for home in case.homes if case.resource(home) is None]


def _not_up(case: RepairContext, home: str) -> Condition:
    name, node = case.name, case.node(home)
    text = f"its DRBD resource is not up on {home}"
    volume, path = backing.of(node, name), backing.path_of(node, name)
    if not node.drbd or (volume and volume.attributes[4:5] not in ("", "a")):
        return Condition("not-up", text, refusal=then(text, f"fab pm.ready_drbd {home}"))
    bring = Step(
        home,
        f"bring up {name}",
        drbd.up(name, alone=len(case.homes) == 1),
        undo=drbd.down(name),
        check=drbd.is_up(name),
    )
    if volume or (lvm.split(path) or ("", ""))[0] != case.settings.volume_group:
        return Condition("not-up", text, (bring,), advice=f"Next: fab pm.ready_drbd {home}")
    text = f"the volume {path.removeprefix('/dev/')} is not there on {home}"
    return _renewed(case, home, text, bring)


def disks(case: RepairContext) -> list[Condition]:
    """Detached: after an I/O error, by hand, or the volume was late. Attached again only while connected to a peer that
    is up to date, so that what it missed is copied. By itself such a disk would claim to be up to date."""
    found = [home for home, its in case.up.items() if its.diskless]
    return [_detached(case, home, len(found) == len(case.homes)) for home in found]


def _detached(case: RepairContext, home: str, all_of_them: bool) -> Condition:
    name, now = case.name, case.up[home]
    text = f"its disk on {home} is {now.disk}"
    attach = Step(
        home,
        f"attach the disk of {name}",
        drbd.attach(name),
        undo=drbd_generations.detach(name),
        check=drbd_generations.is_attached(name),
    )
    advice = (
        f"the disk on {home} does not work or is not DRBD's (journalctl -k there). For a second copy on another node: "
        f"fab vm.peer {name} --secondary NODE. Or make a new volume in its place. Next: fab vm.repair {name} --new-disk"
    )
    if len(case.homes) == 1:
        advice = then(
            f"it has no other copy. Look at journalctl -k on {home}, or restore a backup", f"fab vm.backups {name}"
        )
        return Condition("diskless", text, (attach,), advice=advice)
    peer = case.node(case.other(home)).resources.get(name)
    if all_of_them or peer is None or not peer.good:
        state = peer.disk if peer else "not up"
        refusal = (
            f"{text}, and {state} on {case.other(home)}. Repair that side first; "
            f"nothing is attached until it is UpToDate"
        )
        return Condition("diskless", text, refusal=refusal)
    if not (now.connected and peer.connected):
        # It is connected first; attached then, after another look.
        return Condition("diskless", text, advice=advice)
    path = lvm.split(backing.path_of(case.node(home), name))
    gone = path and path[0] == case.settings.volume_group and path[1] not in case.node(home).volumes
    if case.wishes.new_disk or gone:
        return _renewed(case, home, text, attach)
    return Condition("diskless", text, (_see_linked(case, home), attach), advice=advice)


def _see_linked(case: RepairContext, home: str) -> Step:
    """Looked at again right before: only a side that is connected to a good one may be attached."""
    asked = drbd.sees(case.name, drbd.CONNECTED, drbd.PEER_UP_TO_DATE)
    wait = Wait(asked, 5, f"it is not connected to a good disk on {case.other(home)} any more")
    return Step(home, f"see that {case.name} is connected to its good side", wait)


def _see_good(case: RepairContext, home: str) -> Step:
    """Looked at again right before: only beside a good one a disk may be made anew."""
    peer, name = case.other(home), case.name
    wait = Wait(drbd.sees(name, drbd.UP_TO_DATE), 5, f"the disk on {peer} is not UpToDate any more")
    return Step(peer, f"see that the disk of {name} is good", wait)


def _renewed(case: RepairContext, home: str, text: str, last: Step) -> Condition:
    """A new volume in place of one that is gone or does not work; all of it is copied from the peer. Not zeroed: until
    the copy is complete DRBD lets nobody read it."""
    name, group = case.name, case.settings.volume_group
    node = case.node(home)
    if len(case.homes) == 1:
        return Condition(
            "no-volume",
            text,
            refusal=then(f"{text}, and there is no other copy. Restore a backup", f"fab vm.backups {name}"),
        )
    peer = case.node(case.other(home))
    there, its = backing.of(peer, name), peer.resources.get(name)
    for side in (node, peer):
        if case.wishes.new_disk and not backing.usual(side, name, group):
            path = backing.path_of(side, name) or "none"
            refusal = f"--new-disk: its disk is {path}, not {group}/{name}, on {side.name}; make that anew by hand"
            return Condition("no-volume", text, refusal=refusal)
    if there is None or its is None or not its.good:
        refusal = f"{text}, and the side on {peer.name} is not UpToDate. Repair that one first"
        return Condition("no-volume", text, refusal=refusal)
    if not case.wishes.new_disk:
        refusal = (
            f"{text}; make a new one there and copy all of it from {peer.name}: fab vm.repair {name} --new-disk; "
            f"or on another node: fab vm.peer {name} --secondary NODE"
        )
        return Condition("no-volume", text, refusal=refusal)
    try:
        other_disks.whole(name, "a new disk", case.about[peer.name].xml, case.state)
        saved_memory.written(name, "that", case.state)
    except Refused as error:
        return Condition("no-volume", text, refusal=f"--new-disk: {str(error).removeprefix(f'{name}: ')}")
    old = node.volumes.get(name)
    if old and (kept := backing.dependents(node, old)):
        way = "remove it first"
        if kept[0] == unfinished_restore.before(name):
            way = (
                f"it is what was on the disk before a restore that was interrupted. Put that back first "
                f"(fab vm.restore {name} --put-back); when {home} cannot read it, only a backup is left "
                f"(fab vm.backups {name})"
            )
        refusal = f"--new-disk: {group}/{name} on {home} has the snapshot {kept[0]}, which would go with it; {way}"
        return Condition("no-volume", text, refusal=refusal)
    freed = replace(node, group_free=node.group_free + (old.size if old and not old.thin else 0))
    if why := room.no_room(freed, there.size, case.settings):
        return Condition("no-volume", text, refusal=f"--new-disk: {home} {why}")
    # A restore that was interrupted: what is copied from the peer is as half written as that.
    half = backing.snapshot(peer, name, unfinished_restore.BEFORE) or unfinished_restore.marked(
        peer, name, lvm.RESTORING
    )
    tag = lvm.RESTORING_THERE if half and not unfinished_restore.over(case.state, name) else ""
    gone = lvm.remove_disk(group, name)
    remove = [Step(home, f"remove the volume {group}/{name}", gone, pivot=True)]
    steps = (
        _see_good(case, home),
        *(remove if name in node.volumes else []),
        *restore_marks.over(name, [peer.name], case.state),
        vm_steps.volume(case.settings, home, name, there.size, tag),
        Step(home, f"make DRBD's metadata on {name}", drbd.create_metadata(name)),
        last,
    )
    ask = f"{group}/{name} on {home} is made anew and all of it copied from {peer.name}"
    return Condition("no-volume", text, steps, ask=ask, advice=f"another node: fab vm.peer {name} --secondary NODE")


def defined(case: RepairContext) -> list[Condition]:
    """From the side where it runs, else from the one it was made on."""
    name = case.name
    having = [home for home in case.homes if name in case.node(home).domains]
    if not having:
        refusal = f"it is defined on no node; define it by hand, or remove what is left: fab vm.rm {name}"
        return [Condition("undefined", "it is defined on no node", refusal=refusal)]
    source = case.active or having[0]
    xml = case.about[source].xml
    missing = [home for home in case.homes if home not in having]
    found = [
        Condition(
            "undefined",
            f"it is not defined on {home}",
            (
                Step(
                    home,
                    f"define {name} as on {source}",
                    virsh.define(xml),
                    undo=virsh.undefine(name),
                    check=virsh.exists(name),
                ),
            ),
        )
        for home in missing
    ]
    for home in having:
        if home != source and (differ := domain_definition.differences(xml, case.about[home].xml)):
            found.append(_differs(case, source, home, differ))
    return found


def _differs(case: RepairContext, source: str, home: str, differ: list[tuple[str, str, str]]) -> Condition:
    name, here, there = case.name, case.about[source].xml, case.about[home].xml
    shown = "; ".join(
        f"{what}: {one or 'none'} on {source}, {other or 'none'} on {home}" for what, one, other in differ[:6]
    )
    more = f"; and {len(differ) - 6} more" if len(differ) > 6 else ""
    text = f"its definitions differ: {shown}{more}"
    if domain_definition.uuid(here) != domain_definition.uuid(there):
        refusal = f"{text}: not the same machine; if {home}'s may go, there: virsh undefine --keep-nvram {name}"
        return Condition("definitions-differ", text, refusal=refusal)
    step = Step(home, f"define {name} as on {source}", virsh.define(here), undo=virsh.define(there))
    why = "where it runs" if case.active == source else "where it was made"
    return Condition("definitions-differ", text, (step,), ask=f"{name}: {text}. {home} gets that of {source}, {why}")
