"""DRBD 8.4 and 9: the resource file, commands, and the parsers of what they print. Pure.

Sources: drbd.conf-8.4(5), drbd.conf-9.0(5), drbdadm(8), drbdsetup(8); the LINBIT user's guides on dual-primary,
split brain and skipping the initial sync.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pmc.command import Command, Query, bash, command, operation, whole
from pmc.facts.drbd_files import DIRECTORY
from pmc.facts.drbd_files import query as files
from pmc.facts.drbd_status import parse_status
from pmc.model import Resource
from pmc.plain import shown
from pmc.units import MiB, count

__all__ = ["DIRECTORY", "files", "parse_status"]  # of its satellites, which are asked for here

# Words that drbdadm takes for something else than a resource's name.
RESERVED = re.compile(r"all|minor-\d+")


def path(name: str) -> str:
    return f"{DIRECTORY}/{name}.res"


def device(minor: int) -> str:
    return f"/dev/drbd{minor}"


def metadata_size(size: int) -> int:
    """Bytes that internal metadata needs for a volume of `size` bytes and one peer: one bit for each 4 KiB, and
    room for the superblock and the activity log (user's guide, "Estimating metadata size"). Ample for both 8.4
    and 9: a volume too small by one sector could not hold the guest's disk. In whole sectors, as LVM wants sizes."""
    return -(-size // (32768 * 512)) * 512 + MiB


def resource_text(
    name: str,
    minor: int,
    port: int,
    disk: str,
    hosts: Sequence[tuple[str, str]],
    secret: str,
    version: str,
    mac: str = "",
) -> str:
    """The resource file. `hosts` are (host name, replication address) of both sides; `version` is that of the
    kernel's module: 9 wants node ids, which 8.4 does not know. `mac` is the VM's address, for other managers to see
    before the domain is defined.

    Names are quoted: `net`, `disk` and `proxy` are words of drbd.conf, which drbd-utils 9.22 refuses bare.
    csums-alg decides which blocks a resync leaves out as equal: crc32c would be wrong for one in 2^32 that differ.
    Nothing is ever discarded by itself (after-sb-* disconnect); two primaries are allowed at run time only, while
    a VM migrates, and never from this file; the peer must know the secret.
    """
    sides = []
    for number, (host, address) in enumerate(hosts):
        family = "ipv6" if ":" in address else "ipv4"
        where = f"[{address}]" if family == "ipv6" else address
        node_id = "" if version.startswith("8.") else f"\n        node-id {number};"
        sides.append(f'    on "{host}" {{\n        address {family} {where}:{port};{node_id}\n    }}')
    return f"""\
# made by pmc for the VM {name}; pmc reads it back, so keep its form
# mac {mac}
resource "{name}" {{
    device {device(minor)} minor {minor};
    disk {disk};
    meta-disk internal;
    net {{
        protocol C;
        cram-hmac-alg sha256;
        shared-secret "{secret}";
        verify-alg crc32c;
        csums-alg sha256;
        allow-two-primaries no;
        after-sb-0pri disconnect;
        after-sb-1pri disconnect;
        after-sb-2pri disconnect;
        ping-int 3;
        timeout 30;
    }}
    disk {{
        on-io-error detach;
    }}
{chr(10).join(sides)}
}}
"""


@operation
def load_module() -> Command:
    return command("modprobe", "drbd")


@operation
def write_file(name: str, text: str, secret: str) -> Command:
    """On the disk when it returns: a node that loses power a moment later would come back without its VM. Mode 600 from
    the first byte on: the file holds the secret. Under another name, which drbdadm does not read, until it is whole: a
    piece of one, or the nothing that a manager sends who dies right then, would be in the way of all resources, or of
    this VM for ever. Never over a file that is there (ln): it may hold another resource."""
    script = (
        f'umask 077; trap \'rm -f "$1.new"\' EXIT; cat >"$1.new"; {whole("$1.new")}; '
        'sync "$1.new"; ln -T "$1.new" "$1"; sync "${1%/*}"'
    )
    return bash(script, path(name), stdin=text, secrets=(secret,))


@operation
def remove_file(name: str) -> Command:
    return command("rm", "-f", path(name))


@operation
def create_metadata(name: str) -> Command:
    """Overwrites the end of the volume. Only for a volume that pmc has just made."""
    return command("drbdadm", "create-md", "--force", name)


@operation
def up(name: str, alone: bool = False) -> Command:
    """Harmless when it is up already. A resource that only one host has (`alone`) cannot connect, and `drbdadm up`
    would fail at that; its parts do without."""
    if alone:
        script = (
            'drbdadm role "$1" >/dev/null 2>&1 && exit; '
            'drbdadm new-resource "$1"; drbdadm new-minor "$1"; drbdadm attach "$1"'
        )
        return bash(script, name)
    return command("drbdadm", "up", name)


@operation
def up_or_down(name: str, alone: bool) -> Command:
    """As `up`, but what came up by half before it failed is taken down again."""
    return bash('"${@:2}" || { s=$?; drbdsetup down "$1" || :; exit $s; }', name, *up(name, alone).argv)


@operation
def attach(name: str) -> Command:
    return command("drbdadm", "attach", name)


@operation
def down(name: str) -> Command:
    """By drbdsetup too, which needs no resource file: half-made VMs may have lost theirs."""
    return bash('drbdadm down "$1" || drbdsetup down "$1"', name)


@operation
def is_up(name: str) -> Command:
    """Succeeds when the kernel knows the resource."""
    return command("drbdadm", "role", name)


@operation
def is_primary(name: str) -> Command:
    """Ends 124, which is neither yes nor no, when drbdadm itself fails."""
    return bash('role=$(drbdadm role "$1") || exit 124; [[ $role = Primary* ]]', name)


@operation
def primary(name: str) -> Command:
    return command("drbdadm", "primary", name)


@operation
def primary_by_force(name: str) -> Command:
    """Declares this side's data the truth. Only for a resource that pmc has just made."""
    return command("drbdadm", "primary", "--force", name)


@operation
def secondary(name: str) -> Command:
    return command("drbdadm", "secondary", name)


@operation
def skip_initial_sync(name: str) -> Command:
    """Only where both volumes are known to be equal (pmc has just zeroed both): declares both UpToDate."""
    return command("drbdadm", "new-current-uuid", "--clear-bitmap", name)


@operation
def two_primaries(name: str, allowed: bool, version: str) -> Command:
    """Without disconnecting. The kernel refuses to take it back while both sides are primary.

    Should the sides lose each other meanwhile, both hold their writes until they meet again, or `resume_io`: a guest
    that goes on at the other side would else lack the last ones that were acknowledged to it here. (drbd.conf(5),
    fencing resource-and-stonith: without a handler that says what became of the peer, I/O stays suspended. A policy or
    a handler of the administrator's own is left as it is. `version`: of the module, 9 has this in another section.)"""
    answer, policy = ("yes", "resource-and-stonith") if allowed else ("no", "dont-care")
    net = f'drbdadm net-options --protocol=C --allow-two-primaries={answer} "$1"'
    if not allowed:  # a side that stands alone has no such option any more
        net = f'[[ $(drbdadm cstate "$1") = StandAlone ]] || {net}'
    # A side without a disk has no such option, and holds nothing.
    hold = (
        "own=$'\\n[[:space:]]*(fencing|fence-peer)[[:space:]]'; "
        f'[[ $(drbdadm dump "$1") =~ $own ]] || drbdadm "$2" --fencing={policy} "$1" || '
        '[[ $(drbdadm dstate "$1") = Diskless* ]]'
    )
    section = "net-options" if version and not version.startswith("8.") else "disk-options"
    return bash(f"{net}; {hold}", name, section)  # in this order: what cannot be closed goes on to hold


@operation
def resume_io(name: str) -> Command:
    """What is held, as `two_primaries` says, is written: to this side alone while it has no peer."""
    return command("drbdadm", "resume-io", name)


def size_of(minor: int) -> Query[int]:
    """Bytes that DRBD exposes: the volume without the metadata. From sysfs (sectors), since a secondary's device cannot
    be opened."""
    return Query(command("cat", f"/sys/block/drbd{minor}/size"), lambda text: count(text) * 512)


def version() -> Query[str]:
    """Of the loaded module, never of the tools: tools of 9 drive a module of 8.4. Empty: no module is loaded."""
    return Query(command("cat", "/sys/module/drbd/version"), lambda text: shown(text.strip()), fine=(0, 1))


def status(name: str = "") -> Query[dict[str, Resource]]:
    """What the kernel knows, of one resource or of all. events2 is the one form that 8.4 and 9 share."""
    names = (name,) if name else ()
    return Query(
        bash('[ -e /sys/module/drbd ] || exit 0; exec drbdsetup events2 --now --statistics "$@"', *names),
        parse_status,
    )


# Of each kind of lines (connection, device, peer-device) there is one, and all have a fact that fits the pattern. A
# peer that is diskless on purpose has no copy to speak of (see pmc/facts/drbd_status.py). All of it by bash itself:
# what could not be run would else look like a connection that is not there.
_SEES = (
    'said=$(drbdsetup events2 --now --statistics "$1") && [[ $said = *"exists -" ]] || exit 2; '
    "set -f; IFS=$'\\n'; "
    'sees() { while (($#)); do n=0; for its in $said; do [[ $its = "exists $1 "* && $its != *" peer-client:yes"* ]] || '
    'continue; n=1; [[ "$its " =~ " "($2)" " ]] || return 1; done; ((n)) || return 1; shift 2; done; }; '
)
CONNECTED = ("connection", "connection:Connected")
UP_TO_DATE = ("device", "disk:UpToDate")
PEER_UP_TO_DATE = ("peer-device", "peer-disk:UpToDate")
HEALTHY = (CONNECTED, UP_TO_DATE, PEER_UP_TO_DATE)
# What an online verify has marked; while a resync or a verify runs, marks are no such knowledge.
NOTHING_DIFFERS = ("peer-device", "replication:(Established .*out-of-sync:0|[A-DF-Z][A-Za-z]*)")


@operation
def sees(name: str, *facts: tuple[str, str]) -> Command:
    """Succeeds when the kernel says all of this of the resource, in the words of events2; ends 1 when it does not, 2
    when it cannot be asked."""
    return bash(f'{_SEES}sees "${{@:2}}"', name, *(word for fact in facts for word in fact))


@operation
def sees_not(name: str, *facts: tuple[str, str]) -> Command:
    """Succeeds when the kernel says something else; ends as `sees`."""
    return bash(f'{_SEES}! sees "${{@:2}}"', name, *(word for fact in facts for word in fact))


def open_resources() -> Query[frozenset[str]]:
    """Names of the resources that are open: they allow two primaries now, or still hold their writes as
    `two_primaries` has it, though the other option went with a lost connection. Only the lines that tell leave the
    node: the full output holds the shared secrets. A policy of the administrator's own (a file has one) is none."""
    script = (
        "[ -e /sys/module/drbd ] || exit 0; drbdsetup show | sed -n -e '/^resource/p' "
        "-e '/^[[:space:]]*allow-two-primaries/p' -e '/^[[:space:]]*fencing[[:space:]]/p'; "
        "grep -lsE '^[^#]*fencing[[:space:]]+resource-' /etc/drbd.conf /etc/drbd.d/* | sed 's/^/file /' || :"
    )
    return Query(bash(script), parse_open)


def parse_open(text: str) -> frozenset[str]:
    name, names, holding = "", set(), set()
    for line in text.splitlines():
        words = line.replace("{", " ").replace(";", " ").split()
        if words and words[0] == "resource":
            name = words[1].strip('"')
        elif words[:2] == ["allow-two-primaries", "yes"] or words == ["allow-two-primaries"]:
            names.add(name)
        elif words == ["fencing", "resource-and-stonith"]:
            holding.add(name)
        elif words and words[0] == "file":
            path = line.removeprefix("file ")
            holding = holding - {path.rpartition("/")[2].removesuffix(".res")} if path.endswith(".res") else set()
        elif words and words[0] not in ("allow-two-primaries", "fencing"):
            raise ValueError(f"not a line of drbdsetup show: {line[:80]!r}")
    return frozenset(names | holding)
