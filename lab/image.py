# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the nodes' image: packages, our files over them, a file system; kernel and initrd beside it.

Runs as root, and as an ordinary user inside a user namespace (newuidmap, and a range in /etc/subuid), where
files get the owners they should have; `mke2fs -d` runs in it too and so sees and writes these.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import initrd, keys, paths, recipe
from lab.progress import phase
from lab.run import run

NAMESPACE = ("unshare", "--map-root-user", "--map-auto", "--")


@dataclass(frozen=True)
class Image:
    key: str
    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root.img"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"


def by_key(key: str) -> Image:
    return Image(key, paths.cache() / f"image-{key}")


def ensure() -> Image:
    """The image of the current recipe, built if there is none yet."""
    image = by_key(recipe.image_key(keys.public()))
    with paths.locked(paths.cache() / "lock", "builds the image"):
        if not image.folder.exists():
            build(image)
    return image


def build(image: Image) -> None:
    packages = paths.cache() / f"packages-{recipe.packages_key()}.tar"
    work = image.folder.with_suffix(".tmp")
    remove(work)
    work.mkdir()
    work.chmod(0o755)  # a namespace's "root" has to get in
    if not packages.exists():
        with phase("image: Debian's packages (some 200 MB to load, once)"):
            debootstrap(packages)
    tree = work / "tree"
    with phase("image: unpack them, and our files over them"):
        tree.mkdir()
        left_out = [f"--exclude={pattern}" for pattern in recipe.LEFT_OUT]
        unpack(packages, tree, *left_out)
        overlay(work / "overlay.tar")
        # --keep-directory-symlink: /lib and /bin are symlinks in the tree.
        unpack(work / "overlay.tar", tree, "--keep-directory-symlink", "--unlink-first")
    with phase("image: kernel and initrd"):
        kernel = next((tree / "boot").glob("vmlinuz-*"))
        shutil.copyfile(kernel, work / "vmlinuz")
        initrd.build(tree, kernel.name.removeprefix("vmlinuz-"), work)
    with phase("image: file system"):
        file = str(work / "root.img")
        run(as_root(["mke2fs", "-q", "-t", "ext4", "-L", "root", "-m", "0", "-d", str(tree), file, recipe.SIZE]))
    remove(tree)
    (work / "overlay.tar").unlink()
    work.rename(image.folder)


def as_root(argv: Sequence[str]) -> list[str]:
    return list(argv) if os.getuid() == 0 else [*NAMESPACE, *argv]


def unpack(tar: Path, tree: Path, *options: str) -> None:
    run(as_root(["tar", "--extract", "--numeric-owner", *options, "-f", str(tar), "-C", str(tree)]))


def remove(path: Path) -> None:
    """In a user namespace, because there its "root" owns files that we ourselves could not remove."""
    if path.exists():
        run(as_root(["rm", "-rf", "--one-file-system", str(path)]))


def debootstrap(packages: Path) -> None:
    temporary = packages.with_suffix(".tmp.tar")
    mode = "root" if os.getuid() == 0 else "unshare"
    argv = ["mmdebstrap", f"--mode={mode}", f"--include={','.join(recipe.PACKAGES)}", *recipe.DEBSTRAP]
    run([*argv, recipe.SUITE, str(temporary)], log=packages.with_suffix(".log"))
    temporary.rename(packages)


def overlay(file: Path) -> None:
    """Our files as a tar, which carries owners and modes whoever we are."""
    folder = keys.folder()
    with tarfile.open(file, "w") as tar:

        def add(name: str, kind: bytes, mode: int, owner: int = 0, target: str = "", content: bytes = b"") -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, target, len(content)
            entry.mode, entry.uid, entry.gid = recipe.MODES.get(name, mode), owner, owner
            tar.addfile(entry, io.BytesIO(content))

        for path in sorted(recipe.ROOTFS.rglob("*")):
            if path.is_file():
                mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
                add(str(path.relative_to(recipe.ROOTFS)), tarfile.REGTYPE, mode, content=path.read_bytes())
        for name in recipe.EMPTY:
            add(name, tarfile.REGTYPE, 0o644)
        for name, target in recipe.symlinks().items():
            add(name, tarfile.SYMTYPE, 0o777, target=target)
        own = (folder / "id_ed25519.pub").read_bytes()
        for home, owner in recipe.HOMES.items():
            add(f"{home}/.ssh", tarfile.DIRTYPE, 0o700, owner)
            add(f"{home}/.ssh/authorized_keys", tarfile.REGTYPE, 0o600, owner, content=own)
        for node in range(1, recipe.NODES + 1):
            for suffix, mode in (("", 0o600), (".pub", 0o644)):
                key = (folder / f"host{node}{suffix}").read_bytes()
                add(f"etc/ssh/lab/{node}/ssh_host_ed25519_key{suffix}", tarfile.REGTYPE, mode, content=key)
