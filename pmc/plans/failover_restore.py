"""A restore into a VM's disk that was interrupted, and one of its nodes is dead: vm.failover is the way out, since it
proves the death and nobody else may go on alone. Pure."""

from __future__ import annotations

from pmc import lvm
from pmc.errors import NodeDown, Refused
from pmc.facts import backing
from pmc.model import ClusterState, Volume
from pmc.plan import Step
from pmc.plans import requirements, restore_in_place, restore_marks, unfinished_restore
from pmc.plans.backup import bring, drbd_device
from pmc.settings import Settings
from pmc.units import show_size

ALONE = "as put back alone"  # in the note of the step that marks it


def kept(name: str, survivor: str, state: ClusterState) -> Volume | None:
    """What the restore kept of the disk, if it is on this node."""
    return backing.snapshot(state.nodes[survivor], name, unfinished_restore.BEFORE)


def on(survivor: str, dead: str, name: str, size: int, state: ClusterState, settings: Settings) -> list[Step]:
    """The steps after which the disk on the survivor, where it is primary, is as before the restore; none when none
    was interrupted. `size`: the bytes of its disk; 0: they were not asked for."""
    node, steps = state.nodes[survivor], list[Step]()
    unfinished_restore.left_over(node, name)
    if survivor not in unfinished_restore.restoring(state, name) and not kept(name, survivor, state):
        return steps
    if kept(name, survivor, state):
        restore_in_place.of_the_disk(name, node, settings)
        if not size:
            raise Refused(
                f"{name}: a restore into its disk was interrupted. A failover puts it back first",
                next=f"fab vm.failover {name}",
            )
        disk, device = requirements.disk(node, name, settings).name, drbd_device(name, state)
        put = restore_in_place.put_back(settings.volume_group, name, disk, size, device, paired=False)
        steps += [bring(survivor), Step(survivor, f"put the disk of {name} back ({show_size(size)})", put)]
    elif unfinished_restore.marked(node, name, lvm.RESTORING_THERE):
        raise Refused(
            f"{name}: a restore into its disk was interrupted, and what was on it is kept on {dead}. When that is "
            f"dead for good, only a backup is left: fab vm.restore {name} --backup ID --as NEW. Else bring {dead} back",
            next=f"fab vm.restore {name} --put-back",
        )
    elif unfinished_restore.written(node, name):
        raise Refused(
            f"{name}: a restore into its disk was interrupted, and its snapshot of what was there is gone. Only a "
            f"backup is left",
            next=f"fab vm.restore {name} --backup ID --as NEW",
        )
    # (With no more than its own mark it was not written yet, or is put back already.)
    mark = restore_marks.marked(survivor, requirements.disk(node, name, settings), True, lvm.PUT_BACK)
    return [*steps, mark, *restore_marks.unmarked(name, {survivor: []}, state)]


def not_in_use(name: str, survivor: str, state: ClusterState, in_use: bool) -> None:
    """While the disk is restored it is in use on the node that keeps what was on it, and nowhere else. Was it in use on
    the other one when the link to that was lost, the VM has run there since."""
    if in_use and kept(name, survivor, state):
        raise Refused(
            f"{name}: its disk was in use on its other node after the restore that kept "
            f"{unfinished_restore.before(name)} on {survivor}, so that is too old to be put back. Look by hand "
            f"which disk is right",
            next=f"on {survivor}: lvs",
        )


def both_there(name: str, state: ClusterState) -> None:
    """Or the way out is another one."""
    for home in state.homes(name):
        if home in state.nodes and state.nodes[home].down and unfinished_restore.restoring(state, name):
            others = [each for each in state.homes(name) if each != home and each in state.nodes]
            far = [n for n in others if unfinished_restore.marked(state.nodes[n], name, lvm.RESTORING_THERE)]
            way, command = "When it is dead, a failover puts it back on the other node", f"fab vm.failover {name}"
            if far and not any(kept(name, each, state) for each in others):  # `on` would refuse
                way = f"What was on the disk is kept there only. When {home} is dead for good, only a backup is left"
                command = f"fab vm.backups {name}"
            raise NodeDown(
                f"{name}: {home} does not answer ({state.nodes[home].down}), and what is put back goes to both of its "
                f"nodes. Bring {home} back. {way}",
                next=command,
            )
