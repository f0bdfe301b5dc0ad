"""The `pmc` command: the tasks of `fab` from any directory."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from typing import Any, TextIO

from fabric import Config, Executor
from fabric.main import Fab

from pmc import __version__
from pmc.tasks import ns
from pmc.tasks.arguments import install


class PmcConfig(Config):  # type: ignore[misc]
    @staticmethod
    def global_defaults() -> dict[str, Any]:
        defaults: dict[str, Any] = Config.global_defaults()
        defaults["tasks"]["auto_dash_names"] = False
        return defaults


program = Fab(name="pmc", version=__version__, namespace=ns, executor_class=Executor, config_class=PmcConfig)


class Patient:
    """A stream of ours whose reader may leave before the end (`pmc --list | head`): that changes no exit status.
    `full`: why else it did not take all."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.full = stream, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BrokenPipeError:
            pass
        except OSError as error:
            self.full = error.strerror or str(error)


def main() -> None:
    install()
    streams = [stream for stream in (sys.stdout, sys.stderr) if stream is not None]  # none: a service closed it
    if sys.stdout is not None:
        sys.stdout = Patient(sys.stdout)
    if sys.stderr is not None:
        sys.stderr = Patient(sys.stderr)
    status: object = 0
    try:
        program.run()
    except SystemExit as end:  # invoke ends so, also after --list
        status = end.code or 0
    finally:
        for ours in (sys.stdout, sys.stderr):
            if ours is not None:
                ours.flush()
        full = getattr(sys.stdout, "full", "")
        for stream in streams:
            if reader_left(stream) or (full and stream is streams[0]):
                # Or Python would complain of it when it closes the stream.
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if full and status == 0:
        print(f"stdout cannot be written: {full}", file=sys.stderr)
        status = 1
    sys.exit(status)  # type: ignore[arg-type]


def reader_left(stream: TextIO) -> bool:
    """Whether it is a pipe, or a socket, whose reader is gone (poll(2), POLLERR)."""
    look = select.poll()
    look.register(stream.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in look.poll(0))
