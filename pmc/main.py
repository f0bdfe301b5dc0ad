"""The `pmc` command: the tasks of `fab` from any directory."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from fabric import Config, Executor
from fabric.main import Fab
from invoke.exceptions import Exit, ParseError

from pmc import __version__, plain
from pmc.errors import PmcError, Refused
from pmc.plain import one_line, then
from pmc.tasks import ns
from pmc.tasks.arguments import install


class PmcConfig(Config):  # type: ignore[misc]
    @staticmethod
    def global_defaults() -> dict[str, Any]:
        defaults: dict[str, Any] = Config.global_defaults()
        defaults["tasks"]["auto_dash_names"] = False
        return defaults


@contextmanager
def beginning() -> Iterator[None]:
    """Until the first task begins nothing is touched: what goes wrong there is refused, in a line. It is a flag of
    invoke's or Fabric's (-T abc, -S FILE), or this machine's (a HOME that is no folder); were it a fault of pmc's own,
    its kind and its text are in that line."""
    try:
        yield
    except PmcError:
        raise
    except (Exit, ParseError) as end:
        if said := str(end):
            raise Refused(then(one_line(said), f"{plain.program()} --help")) from None
        raise
    except Exception as error:
        said = one_line(f"{type(error).__name__}: {error}")
        raise Refused(then(f"{plain.program()} cannot begin: {said}", f"{plain.program()} --help")) from error


class Program(Fab):  # type: ignore[misc]
    def create_config(self) -> None:
        with beginning():
            super().create_config()

    def parse_core(self, argv: list[str] | None) -> None:
        with beginning():
            super().parse_core(argv)
            if (form := self.args["list-format"].value) not in FORMS:
                raise Refused(f"-F {form[:70]!r}: must be {', '.join(FORMS[:-1])} or {FORMS[-1]}")

    def parse_tasks(self) -> None:
        with beginning():
            super().parse_tasks()
            if self.core.remainder and not self.args.complete.value:  # Fabric has a command there, for the hosts of -H
                raise Refused(
                    then(f"--: nothing may stand behind it ({self.core.remainder[:70]!r})", f"{plain.program()} --help")
                )

    def parse_cleanup(self) -> None:
        with beginning():
            super().parse_cleanup()

    def update_config(self) -> None:
        with beginning():
            super().update_config()


FORMS = ("flat", "nested", "json")  # of --list
program = Program(name="pmc", version=__version__, namespace=ns, executor_class=Executor, config_class=PmcConfig)


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
