"""vm.*: the life of a VM. Each task: check the words, look, plan, apply, show."""

from __future__ import annotations

from invoke.context import Context

from pmc.cluster import Cluster
from pmc.errors import PmcError, Refused
from pmc.lock_files import ALLOCATION
from pmc.model import ClusterState
from pmc.plans import add as adding
from pmc.plans import clone as cloning
from pmc.plans import (
    close_migration,
    interrupted_migration,
    placement,
    remove,
    request,
    requirements,
    saved_memory,
    split_brain_snapshot,
)
from pmc.plans import evacuate as evacuations
from pmc.plans import prune as pruning
from pmc.plans import remove_steps as clearing
from pmc.plans import start as start_plan
from pmc.plans import stop as stop_plan
from pmc.tasks import lookups
from pmc.tasks.backups import backup, backups
from pmc.tasks.base import CHOSEN, carry_out, complain, confirm, listed, located, lock, opened, task
from pmc.tasks.failover import DISCARD, failover
from pmc.tasks.migrate import (
    BANDWIDTH,
    PARALLEL,
    PAUSE,
    at_rest,
    move_each,
    move_many,
    moved,
    overrides,
    parse_parallel,
    report,
)
from pmc.tasks.peer import peer
from pmc.tasks.prune import prune
from pmc.tasks.repair import repair
from pmc.tasks.restore import restore
from pmc.tasks.verify_backup import verify_backup
from pmc.tasks.vm_lock import refresh_vm
from pmc.view.output import note, show_script
from pmc.view.rows import VM_COLUMNS, vm_rows

# The whole namespace, so that a pipeline imports this module alone.
__all__ = [
    "add", "backup", "backups", "failover", "ls", "mv", "peer", "prune", "repair", "restore", "rm", "start", "stop",
    "verify_backup",
]  # fmt: skip


@task(
    place="name",
    name="the new VM's name: a-z, 0-9 and '-'",
    primary="the node that it runs on (default: both nodes are chosen, the least full ones)",
    secondary="the node of its second copy (default: chosen; beside --primary: none)",
    single="make no second copy; without --primary its node is chosen",
    size="its disk: 50G or 512M; a plain number is GiB",
    memory="its memory: 4G or 512M; a plain number is GiB",
    cpus="its virtual CPUs (default: 1)",
    iso="install from this file of iso_dir on the manager",
    image="copy this disk image of the manager to its disk (raw or qcow2)",
    clone="copy the disk of this VM to its disk",
    pxe="install over the network",
    address="its IPv4 address, from which its MAC address is made (default: DNS is asked for its name)",
    virt_install="further arguments for virt-install, in one string",
    reuse="use the volume of its name on the primary, with what is on it",
    sync="skip: both copies begin as zeros; full: DRBD copies the disk while the VM runs (default: skip)",
)
def add(
    c: Context, name: str = "", primary: str = "", secondary: str = "", size: str = "", memory: str = "",
    cpus: str = "1", iso: str = "", image: str = "", clone: str = "", pxe: bool = False, address: str = "",
    virt_install: str = "", reuse: bool = False, single: bool = False, sync: str = "",
    conf: str = "", dry_run: bool = False,
) -> None:  # fmt: skip
    """Make a VM and start it: vm.add NAME --size 50G --memory 4G --iso ubuntu [--primary pm-1 --secondary pm-2]

    DRBD mirrors its disk to the secondary. The disk is empty, unless --image, --clone or --reuse fill it.
    Without --primary pmc chooses the least full nodes, such that any one node may still be lost.
    When a step fails, pmc removes all that it made so far.
    """
    flags = {key: value for key, value in locals().items() if key not in ("c", "conf", "dry_run")}
    with opened(conf) as cluster:
        wanted = request.add(cluster.settings, flags)
        address = wanted.address or lookups.address_of(wanted.name, cluster.settings)
        lock(c, cluster, dry_run, *filter(None, (wanted.name, wanted.clone)))
        lock(c, cluster, dry_run, ALLOCATION)
        state = cluster.state(allocating=True, beside=lookups.RUNNING if wanted.clone else None)
        disk = lookups.size_for(cluster, wanted, state)
        wanted, why = placement.choose(wanted, disk, state, cluster.settings)
        if why:
            note(why)
        adding.check_new(wanted.name, wanted.nodes, disk, wanted.memory, state, cluster.settings, wanted.reuse)
        given = lookups.given(state, cluster.settings, address)
        xml = lookups.new_domain(cluster, wanted, given)
        content = cloning.copy(wanted, disk, state, cluster.settings, given) if wanted.clone else ()
        if wanted.clone and (
            said := requirements.stale_copy_note(wanted.clone, cloning.standby(wanted.clone, state), state)
        ):
            note(said)
        plan = adding.add(wanted, disk, state, cluster.settings, given, xml, content)
        if request.boots_nothing(wanted):
            note(
                f"{wanted.name}: its disk is empty and nothing is there to boot; see --iso, --image, --clone and --pxe"
            )
        if carry_out(c, cluster, plan, dry_run, first=[CHOSEN]):
            note(f"{wanted.name} runs on {wanted.primary}, MAC {given.mac}, minor {given.minor}")
            if (wanted.full or wanted.reuse) and wanted.secondary:
                note(f"DRBD copies its disk to {wanted.secondary}; fab vm.ls tells when both are UpToDate")


@task()
def ls(c: Context, json: bool = False, conf: str = "") -> None:
    """List all VMs: state, nodes, DRBD, size, memory, minor"""
    with opened(conf) as cluster:
        state = cluster.state(last=True)
        listed(vm_rows(state), json, VM_COLUMNS, state)
        complain(state)


@task(
    place="name", name="the VM", on="the node to start it on (default: the node it was made on)", discard_saved=DISCARD
)  # fmt: skip
def start(
    c: Context, name: str = "", on: str = "", discard_saved: bool = False, conf: str = "", dry_run: bool = False
) -> None:
    """Start a VM: vm.start NAME [--on NODE]

    It always boots. While libvirt has saved memory of it on a node (virsh managedsave), pmc refuses: see
    --discard-saved.
    """
    with opened(conf) as cluster:
        requirements.check_name("vm.start", name)
        if on:
            cluster.settings.node("--on", on)
        state = located(c, cluster, dry_run, name)
        plan = start_plan.start(name, on, state, cluster.settings, discard_saved)
        node = plan.steps[-1].node
        for said in (start_plan.unlike(name, node, state), requirements.stale_copy_note(name, node, state)):
            if said:
                note(said)
        if carry_out(c, cluster, plan, dry_run):
            homes = state.homes(name)
            made = not on and len(homes) > 1 and node == homes[0]
            note(f"{name} runs on {node}" + (", where it was made (--on NODE chooses)" if made else ""))


@task(place="name", name="the VM", force="cut its power; do not ask the guest")
def stop(c: Context, name: str = "", force: bool = False, conf: str = "", dry_run: bool = False) -> None:
    """Shut a VM down: vm.stop NAME [--force]"""
    with opened(conf) as cluster:
        requirements.check_name("vm.stop", name)
        state = located(c, cluster, dry_run, name)
        plan = stop_plan.stop(name, force, state, cluster.settings)
        if carry_out(c, cluster, plan, dry_run):
            note((f"{name} is off" if plan.steps else f"{name} was off already") + saved_memory.told(name, state))


@task(
    place="names",
    names="the VM, or several with commas between them",
    all_from="move every VM that runs on this node",
    to="the node to move to (default: the VM's other node)",
    cleanup="move nothing; close what an interrupted migration left open",
    parallel=PARALLEL,
    bandwidth=BANDWIDTH,
    pause_after=PAUSE,
)
def mv(
    c: Context, names: str = "", all_from: str = "", to: str = "", cleanup: bool = False, parallel: str = "",
    bandwidth: str = "", pause_after: str = "", conf: str = "", dry_run: bool = False,
) -> None:  # fmt: skip
    """Move running VMs to their other node, live: vm.mv NAME[,NAME...] or vm.mv --all-from NODE

    pmc refuses before the first move when one of the VMs cannot move, or when there is no memory for all of them.
    When one fails, the others still move; the end says which failed. A guest that writes to its memory faster than it
    is copied is slowed down. One that does not run on KVM (virt_type = "qemu") is suspended meanwhile: see
    migration_emulated in pmc.conf.
    """
    if cleanup and (to or parallel or bandwidth or pause_after):
        raise Refused("--to, --parallel, --bandwidth, --pause-after: go with a live migration, not with --cleanup")
    with opened(conf, overrides(bandwidth, pause_after, live=not cleanup)) as cluster:
        most = parse_parallel(parallel or "2")
        if bool(names) == bool(all_from):
            raise Refused("vm.mv: name the VMs, or give --all-from NODE")
        for flag, node in (("--all-from", all_from), ("--to", to)):
            if node:
                cluster.settings.node(flag, node)
        chosen = [requirements.check_name("vm.mv", name) for name in dict.fromkeys(names.split(","))] if names else []
        state = cluster.state(beside=lookups.RUNNING)
        if all_from:
            requirements.reachable(state, all_from)
            chosen = sorted(name for name, domain in state.nodes[all_from].domains.items() if domain.active)
            if not chosen:
                note(f"nothing runs on {all_from}")
        if cleanup:
            state = located(c, cluster, dry_run, *chosen, first=state, beside=lookups.RUNNING)
            failed: list[PmcError] = []
            for name in chosen:
                try:
                    _clean(c, cluster, name, state, dry_run)
                except PmcError as error:
                    if len(chosen) == 1:
                        raise
                    note(str(error))
                    failed.append(error)
            if failed:
                raise PmcError(f"{len(failed)} of {len(chosen)} could not be cleaned; see above")
            return
        # All that can be refused is refused before the first VM moves; each is looked at again when its turn comes.
        moves = evacuations.move_each(chosen, to, state, cluster.settings)
        if dry_run or c.config.run.dry:
            for each in moves:
                show_script(cluster.script(each.plan, close_migration.planned_close(each.name, each.target, state)))
        elif len(moves) == 1:
            note(str(moved(cluster, chosen[0], state, to)))
        elif moves:
            with cluster.interruptible():
                report(move_many(cluster, moves, most, move_each(cluster, state)))


def _clean(c: Context, cluster: Cluster, name: str, state: ClusterState, dry_run: bool) -> None:
    """What a move of it left open."""
    half = interrupted_migration.half_received(name, interrupted_migration.source_of(name, state), state)
    if half.steps and not carry_out(c, cluster, half, dry_run):
        return
    seen = at_rest(cluster, name, state) if half.steps else state
    plan = close_migration.close(name, seen)
    if carry_out(c, cluster, plan, dry_run):
        now = refresh_vm(cluster, seen, name) if plan.steps else seen
        for rest in (close_migration.resume_after_close(name, now), interrupted_migration.rejoin(name, now)):
            if plan.steps and rest.steps:
                cluster.apply(rest, to_the_end=True)
        said = f"{name} is clean" if plan.steps else f"{name} has nothing to clean"
        note(said + close_migration.unreachable_note(name, seen) + close_migration.paused_note(name, now))


@task(
    place="name",
    name="the VM",
    backups="remove its backups too, on all nodes; also those of a VM that is gone",
    yes="do not ask for the VM's name",
)
def rm(
    c: Context, name: str = "", backups: bool = False, yes: bool = False, conf: str = "", dry_run: bool = False
) -> None:
    """Remove a VM and its disks from every node: vm.rm NAME [--backups]

    Also one whose creation or removal was interrupted. Its backups stay, unless --backups is given.
    """
    with opened(conf) as cluster:
        requirements.check_name("vm.rm", name)
        # Locked everywhere: of a VM that is gone nothing may stay, also not what another command is just bringing to a
        # node that is none of its own (vm.peer, vm.backup --to).
        lock(c, cluster, dry_run, name)
        state = cluster.state(beside=lookups.backups(cluster, name))
        stored = lookups.stored(state)
        plan = remove.remove(name, state, cluster.settings, stored, backups)
        left = pruning.lying(name, stored) if stored else ""
        holders = clearing.holders(name, state)
        disks = clearing.also_removed(name, holders, cluster.settings)
        its = f"{name} and its disk" + (f" ({disks})" if disks else "")
        kept = clearing.stays(name, holders, cluster.settings)
        if kept:
            its = f"{name}" + (f" ({disks})" if disks else "")
        going = " and ".join([its] * bool(holders) + [left] * (backups and bool(left)))
        if away := [node.name for node in state if node.down]:
            again = f"fab vm.rm {name}{' --backups' * backups}"
            note(
                f"{', '.join(away)} cannot be looked at; when it is back, run {again} again for what is there, "
                f"before there is a new VM of that name, which would go with it"
            )
        if not (dry_run or c.config.run.dry or yes):
            runs = "".join(f"; it RUNS on {node}" for node in state.active_on(name))
            stay = f"; {kept}" if kept else ""
            confirm(f"removed for good: {going}{split_brain_snapshot.warning(state, name)}{runs}{stay}", name)
        if carry_out(c, cluster, plan, dry_run):
            stays = f"; what stays: {left}, see fab vm.backups {name}" if left and not backups else ""
            note((f"removed: {going}" if backups else f"{name} is removed{stays}") + (f"; {kept}" if kept else ""))
