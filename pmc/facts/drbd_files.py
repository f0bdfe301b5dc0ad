"""What the resource files of a node say, written by pmc, by hand or by another tool. Pure.

One that cannot be read costs only itself: it is told as `odd`, and all numbers in it count as taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from pmc.command import Query, bash
from pmc.facts.drbd_conf import Part, Read, read
from pmc.model import Odd, ResourceFile
from pmc.plain import shown
from pmc.units import MiB, bounded

DIRECTORY = "/etc/drbd.d"
LONGEST = 8 * MiB  # of all files

# For sed, which reads each file as one text: before it '==' and its name, which no file of DRBD's can have in it. Out
# go comments, what Debian's drbd.conf includes (it is read anyway) and the values of secrets; where one of these has
# another form, all that follows.
CUT = r"""1i==
1F
:a
$!{N;ba}
s/#[^"\n]*(\n|$)/\1/g
s/(^|\n)[[:space:]]*#[^\n]*/\1/g
s/([;{}][[:space:]]*)#[^\n]*shared-secret[^\n]*/\1/g
s/include[[:space:]]+"?drbd[.]d\/(global_common[.]conf|[*][.]res)"?[[:space:]]*;//g
s/shared-secret[[:space:]]*("([^"\n\]|\\.)*"|[^";[:space:]{}#]+)[[:space:]]*;/shared-secret;/g
s/shared-secret([^;].*|$)/shared-secret/"""

# $1 the directory, $2 CUT. What is removed just then makes sed fail: again. What is no file (drbdadm passes over it) or
# cannot be read keeps nothing else back: then each is read alone. Only where a file includes others there is another
# round.
READ = (
    'cd "$1"; cut=$2; shopt -s nullglob; declare -A seen; set -- ../drbd.con[f] global_common.con[f] *.res; '
    "for ((n = 0; $# && n < 10; n++)); do "
    'for again in 1 2 3 4; do text=$(sed -sE -e "$cut" -- "$@" 2>/dev/null) && break; '
    '[ $again = 4 ] || continue; text=; for f; do [ -f "$f" ] || continue; '
    'one=$(sed -sE -e "$cut" -- "$f" 2>/dev/null) || one="==?"$\'\\n\'$f; text+=$one$\'\\n\'; done; done; '
    'printf "%s\\n" "$text"; if [[ $text != *include* ]]; then exit 0; fi; '
    'for f; do seen[$f]=1; done; more=(); while IFS= read -r -d "" f && IFS= read -r rest; do '
    'while [[ $rest =~ include[[:space:]]+(\\"([^\\"]*)\\"|([^[:space:]\\";{}]+)) ]]; do '
    'p=${BASH_REMATCH[2]}${BASH_REMATCH[3]} rest=${rest#*"${BASH_REMATCH[0]}"}; '
    '[[ $p = /* || $f != */* ]] || p=${f%/*}/$p; IFS=; for g in $p; do [ ! -f "$g" ] || more+=("$g"); done; unset IFS; '
    'done; done < <(grep -EHZo "^[^#]*include[[:space:]]+(\\"[^\\"]*\\"|[^\\";[:space:]]+)" -- "$@" 2>/dev/null); '
    'set --; if [ ${#more[@]} -gt 0 ]; then while IFS= read -r -d "" f; do f=${f#"$PWD/"}; '
    '[[ $f != "${PWD%/*}/drbd.conf" ]] || f=../drbd.conf; '
    '[[ ${seen[$f]:-} ]] || { seen[$f]=1; set -- "$@" "$f"; }; '
    'done < <(realpath -zs -- "${more[@]}"); fi; done'
)

_DEVICE = re.compile(r"(?:/dev/)?drbd(\d{1,7})")
_PORT = re.compile(r"[\d\]]:(\d{1,5})$")
# Every number that may be a minor or a port, of a text that is no configuration.
_MINORS = re.compile(r"\bminor\s+\"?(\d{1,7})\b|\bdrbd(\d{1,7})\b")
_PORTS = re.compile(r"[\d\]]:(\d{1,5})\b|\bport\s+(\d{1,5})\b")


@dataclass(frozen=True)
class Files:
    """`resources` are those of the directory's *.res, by name. `elsewhere` are the names of others that they, or
    drbd.conf, include or have, which are not pmc's (LINSTOR's). `minors` and `ports` are taken besides theirs."""

    resources: dict[str, ResourceFile] = field(default_factory=dict)
    odd: tuple[Odd, ...] = ()
    elsewhere: frozenset[str] = frozenset()
    minors: frozenset[int] = frozenset()
    ports: frozenset[int] = frozenset()


def query() -> Query[Files]:
    """All of them, their secrets cut out on the node."""
    return Query(bash(READ, DIRECTORY, CUT), parse)


def each(text: str) -> Iterator[tuple[str, str | None]]:
    """(name, text) of each file; None where it cannot be read."""
    before, *parts = re.split(r"^==(\??)\n(.*)\n?", text, flags=re.M)
    if before.strip():
        raise ValueError("not the resource files")
    for mark, name, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        yield name, None if mark else body


def parse(text: str) -> Files:
    bounded(text, LONGEST)
    found = Files()
    odd: list[Odd] = []
    elsewhere: set[str] = set()
    minors: set[int] = set()
    ports: set[int] = set()
    for name, body in each(text):
        place = _place(name)
        ours = name.endswith(".res") and "/" not in name
        if body is None:
            odd.append(Odd(place, "cannot be read", name.removesuffix(".res") if ours else ""))
            continue
        said = read(body)
        if said.why:
            last = said.last.words if said.last else ()
            vm = last[1] if len(last) > 1 and last[0] == "resource" else name.removesuffix(".res")
            odd.append(Odd(place, said.why, vm if ours else ""))
            minors |= _numbers(_MINORS, body)
            ports |= _numbers(_PORTS, body)
        for part in _resources(said):
            try:
                made = resource(part)
            except ValueError as error:
                odd.append(Odd(place, f"resource {shown(part.words[1])}: {error}", part.words[1] if ours else ""))
                made = None
            if made and ours and made.name not in found.resources:
                beside = [shown(" ".join(each.words[:2])) for each in said.parts if each is not part]
                beside += ["what cannot be read"] if said.why else []
                found.resources[made.name] = replace(made, path=f"{DIRECTORY}/{name}", beside=tuple(beside))
                continue
            if made and ours:
                odd.append(Odd(place, f"resource {shown(made.name)} is in another file too", made.name))
            elif not ours:
                elsewhere.add(part.words[1])
            minors |= set(_minors(part, lenient=True))
            ports |= set(_ports(part))
        for top in said.parts:
            for part in (top, *top.inside()):
                if part.key == "skip":  # it may come back
                    minors |= set(_minors(part, lenient=True))
                    ports |= set(_ports(part))
    return Files(
        found.resources, tuple(odd), frozenset(elsewhere - set(found.resources)), frozenset(minors), frozenset(ports)
    )


def _place(name: str) -> str:
    return shown(name if name.startswith("/") else f"{DIRECTORY}/{name}".replace(f"{DIRECTORY}/../", "/etc/"), 120)


def _numbers(pattern: re.Pattern[str], text: str) -> set[int]:
    return {int(number) for groups in pattern.findall(text) for number in groups if number}


def _resources(said: Read) -> Iterator[Part]:
    return (part for part in said.parts if part.key == "resource" and len(part.words) > 1 and part.body is not None)


def resource(part: Part) -> ResourceFile:
    """Of a section `resource NAME { ... }`. Raises ValueError when it cannot be said what its minors are."""
    minors = list(dict.fromkeys(_minors(part)))
    if not minors:
        raise ValueError("it has no volume")
    sides = [(each.words[1:], _disks(part) | _disks(each)) for each in part.body or () if each.key in _SIDES]
    by_host = [(host, tuple(disks.values())) for hosts, disks in sides for host in hosts]
    first = [(host, disks[0] if disks else "") for host, disks in by_host]
    all_of_them = [*_disks(part).values(), *(disk for _, disks in by_host for disk in disks)]
    disk = next((disk for disk in all_of_them if disk.startswith("/")), "")
    on = (host for each in part.body or () if each.key == "on" for host in each.words[1:])
    return ResourceFile(
        part.words[1],
        minors[0],
        disk,
        tuple(dict.fromkeys(on)),
        tuple(sorted(set(_ports(part)))),
        tuple(minors[1:]),
        tuple(first) if {each for _, each in first} - {disk} else (),
        tuple((host, each) for host, disks in by_host for each in disks[1:]),
    )


# Of a host that is only known by an address the last word is that.
_SIDES = ("on", "floating")


def _disks(part: Part) -> dict[str, str]:
    """By the number of the volume, what a resource, or a host in it, says of its own. What a host does not say is as
    the resource has it (drbdadm's inherit_volumes), and of two statements the last one counts. Without a section for
    the volume it is volume 0."""
    found = {}
    for each in part.body or ():
        number = each.words[1] if each.key == "volume" and len(each.words) == 2 else "0"
        for said in each.body or () if each.key == "volume" else (each,):
            if said.key == "disk" and said.body is None and len(said.words) == 2:
                found[number] = said.words[1]
    return found


def _minors(part: Part, lenient: bool = False) -> Iterator[int]:
    """`device [NAME] minor N;`, or the device's name tells: /dev/drbdN. Only a section that is skipped has none."""
    for each in part.inside() if lenient else part.inside("skip"):
        if each.key != "device" or each.body is not None:
            continue
        words = each.words
        number = words[-1] if len(words) in (3, 4) and words[-2] == "minor" else ""
        device = _DEVICE.fullmatch(words[1]) if len(words) == 2 else None
        if device:
            yield int(device[1])
        elif number.isdecimal() and number.isascii() and len(number) < 8:
            yield int(number)
        elif not lenient:
            raise ValueError("its device is not understood")


def _ports(part: Part) -> Iterator[int]:
    """Those of every address, also the ones that are given per connection, or of a proxy."""
    for each in part.inside("skip"):
        if each.key in _ADDRESSES:
            yield from (int(port[1]) for word in each.words if (port := _PORT.search(word)))
            yield from (int(b) for a, b in zip(each.words, each.words[1:], strict=False) if a == "port" and _port(b))


def _port(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < 6


_ADDRESSES = ("address", "floating", "host", "inside", "outside")


def addresses(part: Part) -> Iterable[tuple[str, str]]:
    """(host, address without its port) of each `on HOST { address ...; }`."""
    for side in part.body or ():
        if side.key == "on":
            for each in side.inside("skip", "proxy"):
                if each.key == "address" and (found := re.fullmatch(r"\[?([0-9a-fA-F.:]+?)\]?:\d+", each.words[-1])):
                    yield from ((host, found[1]) for host in side.words[1:])
                    break
