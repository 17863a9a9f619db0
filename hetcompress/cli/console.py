"""Everything that is printed: lines and tables.

::

    result, print_json    stdout, always: what the command was run for
    say                   stdout, not under -q: tables, and what explains them
    warn                  stderr, always
    note                  stderr, not under -q: what happens meanwhile (and `hetcompress.cli.progress`)
    detail                stderr, under -v alone
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hetcompress.cli.verbosity import Verbosity, verbosity

__all__ = [
    "count", "detail", "milliseconds", "millions", "note", "print_json", "result", "say", "stderr", "table", "warn",
]  # fmt: skip

WIDTH = 150
"""Columns where the output is no terminal; tables are not squeezed into 80 in a log."""


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    # brackets and colons in what is printed are the user's own, no markup
    return Console(
        stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True,
        width=None if stream.isatty() else WIDTH,
    )  # fmt: skip


stdout = _console(stderr=False)
stderr = _console(stderr=True)


def result(text: str) -> None:
    """Print a line that the command was run for."""
    stdout.print(text)


def say(shown: str | Table, *, brief: Sequence[str] = ()) -> None:
    """Print a table, or a line that explains the result; under -q the `brief` lines in its place."""
    for item in [shown] if verbosity() > Verbosity.QUIET else brief:
        stdout.print(item)


def warn(text: str) -> None:
    """Print what the user should know before trusting the result."""
    stderr.print(f"NOTE: {text}")


def note(text: str) -> None:
    """Print what happens."""
    if verbosity() > Verbosity.QUIET:
        stderr.print(text)


def detail(text: str) -> None:
    """Print what few want to know."""
    if verbosity() >= Verbosity.VERBOSE:
        stderr.print(text)


def milliseconds(time: float) -> str:
    """Return a time with three digits, or whole milliseconds where it has more."""
    return f"{time:.3g}" if time < 999.5 else f"{time:,.0f}"


def count(number: float) -> str:
    """Return a whole number with thousands separated."""
    return f"{number:,.0f}"


def millions(number: float) -> str:
    """Return a number in thousands, millions or billions, with its letter."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.2f} {letter}"
    return f"{number:.0f}"


def table(title: str, columns: list[str], rows: list[list[str]], *, numbers_from: int = 1) -> Table:
    """Return a table whose columns from `numbers_from` on are aligned to the right."""
    drawn = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="right" if index >= numbers_from else "left", no_wrap=index < numbers_from)
    for row in rows:
        drawn.add_row(*row)
    return drawn


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            **{field.name: getattr(value, field.name) for field in dataclasses.fields(value)},
        }
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, set | tuple) else str(value)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one object with its schema number."""
    sys.stdout.write(json.dumps({"schema": 1, **value}, default=_plain, indent=2) + "\n")
