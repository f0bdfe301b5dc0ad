"""LVM: commands on logical volumes. What they report is read in facts/lvm_report.py. Pure. Source: lvm(8), lvs(8)."""

from __future__ import annotations

import re
from dataclasses import replace

from pmc.command import Command, bash, command, operation
from pmc.model import Volume

# On every volume that pmc makes, so that it never takes another's volume of the same name for its own.
TAG = "pmc"
# Beside it while the volume is a copy that is not yet complete: whatever is on it may go.
UNFINISHED = "pmc.unfinished"
# On a volume that vm.add --reuse was given, until the VM is whole: it was there before, and stays when that VM goes.
REUSED = "pmc.reused"
# On a disk that a restore is being written into, where what was on it is kept; and on its other side, where it is all
# that tells when that node is away.
RESTORING = "pmc.restoring"
RESTORING_THERE = "pmc.restoring.there"
# On the first of them while it is written. Without the snapshot it is neither the old disk nor the new one then.
RESTORE_WRITES = "pmc.restoring.writes"
# On a disk that was put back while its other node was dead, whose own is marked still: DRBD copies over that.
PUT_BACK = "pmc.put.back"
# And on a thin snapshot that is kept, with the id of the base that was read from it.
OF = "pmc.of."
# On a snapshot that a new VM's disk is copied from, with the name of that VM.
FOR = "pmc.for."
# A name of a volume or a group, and a tag (lvm(8)). Volumes of pmc's have suffixes.
NAME = re.compile(r"(?!\.\.?$)[A-Za-z0-9+_.][A-Za-z0-9+_.-]{0,127}", re.ASCII)
LABEL = re.compile(r"[A-Za-z0-9_+.\-/=!:&#]{1,1024}", re.ASCII)
# What lvm_report.parse_volumes reads.
FIELDS = "vg_name,lv_name,lv_size,lv_tags,origin,lv_attr,data_percent,metadata_percent,pool_lv"
# Whatever lvm.conf or a profile says of reports (lvmreport(7)): with compact_output a field that is empty everywhere is
# missing, with output_format json a plain report is JSON, report_command_log adds a report of its own.
_CONFIG = (
    'report{compact_output=0 compact_output_cols="" output_format="basic" prefixes=0 columns_as_rows=0 separator=" " '
    'list_item_separator="," aligned=1 buffered=1 binary_values_as_numeric=0} log{report_command_log=0}'
)
CONFIG = ("--config", _CONFIG)
# Shell text: from here on `lvs` reports in that form.
LVS = f"lvs() {{ command lvs --config '{_CONFIG}' \"$@\"; }}; "
JSON = (*CONFIG, "--reportformat", "json", "--units", "b", "--nosuffix")
REPORT = ("lvs", *JSON, "-o", FIELDS)


def path(group: str, name: str) -> str:
    return f"/dev/{group}/{name}"


@operation
def create(group: str, name: str, size: int, *tags: str) -> Command:
    """Not activated over old signatures: -W n, because all of it is written before anybody reads it."""
    return command(
        "lvcreate", "--yes", "--wipesignatures", "n", *_marks(*tags), "--size", f"{size}b", "--name", name, group
    )


@operation
def create_thin(group: str, name: str, size: int, pool: str, *tags: str) -> Command:
    """Takes space of the pool only as it is written, and reads as zeros until then: where the pool zeroes its chunks
    (pmc/facts/thin_pool.py), nothing of a former owner can be read."""
    return command(
        "lvcreate", "--yes", "--type", "thin", "--wipesignatures", "n", *_marks(*tags), "--virtualsize", f"{size}b",
        "--thinpool", pool, "--name", name, group,
    )  # fmt: skip


@operation
def zero(group: str, name: str) -> Command:
    """Nothing of a former owner stays to be read. The device is asked to do it itself where it can
    (blkdiscard(8)), which without --force stops at a former owner's file system."""
    return command("blkdiscard", "--force", "--zeroout", "--step", "1GiB", path(group, name), long=True)


def _marks(*tags: str) -> list[str]:
    return [word for tag in (TAG, *tags) for word in ("--addtag", tag)]


@operation
def snapshot(group: str, name: str, of: str, size: int, *tags: str) -> Command:
    """A classic snapshot with room for `size` bytes of changes; it is lost when they are more."""
    sized = ("--size", f"{size}b", "--name", name, f"{group}/{of}")
    return command("lvcreate", "--yes", "--snapshot", *_marks(*tags), *sized)


@operation
def snapshot_thin(group: str, name: str, of: str, *tags: str) -> Command:
    """Of a thin volume: shares with it all that neither changes, so it needs no size and cannot overflow; the pool can.
    Read only, and active, also after a boot (LVM would skip it)."""
    return command(
        "lvcreate", "--yes", "--snapshot", "--setactivationskip", "n", "--permission", "r", *_marks(*tags), "--name",
        name, f"{group}/{of}",
    )  # fmt: skip


def snapshot_of(volume: Volume, group: str, name: str, size: int, *tags: str) -> Command:
    """Of the kind that the volume is; `size` is for a classic one. On the disk when it ends: LVM flushes nothing of
    what it writes about its volumes, nor the kernel the head of a new classic snapshot. When a power loss takes that,
    and not what was written later, neither the snapshot nor its origin can be activated. A disk is told to through a
    volume that lies on it. (sync(1) without a file is for file systems, and blockdev --flushbufs reaches no disk. A
    new disk of a VM needs none of it: drbdmeta flushes.)"""
    thin = volume.thin
    made = snapshot_thin(group, name, volume.name, *tags) if thin else snapshot(group, name, volume.name, size, *tags)
    script = 'at=$1; shift; "$@"; sync "$at" || { lvremove --yes "$at" >&2; exit 1; }'
    return replace(bash(script, path(group, name), *made.argv), op=made.op)


# What pmc calls its snapshots; no VM's name has a dot.
_SNAPSHOT = re.compile(r"(?P<vm>[^.]+)\.(?P<kind>backup|clone|base|before|lost-\d{8}T\d{6}Z)", re.ASCII)


def snapshot_for(volume: Volume) -> tuple[str, str] | None:
    """(VM, kind) of a snapshot that pmc made, known by its name, its tag, and that it is of a kind that pmc makes
    (lv_attr: s or S, a classic one; Vr, a thin one that nobody may write to, unless a base's mark tells): a disk that
    was renamed is none. Never by its origin: LVM gives one to every thin clone, which may be somebody's disk."""
    found = _SNAPSHOT.fullmatch(volume.name)
    based = volume.thin and any(tag.startswith(OF) for tag in volume.tags)
    made = TAG in volume.tags and (volume.classic_snapshot or volume.attributes[:2] == "Vr" or based)
    return (found["vm"], found["kind"]) if found and made else None


def split(device: str) -> tuple[str, str] | None:
    """(group, name) of the logical volume that a path names, in any of the ways in which LVM and udev spell it; None:
    it names another device."""
    path = re.sub("/+", "/", device.strip("\"'"))
    if len(path) > 255:  # both names together have 126 letters at most (lvm(8)); many dashes would take very long
        return None
    part = r"((?:[^/-]|--)+)"
    if found := re.fullmatch(f"/dev/(?:mapper/|disk/by-id/dm-name-){part}-{part}", path):
        return found[1].replace("--", "-"), found[2].replace("--", "-")
    found = re.fullmatch("/dev/(?!mapper/)([^/]+)/([^/]+)", path)
    return (found[1], found[2]) if found else None


@operation
def remove(group: str, name: str) -> Command:
    """Of a volume that the same command has made. Refused by LVM while it is open (in use by DRBD or a reader)."""
    return command("lvremove", "--yes", f"{group}/{name}")


# Shell text: the volume $1 has pmc's tag.
TAGGED = (
    f"{LVS}"
    'tags=$(lvs --noheadings -o lv_tags "$1"); [[ ,${tags//[[:space:]]/}, = *,pmc,* ]] || '
    '{ echo "$1 has not, or not any more, the tag of pmc" >&2; exit 1; }'
)


@operation
def remove_snapshot(group: str, name: str) -> Command:
    """Of ours: its tag is looked at again."""
    return bash(f'{TAGGED}; exec lvremove --yes "$1"', f"{group}/{name}")


@operation
def remove_disk(group: str, name: str) -> Command:
    """A VM's own disk. Looked at again: it has pmc's tag, or drbdadm, which reads the resource files, says that it is
    the VM's; it was not there before the VM; and nothing depends on it that LVM would remove with it."""
    script = (
        f"{LVS}"
        'rows=$(lvs --noheadings --separator "|" -o lv_name,origin,pool_lv,lv_tags "$1"); '
        'rows=${rows// /} pool="" tags=""; '
        'while IFS="|" read -r n o p t; do [ "$n" != "$2" ] || { pool=$p tags=$t; }; done <<<"$rows"; '
        "its() { local d m=/dev/mapper/${1//-/--}-${2//-/--}; while read -r d; do "
        'if [[ $d = "/dev/$1/$2" || $d = "$m" || $d -ef /dev/$1/$2 ]]; then return; fi; '
        'done < <(drbdadm sh-ll-dev "$2"); return 1; }; '
        '[[ ,$tags, = *,pmc,* ]] || its "$@" || '
        '{ echo "$1/$2 has not the tag of pmc, and no resource file names it as the disk of $2" >&2; exit 1; }; '
        f'[[ ,$tags, != *,{REUSED},* ]] || {{ echo "$1/$2 was there before the VM ({REUSED})" >&2; exit 1; }}; '
        'while IFS="|" read -r n o p t; do [ "$o" != "$2" ] || [ "$p" -a "$p" = "$pool" ] || '
        '{ echo "the volume $1/$n depends on $1/$2 and would go with it" >&2; exit 1; }; done <<<"$rows"; '
        'exec lvremove --yes "$1/$2"'
    )
    return bash(script, group, name)


@operation
def discard(group: str, name: str) -> Command:
    """Removes a snapshot of ours if it is there: the undo of something that a later step removes anyway. Where the link
    between the nodes was cut, what read it for the other one may wait for a quarter of an hour: it is ended."""
    return bash(_DISCARD, f"{group}/{name}")


@operation
def discard_for_good(group: str, name: str, of: str) -> Command:
    """As `discard`, of one that would be put back were it there again after a power loss; `of` is its origin."""
    gone = (
        'if said=$(lvs "$1" 2>&1); then echo "$1 is still there" >&2; exit 1; fi; '
        '[[ $said = *"Failed to find"* ]] || { echo "$said" >&2; exit 1; }'
    )
    return bash(f'( {_DISCARD} ); {gone}; sync "$2" || :', f"{group}/{name}", path(group, of))


_DISCARD = (
    f'lvs "$1" >/dev/null 2>&1 || exit 0; {TAGGED}; lvremove --yes "$1" 2>/dev/null && exit 0; '
    'pkill -f "(^|/)(dd if=|python3 -m pmc[.](remote[.])?stream .*--source )/dev/${1//./[.]}( |$)" || :; '
    'exec lvremove --yes "$1"'
)


@operation
def discard_marked(group: str, name: str, tag: str, lock: str) -> Command:
    """As `discard`, but only while it has this mark, and under the file `lock`: whoever holds that may have made it
    anew. When it is not given soon the snapshot stays."""
    script = (
        f'{LVS}umask 077; mkdir -p "${{4%/*}}"; exec 9>>"$4"; flock -w 10 9 || exit 0; '
        'tags=$(lvs --noheadings -o lv_tags "$1/$2" 2>/dev/null) || exit 0; '
        '[[ ,${tags// /}, = *",$3,"* ]] || exit 0; lvremove --yes "$1/$2" 9>&-'
    )
    return bash(script, group, name, tag, lock)


@operation
def intact(group: str, name: str) -> Command:
    """Succeeds when the snapshot did not overflow: an overflowed one (5th attribute I) has lost its moment. Of a thin
    one (1st V) neither it nor its pool failed or is out of space (9th: F, D, M; 5th: check needed)."""
    script = (
        f"{LVS}"
        'well() { [ "${1:4:1}" = a ] && case $1 in [Vt]???????[!-]*) false;; esac; }; '
        'rows=$(lvs --noheadings -o lv_attr,pool_lv "$1/$2"); read -r a pool <<<"$rows"; '
        'well "$a" || { echo "the snapshot overflowed or failed ($a)" >&2; exit 1; }; '
        '[ "$pool" ] || exit 0; rows=$(lvs --noheadings -o lv_attr "$1/$pool"); read -r a <<<"$rows"; '
        'well "$a" || { echo "the thin pool $1/$pool is full or failed ($a)" >&2; exit 1; }'
    )
    return bash(script, group, name)


@operation
def keep(group: str, name: str, kept: str, id: str) -> Command:
    """The snapshot `name` becomes `kept`, which tells that the base `id` was read from it; in place of the one that was
    called so until now."""
    script = (
        f'if lvs "$1/$3" >/dev/null 2>&1; then ( set -- "$1/$3"; {TAGGED}; exec lvremove --yes "$1" ); fi; '
        'lvchange --addtag "$4" "$1/$2"; lvrename "$1" "$2" "$3"'
    )
    return bash(script, group, name, kept, f"{OF}{id}")


@operation
def is_kept(group: str, kept: str, id: str) -> Command:
    """Succeeds when it is a thin snapshot that nobody could write to (lv_attr begins with Vr), and in use, and the base
    `id` was read from it."""
    script = (
        f"{LVS}"
        'rows=$(lvs --noheadings -o lv_attr,lv_tags "$1/$2"); read -r a tags <<<"$rows"; '
        '[[ $a = Vr??a* && ,$tags, = *",$3,"* ]] || '
        '{ echo "$1/$2 is not, or not any more, the snapshot of this base ($a $tags)" >&2; exit 1; }'
    )
    return bash(script, group, kept, f"{OF}{id}")


@operation
def exists(group: str, name: str) -> Command:
    return command("lvs", "--noheadings", f"{group}/{name}")


@operation
def is_gone(group: str, name: str) -> Command:
    """An LVM that does not tell is no proof: ends 124 then, which is neither yes nor no."""
    script = 'if said=$(lvs "$1" 2>&1); then exit 1; fi; [[ $said = *"Failed to find"* ]] || exit 124'
    return bash(script, f"{group}/{name}")


@operation
def grow(group: str, name: str, more: int) -> Command:
    return command("lvextend", "--size", f"+{more}b", f"{group}/{name}")


@operation
def mark(group: str, name: str, on: bool, tag: str = TAG) -> Command:
    """On the disk when it ends (see `snapshot_of`). A volume that is not active has no device."""
    script = 'at=$1; shift; "$@"; [ ! -e "$at" ] || sync "$at"'
    return bash(script, path(group, name), "lvchange", "--addtag" if on else "--deltag", tag, f"{group}/{name}")


@operation
def unmarked(group: str, name: str, tag: str) -> Command:
    """Succeeds when it has not this mark. An LVM that does not tell is no proof: ends 124 then."""
    script = f'{LVS}tags=$(lvs --noheadings -o lv_tags "$1") || exit 124; [[ ,${{tags//[[:space:]]/}}, != *,"$2",* ]]'
    return bash(script, f"{group}/{name}", tag)


@operation
def let_go(group: str, name: str) -> Command:
    """A volume that is no VM's any more, and stays: pmc's tags go (as `mark`)."""
    script = 'at=$1; shift; "$@"; [ ! -e "$at" ] || sync "$at"'
    tags = [word for tag in (TAG, REUSED) for word in ("--deltag", tag)]
    return bash(script, path(group, name), "lvchange", *tags, f"{group}/{name}")


@operation
def activate(group: str) -> Command:
    return command("vgchange", "--activate", "y", group)
