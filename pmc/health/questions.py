"""What pm.verify asks each node beyond the look that all tasks take, and the parsers of the answers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from pmc import backup, drbd, lock_files, names
from pmc.backup import Stored
from pmc.command import Query, bash
from pmc.drbd_generations import Generation, parse_generation
from pmc.facts import domain_definition, drbd_conf, drbd_files
from pmc.facts.domain_disks import writable
from pmc.facts.domain_xml import parsed
from pmc.health import drbd_options, node_machine
from pmc.health import node_lvm as lvm_checks
from pmc.health.check import About
from pmc.health.drbd_options import Said
from pmc.health.node_lvm import Filter
from pmc.model import Disk, NodeState
from pmc.settings import Settings
from pmc.units import finite

LIBVIRT = "/etc/libvirt/qemu"


@dataclass(frozen=True)
class DomainFile:
    """A domain's definition: a hash of what it says, which does not tell two apart that vm.repair would not."""

    hash: str
    macs: tuple[str, ...] = ()
    autostart: bool = False
    disks: tuple[Disk, ...] = ()
    sources: tuple[str, ...] = ()  # of all its disks, those that are only read too


@dataclass(frozen=True)
class FileFacts:
    """What the parsers of the look do not keep of a resource file. `hash` is that of the whole text; `said` are the
    options that decide whether data can be lost; `addresses` are those of its hosts."""

    mode: str
    hash: str
    said: Said = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Extra:
    """One node's answers. A question in `failures` is unknown."""

    failures: Mapping[str, str] = field(default_factory=dict)
    domains: Mapping[str, DomainFile] = field(default_factory=dict)
    files: Mapping[str, FileFacts] = field(default_factory=dict)
    common: Said = field(default_factory=dict)  # as FileFacts.said, of the section that holds for all resources
    generations: Mapping[str, Generation] = field(default_factory=dict)
    filter: Filter | None = None
    clock: float | None = None  # seconds since 1970
    asked: tuple[float, float] = (0.0, 0.0)  # between these moments of the manager's clock
    folder_used: float | None = None  # percent of the backup directory's file system
    parts: tuple[str, ...] = ()
    future: tuple[str, ...] = ()  # the ids of backups that are later than its clock
    backups: tuple[Stored, ...] = ()


def questions(node: NodeState, settings: Settings) -> dict[str, Query[object]]:
    """By the name of the fact. Two depend on what the look found: generations are asked of resources that do not try
    to connect, and backups when they must not be old."""
    about = About(node.name, settings)
    asked: dict[str, Query[object]] = {
        "domains": domain_files(),
        "files": resource_files(),
        "common": common(),
        "filter": lvm_checks.query_filter(about),
        "clock": node_machine.query_clock(about),
        "folder_used": folder_used(settings.backup_dir),
        "parts": parts(settings),
        "future": backup.of_the_future(settings.backup_dir),
    }
    if lonely := sorted(name for name, each in node.resources.items() if each.standalone):
        asked["generations"] = generations(lonely)
    if settings.verify.backup_max_age_days:
        asked["backups"] = backup.listing(settings.backup_dir, node.name)
    return asked


def domain_files() -> Query[dict[str, DomainFile]]:
    """libvirt's own files, in one read where virsh would need two calls a domain. Without the passwords."""
    script = (
        'cd "$1" || exit; for f in *.xml; do [ -e "$f" ] || continue; '
        'if [ -e "autostart/$f" ] || [ -L "autostart/$f" ]; then a=autostart; else a=manual; fi; '
        'echo "== $a"; sed -E "s/ passwd=(\'[^\']*\'|\\"[^\\"]*\\")//g" "$f"; done'
    )
    return Query(bash(script, LIBVIRT), parse_domain_files)


def _each_file(text: str, otherwise: str) -> Iterator[tuple[str, str]]:
    """What stands behind '== ', and the file below it."""
    before, *parts = re.split(r"^== ", text, flags=re.M)
    if before.strip():
        raise ValueError(otherwise)
    for part in parts:
        start, _, body = part.partition("\n")
        yield start, body


def parse_domain_files(text: str) -> dict[str, DomainFile]:
    found = {}
    for start, xml in _each_file(text, "not the definitions of libvirt"):
        domain = parsed(xml)
        macs = tuple(str(mac.get("address")).lower() for mac in domain.iter("mac"))
        name = domain.findtext("name") or ""
        sources = tuple(path for each in domain.iter("source") if (path := each.get("dev") or each.get("file")))
        found[name] = DomainFile(domain_definition.digest(xml), macs, start == "autostart", writable(xml), sources)
    return found


def resource_files() -> Query[dict[str, FileFacts]]:
    """Their secrets are cut out on the node (that there is one stays); the hash is of the whole, so that a secret that
    differs is noticed."""
    script = (
        'cd "$1" || exit; for f in *.res; do [ -f "$f" ] || continue; '
        'echo "== $(stat -c %a "$f") $(sha256sum <"$f" | cut -c1-64)"; sed -sE -e "$2" -- "$f"; done'
    )
    return Query(bash(script, drbd.DIRECTORY, drbd_files.CUT.partition("\n1F\n")[2]), parse_resource_files)


def common() -> Query[dict[str, str]]:
    """Of the files that Debian's drbd.conf names. Their secrets are cut out as above."""
    script = 'for f in "${@:2}"; do [ ! -e "$f" ] || sed -sE -e "$1" -- "$f"; done'
    files = ("/etc/drbd.conf", f"{drbd.DIRECTORY}/global_common.conf")
    return Query(bash(script, drbd_files.CUT.partition("\n1F\n")[2], *files), drbd_options.common)


def parse_resource_files(text: str) -> dict[str, FileFacts]:
    """What cannot be read of them the look has told already."""
    found = {}
    for start, body in _each_file(text, "not the resource files"):
        mode, hash = start.split()
        for part in drbd_conf.read(body).parts:
            if part.key == "resource" and len(part.words) > 1 and names.VOLUME.fullmatch(part.words[1]):
                found[part.words[1]] = FileFacts(
                    mode, hash, drbd_options.said(part.inside("skip", "handlers")), dict(drbd_files.addresses(part))
                )
    return found


def generations(names: list[str]) -> Query[dict[str, Generation]]:
    """DRBD's data generation identifiers (drbdadm get-gi). A resource that does not tell is left out."""
    return Query(bash('for r; do echo "$r $(drbdadm get-gi "$r" 2>/dev/null || :)"; done', *names), parse_generations)


def parse_generations(text: str) -> dict[str, Generation]:
    found = dict[str, Generation]()
    for row in (line.split() for line in text.splitlines()):
        with suppress(ValueError):  # one that does not tell costs only itself
            found |= {row[0]: parse_generation(row[1])} if len(row) == 2 else {}
    return found


def folder_used(path: str) -> Query[float | None]:
    """Percent in use; None when there is no such directory, which is pm.init's matter."""
    script = '[ -d "$1" ] || exit 0; df -B1 --output=used,avail "$1" | tail -n 1'
    return Query(bash(script, path), parse_used)


def parse_used(text: str) -> float | None:
    if not text.strip():
        return None
    used, available = map(finite, text.split())
    return 100.0 * used / max(used + available, 1)


def parts(settings: Settings) -> Query[tuple[str, ...]]:
    """Unfinished files, and those of a backup without its manifest, which came or went as the node lost power, that no
    process has open and that nobody has written to for a minute. The node's clock may have been set forward, so that a
    minute is nothing: one whose VM is locked is left out, too (which is seen without taking the lock)."""
    script = (
        'find -L "$1" "$2" -maxdepth 1 -type f ! -newermt "60 seconds ago" '
        '\\( -name ".*.part" -o -name ".*.part.*" -o -name "*.pmc.upload" -o -name "*.pmc.*.part" '
        # A rename, which is what makes or ends one, counts as a change (ctime).
        '-o \\( -name "*.????????T??????Z.base.i*" -o -name "*.????????T??????Z.delta.xd3" \\) '
        '-path "$1/*" ! -newerct "60 seconds ago" \\) 2>/dev/null | while IFS= read -r f; do case ${f##*/} in '
        # Nor while the rest of it comes: a copy.
        '[!.]*.base.i*|[!.]*.xd3) m=${f%.zst} m=${m%.*} p=("${m%/*}/.${m##*/}."*.part*); '
        '[ ! -e "$m.json" ] && [ ! -e "$p" ] || continue;; esac; '
        f"n=${{f##*/}} n=${{n#.}}; l={lock_files.FOLDER}/${{n%%.*}}.lock; "
        '[ ! -e "$l" ] || ! grep -q ":$(stat -c %i "$l") " /proc/locks || continue; '
        'open=$(find /proc/[0-9]*/fd -lname "$f" -print -quit 2>/dev/null || :); '
        '[ "$open" ] || printf "%s\\n" "$f"; done || :'
    )
    return Query(bash(script, settings.backup_dir, settings.image_dir), lambda text: tuple(sorted(text.splitlines())))
