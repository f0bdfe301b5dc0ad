"""known_hosts as ssh reads it: against a real ssh server, and against ssh-keygen's own search."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmc.cluster import Cluster
from pmc.errors import NodeDown
from pmc.settings import parse
from pmc.transport.known_hosts import known, lines
from pmc.transport.node import Node
from tests.unit.samples import data
from tests.unit.test_sessions import Host
from tests.unit.test_sessions import host as host

OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
# The key is cut, and its point is not on the curve: paramiko, or what it stands on, raises.
CUT = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


@pytest.fixture
def place(host: Host) -> str:
    """Its name in known_hosts."""
    return f"[127.0.0.1]:{host.listener.getsockname()[1]}"


@pytest.fixture
def key(tmp_path: Path, host: Host) -> str:
    return " ".join((tmp_path / "host.pub").read_text().split()[:2])


def made(text: str, folder: Path, place: str) -> Iterator[Node]:
    (folder / "known").write_text(text)
    (folder / "config").write_text(
        f"Host *\n  User root\n  IdentityFile {folder}/user\n  UserKnownHostsFile {folder}/known\n"
        "  GlobalKnownHostsFile /dev/null\n"
    )
    address = place.replace("[", "").replace("]", "")
    conf = f'ssh_config = "{folder}/config"\n[nodes.pm-1]\nreplication = "10.0.0.1"\nhost = "{address}"\n'
    with Cluster(parse(conf, "pmc.conf")) as cluster:
        yield cluster.nodes["pm-1"]


def told(text: str, folder: Path, place: str) -> str:
    """Why the node cannot be reached with this known_hosts; empty when it can."""
    for node in made(text, folder, place):
        try:
            node.channel().close()
        except NodeDown as error:
            return str(error)
    return ""


@pytest.mark.parametrize(
    "before",
    [
        data("known_hosts-cert-authority"), f"@revoked * {OTHER}\n", f"other {CUT}\n",
        "other ssh-ed25519 not*base64\n",
        "other ssh-ed25519\n", "other\n", "@what * a b\n", "\xff\xfe\n", "other sk-ssh-ed25519@openssh.com AAAA\n",
        "\n# x\n",
        f"other {OTHER} a comment\n", "|1|x|y ssh-ed25519 AAAA\n", ", ssh-ed25519 AAAA\n", "!other ssh-ed25519 AAAA\n",
    ],
)  # fmt: skip
def test_a_line_about_something_else_is_no_reason(before: str, tmp_path: Path, place: str, key: str) -> None:
    assert told(f"{before}{place} {key}\n", tmp_path, place) == ""
    assert told(f"{place} {key}\n{before}", tmp_path, place) == ""


def test_patterns_match_as_with_ssh(tmp_path: Path, place: str, key: str) -> None:
    port = place.rpartition(":")[2]
    for names in (f"[127.0.0.*]:{port}", "*", f"[127.?.0.1]:{port},!other", f"other,{place}"):
        assert told(f"{names} {key}\n", tmp_path, place) == "", names
    for names in (f"*,!{place}", f"!{place}", "127.0.0.1", "other", f"[127.0.0.1]:{port}0"):
        assert "its host key is not known" in told(f"{names} {key}\n", tmp_path, place), names
    (tmp_path / "hashed").write_text(f"{place} {key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(tmp_path / "hashed")], check=True, capture_output=True)
    assert "127" not in (tmp_path / "hashed").read_text()
    assert told((tmp_path / "hashed").read_text(), tmp_path, place) == ""


def test_a_revoked_key_is_refused_whatever_else_is_known(tmp_path: Path, place: str, key: str) -> None:
    said = told(f"{place} {key}\n@revoked * {key}\n", tmp_path, place)
    assert f"its host key is revoked (line 2 of {tmp_path}/known)" in said
    assert told(f"{place} {key}\n@revoked other {key}\n", tmp_path, place) == "", "of another host only"


def test_a_node_that_only_an_authority_knows_is_told_as_such(tmp_path: Path, place: str, key: str) -> None:
    said = told(f"@cert-authority * {key}\n", tmp_path, place)
    assert "known by a certificate only (@cert-authority), which pmc does not read. Add the key itself" in said


def test_what_is_to_be_done_about_a_changed_key_takes_the_entry_out(tmp_path: Path, place: str, key: str) -> None:
    """The command is run, and then the key is not known any more."""
    file = tmp_path / "known"
    for names in (place, f"other,{place}"):
        said = told(f"# first\n{names} {OTHER}\n", tmp_path, place)
        assert f"ssh-keygen -f {file} -R '{place}' (line 2 of {file})" in said
        subprocess.run(["ssh-keygen", "-q", "-f", str(file), "-R", place], check=True, capture_output=True)
        assert "is not known" in told(file.read_text(), tmp_path, place)
    said = told(f"* {OTHER}\n", tmp_path, place)
    assert f"then take its key out of line 1 of {file} and log in once" in said


NAME = st.text("ab.1*?![]:", min_size=1, max_size=6)


@given(names=st.lists(NAME, min_size=1, max_size=3), host=st.text("ab.1", min_size=1, max_size=5))
def test_names_match_as_ssh_keygen_finds_them(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], host: str
) -> None:
    file = tmp_path_factory.mktemp("known") / "known"
    file.write_text(f"{','.join(names)} {OTHER}\n")
    found = subprocess.run(["ssh-keygen", "-F", host, "-f", str(file)], capture_output=True, check=False)
    assert bool(known(file).about(host)) is (found.returncode == 0)


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    for line in lines(Path("/x"), text):
        line.about("host")
        line.key()
