"""Fabric connections as a tool for root must make them: known hosts only, and with deadlines."""

from __future__ import annotations

import logging
import resource
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import fabric
import paramiko

from pmc.errors import PmcError, Refused, SettingsError
from pmc.health.node_machine import GUARD
from pmc.lock_files import SILENCE
from pmc.plain import one_line, shown
from pmc.settings import Settings
from pmc.transport import known_hosts

# What goes wrong is said once, by pmc, in a line; without a handler Python prints paramiko's tracebacks on stderr.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class Connection(fabric.Connection):  # type: ignore[misc]
    """Fabric accepts any unknown host key (AutoAddPolicy) and never reads known_hosts; this one refuses unknown and
    changed keys, honours UserKnownHostsFile, GlobalKnownHostsFile and HostKeyAlias of the ssh configuration, and
    does the same for jump hosts, which Fabric would make as plain connections."""

    connect_kwargs: dict[str, Any]

    def __init__(self, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        if self.ssh_config.get("identitiesonly", "no").lower() == "yes":
            self._only_its_keys()
        name = self.host if self.port == 22 else f"[{self.host}]:{self.port}"
        names = [each for each in (self.ssh_config.get("hostkeyalias"), name) if each]
        self.lines = [
            (line, each)
            for path in self._known_hosts_files()
            for each in names
            for line in known_hosts.known(path).about(each)
        ]  # of known_hosts, about this host
        revoked = {line.blob for line, _ in self.lines if line.marker == known_hosts.REVOKED}
        self.client.set_missing_host_key_policy(Refuse(revoked))
        keys = self.client._system_host_keys
        for line, _ in reversed(self.lines):  # of one kind the last counts here, the first in ssh
            if not line.marker and line.blob not in revoked and (key := line.key()):
                keys.add(name, key.get_name(), key)

    def _only_its_keys(self) -> None:
        """IdentitiesOnly: the agent's other keys are not offered, nor those that lie in ~/.ssh. One that the agent has,
        since its file has a passphrase, is known by its public part beside the file."""
        files = [_expanded(path) for path in self.ssh_config.get("identityfile", [])]
        self.connect_kwargs = {**self.connect_kwargs, "allow_agent": False, "look_for_keys": False}
        public = {key for path in files if (key := _public(path))}
        if public and (held := next((each for each in _agents_keys() if each.get_base64() in public), None)):
            self.connect_kwargs["pkey"] = held

    def _known_hosts_files(self) -> list[Path]:
        user = self.ssh_config.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
        system = self.ssh_config.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2")
        return [_expanded(path) for path in f"{user} {system}".split()]

    def way(self) -> list[Connection]:
        """Itself and the jump hosts before it."""
        return [self, *(self.gateway.way() if isinstance(self.gateway, Connection) else [])]

    def get_gateway(self) -> Any:
        if "proxyjump" not in self.ssh_config:
            return super().get_gateway()
        gateway = None
        for hop in self.ssh_config["proxyjump"].split(","):
            if hop == "none" or self.derive_shorthand(hop)["host"] == self.original_host:
                return None
            gateway = Connection(hop, config=self.config.clone(), gateway=gateway or False)
        return gateway


def _expanded(path: str) -> Path:
    """ssh ends here, too."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = shown(path.partition("/")[0])
        raise SettingsError(
            f"the ssh configuration names {shown(path)}, and this machine has no user {user[1:]}; correct that line"
        ) from None


def _public(path: Path) -> str:
    """In base64; empty when there is no such file."""
    try:
        return path.with_name(f"{path.name}.pub").read_text().split()[1]
    except (OSError, ValueError, IndexError):
        return ""


def _agents_keys() -> tuple[paramiko.PKey, ...]:
    try:
        return tuple(paramiko.Agent().get_keys())
    except (OSError, EOFError, paramiko.SSHException):
        return ()


class Refuse(paramiko.MissingHostKeyPolicy):
    """A key that no line has; those `revoked` are told as such."""

    def __init__(self, revoked: set[bytes]) -> None:
        self.revoked = revoked

    def missing_host_key(self, client: Any, hostname: str, key: paramiko.PKey) -> None:
        if key.asbytes() in self.revoked:
            raise paramiko.SSHException(REVOKED)
        paramiko.RejectPolicy().missing_host_key(client, hostname, key)


REVOKED = "its host key is revoked"


def told(error: Exception) -> Exception:
    """paramiko raises again, in the thread that waits, whatever its own thread stumbled over in what a node sent: a
    UnicodeDecodeError, a KeyError, an AttributeError. That is an SSHException here; what has its own meaning stays."""
    if isinstance(error, paramiko.SSHException | OSError | EOFError | PmcError):
        return error
    why = one_line(f"{type(error).__name__}: {error}")[:200]
    return paramiko.SSHException(f"what it says is not understood as ssh ({why})")


class NotRun(paramiko.SSHException):
    """The login shell ended, or went astray, before it came to the command."""


class Late(paramiko.SSHException):
    """It did not come to the command in time, and may yet."""


ASIDE = f"root's ~/.bashrc there should begin with: {GUARD}"
_MOST = 1 << 16  # bytes that a login script may print


def begin(channel: paramiko.Channel, line: str, seconds: float) -> str:
    """Runs `line` in the login shell. Returns what that printed before; from then on all that comes is the command's.
    paramiko waits for the answer to a request without a deadline, and a login script may wait for something: a node
    that hangs just then would hold pmc for ever. Raises SSHException, NotRun."""
    mark = f"pmc-{secrets.token_hex(8)}"
    over = threading.Event()

    def close() -> None:
        over.set()
        _close(channel)

    late = threading.Timer(seconds, close)
    late.daemon = True
    late.start()
    try:
        # Words that every shell has, sh, csh and fish alike.
        try:
            channel.exec_command(f"echo; echo {mark}; exec {line}")
        except Exception as error:
            if over.is_set() or not _alive(channel) or not isinstance(error, paramiko.SSHException):
                raise told(error) from None
            # Refused, or over before the answer to the request was seen: what it said tells.
        return _before(channel, f"\n{mark}\n".encode())
    except NotRun as error:
        if over.is_set():
            raise Late(
                f"nothing came for {seconds:g} s, not even from its login shell; does the node hang, or does a login "
                f"script wait for something, or start another shell? {ASIDE}"
            ) from None
        raise NotRun(f"its login shell {error}; {ASIDE}") from None
    finally:
        late.cancel()


def _before(channel: paramiko.Channel, mark: bytes) -> str:
    """What comes before the mark; nothing behind it is taken."""
    said = bytearray()
    while not said.endswith(mark):
        if not (block := channel.recv(1)):
            if not _alive(channel):
                raise paramiko.SSHException("the connection closed")
            told = bytes(said).decode(errors="replace") or channel.recv_stderr(2000).decode(errors="replace")
            raise NotRun(f"did not run the command (it said {shown(told.strip())!r})")
        said += block
        if len(said) > _MOST:
            raise NotRun(f"prints without end before the command ({shown(said[:100].decode(errors='replace'))!r})")
    return bytes(said[: -len(mark)]).decode(errors="replace")


def _alive(channel: paramiko.Channel) -> bool:
    transport = channel.get_transport()
    return transport is not None and transport.is_active()


def _close(channel: paramiko.Channel) -> None:
    with suppress(EOFError, OSError, paramiko.SSHException):  # the whole connection is gone already
        channel.close()


class Pulse:
    """Asks sshd for a sign of life, as ssh's ServerAliveInterval does: a node whose programs all hang goes on to take
    what TCP brings, and so does a jump host or a forwarded port before it."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self.transport, self.last = transport, time.monotonic()
        self._asking: threading.Thread | None = None
        self._asked = 0.0

    def lost(self) -> bool:
        """No sign for `SILENCE` seconds; then the connection is closed. To be called again and again. When that was not
        done for long (Ctrl-Z, a terminal that stands still) it is the manager that was silent."""
        now = time.monotonic()
        if self._asking is not None and not self._asking.is_alive():
            self._asking = None
        if self._asking is None and now - self.last > SILENCE / 4:
            self._asking, self._asked = threading.Thread(target=self._ask, daemon=True), now
            self._asking.start()
        if self._asking is None or now - self._asked <= SILENCE * 3 / 4:
            return False
        self.transport.close()
        return True

    def _ask(self) -> None:
        # A request that sshd does not know: it says so. None: the connection ended.
        with suppress(EOFError, OSError, paramiko.SSHException):
            self.transport.global_request("keepalive@openssh.com", wait=True)
            if self.transport.is_active():
                self.last = time.monotonic()


def allow_connections(count: int) -> None:
    """A connection is an open file, with a ProxyCommand three more; the usual 1,024 of a process (getrlimit(2)) would
    be used up by a few hundred nodes. Raises Refused when it must not have more."""
    needed = 64 + 4 * count
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Refused(f"{count} nodes need {needed} open files, and this process may have {hard}; raise it: ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def configuration(settings: Settings) -> Any:
    """Fabric's configuration with the ssh configuration that pmc.conf names, else the user's own. Given as read: else
    each clone() reads the files once more and adds them to what it has, so that N nodes look through N copies."""
    try:
        path = str(Path(settings.ssh_config).expanduser()) if settings.ssh_config else None
        return fabric.Config(ssh_config=fabric.Config(runtime_ssh_path=path).base_ssh_config)
    except (OSError, RuntimeError, ValueError, paramiko.SSHException) as error:
        name = settings.ssh_config or "~/.ssh/config"
        raise SettingsError(f"{name}: the ssh configuration cannot be read: {error}") from None
