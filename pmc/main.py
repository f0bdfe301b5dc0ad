"""The `pmc` command: the tasks of `fab` from any directory."""

from __future__ import annotations

import select
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
        program.run()
    except BrokenPipeError:
        if not _unread():
            raise
    finally:
        # `pmc --list | head`: invoke prints its helps itself.
        if _unread():
            nobody_reads()


def _unread() -> bool:
    """Whether stdout is a pipe, or a socket, whose reader is gone (poll(2), POLLERR)."""
    if sys.stdout is None:
        return False
    look = select.poll()
    look.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in look.poll(0))
