"""What can be taken out of pmc, one thing at a time, found by its syntax: a step of a plan, a requirement, an undo, a
check, a pivot, a guard, the look at a lock before a step, a condition in what keeps data. tests/mutate.py tries them.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Beside pmc/plans, where steps and requirements are: what locks, carries out, copies and compares.
CAREFUL = (
    "pmc/plan.py", "pmc/lock_files.py", "pmc/transport/lock.py", "pmc/cluster.py", "pmc/transport/migration.py",
    "pmc/transport/node.py", "pmc/transport/sessions.py", "pmc/transport/fetch.py", "pmc/backup_pipeline.py",
    "pmc/remote/stream.py", "pmc/remote/manifest.py", "pmc/backup.py", "pmc/plans/retention.py",
    "pmc/drbd_generations.py", "pmc/tasks/fencing.py", "pmc/facts/dead_node.py",
)  # fmt: skip
KINDS = ("step", "requirement", "refusal", "undo", "check", "pivot", "guard", "claims", "lock", "condition")
FLAGS = {"undo": "None", "check": "None", "pivot": "False", "guard": "False", "claims": "False", "locks": "()"}


@dataclass(frozen=True)
class Mutant:
    """`file` with the text from `begin` to `end` (offsets) replaced by `new`. `function` is what it is in."""

    file: str
    function: str
    line: int
    kind: str
    old: str
    begin: int
    end: int
    new: str

    @property
    def id(self) -> str:
        """The same as long as what is taken out, and its function's name, stay as they are."""
        return hashlib.sha256(f"{self.file} {self.function} {self.kind} {self.old} {self.new}".encode()).hexdigest()[
            :10
        ]

    def source(self, text: str) -> str:
        return text[: self.begin] + self.new + text[self.end :]


def all_of(root: Path = ROOT) -> list[Mutant]:
    plans = sorted(str(path.relative_to(root)) for path in (root / "pmc/plans").glob("*.py"))
    trees = {name: ast.parse((root / name).read_text()) for name in [*plans, *CAREFUL] if (root / name).exists()}
    steps = makers(trees[name] for name in plans)
    found: dict[str, Mutant] = {}
    for name, tree in trees.items():
        text = (root / name).read_text()
        for mutant in of(name, text, tree, steps, name in CAREFUL):
            found.setdefault(mutant.id, mutant)
    return list(found.values())


def makers(trees: Iterable[ast.Module]) -> set[str]:
    """The names of functions that return a Step or several, and of Step itself."""
    functions = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    named = {each.name for each in functions if each.returns and "Step" in ast.unparse(each.returns)}
    return {"Step", "on_each", *named}


def of(file: str, text: str, tree: ast.Module, steps: set[str], careful: bool) -> Iterator[Mutant]:
    offsets = [0]
    for line in text.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))

    def place(node: ast.AST) -> tuple[int, int]:
        # Columns are counted in bytes.
        rows = text.splitlines()
        ends = []
        for row, column in ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)):  # type: ignore[attr-defined]
            ends.append(offsets[row - 1] + len(rows[row - 1].encode()[:column].decode()))
        return ends[0], ends[1]

    for function, node in _walk(tree):
        for kind, target, new in _changes(node, steps, careful):
            begin, end = place(target)
            if kind == "step" and text[end:].lstrip()[:1] == ",":
                end = text.index(",", end) + 1
            old = " ".join(text[begin:end].split())
            yield Mutant(file, function, target.lineno, kind, old, begin, end, new or _nothing(kind, text[begin:end]))  # type: ignore[attr-defined]


def _nothing(kind: str, old: str) -> str:
    return f"(({old}) and False)" if kind in ("refusal", "condition") else ""


def _walk(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Each node in a function, with the function's name (of a method, with its class)."""

    def inside(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                yield from inside(child, f"{name}.{child.name}".strip("."))
            else:
                if name:
                    yield name, child
                yield from inside(child, name)

    yield from inside(tree, "")


def _changes(node: ast.AST, steps: set[str], careful: bool) -> Iterator[tuple[str, ast.AST, str]]:
    """(kind, what is replaced, by what; empty: by nothing, or by what is never true)"""
    if isinstance(node, ast.List | ast.Tuple) and isinstance(node.ctx, ast.Load):
        yield from (("step", each, "") for each in node.elts if _makes_steps(each, steps))
    if isinstance(node, ast.Call) and _name(node) == "plan":
        yield from (("step", each, "") for each in node.args[1:])
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        name = _name(node.value)
        if name == "append" and _makes_steps(node.value.args[0], steps):
            yield "step", node, "pass"
        if name == "ensure":
            yield "lock", node, "pass"
        if not careful and name not in ("append", "sort", "update", "extend", "note"):
            yield "requirement", node, "pass"
    if isinstance(node, ast.AugAssign) and _makes_steps(node.value, steps):
        yield "step", node, "pass"
    if isinstance(node, ast.If):
        refuses = any(isinstance(each, ast.Raise) for each in node.body)
        if refuses or careful:
            yield "refusal" if refuses else "condition", node.test, ""
    if isinstance(node, ast.keyword) and node.arg in FLAGS and not isinstance(node.value, ast.Name):
        off = FLAGS[node.arg]
        if node.arg == "locks" or ast.unparse(node.value) != off:
            yield "lock" if node.arg == "locks" else node.arg, node.value, off
        elif node.arg in ("pivot", "guard"):
            yield node.arg, node.value, "True"


def _makes_steps(node: ast.AST, steps: set[str]) -> bool:
    inner = node.value if isinstance(node, ast.Starred) else node
    if isinstance(inner, ast.GeneratorExp | ast.ListComp):
        return _makes_steps(inner.elt, steps)
    if isinstance(inner, ast.IfExp):
        return _makes_steps(inner.body, steps) or _makes_steps(inner.orelse, steps)
    if isinstance(inner, ast.List):
        return any(_makes_steps(each, steps) for each in inner.elts)
    if isinstance(inner, ast.Call) and _name(inner) == "replace":
        return bool(inner.args) and _makes_steps(inner.args[0], steps)
    return isinstance(inner, ast.Call) and _name(inner) in steps


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def counted(mutants: Sequence[Mutant]) -> dict[str, int]:
    return {kind: sum(each.kind == kind for each in mutants) for kind in KINDS}
