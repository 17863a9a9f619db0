"""What is shown while a command works: a line or a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from hetcompress.activity import listening
from hetcompress.cli.console import note, stderr, warn
from hetcompress.cli.verbosity import Verbosity, verbosity

if TYPE_CHECKING:
    from hetcompress.evaluation import Accuracy

__all__ = ["TrainingProgress", "activity"]

LINE_SECONDS = 30.0
"""Where nothing can be drawn, one plain line is printed in this interval."""
DRAW_SECONDS = 0.1
"""The bar of a training is drawn no more often."""


def _drawable() -> bool:
    return verbosity() > Verbosity.QUIET and stderr.is_terminal and os.environ.get("TERM") != "dumb"


class _NowAndThen:
    """Shows a text if the last one is long enough ago; the start counts as one.

    Args:
        show: What shows it.
        seconds: How long is long enough.
    """

    def __init__(self, show: Callable[[str], object], seconds: float) -> None:
        self._show, self._seconds, self._last = show, seconds, time.monotonic()

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last >= self._seconds:
            self._last = now
            self._show(text)


@contextlib.contextmanager
def activity() -> Iterator[None]:
    """Show what is being worked at inside the block."""
    if not _drawable():
        with listening(_NowAndThen(note, LINE_SECONDS)):
            yield
        return
    # drawn when something new begins and at no other time: a thread that draws would disturb what is timed meanwhile
    with Live(console=stderr, auto_refresh=False, transient=True) as live:

        def show(text: str) -> None:
            live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)

        with listening(show):
            yield


class TrainingProgress:
    """Draws fine-tuning: a bar with the time that is left on a terminal, a plain line per interval elsewhere.

    As in `activity`, no thread draws: a target of time is measured meanwhile.
    """

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: Any = None
        self._began: tuple[float, int] | None = None
        self._line = _NowAndThen(note, LINE_SECONDS)
        self._draw = _NowAndThen(self._refresh, DRAW_SECONDS)
        self._listening = contextlib.ExitStack()

    def __enter__(self) -> TrainingProgress:
        if _drawable():
            self._bar = Progress(
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[doing]}"), console=stderr, transient=True, auto_refresh=False,
            )  # fmt: skip
            self._bar.start()
        self._listening.enter_context(listening(self._working))
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        if self._bar is not None:
            with contextlib.suppress(Exception):
                self._bar.stop()

    def _refresh(self, _text: str) -> None:
        if self._bar is not None:
            self._bar.refresh()

    def _working(self, text: str) -> None:
        if self._bar is None:
            self._line(text)
            return
        if self._task is None:
            self._task = self._bar.add_task("train", total=None, doing=text)
        self._bar.update(self._task, doing=text)
        self._draw(text)

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
                self._task = self._bar.add_task("train", total=total, completed=step, doing=loss)
            self._bar.update(self._task, total=total, completed=step, doing=loss)
            self._draw(loss)
            return
        now = time.monotonic()
        if self._began is None:  # how long a step takes is known from the next one on
            self._began = now, step
            return
        left = (now - self._began[0]) / (step - self._began[1]) * (total - step)
        self._line(f"step {step} of {total}, {loss}, about {left / 60:.1f} min left")

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
