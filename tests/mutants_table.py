"""docs/mutants.md: what was taken out of pmc, who noticed, and of what nobody noticed the reason."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from typing import Any

from tabulate import tabulate

from tests.mutants import KINDS, ROOT, all_of


def write(found: dict[str, dict[str, Any]]) -> None:
    reasons: dict[str, str] = json.loads((ROOT / "tests/data/mutants.json").read_text())
    (ROOT / "docs/mutants.md").write_text(text(found, reasons))


def text(found: dict[str, dict[str, Any]], reasons: dict[str, str]) -> str:
    head = (ROOT / "docs/mutants.head.md").read_text()
    every = {each.id: each for each in all_of()}
    tried = {id: row for id, row in found.items() if id in every and not row.get("skipped")}
    commits = ", ".join(sorted({_of(row["of"][0]) for row in tried.values()}))
    rows = []
    for kind in KINDS:
        there = [each for each in every.values() if each.kind == kind]
        mine = [row for row in tried.values() if row["kind"] == kind]
        model = sum(row["by"].startswith("the model") for row in mine)
        alive = sum(not row["by"] for row in mine)
        rows.append([kind, len(there), len(mine), len(mine) - model - alive, model, alive])
    rows.append(["together", *(sum(row[n] for row in rows) for n in range(1, 6))])
    headers = ["taken out", "there are", "tried", "a unit test notices", "the model notices", "nobody notices"]
    left = sorted((id for id, row in tried.items() if not row["by"]), key=lambda id: (tried[id]["file"], id))
    survivors = [
        [tried[id]["file"].removeprefix("pmc/"), tried[id]["function"], _short(tried[id]["kind"], tried[id]["old"]),
         reasons.get(id, "to be looked at")]
        for id in left
    ]  # fmt: skip
    why = Counter(reasons.get(id, "to be looked at").partition(":")[0] for id in left)
    told = (
        "Nothing of what was tried"
        if not left
        else "; ".join(f"{count} {reason}" for reason, count in sorted(why.items()))
    )
    missing = Counter(each.file for id, each in every.items() if id not in tried)
    untried = ", ".join(f"{file.removeprefix('pmc/')} {count}" for file, count in sorted(missing.items()))
    asked = sum(bool(row.get("model")) for row in tried.values())
    model = f", {asked} of them on the model, too" if asked else ", without the model"
    return (
        f"{head}\nTried on {commits}{model}:\n\n{tabulate(rows, headers=headers, tablefmt='github')}\n\n"
        + (f"Not tried: {untried}.\n\n" if untried else "")
        + f"## What nobody notices\n\n{told}.\n\n"
        + tabulate(survivors, headers=["file", "function", "without", "why"], tablefmt="github")
        + "\n"
    )


def _of(commit: str) -> str:
    said = subprocess.run(["git", "log", "-1", "--format=%h of %cs", commit], cwd=ROOT, capture_output=True, text=True)
    return said.stdout.strip() or commit


def _short(kind: str, old: str) -> str:
    old = old if len(old) <= 90 else f"{old[:87]}..."
    return f"{kind} `{old.replace('|', chr(92) + '|').replace('`', '')}`"
