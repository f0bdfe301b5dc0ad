"""Imports run one way, and the pure modules stay pure: read from the source, without importing it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("pmc", "fabfile")
    for path in (ROOT / folder).rglob("*.py")
}

# From the bottom up; a module imports from its own layer and those before it. One that is new belongs in a layer.
LAYERS = [
    {"pmc", "pmc.plain", "pmc.units", "pmc.errors", "pmc.command", "pmc.remote", "pmc.remote.manifest",
     "pmc.resource"},
    {"pmc.model", "pmc.settings", "pmc.remote.vcdiff"},
    {"pmc.facts", "pmc.facts.*", "pmc.lvm"},
    {
        "pmc.drbd", "pmc.drbd_generations", "pmc.drbd_new_peer", "pmc.lvm_thin", "pmc.virsh", "pmc.guest_agent",
        "pmc.backup", "pmc.backup_pipeline", "pmc.plans.retention", "pmc.lock_files", "pmc.names",
    },
    {"pmc.actions", "pmc.plan", "pmc.paste", "pmc.node_state", "pmc.capacity", "pmc.capacity.*"},
    {"pmc.health", "pmc.health.*", "pmc.plans", "pmc.plans.*", "pmc.view.rows"},
    {"pmc.view", "pmc.view.*"},
    {"pmc.remote.blocks", "pmc.remote.device", "pmc.remote.stream"},
    {"pmc.transport", "pmc.transport.*", "pmc.cluster", "pmc.audit"},
    {"pmc.tasks", "pmc.tasks.*"},
    {"pmc.main", "fabfile"},
    {"pmc.__main__"},
]  # fmt: skip
PURE = 6  # the first so many layers
IMPURE = {
    "fabric", "paramiko", "libvirt", "threading", "concurrent", "multiprocessing", "asyncio", "time", "random",
    "secrets", "socket", "select", "subprocess", "signal", "tqdm", "tabulate",
}  # fmt: skip
CONNECTIONS = {"fabric", "paramiko", "socket", "threading", "concurrent"}
OWNERS = {
    "pmc.transport.known_hosts", "pmc.transport.connection", "pmc.transport.login", "pmc.transport.sessions",
    "pmc.transport.node", "pmc.transport.lock", "pmc.transport.scheduler", "pmc.transport.fanout", "pmc.cluster",
    "pmc.transport.hypervisor", "pmc.transport.migration",
}  # fmt: skip
ON_NODES = {
    "pmc.remote.blocks",
    "pmc.remote.device",
    "pmc.remote.stream",
}  # they run there, and nothing here imports them


def imports(path: Path) -> set[str]:
    found = set[str]()
    for part in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(part, ast.Import):
            found |= {alias.name for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            assert part.level == 0, f"{path}: a relative import"
            assert part.module is not None
            # `from pmc import drbd` imports the module pmc.drbd; `from pmc.drbd import path` only pmc.drbd.
            found |= {f"{part.module}.{alias.name}" for alias in part.names if f"{part.module}.{alias.name}" in FILES}
            if not all(f"{part.module}.{alias.name}" in FILES for alias in part.names):
                found.add(part.module)
    return found


def layer(module: str) -> int:
    for number, names in enumerate(LAYERS):
        if module in names or f"{module.rpartition('.')[0]}.*" in names:
            return number
    pytest.fail(f"{module} is in no layer: give it one in {__name__}")


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_run_one_way(module: str) -> None:
    mine = layer(module)
    if module == "pmc":
        return  # it names what is imported when it is first used (test_python.py)
    for other in imports(FILES[module]):
        if other.partition(".")[0] in ("pmc", "fabfile"):
            assert layer(other) <= mine, f"{module} imports {other}, which is above it"


@pytest.mark.parametrize("module", sorted(FILES))
def test_pure_modules_import_nothing_that_acts(module: str) -> None:
    if layer(module) < PURE:
        assert {name.partition(".")[0] for name in imports(FILES[module])} & IMPURE == set()


def test_connections_and_threads_have_their_owners() -> None:
    """Tasks may ask Fabric what kind of context they got, and lookups asks DNS, which has no deadline without a thread;
    neither connects to a node. fence_command listens to its program in a thread."""
    allowed = {
        "pmc.tasks.base": {"fabric"}, "pmc.main": {"fabric"}, "pmc.tasks.lookups": {"socket", "threading"},
        "pmc.transport.fence_command": {"threading"},
    }  # fmt: skip
    for module, path in FILES.items():
        used = {name.partition(".")[0] for name in imports(path)} & CONNECTIONS
        assert module in OWNERS | ON_NODES or used <= allowed.get(module, set()), f"{module} uses {used}"


def test_libvirt_is_imported_in_one_place() -> None:
    assert [module for module, path in FILES.items() if "libvirt" in imports(path)] == ["pmc.transport.hypervisor"]


def test_errors_import_invoke_and_text_only() -> None:
    frames = {"sys", "types"}  # of PmcError.rule
    assert imports(FILES["pmc.errors"]) == {"__future__", "invoke.exceptions", "pmc.plain", *frames}


@pytest.mark.parametrize("module", sorted(FILES))
def test_a_pure_module_reads_no_clock(module: str) -> None:
    """datetime is a type to compute with; now() is the clock."""
    if layer(module) < PURE:
        calls = [part.func for part in ast.walk(ast.parse(FILES[module].read_text())) if isinstance(part, ast.Call)]
        names = {call.attr for call in calls if isinstance(call, ast.Attribute)}
        assert names & {"now", "utcnow", "today"} == set()
