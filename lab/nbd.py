# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves a node's disks that forget (disk.py) to its QEMU, by NBD over a unix socket each.

The protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md; of it what QEMU uses (fixed newstyle
negotiation with NBD_OPT_GO, simple replies).

A client that says NBD_CMD_DISC has stopped in order: then all is written. One that is gone without it has lost power.
So a server lives as long as its QEMU. It says on stdout what a power loss did, and with which seed it chose; that is
what the file SEED says then. While a file SEED.lies is there, a disk says that it has flushed and has not.

``python -m lab.nbd SEED SOCKET FILE SIZE [SOCKET FILE SIZE ...]``
"""

from __future__ import annotations

import os
import random
import socket
import struct
import sys
import threading
from pathlib import Path

from lab.disk import LVM_METADATA, Disk

LARGEST = 32 << 20  # bytes of one request
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")

FIXED_NEWSTYLE, NO_ZEROES = 1, 2
HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_WRITE_ZEROES = 1, 4, 8, 64
EXPORT_NAME, ABORT, INFO, GO = 1, 2, 6, 7  # NBD_OPT_
ACK, REP_INFO, UNSUPPORTED = 1, 3, 0x80000001  # NBD_REP_
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
READ, WRITE, DISC, FLUSH, WRITE_ZEROES = 0, 1, 2, 3, 6  # NBD_CMD_
FUA = 1  # NBD_CMD_FLAG_
EINVAL, ENOSPC = 22, 28


class Gone(Exception):
    """The client is not there any more, or does not speak the protocol."""


class Client:
    """The other end of one connection."""

    def __init__(self, connection: socket.socket, disk: Disk, lies: Path) -> None:
        self.connection, self.disk, self.lies = connection, disk, lies
        self.file = connection.makefile("rb", buffering=1 << 20)

    def serve(self) -> bool:
        """True when it stopped in order."""
        try:
            return not self._negotiated() or self._served()
        except (OSError, Gone) as error:
            print(f"client is gone: {error}", flush=True)
            return False
        finally:
            self.file.close()
            self.connection.close()

    def _take(self, length: int) -> bytes:
        data: bytes = self.file.read(length)
        if len(data) < length:
            raise Gone("end of file")
        return data

    def _negotiated(self) -> bool:
        """False when it only asked."""
        self.connection.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES))
        self._take(4)
        export = struct.pack(">QH", self.disk.size, HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_WRITE_ZEROES)
        while True:
            magic, option, length = _OPTION.unpack(self._take(_OPTION.size))
            if magic != b"IHAVEOPT" or length > 65536:
                raise Gone("no option of NBD")
            self._take(length)  # the export's name: a socket has one
            if option == EXPORT_NAME:
                self.connection.sendall(export)
                return True
            if option in (INFO, GO):
                self._answer(option, REP_INFO, struct.pack(">H", INFO_EXPORT) + export)
                self._answer(option, REP_INFO, struct.pack(">HIII", INFO_BLOCK_SIZE, 512, 4096, LARGEST))
            self._answer(option, ACK if option in (INFO, GO, ABORT) else UNSUPPORTED)
            if option == ABORT:
                return False
            if option == GO:
                return True

    def _answer(self, option: int, kind: int, data: bytes = b"") -> None:
        self.connection.sendall(_OPTION_REPLY.pack(0x3E889045565A9, option, kind, len(data)) + data)

    def _served(self) -> bool:
        while True:
            magic, flags, kind, handle, offset, length = _REQUEST.unpack(self._take(_REQUEST.size))
            if magic != 0x25609513 or (kind == WRITE and length > LARGEST):
                raise Gone("no request of NBD")
            data = self._take(length) if kind == WRITE else b""
            if kind == DISC:
                return True
            error, answer = self._done(kind, flags, offset, length, data)
            self.connection.sendall(_REPLY.pack(0x67446698, error, handle) + answer)

    def _done(self, kind: int, flags: int, offset: int, length: int, data: bytes) -> tuple[int, bytes]:
        """The error (0: none), and what is read."""
        if kind == FLUSH:
            if not self.lies.exists():
                self.disk.flush()
            return 0, b""
        if kind not in (READ, WRITE, WRITE_ZEROES) or (kind == READ and length > LARGEST):
            return EINVAL, b""
        if offset + length > self.disk.size:
            return EINVAL if kind == READ else ENOSPC, b""
        if kind == READ:
            return 0, self.disk.read(offset, length)
        if kind == WRITE:
            self.disk.write(offset, data, self._settled(flags))
        else:
            for at in range(0, length, LARGEST):
                self.disk.write(offset + at, bytes(min(LARGEST, length - at)), self._settled(flags))
        return 0, b""

    def _settled(self, flags: int) -> bool:
        return bool(flags & FUA) and not self.lies.exists()


def serve(place: Path, file: Path, size: int, seed_file: Path) -> None:
    """One client at this socket, from its coming to its end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        place.unlink(missing_ok=True)
        new = place.with_name(f"{place.name}.new")
        listener.bind(str(new))
        listener.listen()
        new.rename(place)  # so that who finds it can connect
        connection, _ = listener.accept()
    place.unlink(missing_ok=True)
    fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        disk = Disk(fd, size, LVM_METADATA if file.name.endswith("-vg.raw") else 0)
        if Client(connection, disk, seed_file.with_name(f"{seed_file.name}.lies")).serve():
            print(f"{file.name}: stopped", flush=True)
        else:
            seed = seed_file.read_text() if seed_file.exists() else ""
            loss = disk.lose_power(random.Random(f"{seed} {file.name}"))  # noqa: S311 - accidents, no secrets
            print(f"{file.name}: power loss with seed {seed}: {loss}", flush=True)
    finally:
        os.close(fd)


def main(arguments: list[str]) -> None:
    seed, rest = arguments[0], arguments[1:]
    threads = []
    for place, file, size in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        threads.append(threading.Thread(target=serve, args=(Path(place), Path(file), int(size), Path(seed))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1:])
