"""The benchmark's own venv, with what it compares pmc with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
VENV = HERE / ".venv"


def program(name: str) -> str:
    """Of the venv, which is made when it is not there, or is older than what it needs."""
    done, needed = VENV / ".done", HERE / "requirements.txt"
    if not done.exists() or done.stat().st_mtime < needed.stat().st_mtime:
        print(f"installing bench/requirements.txt into {VENV}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        pip = [str(VENV / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(needed)], check=True)
        done.touch()
    return str(VENV / "bin" / name)


def version(package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([program("python"), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
