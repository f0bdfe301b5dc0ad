"""The `pmc` command: the tasks of `fab` from any directory."""

from __future__ import annotations

import sys
from typing import Any

from fabric import Config, Executor
from fabric.main import Fab

from pmc import __version__
from pmc.tasks import ns
from pmc.view import nobody_reads


class PmcConfig(Config):  # type: ignore[misc]
    @staticmethod
    def global_defaults() -> dict[str, Any]:
        defaults: dict[str, Any] = Config.global_defaults()
        defaults["tasks"]["auto_dash_names"] = False
        return defaults


program = Fab(name="pmc", version=__version__, namespace=ns, executor_class=Executor, config_class=PmcConfig)


def main() -> None:
    try:
        try:
            program.run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `pmc --list | head`: invoke prints its helps itself
        nobody_reads()
