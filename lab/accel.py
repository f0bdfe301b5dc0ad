# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether KVM can run a node.

That /dev/kvm opens proves little: some hosts abort on an MSR, some hang after the BIOS. So the nodes' own
kernel has to get to its initrd, in seconds; otherwise QEMU emulates (TCG).
"""

from __future__ import annotations

import os
import subprocess

from lab import paths
from lab.image import Image
from lab.machine import cpu, qemu_version
from lab.process import boot_id
from lab.progress import phase
from lab.recipe import digest

DEADLINE = 8  # seconds; KVM needs one


def choose(image: Image) -> str:
    """ "kvm" or "tcg"; the answer is remembered until the host boots again or QEMU or the image changes."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    memory = paths.folder(paths.cache() / "accel") / digest(boot_id(), qemu_version(), image.key)
    if not memory.exists():
        with phase("is there a KVM that runs our kernel"):
            answer = "kvm" if boots(image) else "tcg"
        memory.write_text(answer)
    return memory.read_text()


def boots(image: Image) -> bool:
    """The initrd reboots when it sees lab.probe, and with -no-reboot that makes QEMU leave with 0."""
    argv = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", *cpu("kvm"), "-m", "256"]
    argv += ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", "quiet lab.probe"]
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(argv, timeout=DEADLINE, stdin=quiet, stdout=quiet, stderr=quiet)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
