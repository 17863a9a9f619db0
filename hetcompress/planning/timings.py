"""Timings that were measured before, by machine, kernel and structure; planning again takes no measuring."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

from torch import nn

from hetcompress.errors import HetCompressError
from hetcompress.files import write_text
from hetcompress.kernels import available, best_path
from hetcompress.latency import Comparison
from hetcompress.lowering import Survey
from hetcompress.machine import machine
from hetcompress.version import __version__

__all__ = ["Timings", "cache_folder"]

FORMAT = 4
"""Of the cache; other formats are measured anew, as is what another version of the package kept."""
STEADY = 1.1
"""A whole whose 90 % interval is wider, end over end, is not remembered."""


def cache_folder() -> Path:
    """Return where timings are kept: ``HETCOMPRESS_CACHE``, else the user's cache folder."""
    given = os.environ.get("HETCOMPRESS_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hetcompress"


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
        self.known: dict[str, float] = {}
        self.wholes: dict[str, Comparison] = {}
        self.surveys: dict[str, Survey] = {}
        try:
            read = json.loads(self.path.read_text(encoding="utf-8"))
            known = {str(key): float(value) for key, value in read["milliseconds"].items()}
            wholes = {str(key): Comparison.from_json(value) for key, value in read["wholes"].items()}
            self.surveys = {str(key): Survey(**value) for key, value in read["surveys"].items()}
            self.known, self.wholes = known, wholes
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        self.changed = False

    @staticmethod
    def key(form: nn.Module, input_shape: tuple[int, ...], batch: int, threads: int, *others: object) -> str:
        """Return what a time depends on: operators and their sizes, which channels are gathered, images, threads."""
        parts = [repr(form), repr((input_shape, batch, threads, *others))]
        parts += [
            f"{name}:{buffer.tolist()}" for name, buffer in form.named_buffers() if not buffer.is_floating_point()
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def add(self, measured: dict[str, float]) -> None:
        """Remember times in milliseconds by key."""
        self.known.update(measured)
        self.changed = self.changed or bool(measured)

    def add_whole(self, key: str, compared: Comparison) -> None:
        """Remember a whole model against the dense one, unless it was a busy minute."""
        if compared.ratio_high <= STEADY * compared.ratio_low:
            self.wholes[key] = compared
            self.changed = True

    def add_survey(self, key: str, survey: Survey) -> None:
        """Remember what was found of the forms of a layer."""
        self.surveys[key] = survey
        self.changed = True

    def save(self) -> None:
        """Write the cache, if it changed."""
        if not self.changed:
            return
        wholes = {key: compared.to_json() for key, compared in self.wholes.items()}
        surveys = {key: dataclasses.asdict(survey) for key, survey in self.surveys.items()}
        values = {"format": FORMAT, "milliseconds": self.known, "wholes": wholes, "surveys": surveys}
        try:
            write_text(self.path, json.dumps(values))
        except HetCompressError:
            return
        self.changed = False
