"""What the tools of a simulated node print: output captured on the lab (tests/data), once for each VM. Pure but for
reading those files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from bench.fleet.spec import VM, Spec

DATA = Path(__file__).parents[2] / "tests" / "data"
GARBAGE = "Segmentation fault\n"


@cache
def captured(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


def outputs(spec: Spec) -> list[dict[str, str]]:
    """For each node the files of its folder: one for each thing that a look asks (bench/fleet/tool.sh reads them)."""
    mine: list[list[VM]] = [[] for _ in range(spec.nodes)]
    for vm in spec.machines():
        for home in vm.nodes:
            mine[home].append(vm)
    return [node(spec, number, vms) for number, vms in enumerate(mine)]


def node(spec: Spec, number: int, vms: Sequence[VM]) -> dict[str, str]:
    """Of each VM what it is on this node: it runs on its first."""
    active = {vm: vm.nodes[0] == number for vm in vms}
    return {
        "hostname": f"{spec.name(number)}\n",
        "meminfo": captured("linux-6.1.0-meminfo.txt"),
        "domstats": "".join(domain(vm, runs) for vm, runs in active.items()),
        "events2": "".join(resource(vm, runs) for vm, runs in active.items()) + "exists -\n",
        "save": ".\n..\n",
        "show": "".join(f"resource {vm.name} {{\n" for vm in vms),
        "fullreport": volumes(vms),
        "ss": captured("ss-6.1.0-listening.txt"),
        "sys/module/drbd/version": "8.4.11\n",
        **{f"etc/drbd.d/{vm.name}.res": file(vm, spec) for vm in vms},
    }


def spoilt(files: Mapping[str, str]) -> dict[str, str]:
    """As a node whose tools fail in the way that is hardest to see: with status 0."""
    return {name: GARBAGE for name in files if name != "hostname"} | {"hostname": files["hostname"]}


def domain(vm: VM, runs: bool) -> str:
    text = captured("virsh-9.0.0-domstats.txt")
    _, off, on = re.split(r"^Domain: ", text, flags=re.M)
    return "Domain: " + re.sub(r"'web2?'", f"'{vm.name}'", on if runs else off)


def resource(vm: VM, runs: bool) -> str:
    lines = captured("drbdsetup-9.22.0-module-8.4.11-events2.txt").splitlines(keepends=True)
    of = [line for line in lines if f"name:{'web' if runs else 'web2'} " in line]
    text = "".join(of[:1] + of[2:3] if len(vm.nodes) == 1 else of)
    text = re.sub(r"name:web2? ", f"name:{vm.name} ", text)
    return re.sub(r"minor:\d+", f"minor:{vm.number + 1}", text)


def file(vm: VM, spec: Spec) -> str:
    text = captured("drbd-8.4.11-resource-files.txt").partition("# made by pmc for the VM web2")[0]
    text = re.sub(r"\bweb\b", vm.name, text).replace("drbd1 minor 1", f"drbd{vm.number + 1} minor {vm.number + 1}")
    for place, (host, address) in enumerate((("pm-1", "10.77.0.1:7800"), ("pm-2", "10.77.0.2:7800"))):
        block = f"    on {host} {{\n        address ipv4 {address};\n    }}\n"
        assert block in text, "the captured file has changed"  # noqa: S101
        if place >= len(vm.nodes):
            text = text.replace(block, "")
            continue
        number, port = vm.nodes[place], 7800 + vm.number
        new = f"    ON {spec.name(number)} {{\n        address ipv4 {spec.replication(number)}:{port};\n    }}\n"
        text = text.replace(block, new)
    return text.replace("    ON ", "    on ").replace("        \n", '        shared-secret "0123456789abcdef";\n')


def volumes(vms: Sequence[VM]) -> str:
    before, row, after = re.split(
        r"^( *\{\"vg_name\".*?)(?=\n *\])", captured("lvm-2.03.16-fullreport-json.txt"), flags=re.M | re.S
    )
    first = row.splitlines()[0].removesuffix(",")
    assert '"lv_name":"web"' in first, "the captured output has changed"  # noqa: S101
    return before + ",\n".join(first.replace('"web"', f'"{vm.name}"') for vm in vms) + after
