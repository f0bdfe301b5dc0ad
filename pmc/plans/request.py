"""What a person asked for, checked: flags in, frozen data out. Every refusal names the flag and what would be right."""

from __future__ import annotations

import ipaddress
import os
import shlex
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pmc.actions import Identity, identity
from pmc.errors import Refused
from pmc.plans.requirements import check_name, check_new
from pmc.settings import Settings
from pmc.units import MiB, parse_size


@dataclass(frozen=True)
class Image:
    """A disk image on the manager: `size` is the disk's in bytes, `stored` the file's; `file` is which one it was."""

    path: str
    format: str  # raw, qcow2, iso
    size: int
    stored: int
    file: Identity = ()


@dataclass(frozen=True)
class Add:
    """A checked `vm.add`. Sizes in bytes; size 0: as large as the image, clone or reused volume it is made from. Empty
    primary: the nodes are still to be chosen (plans/placement.py), one alone when `single`."""

    name: str
    primary: str
    secondary: str
    size: int
    memory: int
    cpus: int = 1
    iso: Image | None = None
    image: Image | None = None
    clone: str = ""
    pxe: bool = False
    address: str = ""
    virt_install: str = ""
    reuse: bool = False
    single: bool = False
    full: bool = False  # DRBD copies all of the new disk to the secondary, though both could begin as zeros

    @property
    def nodes(self) -> tuple[str, ...]:
        return (self.primary, self.secondary) if self.secondary else (self.primary,)


def add(settings: Settings, flags: Mapping[str, object]) -> Add:
    """From the flags as typed (None: not given); from Python numbers are welcome too."""
    text = {key: str(value) for key, value in flags.items() if value is not None and not isinstance(value, bool)}
    name = check_new("vm.add", text.get("name", ""))
    primary, secondary = text.get("primary", ""), text.get("secondary", "")
    for flag, node in (("--primary", primary), ("--secondary", secondary)):
        if node:
            settings.node(flag, node)
    if secondary and secondary == primary:
        raise Refused(f"--secondary {secondary}: is the primary as well; the second copy belongs on another node")
    if secondary and flags.get("single"):
        raise Refused("--single and --secondary: choose one; --single is without a second copy")
    if flags.get("reuse") and not primary:
        raise Refused(
            f"--primary is missing: with --reuse, the node that has the volume {settings.volume_group}/{name}"
        )
    sources = [flag for flag in ("iso", "image", "clone", "pxe", "reuse") if flags.get(flag)]
    if len(sources) > 1:
        raise Refused(f"--{sources[0]} and --{sources[1]}: choose one; each says what the disk begins with")
    image = _image(text["image"]) if text.get("image") else None
    if clone := text.get("clone", ""):
        check_name("--clone", clone)
    reuse = bool(flags.get("reuse"))
    examples = {"memory": "4G"} if image or clone or reuse else {"size": "50G", "memory": "4G"}
    if missing := [flag for flag in examples if not text.get(flag)]:
        names = " and ".join(f"--{flag}" for flag in missing)
        verb = "are" if len(missing) > 1 else "is"
        raise Refused(f"{names} {verb} missing: such as {' '.join(f'--{flag} {examples[flag]}' for flag in missing)}")
    if reuse:
        if text.get("size"):
            raise Refused("--size and --reuse: choose one; a reused volume keeps the size that it has")
        size = 0
    else:
        size = _size("size", text)
    if image and size and size < image.size:
        raise Refused(f"--size {text['size']}: the image {image.path} needs {-(-image.size // MiB)}M; leave --size out")
    if 0 < size < MiB:
        raise Refused(f"--size {text['size']}: at least 1M")
    return Add(
        name=name,
        primary=primary,
        secondary=secondary,
        size=size or (image.size if image else 0),
        memory=_size("memory", text),
        cpus=_cpus(text.get("cpus", "1")),
        iso=_iso(settings, text["iso"]) if text.get("iso") else None,
        image=image,
        clone=clone,
        pxe=bool(flags.get("pxe")),
        address=_address(text.get("address", "")),
        virt_install=_extra(text.get("virt_install", "")),
        reuse=reuse,
        single=bool(flags.get("single")),
        full=_full(flags, single=bool(flags.get("single") or (primary and not secondary))),
    )


def boots_nothing(wanted: Add) -> bool:
    """Its disk is empty, and nothing else is there; what virt-install is told besides may be what it boots."""
    return not (wanted.iso or wanted.image or wanted.clone or wanted.pxe or wanted.reuse or wanted.virt_install)


def _full(flags: Mapping[str, object], single: bool) -> bool:
    sync = str(flags.get("sync") or "")
    if sync not in ("", "skip", "full"):
        raise Refused(f"--sync {sync[:40]!r:.60}: skip (both copies begin as zeros, the default) or full")
    if sync and single:
        raise Refused(f"--sync {sync}: there is no second copy; give --secondary")
    if sync == "skip" and flags.get("reuse"):
        raise Refused("--sync skip and --reuse: what is on the volume must be copied; leave --sync out")
    return sync == "full"


def _size(flag: str, text: Mapping[str, str]) -> int:
    """0: not given."""
    if not text.get(flag):
        return 0
    try:
        return parse_size(text[flag])
    except ValueError as error:
        raise Refused(f"--{flag}: {error}") from None


def _cpus(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 512 and len(text) <= 6):
        raise Refused(f"--cpus {text[:40]!r}: a number from 1 to 512")
    return int(text)


def _address(text: str) -> str:
    if not text:
        return ""
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise Refused(f"--address {text[:60]!r}: an IPv4 address like 10.0.3.7") from None


def _extra(text: str) -> str:
    if not text.isprintable():
        raise Refused("--virt-install: one line of printable characters")
    try:
        shlex.split(text)
    except ValueError as error:
        raise Refused(f"--virt-install: {error}; quote it as for a shell") from None
    return text


def _iso(settings: Settings, name: str) -> Image:
    """A file of iso_dir by its name, with or without .iso."""
    folder, there = Path(settings.iso_dir), list[str]()
    try:
        folder = folder.expanduser()
        there = sorted(path.name for path in folder.glob("*.iso"))
        for path in (folder / name, folder / f"{name}.iso"):
            if "/" not in name and path.is_file() and os.access(path, os.R_OK):
                about = path.stat()
                return Image(str(path), "iso", about.st_size, about.st_size, identity(about))
    except (OSError, ValueError, RuntimeError):
        pass  # a name that no file can have, a folder that cannot be read: not there
    raise Refused(f"--iso {name[:70]!r}: no such file in {folder}; there: {', '.join(there) or 'nothing'}")


def _image(name: str) -> Image:
    path = Path(name)
    try:
        path = path.expanduser()
        # A pipe would be waited for.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            if not (stat.S_ISREG(about.st_mode) or stat.S_ISBLK(about.st_mode)):
                raise ValueError("is no file")
            head = file.read(104)
            stored = file.seek(0, os.SEEK_END)
    except (OSError, ValueError, RuntimeError) as error:
        raise Refused(f"--image {name[:200]!r}: {getattr(error, 'strerror', None) or error}") from None
    if stored == 0:
        raise Refused(f"--image {name}: is empty; copy it again")
    if not head.startswith(b"QFI\xfb"):
        return Image(str(path), "raw", stored, stored, identity(about))
    # qcow2's header (QEMU, docs/interop/qcow2.txt): big-endian; version, backing file, ..., size, ..., features.
    if len(head) < 80:
        raise Refused(f"--image {name}: is cut short; copy it again")
    version, backing, size = struct.unpack(">4xIQ8xQ", head[:32])
    if version not in (2, 3) or size == 0:
        raise Refused(f"--image {name}: its format is qcow version {version}, {size} bytes; qemu-img info tells more")
    features = struct.unpack(">Q", head[72:80])[0] if version >= 3 else 0
    if backing or features & 4:
        # Such an image names another file, which qemu-img on the node would then read: any file of the node.
        convert = f"qemu-img convert -O qcow2 {shlex.quote(name)} NEW"
        raise Refused(f"--image {name}: needs another file beside it; first: {convert}")
    return Image(str(path), "qcow2", size, stored, identity(about))
