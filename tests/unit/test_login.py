"""What a node does that is reached and lets nobody in, told as what it is; and which keys it is offered."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import paramiko
import pytest

from pmc.cluster import Cluster
from pmc.command import Query, command
from pmc.errors import NodeDown, SettingsError
from pmc.settings import Settings, parse
from pmc.transport.connection import Connection, configuration

Server = Callable[[socket.socket], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Server, int], Settings]]:
    """A node whose sshd does this with each connection."""
    ends = list[socket.socket]()

    def begin(what: Server, seconds: int) -> Settings:
        end = socket.create_server(("127.0.0.1", 0))
        ends.append(end)

        def work() -> None:
            with suppress(OSError):
                while True:
                    near, _ = end.accept()
                    with suppress(OSError):  # of this one; the next may come
                        what(near)

        threading.Thread(target=work, daemon=True).start()
        host = f"127.0.0.1:{end.getsockname()[1]}"
        conf = f'audit_log = ""\n[deadlines]\nconnect = {seconds}\n[nodes.pm-1]\nhost = "{host}"\n'
        conf += 'replication = "10.0.0.1"\n'
        return parse(conf, "pmc.conf")

    yield begin
    for end in ends:
        end.shutdown(socket.SHUT_RDWR)  # close alone wakes nobody up who waits in accept
        end.close()


def reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def cut_short(end: socket.socket) -> None:
    end.sendall(b"SSH-2.")
    end.close()


def reset_in_the_middle(end: socket.socket) -> None:
    end.sendall(b"SSH-2.")
    reset(end)


held = list[socket.socket]()


@pytest.mark.parametrize(
    ("does", "seconds", "says"),
    [
        (socket.socket.close, 60, "it took the connection and closed it at once"),
        (reset, 60, "it took the connection and closed it at once"),
        (cut_short, 60, "it took the connection and closed it at once"),
        (reset_in_the_middle, 60, "it took the connection and closed it at once"),
        (held.append, 2, "it took the connection and then said nothing for 2 s; does it hang?"),
    ],
)
def test_one_that_closes_the_connection_is_not_told_as_silent(
    serve: Callable[[Server, int], Settings], does: Server, seconds: int, says: str
) -> None:
    with Cluster(serve(does, seconds)) as cluster, pytest.raises(NodeDown) as caught:
        cluster.nodes["pm-1"].ask(Query(command("true"), str))
    assert str(caught.value).startswith(f"pm-1: no ssh: {says}")
    assert not caught.value.answered
    for end in held:
        end.close()
    held.clear()


class AgentsKey(paramiko.PKey):
    def __init__(self, base64: str) -> None:
        self.base64 = base64

    def get_base64(self) -> str:
        return self.base64


def test_a_file_of_a_user_that_is_not_there_is_a_line(tmp_path: Path) -> None:
    """As ssh says it, which ends there, too. (The ~ of an IdentityFile paramiko replaces by itself.)"""
    (tmp_path / "config").write_text("UserKnownHostsFile ~no-such-user/known\n")
    conf = f'audit_log = ""\nssh_config = "{tmp_path}/config"\n[nodes.pm-1]\nreplication = "10.0.0.1"\n'
    words = r"names ~no-such-user/known, and this machine has no user no-such-user; correct that line"
    with Cluster(parse(conf, "pmc.conf")) as cluster, pytest.raises(SettingsError, match=words):
        cluster.state()


@pytest.mark.parametrize(
    ("config", "offered"),
    [
        ("", {}),
        ("IdentitiesOnly no", {}),
        ("IdentitiesOnly yes", {"allow_agent": False, "look_for_keys": False}),
        ("IdentitiesOnly yes\nIdentityFile {folder}/none", {"allow_agent": False, "look_for_keys": False}),
        (
            "identitiesonly Yes\nIdentityFile {folder}/mine",
            {"allow_agent": False, "look_for_keys": False, "pkey": "AAAA2"},
        ),
    ],
)
def test_identities_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, offered: dict[str, Any]) -> None:
    """Of the keys of the agent none but the one that is named is offered to a node, also to a jump host."""
    (tmp_path / "mine.pub").write_text("ssh-ed25519 AAAA2 me\n")
    (tmp_path / "config").write_text(
        f"Host 10.0.0.*\n{config.format(folder=tmp_path)}\nHost 10.0.0.1\nProxyJump 10.0.0.9\n"
    )
    monkeypatch.setattr(paramiko, "Agent", lambda: paramiko.Agent)
    monkeypatch.setattr(paramiko.Agent, "get_keys", lambda: (AgentsKey("AAAA1"), AgentsKey("AAAA2")), raising=False)
    conf = f'audit_log = ""\nssh_config = "{tmp_path}/config"\n[nodes.pm-1]\nreplication = "10.0.0.1"\n'
    made = Connection("10.0.0.1", config=configuration(parse(conf, "pmc.conf")))
    for each in made.way():
        kwargs, files = {**each.connect_kwargs}, [f"{tmp_path}/{name}" for name in ("none", "mine") if name in config]
        assert kwargs.pop("key_filename", []) == files
        key = kwargs.pop("pkey", None)
        assert {**kwargs, **({"pkey": key.get_base64()} if key else {})} == offered
    assert len(made.way()) == 2
