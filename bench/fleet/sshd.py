"""sshd for a fleet: the machine's own, or Debian's unpacked into a folder; no daemon is installed, nothing needs root.

Nodes are logged in to as root, and a sshd that an ordinary user runs can only let that user in. nss_wrapper
(cwrap.org, made for such tests) gives these processes, and no others, a password file that calls this user root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

PACKAGES = ("openssh-server", "libwrap0", "libnss-wrapper")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pmc-bench"
# sshd takes that many ListenAddress lines at most (MAX_LISTEN_SOCKS).
ADDRESSES = 16

CONFIG = """\
Port {port}
{listen}
HostKey {folder}/hostkey{number}
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
LogLevel ERROR
MaxStartups 1000:30:2000
SetEnv FLEET={folder} PATH={folder}/bin:/usr/local/bin:/usr/bin:/bin
"""


def installed(folder: Path) -> tuple[Path, dict[str, str]]:
    """The program, and the environment that it needs. It is copied into the fleet's `folder`: root's cache is closed to
    the user that the sshd's run as."""
    unpacked = CACHE / "sshd"
    if not unpacked.is_dir():
        _fetch(unpacked)
    for path in (unpacked / "usr/sbin/sshd", *unpacked.rglob("*.so*")):
        shutil.copy(path, folder)
    own = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    wrapper = folder / "libnss_wrapper.so"
    return Path(own or folder / "sshd"), {"LD_PRELOAD": str(wrapper), "LD_LIBRARY_PATH": str(folder)}


def _fetch(folder: Path) -> None:
    """Debian's packages, unpacked: the folder is there only when all of them are in it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        subprocess.run(["apt-get", "-q", "download", *PACKAGES], cwd=work, check=True, capture_output=True)
        for package in Path(work).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), f"{work}/new"], check=True)
        Path(work, "new").rename(folder)


def identity() -> tuple[int, int]:
    """Whom the sshd's run as: who started this; as root they would want a user and a folder of the system."""
    return (os.getuid(), os.getgid()) if os.getuid() else (65534, 65534)


def password_file(folder: Path, user: tuple[int, int]) -> dict[str, str]:
    (folder / "passwd").write_text(f"root:x:{user[0]}:{user[1]}:root:{folder}:/bin/sh\n")
    (folder / "group").write_text(f"root:x:{user[1]}:\n")
    return {"NSS_WRAPPER_PASSWD": str(folder / "passwd"), "NSS_WRAPPER_GROUP": str(folder / "group")}


def key(path: Path) -> str:
    """A new key; its public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fleet", "-f", str(path)], check=True)
    return " ".join(path.with_name(f"{path.name}.pub").read_text().split()[:2])


def start(
    program: Path, folder: Path, number: int, port: int, addresses: list[str], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    listen = "\n".join(f"ListenAddress {address}" for address in addresses)
    config = folder / f"sshd{number}"
    config.write_text(CONFIG.format(port=port, listen=listen, folder=folder, number=number))
    user, group = identity()
    log = folder / f"sshd{number}.log"
    who: dict[str, Any] = {"user": user, "group": group, "extra_groups": []} if os.getuid() == 0 else {}
    with log.open("wb") as output:
        return subprocess.Popen(
            [str(program), "-D", "-e", "-f", str(config)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**environment, "PATH": "/usr/bin:/bin"}, **who,
        )  # fmt: skip
