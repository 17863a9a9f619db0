"""Timings that were measured before, by machine, kernel and structure; planning again takes no measuring."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hetcompress.comparisons import Comparison
from hetcompress.errors import HetCompressError
from hetcompress.files import write_text
from hetcompress.kernels import available, best_path
from hetcompress.lowering import LoweredLayer, Survey
from hetcompress.machine import machine
from hetcompress.version import __version__

__all__ = ["Decided", "Timings", "cache_folder"]

FORMAT = 7
"""Of the cache; other formats are measured anew, as is what another version of the package kept."""


def cache_folder() -> Path:
    """Return where timings are kept: ``HETCOMPRESS_CACHE``, else the user's cache folder."""
    given = os.environ.get("HETCOMPRESS_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hetcompress"


@dataclasses.dataclass(frozen=True)
class Decided:
    """What was planned for a whole model.

    Attributes:
        layers: What each was lowered to, by name.
        whole: The lowered model against the dense one, if it was timed.
        note: What was given up, and why.
        untouched: See `hetcompress.planning.Plan`.
    """

    layers: dict[str, LoweredLayer]
    whole: Comparison | None
    note: str
    untouched: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        layers = {name: dataclasses.asdict(layer) for name, layer in self.layers.items()}
        whole = self.whole and self.whole.to_json()
        return {"layers": layers, "whole": whole, "note": self.note, "untouched": self.untouched}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Decided:
        """Build what `to_json` returned."""
        layers = {str(name): LoweredLayer(**layer) for name, layer in values["layers"].items()}
        whole = values["whole"] and Comparison.from_json(values["whole"])
        return cls(layers, whole, str(values["note"]), bool(values["untouched"]))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes out of a file's folder, where the system has ``flock`` and the folder is there."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path.parent, os.O_RDONLY)
            held.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class Timings:
    """Milliseconds of forms on this machine in one runtime.

    A cache that cannot be read is empty, and one that cannot be written is not kept: both only cost time.

    Args:
        runtime: Name and version of the runtime.
    """

    def __init__(self, runtime: str) -> None:
        here = machine()
        kernel = best_path() if available()[0] else None  # the user may name another than the processor's best
        described = json.dumps([FORMAT, __version__, runtime, here.cpu, here.flags, here.cores, kernel])
        self.path = cache_folder() / f"timings-{hashlib.sha256(described.encode()).hexdigest()[:16]}.json"
        self.known, self.surveys, self.plans = self._kept()
        self.changed = False

    def _kept(self) -> tuple[dict[str, dict[str, float]], dict[str, Survey], dict[str, Decided]]:
        """Return times, surveys and plans of the file; nothing of one that cannot be read."""
        try:
            read = json.loads(self.path.read_text(encoding="utf-8"))
            known = {
                str(key): {str(form): float(time) for form, time in times.items()}
                for key, times in read["milliseconds"].items()
            }
            surveys = {str(key): Survey(**value) for key, value in read["surveys"].items()}
            plans = {str(key): Decided.from_json(value) for key, value in read["plans"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}, {}, {}
        return known, surveys, plans

    @staticmethod
    def key(form: nn.Module, input_shape: tuple[int, ...], batch: int, threads: int, *others: object) -> str:
        """Return what a time depends on: operators and their sizes, which channels are gathered, images, threads."""
        digest = hashlib.sha256(f"{form!r}\n{(input_shape, batch, threads, *others)!r}\n".encode())
        for name, buffer in form.named_buffers():
            if not buffer.is_floating_point():
                digest.update(f"{name} {buffer.dtype} {tuple(buffer.shape)}\n".encode())
                digest.update(buffer.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def add(self, key: str, measured: dict[str, float]) -> None:
        """Remember the times of one layer's forms, in milliseconds, measured in turns."""
        self.known[key] = measured
        self.changed = True

    def add_plan(self, key: str, decided: Decided) -> None:
        """Remember a plan."""
        self.plans[key] = decided
        self.changed = True

    def add_survey(self, key: str, survey: Survey) -> None:
        """Remember what was found of the forms of a layer."""
        self.surveys[key] = survey
        self.changed = True

    def save(self) -> None:
        """Write the cache, if it changed, with what others have added meanwhile."""
        if not self.changed:
            return
        with _locked(self.path):
            self._save()

    def _save(self) -> None:
        known, surveys, plans = self._kept()
        self.known, self.surveys, self.plans = known | self.known, surveys | self.surveys, plans | self.plans
        values = {
            "format": FORMAT,
            "milliseconds": self.known,
            "surveys": {key: dataclasses.asdict(survey) for key, survey in self.surveys.items()},
            "plans": {key: decided.to_json() for key, decided in self.plans.items()},
        }
        try:
            write_text(self.path, json.dumps(values))
        except HetCompressError:
            return
        self.changed = False
