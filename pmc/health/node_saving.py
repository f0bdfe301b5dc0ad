"""Checks of what saves guests' memory when a node goes down: libvirt-guests, and libvirt's own daemon from 11.2 on.
Pure. Sources: libvirt-guests(8), the comments in qemu.conf."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pmc.command import Query, bash, command
from pmc.facts import managed_save
from pmc.health.check import About, Verdict, good
from pmc.plan import Step

# The script has the distribution's defaults, which its settings may change.
_SCRIPTS = ("/usr/lib/libvirt/libvirt-guests.sh", "/usr/libexec/libvirt-guests.sh")
_SETTINGS = ("/etc/default/libvirt-guests", "/etc/sysconfig/libvirt-guests", "/etc/conf.d/libvirt-guests")
_DAEMON = ("/etc/libvirt/qemu.conf",)
_KEPT = "before-pmc"
LINE = "ON_SHUTDOWN=shutdown"


@dataclass(frozen=True)
class Saving:
    """`unit`: what systemd says of libvirt-guests, '' when there is none. `values`: of the key, by file."""

    unit: str = ""
    guests: dict[str, str] = field(default_factory=dict)
    daemon: dict[str, str] = field(default_factory=dict)


def query(about: About) -> Query[Saving]:
    """Fails where libvirt keeps saved memory elsewhere than pmc looks for it."""
    script = (
        'ls -a "$1" >/dev/null; '
        "unit=$(systemctl is-enabled libvirt-guests.service 2>/dev/null || :); "
        '! systemctl -q is-active libvirt-guests.service 2>/dev/null || unit="$unit active"; '
        'echo "unit ${unit:-not-found}"; '
        'for f in "${@:2}"; do [ ! -e "$f" ] || { echo "file $f"; '
        "sed -nE 's/^[[:space:]]*(export[[:space:]]+)?"
        "(ON_SHUTDOWN|auto_shutdown_try_save)[[:space:]]*=[[:space:]]*[\"'\\'']?([a-z]+).*/\\2 \\3/p' \"$f\"; }; done; "
        "echo end"
    )
    return Query(bash(script, managed_save.FOLDER, *_SCRIPTS, *_SETTINGS, *_DAEMON), parse)


def parse(text: str) -> Saving:
    first, *rows, end = text.splitlines() or [""]
    if not first.startswith("unit ") or end != "end":
        raise ValueError("the answer is cut short")
    guests, daemon, file = dict[str, str](), dict[str, str](), ""
    for row in rows:
        what, _, value = row.partition(" ")
        if what == "file":
            file = value
            guests |= {file: ""} if file not in _DAEMON else {}
        elif what == "ON_SHUTDOWN":
            guests[file] = value  # the last one in a file counts
        elif what == "auto_shutdown_try_save":
            daemon[file] = value
    return Saving(first.removeprefix("unit ").replace("not-found", ""), guests, daemon)


def judge(found: Saving, about: About) -> Verdict:
    saves, ways, steps = list[str](), list[str](), list[Step]()
    works = bool(re.search(r"\b(enabled|active)\b", found.unit))
    # As its own script has it where nobody says otherwise.
    action = next((value for value in reversed(found.guests.values()) if value), "suspend")
    if works and action == "suspend":
        settings = [file for file in found.guests if file in _SETTINGS]
        saves.append("libvirt-guests saves the guests' memory (ON_SHUTDOWN=suspend)")
        ways.append(f"write {LINE} into {settings[0] if settings else ' or '.join(_SETTINGS[:2])}")
        steps += [shut_down(about.node, settings[0])] if settings else []
    for file, value in found.daemon.items():
        if value != "none":
            saves.append(f'libvirt saves it by itself (auto_shutdown_try_save = "{value}")')
            ways.append(f'in {file}: auto_shutdown_try_save = "none", then restart the daemon')
    if saves:
        text = f"when this node goes down, {', and '.join(saves)}, which a start here would go on with"
        return Verdict(False, text, "; ".join(ways), tuple(steps), partly=len(steps) < len(ways))
    return good(f"none when this node goes down ({f'libvirt-guests: {action}' if works else 'libvirt-guests is off'})")


def shut_down(node: str, file: str) -> Step:
    """Appended: the last one counts. The service reads it when it stops."""
    why = "By pmc: saved memory does not fit to a disk that was in use on another node since."
    script = f'cp -p "$1" "$1.$3"; printf "\\n# {why}\\n%s\\n" "$2" >>"$1"'
    return Step(
        node,
        f"have libvirt-guests shut guests down, in {file} (the old one stays as {file}.{_KEPT})",
        bash(script, file, LINE, _KEPT),
        undo=command("cp", "-p", f"{file}.{_KEPT}", file),
        check=command("grep", "-qxF", LINE, file),
    )
