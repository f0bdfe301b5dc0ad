"""Files on a node, as steps make them, look for them and remove them. Pure."""

from __future__ import annotations

from pmc.command import Command, bash, command, operation


@operation
def exists(path: str) -> Command:
    return command("test", "-e", path)


@operation
def is_gone(path: str) -> Command:
    return command("test", "!", "-e", path)


@operation
def remove(*paths: str) -> Command:
    """Those that are there."""
    return command("rm", "-f", *paths)


@operation
def begin(path: str) -> Command:
    """Empty, and for root alone."""
    return command("install", "-m", "600", "/dev/null", path)


@operation
def folder(path: str, mode: str) -> Command:
    """Made unless it is there."""
    return bash('[ -d "$1" ] || install -d -m "$2" "$1"', path, mode)


@operation
def read(path: str) -> Command:
    return command("cat", path, long=True)


@operation
def receive(path: str, mode: str, reader: str = "cat", size: int = 0) -> Command:
    """What `reader` prints (shell text; its stdin is the command's). Under another name until it is whole: `size`
    bytes, since a manager that dies ends the stdin of its last command; 0 when the reader itself fails then."""
    whole = '[ "$(stat -c %s "$1.part")" = "$3" ] || { echo "it did not come whole" >&2; exit 1; }; ' if size else ""
    script = (
        "umask 077; trap 'rm -f \"$1.part\"' EXIT; "
        f'{reader} >"$1.part"; {whole}sync "$1.part"; chmod "$2" "$1.part"; mv "$1.part" "$1"'
    )
    return bash(script, path, mode, *([str(size)] if size else []), long=True)


@operation
def has_space(folder: str, size: int) -> Command:
    """`size` in bytes."""
    script = (
        'free=$(df --output=avail -B1 "$1" | tail -n 1); [ "$free" -ge "$2" ] || '
        '{ echo "$1 has $free bytes free, a base may need $2" >&2; exit 1; }'
    )
    return bash(script, folder, str(size))
