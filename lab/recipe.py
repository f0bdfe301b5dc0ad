# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node is made of: packages, files, what is switched off.

All of it, and rootfs/, is hashed into the image's key, so that a change makes a new image.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOTFS = HERE / "rootfs"
INITRD_INIT = HERE / "initrd-init"

SUITE = "bookworm"
SIZE = "3G"  # of the root file system; sparse, about 600 MB are used
NODES = 4  # host keys and names are made for this many
VG_SIZE = "8G"

PACKAGES = (
    *("linux-image-cloud-amd64", "systemd-sysv", "dbus", "udev", "kmod", "busybox-static"),
    *("bash", "sudo", "procps", "hostname", "util-linux", "e2fsprogs", "python3-minimal"),
    *("openssh-server", "iproute2", "iputils-ping", "netcat-openbsd", "rsync"),
    *("libvirt-daemon-system", "libvirt-daemon-driver-qemu", "libvirt-clients", "virtinst"),
    *("qemu-system-x86", "qemu-utils", "seabios"),
    *("drbd-utils", "lvm2", "thin-provisioning-tools", "xdelta3", "zstd"),
    "qemu-guest-agent",  # not for the node: a Linux guest that the tests make of what is here
)

# Hooks and options of mmdebstrap. No mirror is named: it then takes Debian's own, with updates and security.
# "*" and not "!" as password: sshd without PAM takes "!" for a locked account and refuses its key.
DEBSTRAP = (
    "--variant=minbase",
    '--aptopt=Apt::Install-Recommends "false"',
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    '--customize-hook=chroot "$1" useradd --create-home --shell /bin/bash --password "*" admin',
)

# Not taken over from the packages: the initrd is ours, host keys are one per node and fixed.
LEFT_OUT = (
    "./boot/initrd*",
    "./dev/*",
    "./etc/ssh/ssh_host_*",
    "./etc/ssh/sshd_config.d/*",
    "./etc/hostname",
    # machined is off; libvirt would still ask D-Bus for it as long as this says that it can be had.
    "./usr/share/dbus-1/system-services/org.freedesktop.machine1.service",
)

# Under emulation every unit costs. Where pmc may look all is as packaged (drbd.service).
MASKED = (
    *("systemd-logind.service", "dbus-org.freedesktop.login1.service", "systemd-user-sessions.service"),
    *("systemd-machined.service", "dbus-org.freedesktop.machine1.service"),
    *("systemd-tmpfiles-setup.service", "systemd-tmpfiles-setup-dev.service", "systemd-sysusers.service"),
    *("systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-random-seed.service"),
    *("systemd-networkd.service", "systemd-pstore.service", "systemd-sysctl.service"),
    *("systemd-remount-fs.service", "systemd-journal-flush.service", "systemd-initctl.socket"),
    *("systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount"),
    *("systemd-ask-password-console.path", "systemd-ask-password-wall.path"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-fs-fuse-connections.mount"),
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount"),
    *("kmod-static-nodes.service", "modprobe@.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "systemd-tmpfiles-clean.timer"),
    *("e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "logrotate.timer"),
    *("getty.target", "getty@tty1.service", "serial-getty@ttyS0.service"),
    *("lvm2-monitor.service", "blk-availability.service", "libvirt-guests.service"),
)
ENABLED = {"sysinit.target.wants/lab-node.service": "/etc/systemd/system/lab-node.service"}

# Never "uninitialized" in machine-id: that switches on libvirtd's tcp and tls sockets, and it exits.
EMPTY = ("etc/machine-id", "etc/resolv.conf")

MODES = {"etc/sudoers.d/admin": 0o440}  # where it is not 0644, or 0755 for what is executable here

HOMES = {"root": 0, "home/admin": 1000}  # who may be logged in as with the lab's key, and their user ids

# What it takes to see the disk and the network; their dependencies come from modules.dep.
INITRD_MODULES = ("virtio_pci", "virtio_blk", "virtio_net")


def digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:12]


def symlinks() -> dict[str, str]:
    units = {unit: "/dev/null" for unit in MASKED} | ENABLED
    system = {f"etc/systemd/system/{name}": target for name, target in units.items()}
    return system | {"etc/localtime": "/usr/share/zoneinfo/UTC"}


def packages_key() -> str:
    return digest(SUITE, PACKAGES, DEBSTRAP)


def image_key(public_keys: str) -> str:
    files = sorted(path for path in ROOTFS.rglob("*") if path.is_file())
    contents = [
        f"{path.relative_to(HERE)} {path.stat().st_mode & 0o100:o} {path.read_text()}" for path in [*files, INITRD_INIT]
    ]
    builders = [(HERE / name).read_text() for name in ("image.py", "initrd.py")]
    settings = (SIZE, NODES, LEFT_OUT, symlinks(), EMPTY, MODES, HOMES, INITRD_MODULES)
    return digest(packages_key(), settings, *contents, *builders, public_keys)
