"""How much a command says: the options ``-q`` and ``-v``, which every command has, and what they mean.

::

    -q    warnings, errors, and the lines that tell the result; no progress, no tables
          + what happens, tables, advice
    -v    + versions, processor, time and memory; the traceback of an error, and of what caused it
"""

from __future__ import annotations

import contextlib
import enum
import functools
import inspect
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Annotated, Any

import typer

from hetcompress.errors import HetCompressError, UsageError

__all__ = ["Verbosity", "say_stopped", "show_causes", "verbosity", "with_verbosity"]


class Verbosity(enum.IntEnum):
    """How much is said."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


_CHOSEN = ContextVar("verbosity", default=Verbosity.NORMAL)

STOPPED = 128
"""An exit code beyond it is this plus the number of the signal that stopped the command."""

OPTIONS = {
    "quiet": typer.Option("--quiet", "-q", help="Print warnings, errors and the result alone."),
    "verbose": typer.Option("--verbose", "-v", help="Print versions, time and memory too, and tracebacks of errors."),
}


def verbosity() -> Verbosity:
    """Return what the running command was asked for."""
    return _CHOSEN.get()


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes ``-q`` and ``-v`` as well."""

    @functools.wraps(command)
    def talking(*, quiet: bool, verbose: bool, **arguments: Any) -> None:
        if quiet and verbose:
            raise UsageError("--quiet and --verbose", expected="one of them", found="both", fix="leave one out")
        _CHOSEN.set(Verbosity.QUIET if quiet else Verbosity.VERBOSE if verbose else Verbosity.NORMAL)
        try:
            with _described():
                command(**arguments)
        except KeyboardInterrupt:
            say_stopped(signal.SIGINT)
            raise

    # typer reads options from a signature; annotations that are text would be looked up in this module
    own = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])
        for name, option in OPTIONS.items()
    ]
    talking.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
    return talking


@contextlib.contextmanager
def _described() -> Iterator[None]:
    """Say on which machine a command ran, how long, and in how much memory."""
    began = time.perf_counter()
    try:
        yield
    finally:
        if verbosity() >= Verbosity.VERBOSE:
            from hetcompress.cli import console
            from hetcompress.machine import machine
            from hetcompress.version import __version__

            python = ".".join(map(str, sys.version_info[:3]))
            console.detail(f"hetcompress {__version__}, Python {python}, {machine().summary}")
            console.detail(f"took {time.perf_counter() - began:.1f} s{_peak_memory()}")


def _peak_memory() -> str:
    try:
        import resource
    except ImportError:  # not on this system
        return ""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, else KiB
    return f", at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6:,.0f} MB of memory"


def say_stopped(signum: int) -> None:
    """Say which signal ended a command that has nothing to save."""
    typer.echo(f"error: stopped by {signal.Signals(signum).name}", err=True)


def show_causes(error: HetCompressError) -> None:
    """Print the traceback of an error with everything that led to it, where that was asked for."""
    if verbosity() < Verbosity.VERBOSE or error.exit_code > STOPPED:  # nobody's fault
        return
    cause: BaseException | None = error
    while cause is not None:
        cause.__suppress_context__ = False  # our one-line errors hide what a library said
        cause = cause.__cause__ or cause.__context__
    traceback.print_exception(error)
