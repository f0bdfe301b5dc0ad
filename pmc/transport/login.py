"""A node's ssh connection, in two parts: reaching it, where a dead node makes one wait and there is nothing to do, and
logging in, which takes the processor."""

from __future__ import annotations

import errno
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paramiko

from pmc.errors import NodeDown, PmcError
from pmc.lock_files import SILENCE
from pmc.paste import Way
from pmc.plain import one_line
from pmc.settings import NodeSettings, Settings
from pmc.transport import known_hosts
from pmc.transport.connection import REVOKED, Connection, told


def reach(node: NodeSettings, settings: Settings, config: Any) -> Connection:
    """A connection that is not logged in: somebody is there and has begun to speak. Until then one only waits. Behind a
    jump host or a ProxyCommand it is left to the login."""
    seconds = settings.deadlines.connect
    with _told(node, settings):
        connection = Connection(node.host or node.name, config=config, connect_timeout=max(1, round(seconds)))
        deadlines = dict.fromkeys(("banner_timeout", "auth_timeout", "channel_timeout"), seconds)
        for each in connection.way():
            each.connect_timeout = connection.connect_timeout
            each.connect_kwargs = {**each.connect_kwargs, **deadlines}
        if not connection.gateway:
            connection.connect_kwargs["sock"] = _spoken_to(connection.host, connection.port, seconds)
        return connection


def by_hand(node: NodeSettings, settings: Settings, config: Any) -> Way:
    """The same for a person's ssh, which reads the same configuration; only what is not in that is said."""
    its = Connection(node.host or node.name, config=config)
    file = ("-F", str(Path(settings.ssh_config).expanduser())) if settings.ssh_config else ()
    port = ("-p", str(its.port)) if its.port != int(its.ssh_config.get("port", 22)) else ()
    return Way(("ssh", *file, *port, f"{its.user}@{its.original_host}"), sudo=its.user != "root")


def _spoken_to(host: str, port: int, seconds: float) -> socket.socket:
    """It is for sshd to speak first."""
    end = _connected(host, port, seconds)
    try:
        if not end.recv(1, socket.MSG_PEEK):
            raise ConnectionResetError
    except OSError as error:
        end.close()
        if isinstance(error, TimeoutError):
            raise paramiko.SSHException(_SILENT) from None
        raise
    return end


def _connected(host: str, port: int, seconds: float) -> socket.socket:
    """As paramiko does it: another address is tried when one refuses, not when it is silent."""
    refused = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        end = socket.socket(family, kind, protocol)
        end.settimeout(seconds)
        try:
            end.connect(address)
            return end
        except OSError as error:
            end.close()
            if error.errno not in (errno.ECONNREFUSED, errno.EHOSTUNREACH):
                raise
            refused = error
    raise refused


def unused(connection: Connection) -> None:
    """It was reached and is not wanted."""
    if end := connection.connect_kwargs.get("sock"):
        end.close()


def log_in(connection: Connection, node: NodeSettings, settings: Settings) -> None:
    with _told(node, settings, connection):
        try:
            connection.open()
        except BaseException:
            connection.client.close()  # or paramiko goes on to read what a node without end says
            raise
        transport = connection.client.get_transport()
        if transport is None:
            raise paramiko.SSHException("the connection closed at once")
        # A node that loses power sends no goodbye: without these a silent connection would look alive for ever, or for
        # the quarter of an hour that the kernel goes on trying.
        transport.set_keepalive(5)
        if isinstance(transport.sock, socket.socket):  # not behind a jump host
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE * 1000)


_SILENT = "Error reading SSH protocol banner"  # as paramiko says it
_CLOSED = (
    "it took the connection and closed it at once. sshd does so when too many log in (MaxStartups) or when its "
    "configuration says so; its log on the node tells why"
)


@contextmanager
def _told(node: NodeSettings, settings: Settings, made: Connection | None = None) -> Iterator[None]:
    """Raises NodeDown with what to do next; nothing that a node or a network can cause escapes as another exception."""
    seconds = settings.deadlines.connect
    host, by_hand = node.host or node.name, f"try: {_by_hand(node, settings)}"
    try:
        yield
    except paramiko.BadHostKeyException as error:
        raise NodeDown(
            f"{node.name}: its host key is not the one known for {error.hostname}. If the node was installed anew, "
            f"check the key at its console, then {_forget(error, made)} and log in once",
            answered=True,
        ) from None
    except paramiko.AuthenticationException as error:
        said = one_line(str(error))
        raise NodeDown(
            f"{node.name}: ssh login refused ({said}). Does the node know your key, and is the user right? {by_hand}",
            answered=True,
        ) from None
    except paramiko.SSHException as error:
        if str(error) == REVOKED:
            where = " or ".join(f"line {line.number} of {line.path}" for line in _marked(made, known_hosts.REVOKED))
            raise NodeDown(
                f"{node.name}: its host key is revoked ({where}). Whoever answers there may not be the node; give the "
                f"node another key at its console",
                answered=True,
            ) from None
        if "not found in known_hosts" in str(error) and _marked(made, known_hosts.AUTHORITY):
            raise NodeDown(
                f"{node.name}: its host key is known by a certificate only ({known_hosts.AUTHORITY}), which pmc does "
                f"not read. Add the key itself: ssh-keyscan {host}, compared at its console, to known_hosts",
                answered=True,
            ) from None
        if "not found in known_hosts" in str(error):
            raise NodeDown(
                f"{node.name}: its host key is not known. Log in once by hand and compare it: "
                f"{_by_hand(node, settings)}",
                answered=True,
            ) from None
        if str(error).startswith(_SILENT) and isinstance(error.__context__, EOFError | ConnectionError):
            error = paramiko.SSHException(_CLOSED)
        elif str(error) in (_SILENT, "No existing session"):
            error = paramiko.SSHException(
                f"it took the connection and then said nothing for {seconds:g} s; does it hang?"
            )
        raise NodeDown(f"{node.name}: no ssh: {_then(one_line(str(error)), by_hand)}") from None
    except (ConnectionResetError, BrokenPipeError, EOFError):
        raise NodeDown(f"{node.name}: no ssh: {_then(_CLOSED, by_hand)}") from None
    except (OSError, ValueError, KeyError) as error:
        raise NodeDown(f"{node.name}: no ssh: {_then(_cause(error, host, seconds), by_hand)}") from None
    except PmcError:
        raise
    except Exception as error:
        why = one_line(str(told(error)))
        raise NodeDown(f"{node.name}: no ssh: {_then(why, by_hand)}", answered=True) from None


def _by_hand(node: NodeSettings, settings: Settings) -> str:
    """The same login, to paste: with the ssh configuration that pmc has."""
    conf = f"-F {shlex.quote(str(Path(settings.ssh_config).expanduser()))} " if settings.ssh_config else ""
    host, _, port = (node.host or node.name).rpartition(":")
    if host and port.isdigit() and ":" not in host:
        return f"ssh {conf}-p {port} {shlex.quote(host)} true"
    return f"ssh {conf}{shlex.quote(node.host or node.name)} true"


def _then(why: str, by_hand: str) -> str:
    return f"{why}{' ' if why.endswith('?') else '; '}{by_hand}"


def _cause(error: OSError | ValueError | KeyError, host: str, seconds: float) -> str:
    """Only a silence is a deadline's; the rest is known at once, and most of it is no node that is down."""
    said = one_line(getattr(error, "strerror", None) or str(error))
    if isinstance(error, socket.timeout):
        return f"no answer within {seconds:g} s; is it up?"
    if isinstance(error, ConnectionRefusedError):
        return f"the connection is refused ({said}); a machine is up at that address: does sshd run there?"
    if isinstance(error, socket.gaierror):
        return f"the name {host} has no address ({said}); name it in DNS or in the ssh configuration"
    if isinstance(error, PermissionError) and error.filename:
        return f"this machine does not let you read {one_line(str(error.filename))} ({said})"
    return f"{said}; is it up?"


def _forget(error: paramiko.BadHostKeyException, made: Connection | None) -> str:
    """What takes the entry out as it stands: of a jump host when it is that one's."""
    for each in made.way() if made else []:
        if error.hostname in (each.host, f"[{each.host}]:{each.port}"):
            for line, name in each.lines:
                if not line.marker and line.blob == error.expected_key.asbytes():
                    return line.remedy(name)
    return f"ssh-keygen -R '{error.hostname}'"


def _marked(made: Connection | None, marker: str) -> list[known_hosts.Line]:
    return [line for each in (made.way() if made else []) for line, _ in each.lines if line.marker == marker]
