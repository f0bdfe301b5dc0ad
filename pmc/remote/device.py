"""Where a disk is written to. Runs on the nodes, as pmc/remote/stream.py does."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import BinaryIO


def opened(target: str, compare: bool) -> BinaryIO:
    """A device, or a file. A file is made when it is not there, unless what is there is compared. Nothing is made in
    /dev: the disk would go there, and all would look well.

    A device is opened with O_EXCL (open(2)). While it is open, the kernel refuses it to all who ask so too: this
    program, mounts, LVM, md. QEMU and dd do not ask."""
    flags = os.O_RDWR | os.O_CLOEXEC
    if target.startswith("/dev/") or (os.path.exists(target) and stat.S_ISBLK(os.stat(target).st_mode)):
        fd = _alone(target, flags)
        if not stat.S_ISBLK(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(f"{target} is no block device; nothing was written")
    else:
        fd = os.open(target, flags if compare else flags | os.O_CREAT, 0o600)
    return os.fdopen(fd, "r+b", buffering=0)


def _alone(target: str, flags: int, tries: int = 10) -> int:
    """Who only looks what is on it (mdadm does, called by udev) is done soon."""
    for left in reversed(range(tries)):
        try:
            return os.open(target, flags | os.O_EXCL)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        time.sleep(0.5 if left else 0)
    raise OSError(f"{target} is in use by a mount, by LVM, or by a restore that still runs; nothing was written")
