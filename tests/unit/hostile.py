"""Nodes made of paramiko's own ssh server, on this machine: one that answers each question with what was captured, and
ones that say whatever they like."""

from __future__ import annotations

import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import paramiko

from pmc import backup
from pmc.command import Query
from pmc.health.questions import questions
from pmc.node_state import state_queries
from pmc.settings import Settings, parse
from tests.unit import sshd
from tests.unit.queries import SAMPLES
from tests.unit.samples import node

COMMAND = 2  # seconds, of [deadlines]
# A new title, an empty screen, the clipboard, C1's CSI, and what is written from right to left.
EVIL = b"\x1b]0;PWNED\x07\x1b[2J\x1b[1;1Hweb running\x1b]52;c;QQ==\x07\xc2\x9b2J\xe2\x80\xaeevil\n"

Say = Callable[[paramiko.Channel, str], int | None]  # the session, and the questions; its exit status, if it has one


class Server(sshd.Open):
    """Lets everybody in, and runs nothing."""

    def __init__(self, say: Say) -> None:
        self.say = say

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._run, args=(channel, command), daemon=True).start()
        return True

    def _run(self, channel: paramiko.Channel, command: bytes) -> None:
        with suppress(Exception):  # pmc hangs up whenever it wants to
            if mark := re.search(rb"echo (pmc-[0-9a-f]+);", command):  # what its login shell does
                channel.sendall(b"\n" + mark[1] + b"\n")
            asked = b""
            while block := channel.recv(65536):
                asked += block
            status = self.say(channel, asked.decode())
            if status is not None:
                channel.send_exit_status(status)
        with suppress(Exception):
            channel.close()


@contextmanager
def nodes(folder: Path, *says: Say) -> Iterator[Path]:
    """The pmc.conf of pm-1, pm-2, ..., one for each way to answer."""
    sshd.make_keys(folder)
    servers = [sshd.Sshd(folder, partial(Server, say)) for say in says]
    ports = [each.port for each in servers]
    text = f'{sshd.configured(folder, *ports)}audit_log = ""\n[deadlines]\nconnect = 20\ncommand = {COMMAND}\n'
    (folder / "pmc.conf").write_text(text + sshd.nodes(ports))
    try:
        yield folder / "pmc.conf"
    finally:
        for each in servers:
            each.close()


# -- the questions in what pmc sends, and answers to them --


def asked(script: str) -> tuple[str, list[str]]:
    """The mark, and each question as shell text."""
    [mark, *_] = re.findall(r"^echo (pmc-[0-9a-f]{16}) 0;", script, re.M)
    return mark, re.split(rf"^echo {mark} \d+; echo {mark} \d+ >&2\n", script, flags=re.M)[1:]


def framed(mark: str, answers: list[tuple[bytes, int]], errors: bytes = b"") -> tuple[bytes, bytes]:
    out = b"".join(
        f"{mark} {number}\n".encode() + text + f"\n{mark} {number} {status}\n".encode()
        for number, (text, status) in enumerate(answers)
    )
    err = b"".join(f"{mark} {number}\n".encode() + errors + f"\n{mark}\n".encode() for number in range(len(answers)))
    return out, err


def captured(settings: Settings, name: str) -> dict[str, bytes]:
    """Good answers by the command."""
    samples = [each for found in SAMPLES.values() for each in found]
    known = {str(query.command): good[0] for query, good in samples if good}
    queries: list[Query[Any]] = [
        *state_queries(settings, True).values(), *questions(node(name), settings).values(),
    ]  # fmt: skip
    by_name = {
        shlex.join(each.command.argv): known[str(each.command)] for each in queries if str(each.command) in known
    }
    by_name[shlex.join(backup.listing(settings.backup_dir, name).command.argv)] = SAMPLES["pmc.backup:listing"][0][1][0]
    return {line: text.encode() for line, text in by_name.items()}


def good(conf: str = "") -> Say:
    """What is not known has the answer of a tool that is missing."""
    told = captured(parse(f'{conf}[nodes.pm-1]\nreplication = "10.0.0.1"\n', "pmc.conf"), "pm-2")

    def say(channel: paramiko.Channel, script: str) -> int:
        mark, parts = asked(script)
        answers = [next(((text, 0) for line, text in told.items() if part.startswith(f"{line} ")), (b"", 127))
                   for part in parts]  # fmt: skip
        out, err = framed(mark, answers, b"not here")
        channel.sendall(out)
        channel.sendall_stderr(err)
        return 0

    return say


def bodies(body: bytes, status: int = 0) -> Say:
    """A right frame, and in it the same to each question, on both streams."""

    def say(channel: paramiko.Channel, script: str) -> int:
        mark, parts = asked(script)
        out, err = framed(mark, [(body, status)] * len(parts), body[:10_000])
        channel.sendall(out)
        channel.sendall_stderr(err)
        return 0

    return say


def plain(out: bytes, err: bytes, status: int | None) -> Say:
    """Whatever is asked."""

    def say(channel: paramiko.Channel, script: str) -> int | None:
        channel.sendall(out)
        channel.sendall_stderr(err)
        return status

    return say


def frames(wrong: Callable[[str, int], bytes], status: int = 0) -> Say:
    """Made of the mark and of how many questions there are."""

    def say(channel: paramiko.Channel, script: str) -> int:
        mark, parts = asked(script)
        channel.sendall(wrong(mark, len(parts)))
        return status

    return say


def endless(stream: str, block: bytes, pause: float = 0.0) -> Say:
    """Until pmc hangs up."""

    def say(channel: paramiko.Channel, script: str) -> None:
        send = channel.sendall if stream == "out" else channel.sendall_stderr
        while True:
            send(block)
            if pause:
                time.sleep(pause)

    return say


def hung(channel: paramiko.Channel, script: str) -> None:
    while not channel.closed:
        time.sleep(0.1)


def gone(channel: paramiko.Channel, script: str) -> None:
    channel.sendall(b"half an an")
    channel.get_transport().close()


WAYS: dict[str, Say] = {
    "random bytes": plain(os.urandom(5000), os.urandom(5000), 0),
    "random bytes, and a failure": plain(os.urandom(5000), os.urandom(5000), 3),
    "nothing": plain(b"", b"", 0),
    "nothing, and no status": plain(b"", b"", None),
    "escape codes": plain(EVIL, EVIL * 3, 9),
    "escape codes, and it is well": plain(EVIL, EVIL, 0),
    "a status of its own": plain(b"", EVIL, 4_000_000_000),
    "escape codes in each answer": bodies(EVIL),
    "escape codes as failures": bodies(EVIL, 1),
    "deep JSON": bodies(b"[" * 20_000),
    "deep XML": bodies(b"== manual\n" + b"<a>" * 20_000),
    "empty answers": bodies(b""),
    "no UTF-8": bodies(bytes(range(256)) * 20),
    "a huge number": bodies(b"9" * 5000),
    "half a frame": frames(lambda mark, count: f"{mark} 0\nhalf".encode()),
    "a frame too few": frames(lambda mark, count: framed(mark, [(b"x", 0)] * (count - 1))[0]),
    "frames in the wrong order": frames(lambda mark, count: b"".join(
        f"{mark} {number}\nx\n{mark} {number} 0\n".encode() for number in reversed(range(count)))),
    "a status that is none": frames(lambda mark, count: f"{mark} 0\nx\n{mark} 0 {'9' * 5000}\n".encode() * count),
    "a status of another script": frames(lambda mark, count: f"{mark} 0\nx\n{mark} 0 \u0663\n".encode() * count),
    "marks all over": frames(lambda mark, count: f"{mark} 0\n".encode() * 10_000),
    "another's mark": plain(b"pmc-0123456789abcdef 0\nx\npmc-0123456789abcdef 0 0\n", b"", 0),
    "gone in the middle": gone,
}  # fmt: skip
