"""/etc/pmc.conf (TOML) as frozen data. Unknown keys, wrong types and bad values are refused by name."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pmc.errors import Refused, SettingsError
from pmc.units import MiB, parse_rate, show_size

DEFAULT = "/etc/pmc.conf"
MOST = MiB  # letters of such a file; what has no end (/dev/zero) would be read for ever
# A node's name is its host name (DRBD looks for `on HOSTNAME`, as `uname -n` says it): what Linux, DRBD and libvirt let
# a host be called, PM-1 and pm_1.example.org too. It is an argument of commands, and stands in lists with commas.
HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True)
class Deadlines:
    """In seconds: how long pmc waits before it gives up and says so."""

    connect: float = 10  # for a node to answer ssh
    command: float = 60  # for a short command
    long: float = 6 * 3600  # for a copy of a whole disk
    peer: float = 60  # for DRBD's two sides to find each other
    shutdown: float = 120  # for a guest to shut down when asked to
    migrate: float = 3600  # for one live migration
    sync: float = 120  # for a resync that should be short
    lock: float = 300  # for another manager that works on the same VM
    fence: float = 60  # for a fence command


@dataclass(frozen=True)
class Verify:
    """What pm.verify complains about."""

    full_percent: float = 90  # of the volume group, a snapshot, the backup directory's file system
    backup_max_age_days: float = 0  # of each VM's newest backup; 0: backups are not looked at


@dataclass(frozen=True)
class Keep:
    """How many backups vm.prune keeps, in the order in which its rules count (retention.py). `verified` is none of the
    rules, but what no rule may remove."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    verified: int = 1

    @property
    def rules(self) -> dict[str, int]:
        return {rule: number for rule, number in asdict(self).items() if rule != "verified"}


@dataclass(frozen=True)
class NodeSettings:
    name: str
    replication: str  # address of DRBD and of migrations
    host: str = ""  # what ssh calls it, when not by its name
    fence: str = field(default="", repr=False)  # the line that takes its power away; it may hold a password


@dataclass(frozen=True)
class Settings:
    nodes: Mapping[str, NodeSettings]
    volume_group: str = "vg"
    volumes: str = "classic"  # or thin: what new volumes are
    thin_pool: str = "pool"  # the pool of thin ones, in volume_group
    pool_data_percent: float = 80  # a pool that is fuller than this takes no new VM
    pool_metadata_percent: float = 80
    bridge: str = "br0"
    backup_dir: str = "/var/lib/pmc/backups"  # on each node
    image_dir: str = "/var/lib/libvirt/images"  # on each node: the ISO files of its VMs
    iso_dir: str = "/var/lib/pmc/iso"  # on the manager
    mac_prefix: str = "52:54:00:00"
    ports: str = "7800-7999"  # for DRBD, one a VM
    virt_type: str = "kvm"
    migration: str = "tcp"  # how a guest's memory travels: in the clear, in libvirt's ssh connection, or in TLS
    migration_emulated: str = "paused"  # or live: how a guest moves whose processor is emulated
    migration_bandwidth: str = ""  # a second, of each migration: 50M; empty: all there is
    migration_pause: int = 0  # seconds after which the guest stands still, so that its migration ends; 0: never
    ssh_config: str = ""  # in place of ~/.ssh/config
    audit_log: str = "/var/log/pmc.jsonl"  # on the manager; empty: none
    deadlines: Deadlines = Deadlines()
    verify: Verify = Verify()
    keep: Keep = Keep()
    source: str = ""  # the file it came from

    @property
    def port_range(self) -> range:
        first, _, last = self.ports.partition("-")
        return range(int(first), int(last) + 1)

    def node(self, flag: str, name: str) -> NodeSettings:
        """The node that a flag names; refused when the configuration has none such."""
        if name not in self.nodes:
            raise Refused(f"{flag} {name[:70]!r}: no such node; {self.source} has {', '.join(self.nodes)}")
        return self.nodes[name]


def load(path: str | None = None) -> Settings:
    """From `path` (--conf), else $PMC_CONF, else /etc/pmc.conf."""
    source = path or os.environ.get("PMC_CONF") or DEFAULT
    try:
        with open(source, encoding="utf-8") as file:
            text = file.read(MOST + 1)
        if len(text) > MOST:
            raise ValueError(f"it is larger than {show_size(MOST)}")
    except FileNotFoundError:
        raise SettingsError(
            f"{source}: no such file; fab conf > {shlex.quote(source)} makes one to name your nodes in; or give --conf "
            f"or PMC_CONF"
        ) from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{source}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    settings = parse(text, source)
    _safe(settings)
    return settings


def _safe(settings: Settings) -> None:
    """A fence command is a program that whoever runs pmc, as a rule root, runs: so nobody else may name it. As ssh does
    it with its own files."""
    if not any(node.fence for node in settings.nodes.values()):
        return
    about, source = os.stat(settings.source), shlex.quote(settings.source)
    if not stat.S_ISREG(about.st_mode):
        return
    why = f"{settings.source}: names fence commands, which pmc runs, and"
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(f"{why} others than its owner may write to it; chmod go-w {source}")
    if about.st_uid not in (0, os.geteuid()):
        raise SettingsError(f"{why} belongs to somebody else (uid {about.st_uid}); chown root {source}")


def exposed(settings: Settings) -> str:
    """What to say when others may read a fence command, in which a password may stand; empty when they may not."""
    source = settings.source
    try:
        open_ = os.stat(source).st_mode & (stat.S_IRGRP | stat.S_IROTH)
    except OSError:
        return ""
    if not open_ or not any(node.fence for node in settings.nodes.values()):
        return ""
    return f"{source}: others may read its fence commands, and passwords in them; chmod go= {shlex.quote(source)}"


def parse(text: str, source: str) -> Settings:
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{source}: not valid TOML: {error}") from None
    nodes_table = table.pop("nodes", None)
    if not isinstance(nodes_table, dict) or not nodes_table:
        raise SettingsError(f'{source}: no nodes; add a table like [nodes.pm-1] with replication = "10.0.0.1"')
    deadlines = _fill(Deadlines, table.pop("deadlines", {}), source, "deadlines.")
    if not all(0 < getattr(deadlines, field.name) <= 30 * 86400 for field in fields(Deadlines)):
        raise SettingsError(f"{source}: [deadlines]: each is a number of seconds above 0")
    verify = _fill(Verify, table.pop("verify", {}), source, "verify.")
    if not 0 < verify.full_percent <= 100:
        raise SettingsError(f"{source}: verify.full_percent = {verify.full_percent}: must be above 0, and at most 100")
    if not 0 <= verify.backup_max_age_days <= 36500:
        raise SettingsError(
            f"{source}: verify.backup_max_age_days = {verify.backup_max_age_days}: must be days, or 0 for no check"
        )
    keep = _fill(Keep, table.pop("keep", {}), source, "keep.")
    for rule, number in asdict(keep).items():
        if number < 0:
            raise SettingsError(f"{source}: keep.{rule} = {number}: must be 0 or more")
    nodes = {name: _node(name, value, source) for name, value in nodes_table.items()}
    for name in nodes:
        if name == "all" or any(other != name and other.lower() == name.lower() for other in nodes):
            raise SettingsError(f"{source}: node {name!r}: this name is another's too, or means all of them")
        if name == "manager":  # of transport/local.py: a dry run's lines for that node would run here
            raise SettingsError(f"{source}: node {name!r}: this name means the machine that pmc runs on")
    for forbidden in ("nodes", "deadlines", "verify", "keep", "source"):
        if forbidden in table:
            raise SettingsError(f"{source}: unknown key '{forbidden}'")
    settings: Settings = _fill(
        Settings, table, source, "", nodes=nodes, deadlines=deadlines, verify=verify, keep=keep, source=source
    )
    _check(settings)
    return settings


def _node(name: str, value: object, source: str) -> NodeSettings:
    if not HOSTNAME.fullmatch(name):
        raise SettingsError(
            f"{source}: node {name[:70]!r}: a node's name is its host name: letters, digits, '-', '_', '.'"
        )
    node: NodeSettings = _fill(NodeSettings, value, source, f"nodes.{name}.", name=name)
    try:
        if "%" in node.replication:  # an interface's name may follow it, of any letters
            raise ValueError
        ipaddress.ip_address(node.replication)
    except ValueError:
        raise SettingsError(
            f"{source}: nodes.{name}.replication = {node.replication[:70]!r}: write an address like 10.0.0.1"
        ) from None
    where = node.host.rpartition("@")[2]  # as Fabric takes it apart: USER@NAME:PORT; an IPv6 address has more colons
    nowhere = node.host and (not where or (where.startswith(":") and where.count(":") == 1))
    if nowhere or node.host.startswith("-") or any(letter.isspace() for letter in node.host):
        raise SettingsError(f"{source}: nodes.{name}.host = {node.host[:70]!r}: write a name that ssh knows")
    if node.fence and not _words(node.fence):
        raise SettingsError(
            f"{source}: nodes.{name}.fence: write a command line, its quotes closed (no shell reads it)"
        )
    return node


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return []


_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "float": ((int, float), "a number"),
    "int": ((int,), "a whole number"),
}


def _fill(kind: Any, value: object, origin: str, prefix: str, **given: object) -> Any:
    """A dataclass from a TOML table: every key known, every type right, nothing required left out."""
    if not isinstance(value, dict):
        raise SettingsError(f"{origin}: {prefix.rstrip('.')} must be a table")
    known = {field.name: field for field in fields(kind) if field.name not in given}
    for key, entry in value.items():
        if key not in known:
            raise SettingsError(f"{origin}: unknown key '{prefix}{key[:70]}'; known: {', '.join(sorted(known))}")
        wanted, name = _TYPES.get(str(known[key].type), ((str,), "text in quotes"))
        if not isinstance(entry, wanted) or isinstance(entry, bool):
            shown = "" if key == "fence" else f" = {str(entry)[:70]!r}"  # it may hold a password
            raise SettingsError(f"{origin}: {prefix}{key}{shown}: must be {name}")
    try:
        return kind(**value, **given)
    except TypeError:
        missing = [n for n in known if n not in value and n in ("replication",)]
        raise SettingsError(f"{origin}: {prefix}{missing[0] if missing else '?'} is missing") from None


_RULES = {
    "volume_group": (r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]{0,126}", "the name of an LVM volume group"),
    "volumes": (r"classic|thin", "classic or thin"),
    "thin_pool": (r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]{0,126}", "the name of a thin pool in volume_group"),
    "bridge": (r"[A-Za-z0-9_.:-]{1,15}", "the name of a network bridge"),
    "backup_dir": (r"/[A-Za-z0-9_./+@-]{1,250}", "an absolute path of letters, digits and ._/+@-"),
    "image_dir": (r"/[A-Za-z0-9_./+@-]{1,250}", "an absolute path of letters, digits and ._/+@-"),
    "mac_prefix": (
        r"[0-9a-f][02468ace](:[0-9a-f]{2}){3}",
        "four bytes like 52:54:00:77 (lower case, first even)",
    ),
    "ports": (r"[1-9][0-9]{3,4}-[1-9][0-9]{3,4}", "a range like 7800-7999"),
    "virt_type": (r"kvm|qemu", "kvm, or qemu (emulation, slow)"),
    "migration": (r"tcp|tunnelled|tls", "tcp, tunnelled or tls"),
    "migration_emulated": (r"paused|live", "paused or live"),
}


def _check(settings: Settings) -> None:
    for key, (pattern, advice) in _RULES.items():
        value = getattr(settings, key)
        if not re.fullmatch(pattern, value, re.ASCII) or "/.." in value:
            raise SettingsError(f"{settings.source}: {key} = {value[:70]!r}: must be {advice}")
    for key in ("pool_data_percent", "pool_metadata_percent"):
        if not 0 < (percent := getattr(settings, key)) <= 100:
            raise SettingsError(f"{settings.source}: {key} = {percent}: must be above 0, and at most 100")
    try:
        parse_rate(settings.migration_bandwidth)
    except ValueError as error:
        raise SettingsError(f"{settings.source}: migration_bandwidth = {error}") from None
    if not 0 <= settings.migration_pause <= 86400:
        raise SettingsError(
            f"{settings.source}: migration_pause = {settings.migration_pause}: must be seconds, 86400 at most; 0: never"
        )
    ports = settings.port_range
    # 32768 is where Linux's ephemeral ports begin by default: a DRBD port there would clash now and then.
    if not ports or ports[-1] >= 32768:
        raise SettingsError(f"{settings.source}: ports = {settings.ports!r}: must rise and stay below 32768")
    addresses = [node.replication for node in settings.nodes.values()]
    for address in addresses:
        if addresses.count(address) > 1:
            raise SettingsError(f"{settings.source}: two nodes have the replication address {address}")
