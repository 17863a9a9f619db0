"""Everything that is drawn: lines, tables, progress.

::

    result, print_json    stdout, always: what the command was run for
    say                   stdout, not under -q: tables, and what explains them
    warn                  stderr, always
    note, progress        stderr, not under -q: what happens meanwhile
    detail                stderr, under -v alone
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from hetcompress.cli.verbosity import Verbosity, verbosity

if TYPE_CHECKING:
    from hetcompress.evaluation import Accuracy

__all__ = [
    "TrainingProgress", "count", "detail", "millions", "note", "print_json", "result", "say", "table", "warn",
]  # fmt: skip

WIDTH = 150
"""Columns where the output is no terminal; tables are not squeezed into 80 in a log."""

LINE_SECONDS = 30.0
"""Where no bar can be drawn, one plain line is printed in this interval."""


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    # brackets and colons in what is printed are the user's own, no markup
    return Console(
        stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True,
        width=None if stream.isatty() else WIDTH,
    )  # fmt: skip


_out = _console(stderr=False)
_err = _console(stderr=True)


def result(text: str) -> None:
    """Print a line that the command was run for."""
    _out.print(text)


def say(shown: str | Table, *, brief: Sequence[str] = ()) -> None:
    """Print a table, or a line that explains the result; under -q the `brief` lines in its place."""
    for item in [shown] if verbosity() > Verbosity.QUIET else brief:
        _out.print(item)


def warn(text: str) -> None:
    """Print what the user should know before trusting the result."""
    _err.print(f"NOTE: {text}")


def note(text: str) -> None:
    """Print what happens."""
    if verbosity() > Verbosity.QUIET:
        _err.print(text)


def detail(text: str) -> None:
    """Print what few want to know."""
    if verbosity() >= Verbosity.VERBOSE:
        _err.print(text)


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


class TrainingProgress:
    """Draws fine-tuning: a bar with the time that is left on a terminal, a plain line per interval elsewhere."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: Any = None
        self._began: tuple[float, int] | None = None
        self._said = 0.0

    def __enter__(self) -> TrainingProgress:
        if verbosity() > Verbosity.QUIET and _err.is_terminal and os.environ.get("TERM") != "dumb":
            self._bar = Progress(
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[loss]}"), console=_err, transient=True,
            )  # fmt: skip
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            with contextlib.suppress(Exception):
                self._bar.stop()

    def restarted(self) -> TrainingProgress:
        """Return the same display for another training."""
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
        self._task, self._began = None, None
        return self

    def measured(self, when: str, accuracy: Accuracy) -> None:
        """Print an accuracy."""
        note(f"{accuracy.percent:6.2f} %  {when}")

    def progressed(self, step: int, total: int, losses: Mapping[str, float]) -> None:
        """Move the bar, or print a line when its time has come."""
        loss = f"loss {losses['loss']:.3f}"
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task("train", total=total, completed=step, loss=loss)
            self._bar.update(self._task, completed=step, loss=loss)
            return
        now = time.monotonic()
        if self._began is None:
            self._began, self._said = (now, step), now
        if now - self._said >= LINE_SECONDS:
            self._said = now
            left = (now - self._began[0]) / max(1, step - self._began[1]) * (total - step)
            note(f"step {step} of {total}, {loss}, about {left / 60:.1f} min left")

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Print one epoch."""
        note(
            f"{line['accuracy']:6.2f} %  epoch {line['epoch']} (stage {line['stage']}): loss {line['loss']:.3f}, "
            f"MAC ratio {line['mac_ratio']:.2f}, density {line['density']:.3f}, "
            f"lr {line['learning_rate']:.4f}, {line['images_per_second']:.0f} images/s"
        )

    def note(self, text: str) -> None:
        """Print a line."""
        note(text)

    def warn(self, text: str) -> None:
        """Print a warning."""
        warn(text)
