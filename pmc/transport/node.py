"""One machine, over ssh: questions in one round trip, commands with deadlines, files with progress."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any

import paramiko

from pmc import lock_files, plain
from pmc.command import ENVIRONMENT, Answer, Command, Query, begun, frame, masked, unframe
from pmc.errors import CommandFailed, Fenced, InDoubt, Interrupted, PmcError
from pmc.paste import Way
from pmc.settings import NodeSettings, Settings
from pmc.transport.connection import Connection, Late, NotRun, Pulse, begin
from pmc.transport.sessions import Sessions

# How many nodes are asked at the same time: on a busy machine more threads only fight for the interpreter; measured: 32
# are as good as 100.
WORKERS = 32

# Bytes of an answer that is kept in memory; the largest real one, all manifests of a node, is some MiB.
MOST = 64 << 20

GRACE = 30.0  # seconds that a node has beyond a command's deadline, which timeout(1) sees to there

# How a command ends that timeout(1) ended there: by SIGINT, or by SIGKILL, with which it then ends itself (-1 here).
LATE = (124, 137, -1)

Show = Callable[[str], None]
Sink = Callable[[bytes], object]

# Says its process id, so that it can be ended from a second channel: sshd forwards no signals.
WRAPPER = f'echo "pid $$" >&2; {ENVIRONMENT}; exec timeout -s INT -k 20 "$@"'


class Node:
    def __init__(self, spec: NodeSettings, settings: Settings, config: Any) -> None:
        self.name, self.spec, self.settings = spec.name, spec, settings
        self._sessions = Sessions(spec, settings, config)
        self.prints = ""  # what a login script there printed, fit to be shown
        self.prints_to = "root"  # the user who had logged in

    def by_hand(self) -> Way:
        """How a person's shell gets there, as pmc does. Nothing is connected."""
        return self._sessions.by_hand()

    def reach(self) -> bool:
        """Whether somebody is there. Until one knows, one only waits."""
        return self._sessions.reach()

    @property
    def connection(self) -> Connection:
        """Fabric's Connection, opened when first needed. Raises NodeDown."""
        return self._sessions.connection

    def close(self) -> None:
        """The next question connects anew, also to one that did not answer a moment ago."""
        self._sessions.close()

    def ask(self, *queries: Query[object], seconds: float | None = None) -> list[Any]:
        """The parsed answers, in one round trip. Raises CommandFailed for the first that fails."""
        answers = self.ask_each(*queries, seconds=seconds)
        for answer in answers:
            if isinstance(answer, CommandFailed):
                raise answer
        return answers

    def ask_each(self, *queries: Query[object], seconds: float | None = None) -> list[Any]:
        """As `ask`, but a failed question's answer is its CommandFailed, so one missing tool does not hide all."""
        limit = seconds or self.settings.deadlines.command
        mark = f"pmc-{secrets.token_hex(8)}"
        script = frame([query.command for query in queries], mark)
        # One deadline for all of them, on the node: a timeout(1) each would double the processes of a look.
        whole = command_line(("timeout", "-k", "5", f"{limit:g}", "sh", "-s"), self._sudo())
        got = self._exchange(whole, "the questions", limit + 10, data=script.encode())
        if got.exit == 124:
            hung = queries[begun(got.stdout, mark, len(queries))].command
            raise CommandFailed(self.name, str(hung), 124, f"no answer within {limit:g} s; does it hang?")
        if got.exit != 0 and mark not in got.stdout:
            raise CommandFailed(self.name, whole, got.exit, masked(got.stderr))
        try:
            answers = unframe(got.stdout, masked(got.stderr), mark, len(queries))
        except ValueError as error:
            raise CommandFailed(self.name, "the questions of pmc", got.exit, str(error)) from None
        return [self._parsed(query, answer) for query, answer in zip(queries, answers, strict=True)]

    def _parsed(self, query: Query[object], answer: Answer) -> Any:
        """Whatever a node says is understood, or is a CommandFailed of its own."""
        if answer.exit not in query.fine:
            return CommandFailed(self.name, str(query.command), answer.exit, masked(answer.stderr, query.command))
        try:
            return query.parse(answer.stdout)
        except Exception as error:  # a parser may stumble over it in any way
            shown = masked(answer.stdout, query.command)[:200]
            why = " ".join(masked(f"{type(error).__name__}: {error}", query.command)[:200].split())
            said = f"its answer is not understood ({why}): {shown!r}"
            return CommandFailed(self.name, str(query.command), answer.exit, said)

    def run(
        self,
        command: Command,
        *,
        seconds: float | None = None,
        stopped: Callable[[], bool] = lambda: False,
        on_stderr: Show | None = None,
        source: IO[bytes] | None = None,
        on_sent: Callable[[int], None] | None = None,
        sink: Sink | None = None,
        locks: Sequence[lock_files.Proof] = (),
    ) -> str:
        """Its stdout. Raises CommandFailed, InDoubt (connection or deadline lost), Interrupted (a `long` command was
        ended because `stopped()` turned true). The deadline holds on the node too: timeout(1) ends the command there,
        whatever becomes of the manager. `source` is streamed to its stdin in place of `command.stdin`,
        its stdout to `sink`. It runs only when the node knows these `locks` for its manager's, else raises Fenced; they
        are busy until it ends."""
        limit = seconds or (self.settings.deadlines.long if command.long else self.settings.deadlines.command)
        line = command_line(
            ("sh", "-c", WRAPPER, "pmc", f"{limit:g}", *lock_files.fence(locks), *command.argv), self._sudo()
        )
        data = (command.stdin or "").encode()
        since = time.monotonic()
        got = self._exchange(
            line, str(command), limit + GRACE, data=data, source=source, on_sent=on_sent, on_stderr=on_stderr,
            sink=sink, stopped=stopped if command.long else lambda: False,
        )  # fmt: skip
        lost = lock_files.fenced(got.stderr) if got.exit == lock_files.FENCED else None
        if lost and lost.name in dict(locks):
            raise Fenced(self.name, str(command), lock_files.told(lost, self.name), lost.token)
        if got.exit != 0:
            said = masked(got.stderr, command)
            if got.exit in LATE and time.monotonic() - since >= limit:
                said += f"\nit did not end within {limit:g} s, and was ended"
            raise CommandFailed(self.name, str(command), got.exit, said)
        return got.stdout

    def _sudo(self) -> bool:
        return bool(self.connection.user != "root")

    def _exchange(
        self,
        line: str,
        shown: str,
        limit: float,
        *,
        data: bytes = b"",
        source: IO[bytes] | None = None,
        on_sent: Callable[[int], None] | None = None,
        on_stderr: Show | None = None,
        sink: Sink | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """Runs `line` in the login shell on a channel of its own. Not Fabric's `run`: that feeds stdin byte by byte
        with a pause each, and cannot tell a lost connection from a failed command."""
        channel = self.channel()
        out: list[bytes] = []
        err: list[bytes] = []
        pid = ""
        ending, kept = False, 0
        deadline, pulse = time.monotonic() + limit, Pulse(channel.get_transport())
        try:
            if printed := begin(channel, line, self.settings.deadlines.command).strip():
                self.prints, self.prints_to = plain.shown(printed), self.connection.user
            feeder = threading.Thread(target=_feed, args=(channel, data, source, on_sent), daemon=True)
            feeder.start()
            while True:
                # The exit status may overtake the last output: only the end of the stream says that all is there.
                ended = channel.exit_status_ready() and (channel.eof_received or channel.closed)
                before = len(out)
                quiet = _drain(channel, out, err, on_stderr, sink)
                kept += sum(map(len, out[before:]))
                if kept > MOST:
                    raise CommandFailed(self.name, shown, 255, f"it says too much: more than {MOST >> 20} MiB")
                if ended and quiet:
                    break
                if time.monotonic() > deadline:
                    raise InDoubt(self.name, shown, f"no end after {limit:g} s")
                if pulse.lost():
                    raise InDoubt(self.name, shown, f"no sign of life for {lock_files.SILENCE} s; does the node hang?")
                transport = channel.get_transport()
                if transport is None or not transport.is_active():
                    raise InDoubt(self.name, shown, "the connection was lost")
                if not ending and stopped():
                    pid = pid or _pid(err)
                    if pid:
                        ending = True
                        self._end(pid, shown)
                if quiet:
                    time.sleep(0.01)
            exit = channel.recv_exit_status()
            transport = channel.get_transport()
            if exit == -1 and (transport is None or not transport.is_active()):
                raise InDoubt(self.name, shown, "the connection was lost")
        except NotRun as error:
            raise CommandFailed(self.name, shown, 255, str(error)) from None
        except Late as error:
            raise InDoubt(self.name, shown, str(error)) from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise InDoubt(self.name, shown, f"the connection was lost ({error})") from None
        finally:
            channel.close()
        if ending and exit != 0:
            raise Interrupted()
        stderr = b"".join(err).decode(errors="replace")
        return Answer(exit, b"".join(out).decode(errors="replace"), _without_pid(stderr))

    def channel(self) -> paramiko.Channel:
        """A session of its own on the node, see Sessions.open."""
        return self._sessions.open()

    def _end(self, pid: str, shown: str) -> None:
        """It runs on when this fails, whatever the reason."""
        try:
            channel = self.channel()
            begin(channel, command_line(("kill", "-INT", pid), self._sudo()), self.settings.deadlines.command)
            channel.close()
        except (PmcError, paramiko.SSHException, OSError, EOFError) as error:
            raise InDoubt(self.name, shown, f"it cannot be ended: {error}") from None


def command_line(argv: Sequence[str], sudo: bool) -> str:
    """For a login shell. `bash -c` reads ~/.bashrc whenever sshd has begun it and SHLVL is below 2 (INVOCATION in
    bash(1)), and each exec takes one from that: what .bashrc prints would come before every answer of a bash below."""
    return shlex.join((*(("sudo", "-n", "--") if sudo else ()), "env", "SHLVL=9", *argv))


def _feed(
    channel: paramiko.Channel, data: bytes, source: IO[bytes] | None, on_sent: Callable[[int], None] | None
) -> None:
    """Writes stdin. When the command ends without reading it all, its exit status tells; so no error here."""
    try:
        if data:
            channel.sendall(data)
        while source is not None and (block := source.read(256 * 1024)):
            channel.sendall(block)
            if on_sent:
                on_sent(len(block))
        channel.shutdown_write()
    except (TimeoutError, OSError, EOFError, ValueError):  # ValueError: the file was closed, as all had ended
        # Ours or its: either way its stdin ends here, so that it does not wait for the rest until its deadline.
        with suppress(OSError, EOFError):
            channel.shutdown_write()


def _drain(
    channel: paramiko.Channel, out: list[bytes], err: list[bytes], on_stderr: Show | None, sink: Sink | None
) -> bool:
    """Takes what has come; true when nothing had. Not without end: with a sink that is slower than the network there
    would always be more, and Ctrl-C and the deadline must have their turn."""
    quiet = True
    for _ in range(64):
        if not channel.recv_ready():
            break
        block = channel.recv(65536)
        sink(block) if sink else out.append(block)
        quiet = False
    for _ in range(64):
        if not channel.recv_stderr_ready():
            break
        block = channel.recv_stderr(65536)
        # dd reports once a second for hours: keep the end, which says how it ended.
        if sum(map(len, err)) > 1 << 20:
            err[:] = [*err[:1], *err[-50:]]
        err.append(block)
        quiet = False
        if on_stderr:
            on_stderr(block.decode(errors="replace"))
    return quiet


def _pid(err: list[bytes]) -> str:
    """Not the first line: a login shell may have complained before."""
    found = re.search(rb"^pid (\d+)$", b"".join(err), re.M)
    return os.fsdecode(found[1]) if found else ""


def _without_pid(stderr: str) -> str:
    return re.sub(r"^pid \d+\n", "", stderr, count=1, flags=re.M)
