"""The configuration: each careless value is refused by name, with what would be right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pmc import drbd, settings
from pmc.errors import Refused, SettingsError
from pmc.settings import Deadlines, Keep, Verify, load, parse
from tests.unit.refusals import raises
from tests.unit.samples import parsed_files

SHIPPED = Path(__file__).parents[2] / "etc" / "pmc.conf"
NODES = '[nodes.pm-1]\nreplication = "10.0.0.1"\n[nodes.pm-2]\nreplication = "10.0.0.2"\n'


def refused(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        parse(text, "pmc.conf")
    assert caught.value.code == 2
    told = str(caught.value)
    assert told.startswith("pmc.conf: ")
    assert "\n" not in told.removeprefix("pmc.conf: not valid TOML")
    return told


def test_nodes_are_enough() -> None:
    found = parse(NODES, "pmc.conf")
    assert list(found.nodes) == ["pm-1", "pm-2"]
    assert (found.nodes["pm-1"].replication, found.nodes["pm-1"].host) == ("10.0.0.1", "")
    assert (found.volume_group, found.bridge, found.virt_type, found.source) == ("vg", "br0", "kvm", "pmc.conf")
    assert (found.volumes, found.pool_data_percent, found.pool_metadata_percent) == ("classic", 80, 80)
    assert found.deadlines == Deadlines()
    assert found.verify == Verify(full_percent=90, backup_max_age_days=0)
    assert found.keep == Keep(0, 0, 0, 0, 0, 0, 1)
    assert found.port_range == range(7800, 8000)


def test_all_keys() -> None:
    found = parse(
        'volume_group = "data"\nvolumes = "thin"\nthin_pool = "p0"\npool_data_percent = 70\n'
        'pool_metadata_percent = 50.5\nbridge = "br1"\nbackup_dir = "/b"\nimage_dir = "/i"\niso_dir = "~/iso"\n'
        'mac_prefix = "52:54:00:77"\nports = "7000-7001"\nvirt_type = "qemu"\nssh_config = "/s"\n'
        "[deadlines]\nconnect = 3\nlong = 1.5\n[verify]\nfull_percent = 80\nbackup_max_age_days = 1.5\n"
        "[keep]\nlast = 3\nhourly = 0\ndaily = 13\nweekly = 8\nmonthly = 11\nyearly = 9\n"
        '[nodes.pm-1]\nreplication = "2001:db8::1"\nhost = "pm-1.example.org"\n',
        "x",
    )
    assert (found.deadlines.connect, found.deadlines.long, found.deadlines.peer) == (3, 1.5, 60)
    assert found.verify == Verify(80, 1.5)
    assert found.keep == Keep(3, 0, 13, 8, 11, 9, 1)
    assert list(found.port_range) == [7000, 7001]
    assert (found.volumes, found.thin_pool) == ("thin", "p0")
    assert (found.pool_data_percent, found.pool_metadata_percent) == (70, 50.5)
    assert found.nodes["pm-1"].host == "pm-1.example.org"


def test_the_shipped_file_parses_and_shows_the_defaults() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    as_shipped = load(str(SHIPPED))
    # Each `#key = value` is a default: switched on, nothing changes.
    switched_on = "\n".join(
        line[1:]
        if line.startswith("#")
        and " = " in line.split("#")[1]
        and line[1:2].isalpha()
        and not line.startswith(("#host", '#fence = "'))
        else line
        for line in text.splitlines()
    )
    assert switched_on != text
    assert parse(switched_on, str(SHIPPED)) == as_shipped
    for table in (settings.Settings, Deadlines, Verify, Keep):
        for key in table.__dataclass_fields__:
            assert key in text or key == "source", f"{key} is not explained"


FENCE = '[nodes.pm-1]\nreplication = "10.0.0.1"\nfence = "/bin/true -phunter22"\n'


@pytest.mark.parametrize(("mode", "said"), [(0o600, ""), (0o400, ""), (0o644, "read"), (0o640, "read")])
def test_a_file_that_others_may_read_is_noted_when_a_password_may_be_in_it(
    tmp_path: Path, mode: int, said: str
) -> None:
    path = tmp_path / "pmc.conf"
    path.write_text(FENCE)
    path.chmod(mode)
    told = settings.exposed(load(str(path)))
    assert told == (
        f"{path}: others may read its fence commands, and passwords in them; chmod go= {path}" if said else ""
    )
    path.write_text(NODES) if mode & 0o200 else None
    assert mode == 0o400 or settings.exposed(load(str(path))) == ""


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602, 0o777])
def test_a_file_that_others_may_write_names_no_program_that_root_runs(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "it's pmc.conf"
    path.write_text(FENCE)
    path.chmod(mode)
    with pytest.raises(SettingsError) as caught:
        load(str(path))
    assert caught.value.code == 2
    assert "others than its owner may write to it; chmod go-w '" in str(caught.value)
    assert "hunter22" not in str(caught.value)
    path.write_text(NODES)
    load(str(path))


def test_nor_does_one_that_belongs_to_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pmc.conf"
    path.write_text(FENCE)
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(SettingsError, match=r"belongs to somebody else \(uid \d+\); chown root "):
        load(str(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no nodes; add a table like [nodes.pm-1]"),
        ("[nodes]", "no nodes"),
        ('nodes = "pm-1"', "no nodes"),
        ("x = ", "not valid TOML"),
        (f'volume_gruop = "vg"\n{NODES}', "unknown key 'volume_gruop'; known: audit_log, backup_dir"),
        (f"[deadlines]\nconect = 1\n{NODES}", "unknown key 'deadlines.conect'; known: command, connect"),
        (f'{NODES}hots = "x"', "unknown key 'nodes.pm-2.hots'; known: fence, host, replication"),
        (f'source = "x"\n{NODES}', "unknown key 'source'"),
        (f"volume_group = 5\n{NODES}", "volume_group = '5': must be text in quotes"),
        (f"bridge = true\n{NODES}", "bridge = 'True': must be text in quotes"),
        (f'[deadlines]\nconnect = "10"\n{NODES}', "deadlines.connect = '10': must be a number"),
        (f"[deadlines]\nconnect = true\n{NODES}", "deadlines.connect = 'True': must be a number"),
        (f"[deadlines]\nconnect = 0\n{NODES}", "[deadlines]: each is a number of seconds above 0"),
        (f"[deadlines]\nlong = -1\n{NODES}", "above 0"),
        (f"[deadlines]\nlong = nan\n{NODES}", "above 0"),
        (f"[deadlines]\nlong = inf\n{NODES}", "above 0"),
        (f"deadlines = 5\n{NODES}", "deadlines must be a table"),
        (f"verify = 5\n{NODES}", "verify must be a table"),
        (f"[verify]\nfull = 5\n{NODES}", "unknown key 'verify.full'; known: backup_max_age_days, full_percent"),
        (f"[verify]\nfull_percent = 0\n{NODES}", "verify.full_percent = 0: must be above 0"),
        (f"[verify]\nfull_percent = 101\n{NODES}", "at most 100"),
        (f"[verify]\nfull_percent = nan\n{NODES}", "at most 100"),
        (f"[verify]\nbackup_max_age_days = -1\n{NODES}", "verify.backup_max_age_days = -1: must be days"),
        (f"keep = 7\n{NODES}", "keep must be a table"),
        (
            f"[keep]\nminutely = 5\n{NODES}",
            "unknown key 'keep.minutely'; known: daily, hourly, last, monthly, verified, weekly",
        ),
        (f"[keep]\nlast = -1\n{NODES}", "keep.last = -1: must be 0 or more"),
        (f"[keep]\nlast = 1.5\n{NODES}", "keep.last = '1.5': must be a whole number"),
        (f'[keep]\ndaily = "7"\n{NODES}', "keep.daily = '7': must be a whole number"),
        (f"[keep]\ndaily = true\n{NODES}", "keep.daily = 'True': must be a whole number"),
        ("[nodes]\npm-1 = 5", "nodes.pm-1 must be a table"),
        ("[nodes.pm-1]", "nodes.pm-1.replication is missing"),
        ('[nodes.pm-1]\nhost = "a"', "nodes.pm-1.replication is missing"),
        ('[nodes.pm-1]\nreplication = "pm-1-repl"', "nodes.pm-1.replication = 'pm-1-repl': write an address"),
        ('[nodes.pm-1]\nreplication = "10.0.0.1/24"', "write an address"),
        ('[nodes.pm-1]\nreplication = "fe80::1%eth0;\\n}"', "write an address"),
        ('[nodes.-pm]\nreplication = "10.0.0.1"', "node '-pm': a node's name is its host name"),
        ('[nodes."a b"]\nreplication = "10.0.0.1"', "node 'a b': a node's name is its host name"),
        ('[nodes."../x"]\nreplication = "10.0.0.1"', "node '../x': a node's name is its host name"),
        ('[nodes.all]\nreplication = "10.0.0.1"', "node 'all': this name is another's too, or means all"),
        ('[nodes.manager]\nreplication = "10.0.0.1"', "node 'manager': this name means the machine that pmc runs on"),
        ('[nodes.pm]\nreplication = "10.0.0.1"\n[nodes.PM]\nreplication = "10.0.0.2"', "this name is another's too"),
        ('[nodes."a b"]\nreplication = "10.0.0.1"', "node 'a b'"),
        ('[nodes."-a"]\nreplication = "10.0.0.1"', "node '-a'"),
        ('[nodes.a]\nreplication = "10.0.0.1"\nhost = "-oProxyCommand=id"', "nodes.a.host = '-oProxyCommand=id'"),
        ('[nodes.a]\nreplication = "10.0.0.1"\nhost = "a b"', "nodes.a.host"),
        ('[nodes.a]\nreplication = "10.0.0.1"\nhost = ":22"', "nodes.a.host = ':22': write a name that ssh knows"),
        ('[nodes.a]\nreplication = "10.0.0.1"\nhost = "@"', "nodes.a.host = '@'"),
        ('[nodes.a]\nreplication = "10.0.0.1"\nhost = "root@:22"', "nodes.a.host = 'root@:22'"),
        ('[nodes.a]\nreplication = "10.0.0.1"\n[nodes.b]\nreplication = "10.0.0.1"', "two nodes have the replication"),
        (f'volume_group = "-vg"\n{NODES}', "volume_group = '-vg': must be the name of an LVM volume group"),
        (f'volume_group = "a/b"\n{NODES}', "volume_group"),
        (f'volume_group = ""\n{NODES}', "volume_group"),
        (f'volumes = "thick"\n{NODES}', "volumes = 'thick': must be classic or thin"),
        (f"volumes = true\n{NODES}", "volumes = 'True': must be text in quotes"),
        (f'thin_pool = "vg/pool"\n{NODES}', "thin_pool = 'vg/pool': must be the name of a thin pool"),
        (f'thin_pool = "-p"\n{NODES}', "thin_pool = '-p'"),
        (f'thin_pool = ""\n{NODES}', "thin_pool"),
        (f"pool_data_percent = 0\n{NODES}", "pool_data_percent = 0: must be above 0, and at most 100"),
        (f"pool_data_percent = 100.5\n{NODES}", "at most 100"),
        (f"pool_metadata_percent = nan\n{NODES}", "pool_metadata_percent = nan: must be above 0"),
        (f'pool_metadata_percent = "80"\n{NODES}', "pool_metadata_percent = '80': must be a number"),
        (f'bridge = "br0;id"\n{NODES}', "bridge = 'br0;id'"),
        (f'bridge = "br0123456789abcd"\n{NODES}', "bridge"),
        (f'backup_dir = "backups"\n{NODES}', "backup_dir = 'backups': must be an absolute path"),
        (f'backup_dir = "/a/../etc"\n{NODES}', "backup_dir"),
        (f'image_dir = "/a b"\n{NODES}', "image_dir"),
        (f'image_dir = "/$(id)"\n{NODES}', "image_dir"),
        (f'mac_prefix = "52:54:00"\n{NODES}', "mac_prefix = '52:54:00': must be four bytes like"),
        (f'mac_prefix = "53:54:00:77"\n{NODES}', "mac_prefix"),
        (f'mac_prefix = "52:54:00:AB"\n{NODES}', "mac_prefix"),
        (f'ports = "7800"\n{NODES}', "ports = '7800': must be a range like 7800-7999"),
        (f'ports = "7999-7800"\n{NODES}', "must rise"),
        (f'ports = "30000-40000"\n{NODES}', "stay below 32768"),
        (f'ports = "80-90"\n{NODES}', "ports"),
        (f'migration = "ssh"\n{NODES}', "migration = 'ssh': must be tcp, tunnelled or tls"),
        (f'migration_bandwidth = "50"\n{NODES}', "migration_bandwidth = '50': bytes a second with a unit, such as 50M"),
        (f'migration_bandwidth = "fast"\n{NODES}', "migration_bandwidth = 'fast'"),
        (f"migration_bandwidth = 50\n{NODES}", "migration_bandwidth = '50': must be text in quotes"),
        (f"migration_pause = -1\n{NODES}", "migration_pause = -1: must be seconds, 86400 at most; 0: never"),
        (f"migration_pause = 1.5\n{NODES}", "migration_pause = '1.5': must be a whole number"),
        (f'virt_type = "xen"\n{NODES}', "virt_type = 'xen': must be kvm, or qemu"),
    ],
)
def test_refused_by_name(text: str, words: str) -> None:
    assert words in refused(text)


def test_a_long_value_is_not_shown_whole() -> None:
    assert len(refused(f'volume_group = "{"x" * 5000}"\n{NODES}')) < 300


def conf(path: Path, group: str) -> str:
    path.write_text(f'volume_group = "{group}"\n{NODES}')
    return str(path)


def test_conf_goes_before_the_environment_before_etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flag, environment, etc = (conf(tmp_path / name, name) for name in ("flag", "environment", "etc"))
    monkeypatch.setattr(settings, "DEFAULT", etc)
    monkeypatch.setenv("PMC_CONF", environment)
    assert load(flag).volume_group == "flag"
    assert load().volume_group == load("").volume_group == "environment"
    monkeypatch.delenv("PMC_CONF")
    assert load().volume_group == "etc"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "none", "/none: no such file; fab conf > /.*/none makes one"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(SettingsError, match=words):
            load(str(path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="cannot be read"):
        load(str(tmp_path / "binary"))


def test_a_file_without_end(tmp_path: Path) -> None:
    with raises(SettingsError, "settings.load", "/dev/zero", "1 MiB"):
        load("/dev/zero")
    reading, writing = os.pipe()  # of bash's <( ... )
    os.write(writing, NODES.encode())
    os.close(writing)
    assert list(load(f"/dev/fd/{reading}").nodes) == ["pm-1", "pm-2"]
    os.close(reading)


@pytest.mark.parametrize("host", ["a", "root@a", "a:22", "root@a:22", "::1", "root@::1"])
def test_a_host_as_fabric_takes_it(host: str) -> None:
    text = f'[nodes.pm-1]\nreplication = "10.0.0.1"\nhost = "{host}"\n'
    assert parse(text, "pmc.conf").nodes["pm-1"].host == host


def test_a_flag_that_names_no_node() -> None:
    found = parse(NODES, "pmc.conf")
    assert found.node("--on", "pm-1").name == "pm-1"
    with raises(Refused, "settings.Settings.node", "--on", "'pm-9'", "pmc.conf", "pm-1", "pm-2"):
        found.node("--on", "pm-9")


@pytest.mark.parametrize("name", ["pm-1", "PM-1", "pm_1", "pm-1.example.org", "3cx", "1"])
def test_nodes_are_called_as_linux_and_drbd_let_them(name: str) -> None:
    found = parse(f'[nodes."{name}"]\nreplication = "10.0.0.1"\n', "pmc.conf")
    assert list(found.nodes) == [name]
    text = drbd.resource_text("web", 1, 7800, "/dev/vg/web", [(name, "10.0.0.1")], "x", "8.4.11")
    assert parsed_files(text)["web"].hosts == (name,)
