"""Which parts of a thin volume have data, and which differ from an older snapshot of it, read from the pool's metadata
without reading the disks. Pure. Sources: thin_delta(8), thin_dump(8), and the kernel's thin-provisioning.rst.

A pool in use lets its metadata be read through one "metadata snapshot" at a time. So that is guarded by a lock on the
node, held for as short as can be, and given back on every way out. One that a command left that was killed is known by
nobody reading it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pmc import lvm
from pmc.command import Command, Query, bash, operation
from pmc.lock_files import FOLDER, METADATA
from pmc.units import count


@dataclass(frozen=True)
class Range:
    start: int
    length: int


@operation
def mapped(group: str, name: str, size: int, to: str = "") -> Command:
    """Prints a line "START LENGTH" in bytes (or writes it into the file `to`) for each part of the volume's first
    `size` bytes that has data, in rising order, whole chunks of the pool; the rest reads as zeros. All of the list, or
    nothing and a failure."""
    return bash(_SCRIPT, group, str(size), name, _AWK, *(("", to) if to else ()))


@operation
def changed(group: str, old: str, new: str, size: int, to: str = "") -> Command:
    """As `mapped`, but the parts in which `new` may differ from `old`: chunks that were written since, with whatever,
    and those that were discarded, which read as zeros. Both must be thin volumes of the same pool, best two
    snapshots: of one that is written to meanwhile what comes later is missing."""
    return bash(_SCRIPT, group, str(size), new, _AWK, old, *((to,) if to else ()))


def ranges(listing: Command) -> Query[list[Range]]:
    """What `mapped` or `changed` prints, as data."""
    return Query(listing, lambda text: list(parse(text)))


def parse(text: str) -> Iterator[Range]:
    """Raises ValueError for what is no such list."""
    end = -1
    for line in text.splitlines():
        start, length = map(count, line.split(" "))
        if start <= end or length <= 0:
            raise ValueError(f"not a rising list of ranges: {line!r} after {end}")
        end = start + length
        yield Range(start, length)


# Versions of thin_delta that miss changes, as a shell's pattern: until 1.0.6 it took blocks that follow each other for
# one piece, wherever their data lie (its CHANGES: "Fix range mappings preprocessing").
WRONG = "0.[0-6].*|1.0.[0-5]"

# Arguments: volume group, bytes, volume, the text of _AWK, the older volume if any, and the file if any.
_SCRIPT = (
    'say() { echo "$*" >&2; exit 1; }; '
    f"{lvm.LVS}"
    'rows=$(lvs --noheadings -o lv_name,pool_lv,thin_id "$1/$3" ${5:+"$1/$5"}); declare -A pool id; '
    'while read -r n p i; do pool[$n]=$p; id[$n]=$i; done <<<"$rows"; '
    'for n in "$3" ${5:+"$5"}; do [ "${id[$n]-}" ] || say "$1/$n is no thin volume"; '
    '[ "${pool[$n]}" = "${pool[$3]}" ] || say "$1/$n is in the pool ${pool[$n]}, $1/$3 in ${pool[$3]}"; done; '
    'd=${1//-/--}-${pool[$3]//-/--}; a=(thin_dump -m --dev-id "${id[$3]}"); '
    'if [ "${5-}" ]; then a=(thin_delta -m --snap1 "${id[$5]}" --snap2 "${id[$3]}"); '
    f"v=$(thin_delta --version); case ${{v##* }} in {WRONG}) "
    'say "thin_delta $v misses changes; thin-provisioning-tools 1.0.6 or later does not";; esac; fi; '
    f"mkdir -p {FOLDER}; exec 9>{FOLDER}/{METADATA}.lock; "
    'flock -w 60 9 || say "another command reads the metadata of a thin pool since 60 s"; '
    'held() { local s; read -r -a s <<<"$(dmsetup status "$d-tpool")"; '
    '[ "${s[6]-}" ] || say "the pool $1/${pool[$3]} does not work: ${s[*]}"; [ "${s[6]}" != - ]; }; '
    'still=0; for ((n = 0; ; n++)); do held "$@" || break; '
    '[ "$n" -lt 60 ] || say "another program reads the metadata of $1/${pool[$3]} since 60 s"; '
    'if [ "$(dmsetup info -c --noheadings -o open "${d}_tmeta")" -gt 1 ]; then still=0; else still=$((still + 1)); fi; '
    'if [ "$still" -gt 5 ]; then dmsetup message "$d-tpool" 0 release_metadata_snap; else sleep 1; fi; done; '
    'list=$(mktemp); exec 8>"$list" 7<"$list"; rm -f "$list"; mine=; '
    'release() { [ ! "$mine" ] || dmsetup message "$d-tpool" 0 release_metadata_snap; mine=; }; '
    "trap release EXIT; trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 143' TERM; "
    'mine=yes; dmsetup message "$d-tpool" 0 reserve_metadata_snap || { mine=; exit 1; }; '
    '"${a[@]}" "/dev/mapper/${d}_tmeta" 7<&- 8>&- | awk -v size="$2" "$4" >&8; '
    'release; exec 9>&- 8>&-; if [ "${6-}" ]; then umask 077; exec >"$6"; fi; cat <&7'
)

# From the XML of thin_delta or thin_dump to lines of START LENGTH. thin_dump since 1.0 names what it would print twice
# (def) and refers to it (ref). Of a volume that is not there thin_dump says nothing: so the number of blocks must be
# what the metadata says of the volume; and the end must be there.
_AWK = r"""
function value(key,  s) {
  if (!match($0, " " key "=\"[^\"]*\"")) { bad = 1; return 0 }
  s = substr($0, RSTART, RLENGTH); sub(/^[^"]*"/, "", s); sub(/"$/, "", s); return s
}
function put(b, n) {
  if (def != "") { defs[def] = defs[def] b " " n ";"; return }
  count += n
  if (b < end) bad = 1
  if (b != end || end == begin) { flush(); begin = b }
  end = b + n
}
function flush(  from, to) {
  from = begin * unit; to = end * unit; if (to > size) to = size
  if (from < to) printf "%.0f %.0f\n", from, to - from
}
function again(name,  n, i, all, one) {
  if (!(name in defs)) { bad = 1; return }
  n = split(defs[name], all, ";")
  for (i = 1; i < n; i++) if (split(all[i], one, " ") == 2) put(one[1] + 0, one[2] + 0); else again(one[1])
}
BEGIN { size += 0; begin = end = count = bad = 0; def = "" }
/<superblock / { unit = value("data_block_size") * 512 }
/<diff / { diff = 1 }
/<device / { device++; mapped = value("mapped_blocks") + 0 }
/<(different|left_only|right_only) / { put(value("begin") + 0, value("length") + 0) }
/<single_mapping / { put(value("origin_block") + 0, 1) }
/<range_mapping / { put(value("origin_begin") + 0, value("length") + 0) }
/<def / { def = value("name"); defs[def] = "" }
/<\/def>/ { def = "" }
/<ref / { if (def != "") defs[def] = defs[def] value("name") ";"; else again(value("name")) }
/<\/superblock>/ { whole = 1 }
END {
  flush()
  if (bad || !whole || !(unit > 0) || !(diff || (device == 1 && count == mapped))) {
    print "the metadata of the thin pool is not understood" > "/dev/stderr"; exit 1
  }
}
"""
