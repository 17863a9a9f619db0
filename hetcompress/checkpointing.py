"""Training checkpoints and interruption: a run that is killed goes on where it was."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TypeVar

import torch

from hetcompress.errors import HetCompressError, InputError, first_line
from hetcompress.files import write_bytes

__all__ = ["Checkpoints", "InterruptedRunError", "Interruption", "differences", "load_checkpoint", "save_checkpoint"]

T = TypeVar("T")
FORMAT = 1


class InterruptedRunError(HetCompressError):
    """Training was stopped by a signal; the exit code is 128 + the signal.

    Args:
        signum: The signal.
        saved: Whether there is a state to go on from.
    """

    def __init__(self, signum: int, *, saved: bool) -> None:
        left = "the state is saved, the same command goes on from it" if saved else "no state is saved"
        super().__init__(f"stopped by {signal.Signals(signum).name}; {left}")
        self.exit_code = 128 + signum


class Interruption:
    """Turns the first SIGINT or SIGTERM into a request that training answers soon; a second one acts at once.

    Outside the main thread signals cannot be caught, and nothing changes.

    Args:
        say: Told at once that the signal was heard.

    Attributes:
        requested: The signal, or 0.
        saved: Whether there is a state to go on from.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.requested = 0
        self.saved = False
        self.say = say
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.requested = signum
        signal.signal(signum, self._previous[signum])
        with contextlib.suppress(RuntimeError):  # the signal may have come in the middle of other output
            self.say("stopping after this step or batch; a second signal stops at once, and saves nothing")

    def stop_if_requested(self) -> None:
        """Raise `InterruptedRunError` if a signal has come."""
        if self.requested:
            raise InterruptedRunError(self.requested, saved=self.saved)

    def between(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield batches of something that a resumed run does anew, and stop between them if a signal has come."""
        for batch in batches:
            self.stop_if_requested()
            yield batch


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its complete state, and whether it goes on from the one that is there.

    Attributes:
        path: The file.
        every: Steps between two of them.
        resume: Go on from the file, if it exists.
        fingerprint: Identifies the settings and the source; a state with another one is not taken up.
        settings: The settings in words, to say which of them differ.
    """

    path: Path
    every: int = 200
    resume: bool = True
    fingerprint: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def save(self, state: dict[str, Any]) -> None:
        """Write a state."""
        own = {"fingerprint": self.fingerprint, "settings": json.dumps(self.settings)}
        save_checkpoint(self.path, {**own, **state})

    def load(self) -> dict[str, Any] | None:
        """Return the state to go on from, or None.

        Raises:
            InputError: The file is broken, or of other settings.
        """
        if not (self.resume and self.path.exists()):
            return None
        state = load_checkpoint(self.path)
        if state["fingerprint"] != self.fingerprint:
            raise InputError(
                f"checkpoint {self.path}",
                expected="one of the same settings",
                found=f"one of {differences(json.loads(state.get('settings', '{}')), self.settings)}",
                fix="pass --resume never to start anew, or the settings of the interrupted run",
            )  # fmt: skip
        return state


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return in words which settings of two nested tables differ."""
    before, now = _flat(old), _flat(new)
    found = [
        f"{name} {before[name]}, now {now[name]}" for name in before.keys() & now.keys() if before[name] != now[name]
    ]
    return f"other settings ({'; '.join(sorted(found))})" if found else "other settings or data"


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return innermost names and values, in words."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        said = "not given" if value is None else json.dumps(value)
        flat |= _flat(value) if isinstance(value, Mapping) else {name.replace("_", "-"): said}
    return flat


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training state (tensors and plain values) atomically."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_bytes(path, buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training state.

    Raises:
        InputError: The file is broken, or of another format.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(
            f"checkpoint {path}",
            expected="a training state written by hetcompress",
            found=first_line(error),
            fix="pass --resume never to start anew",
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise InputError(f"checkpoint {path}", expected=f"format {FORMAT}", found=str(found), fix="pass --resume never")
    return state
