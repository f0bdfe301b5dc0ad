"""The simulated nodes of the benchmark answer as real ones do: what they print is read by pmc's own parsers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.fleet import content
from bench.fleet.fleet import TOOL, TOOLS
from bench.fleet.spec import ILLS, Spec
from pmc.command import frame, unframe
from pmc.model import ClusterState, NodeState
from pmc.node_state import node_state, state_queries
from tests.unit.samples import SETTINGS

ADDRESS = "127.0.1.1"


def install(folder: Path, files: dict[str, str]) -> dict[str, str]:
    """A node's folder and its tools; the environment that its ssh sessions have."""
    for name, text in files.items():
        path = folder / "nodes" / ADDRESS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "bin").mkdir(exist_ok=True)
    for tool in TOOLS:
        shutil.copy(TOOL, folder / "bin" / tool)
        (folder / "bin" / tool).chmod(0o755)
    return {
        "FLEET": str(folder),
        "PATH": f"{folder}/bin:/usr/bin:/bin",
        "SSH_CONNECTION": f"127.0.0.1 50000 {ADDRESS} 2222",
    }


def looked(environment: dict[str, str], name: str, allocating: bool = False) -> NodeState:
    """What one look at the node finds: pmc's own script, in a real shell."""
    queries = state_queries(SETTINGS, allocating)
    script = frame([query.command for query in queries.values()], "mark")
    got = subprocess.run(["sh", "-s"], input=script, env=environment, capture_output=True, text=True, check=True)
    answers = unframe(got.stdout, got.stderr, "mark", len(queries))
    assert [answer.exit for answer in answers] == [0] * len(queries), got.stderr
    parsed = [query.parse(answer.stdout) for query, answer in zip(queries.values(), answers, strict=True)]
    return node_state(name, SETTINGS, dict(zip(queries, parsed, strict=True)))


@pytest.mark.parametrize(("nodes", "vms"), [(1, 1), (1, 3), (2, 2), (5, 3)])
def test_every_vm_has_its_two_sides(tmp_path: Path, nodes: int, vms: int) -> None:
    spec = Spec(nodes, vms)
    found = {}
    for number, files in enumerate(content.outputs(spec)):
        name = spec.name(number)
        found[name] = looked(install(tmp_path / name, files), name)
        assert found[name].hostname == name
        assert found[name].trouble == ""
    state = ClusterState(found)
    assert len(state.vm_names()) == nodes * vms
    for vm in spec.machines():
        homes = [spec.name(each) for each in vm.nodes]
        assert state.homes(vm.name) == homes
        assert state.active_on(vm.name) == state.primaries(vm.name) == homes[:1]
        assert state.stale_copies(vm.name) == []
        for home in homes:
            assert found[home].volumes[vm.name].size == 71303168
            assert found[home].resources[vm.name].healthy == (nodes > 1)
            assert found[home].resources[vm.name].minor == found[home].files[vm.name].minor == vm.number + 1


def test_a_node_can_be_asked_what_a_new_vm_needs(tmp_path: Path) -> None:
    environment = install(tmp_path, content.outputs(Spec(2, 1))[0])
    assert looked(environment, "pm-1", allocating=True).ports == {22, 5900}


def test_a_tool_that_the_fleet_does_not_have_is_no_empty_answer(tmp_path: Path) -> None:
    environment = install(tmp_path, content.outputs(Spec(2, 1))[0])
    got = subprocess.run(["sh", "-c", "virsh list"], env=environment, capture_output=True, text=True, check=False)
    assert got.returncode == 127
    assert "virsh list: the simulated node has no such answer" in got.stderr


def test_the_ill_are_spread_and_counted() -> None:
    ills = Spec(100, 1, dead=5, slow=5).ills()
    assert sorted(ills) == list(range(0, 100, 10))
    assert [list(ills.values()).count(ill) for ill in ILLS] == [5, 0, 0, 5, 0]
    with pytest.raises(ValueError, match="3 ill nodes of 2"):
        Spec(2, 1, dead=3).ills()


def test_addresses_are_the_machines_own_and_differ() -> None:
    spec = Spec(1000, 0)
    addresses = {spec.address(number) for number in range(1000)}
    assert len(addresses) == 1000
    assert all(address.startswith("127.0.") and max(map(int, address.split("."))) < 255 for address in addresses)


def test_the_tools_are_a_shell_script_that_any_sh_runs() -> None:
    assert os.access(TOOL, os.R_OK)
    subprocess.run(["sh", "-n", str(TOOL)], check=True)
