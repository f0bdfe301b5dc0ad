"""What pm.verify can find: the codes, and a finding. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass

ERROR, WARNING, NOTE = "error", "warning", "note"

# Code -> (severity, what it means), in an order in which they can be fixed: two primaries before the connection (DRBD
# refuses a peer that allows them when it does not), snapshots before the size of what they are of. docs/verify.md has
# the same table, and a test compares the two.
CODES = {
    # nodes
    "NODE_DOWN": (ERROR, "a node does not answer"),
    "NODE_TOOL": (ERROR, "a tool on a node failed, so what it tells is unknown"),
    "LOGIN_PRINTS": (WARNING, "a login script prints, for commands too"),
    "FILE_UNREAD": (WARNING, "a resource file that pmc cannot read, so it leaves what is in it alone"),
    "NAME_FOREIGN": (NOTE, "something whose name pmc's commands do not take, or that another tool made: left alone"),
    "DRBD_MODULE": (ERROR, "DRBD's kernel module is not loaded"),
    "LVM_FILTER": (WARNING, "LVM looks into DRBD's devices"),
    "VG_BROKEN": (ERROR, "a volume group is partial, exported or read only"),
    "CLOCK_OFF": (WARNING, "a node's clock differs from the manager's"),
    "MEMORY_N1": (ERROR, "the VMs of a node that is lost do not fit on the nodes of their second copies"),
    # VMs as a whole
    "VM_HALF_MADE": (ERROR, "a VM without a domain: made or removed by half, or its definitions are lost"),
    "VM_NODE_UNKNOWN": (ERROR, "a VM lives on a node that pmc.conf does not have"),
    "VM_CONTRADICTED": (ERROR, "a VM's resource files name different nodes, and nothing tells which of them are right"),
    "VM_STRAY": (ERROR, "a copy of a VM on a node that its other files do not name"),
    # domains
    "DOMAIN_TWICE": (ERROR, "a domain runs on two nodes"),
    "DOMAIN_ONE_SIDE": (ERROR, "a domain is defined on one of its VM's nodes only"),
    "DOMAIN_DIFFERS": (WARNING, "a domain's XML differs between its VM's nodes"),
    "DOMAIN_SAVED": (ERROR, "saved memory of a VM, which does not fit what was written to its disk since"),
    "DOMAIN_DISK": (WARNING, "a VM has a disk, or a volume, that no backup has, and perhaps no second copy"),
    "DOMAIN_NO_DRBD": (NOTE, "a domain without a DRBD resource"),
    "DOMAIN_AUTOSTART": (ERROR, "libvirt starts a VM at boot by itself"),
    "DUPLICATE_MAC": (ERROR, "two VMs have the same MAC address"),
    # resource files
    "FILE_MODE": (ERROR, "others than root may read a resource file, which holds a secret"),
    "FILE_DIFFERS": (ERROR, "a resource file differs between the VM's nodes"),
    "FILE_OPTIONS": (ERROR, "a resource file, or the common section, has options with which DRBD may lose data"),
    "FILE_NO_SECRET": (WARNING, "a resource without a shared secret: whoever reaches its port may be its peer"),
    "FILE_ADDRESS": (ERROR, "a resource file has another replication address than pmc.conf"),
    "DUPLICATE_MINOR": (ERROR, "two VMs have the same DRBD minor"),
    "DUPLICATE_PORT": (ERROR, "two VMs have the same DRBD port"),
    # what DRBD lies on, and DRBD as it is now
    "LV_BROKEN": (ERROR, "a VM's volume is suspended or not whole"),
    "LV_WEAK": (WARNING, "a VM's volume works with less behind it than it should have"),
    "DRBD_SUSPENDED": (ERROR, "a VM's I/O is suspended: whatever touches its disk waits for ever"),
    "DRBD_NO_FILE": (ERROR, "a DRBD resource is up without its file"),
    "DRBD_NOT_UP": (ERROR, "a DRBD resource is not up"),
    "DRBD_TWO_ALLOWED": (ERROR, "two primaries are allowed"),
    "DRBD_TWO_PRIMARIES": (ERROR, "both sides are primary"),
    "DRBD_PRIMARY_IDLE": (WARNING, "a side is primary where the VM does not run"),
    "DRBD_SPLIT": (ERROR, "split brain: both sides have writes that the other lacks"),
    "DRBD_UNRELATED": (ERROR, "the two sides' data have nothing in common"),
    "DRBD_STANDALONE": (ERROR, "a side is StandAlone: it does not try to connect"),
    "DRBD_NOT_CONNECTED": (ERROR, "the sides do not see each other"),
    "DRBD_DISKLESS": (ERROR, "a side is Diskless: its disk failed or was detached"),
    "DRBD_INCONSISTENT": (ERROR, "a side's disk is Inconsistent, and no resync runs"),
    "DRBD_OUTDATED": (ERROR, "a side's disk is Outdated: it lacks writes, or may"),
    "DRBD_SYNCING": (NOTE, "a resync runs"),
    "DRBD_SYNC_STALLED": (ERROR, "a resync has stalled"),
    "DRBD_OUT_OF_SYNC": (WARNING, "blocks are marked as different, and no resync runs"),
    "DRBD_SIZE": (ERROR, "DRBD's size differs between the sides"),
    # volumes
    "LV_ORPHAN": (ERROR, "a volume that pmc made, without a VM"),
    "SNAPSHOT_LEFT": (ERROR, "a snapshot that an interrupted command left"),
    "RESTORE_BROKEN": (ERROR, "a restore into a VM's disk was interrupted; what was on it is in a snapshot, or lost"),
    "SNAPSHOT_KEPT": (NOTE, "the losing side of a split brain, kept by vm.repair"),
    "SNAPSHOT_FULL": (WARNING, "a snapshot is nearly full"),
    "POOL_MISSING": (ERROR, "a node has no thin pool, and new VMs are to be thin"),
    "POOL_BROKEN": (ERROR, "a thin pool is full, failed or not active"),
    "POOL_DATA_FULL": (WARNING, "a thin pool's data are fuller than configured"),
    "POOL_METADATA_FULL": (WARNING, "a thin pool's metadata are fuller than configured"),
    "LV_MISSING": (ERROR, "a VM's volume is missing"),
    "LV_SIZE": (ERROR, "the volume's size differs between the sides"),
    "VG_FULL": (WARNING, "the volume group is nearly full"),
    # backups
    "BACKUP_DIR_FULL": (WARNING, "the file system of the backup directory is nearly full"),
    "BACKUP_FUTURE": (WARNING, "a backup whose time is in the future by the manager's clock"),
    "BACKUP_DAMAGED": (WARNING, "a backup that was found damaged when it was read back"),
    "BACKUP_UNPROVED": (NOTE, "a VM none of whose backups was ever read back"),
    "BACKUP_NONE": (WARNING, "a VM without a backup"),
    "BACKUP_OLD": (WARNING, "a VM's newest backup is older than configured"),
    "PART_STALE": (WARNING, "an unfinished file, or a backup's without its manifest, that no command is writing"),
    # --deep
    "VERIFY_DIFFERS": (ERROR, "blocks differ between the sides, found twice"),
    "VERIFY_ONCE": (NOTE, "blocks seemed to differ once and not again: they were being written"),
    "VERIFY_FAILED": (ERROR, "DRBD's online verify failed"),
}


@dataclass(frozen=True)
class Finding:
    """`node` is empty when it is about more than one, `vm` when it is about none. `remedy` says how to fix it."""

    code: str
    text: str
    remedy: str
    node: str = ""
    vm: str = ""

    @property
    def severity(self) -> str:
        return CODES[self.code][0]

    def json(self) -> dict[str, object]:
        return {"severity": self.severity, **asdict(self)}

    def cells(self) -> dict[str, object]:
        return self.json() | {"what": self.text, "how to fix": self.remedy}


COLUMNS = ("code", "severity", "node", "vm", "what", "how to fix")


def grave(finding: Finding) -> bool:
    """Is to be fixed: exit status 1."""
    return finding.severity != NOTE
