"""The `pmc` command: the tasks of `fab` from any directory."""

from __future__ import annotations

from typing import Any

from fabric import Config, Executor
from fabric.main import Fab

from pmc import __version__
from pmc.tasks import ns


class PmcConfig(Config):  # type: ignore[misc]
    @staticmethod
    def global_defaults() -> dict[str, Any]:
        defaults: dict[str, Any] = Config.global_defaults()
        defaults["tasks"]["auto_dash_names"] = False
        return defaults


program = Fab(name="pmc", version=__version__, namespace=ns, executor_class=Executor, config_class=PmcConfig)


def main() -> None:
    program.run()
