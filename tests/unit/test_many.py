"""What must not cost nodes times nodes, or VMs times nodes: counted, not timed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pmc.capacity.memory import Guest
from pmc.model import ClusterState, NodeState
from pmc.settings import parse
from pmc.transport import known_hosts
from pmc.transport.connection import Connection, configuration
from pmc.units import GiB
from pmc.view.rows import vm_rows
from tests.unit.fleets import build

MANY = 40
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDdnCq0Cr+rMZ0kVvX8Ej3ABHsHVvnI/0L3C7WJkQqFS"


class Gone(dict[str, NodeState]):
    """Counts how often somebody goes through all the nodes."""

    times = 0

    def values(self) -> Any:
        self.times += 1
        return super().values()

    def __iter__(self) -> Iterator[str]:
        self.times += 1
        return super().__iter__()


def test_a_listing_does_not_go_through_the_nodes_for_each_vm() -> None:
    nodes = {f"pm-{number}": 64 * GiB for number in range(MANY)}
    vms = [Guest(f"vm-{number}", GiB, f"pm-{number % MANY}", f"pm-{(number + 1) % MANY}") for number in range(200)]
    gone = Gone(build(nodes, vms).nodes)
    assert len(vm_rows(ClusterState(gone))) == 200
    assert gone.times < 5


def test_known_hosts_is_read_once_for_all_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, config = tmp_path / "known_hosts", tmp_path / "config"
    known.write_text("".join(f"10.0.0.{number} {KEY}\n" for number in range(MANY)))
    config.write_text(f"Host *\n    UserKnownHostsFile {known}\n    GlobalKnownHostsFile /dev/null\n")
    read: list[Path] = []

    def lines(path: Path, text: str) -> Iterator[known_hosts.Line]:
        read.append(path)
        yield from ()

    monkeypatch.setattr(known_hosts, "lines", lines)
    nodes = "".join(f'[nodes.pm-{n}]\nhost = "10.0.0.{n}"\nreplication = "10.0.0.{n}"\n' for n in range(MANY))
    settings = parse(f'audit_log = ""\nssh_config = "{config}"\n{nodes}', "pmc.conf")
    made = configuration(settings)
    for node in settings.nodes.values():
        Connection(node.host, config=made.clone())
    assert read == [known]


def test_the_ssh_configuration_is_read_once_for_all_nodes(tmp_path: Path) -> None:
    """Not once more for each, beside what the others have read."""
    (tmp_path / "config").write_text("Host 10.0.0.1\n    Port 2222\n")
    text = f'audit_log = ""\nssh_config = "{tmp_path}/config"\n[nodes.pm-1]\nreplication = "10.0.0.1"\n'
    made = configuration(parse(text, "pmc.conf"))
    clones = [made.clone() for _ in range(MANY)]
    assert {len(each.base_ssh_config._config) for each in (made, *clones)} == {2}  # paramiko's own "*", and the Host
    assert Connection("10.0.0.1", config=clones[-1]).port == 2222


def test_of_two_files_the_persons_own_counts(tmp_path: Path) -> None:
    """As with ssh, which finds the right key there: the system's may be that of a machine that is gone."""
    mine, system, config = tmp_path / "mine", tmp_path / "system", tmp_path / "config"
    mine.write_text(f"10.0.0.1 {KEY}\n")
    system.write_text(f"10.0.0.1 {KEY[:-4]}AAAA\n")
    config.write_text(f"Host *\n    UserKnownHostsFile {mine}\n    GlobalKnownHostsFile {system}\n")
    settings = parse(f'audit_log = ""\nssh_config = "{config}"\n[nodes.pm-1]\nreplication = "10.0.0.1"\n', "pmc.conf")
    keys = Connection("10.0.0.1", config=configuration(settings)).client._system_host_keys
    assert keys["10.0.0.1"]["ssh-ed25519"].get_base64() == KEY.split()[1]


def test_each_node_gets_its_own_key(tmp_path: Path) -> None:
    """Of the host's own name; of another name only when the ssh configuration says so."""
    known, config = tmp_path / "known_hosts", tmp_path / "config"
    known.write_text(f"10.0.0.1 {KEY}\n[10.0.0.2]:2222 {KEY}\npm-3 {KEY}\n")
    config.write_text(
        f"Host 10.0.0.2\n    Port 2222\nHost 10.0.0.3\n    HostKeyAlias pm-3\nHost *\n    UserKnownHostsFile {known}\n"
        "    GlobalKnownHostsFile /dev/null\n"
    )
    settings = parse(f'audit_log = ""\nssh_config = "{config}"\n[nodes.pm-1]\nreplication = "10.0.0.1"\n', "pmc.conf")
    made = configuration(settings)
    found = {
        host: list(Connection(host, config=made.clone()).client._system_host_keys.keys())
        for host in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")
    }
    assert found == {
        "10.0.0.1": ["10.0.0.1"],
        "10.0.0.2": ["[10.0.0.2]:2222"],
        "10.0.0.3": ["10.0.0.3"],
        "10.0.0.4": [],
    }
