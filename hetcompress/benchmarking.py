"""Any number of models side by side: timed in the same interleaved rounds, each compared with the first.

`hetcompress.latency` explains rounds, `hetcompress.comparisons` the interval; here ``ratio = first / this``, above 1
this one is faster.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hetcompress.activity import working
from hetcompress.candidates import Candidate
from hetcompress.comparisons import Latency, ratio_of, verdict_of
from hetcompress.errors import HetCompressError, InputError, first_line
from hetcompress.latency import measure, torch_threads

__all__ = ["Timing", "side_by_side"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """One model at one batch size and number of threads.

    Attributes:
        name: Of the model.
        latency: Its time.
        ratio: Median of the first model's over this one's time in each round; 1 for the first itself.
        ratio_low: Lower end of the 90 % interval of `ratio`.
        ratio_high: Upper end.
        verdict: A `Verdict` against the first model, or "reference" for the first.
    """

    name: str
    latency: Latency
    ratio: float
    ratio_low: float
    ratio_high: float
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def side_by_side(
    candidates: Sequence[Candidate], *, batch: int, threads: int, seconds: float = 1.0, min_rounds: int = 15
) -> list[Timing]:
    """Time models at one batch size and number of threads.

    Args:
        candidates: At least one; names differ.
        batch: Images in a batch.
        threads: Threads inside an operator.
        seconds: Time to spend on each model at least.
        min_rounds: Samples of each at least.

    Raises:
        InputError: A model cannot be opened, or cannot run such a batch.
    """
    with torch_threads(threads):
        runners, runtimes = {}, {}
        working(f"timing {len(candidates)} models, threads {threads}, batch {batch}")
        for candidate in candidates:
            images = candidate.images(batch)
            try:
                runners[candidate.name], runtimes[candidate.name] = candidate.prepare(threads)(images)
                runners[candidate.name]()
            except HetCompressError:
                raise
            except Exception as error:  # noqa: BLE001  the runtimes' exceptions have no base class in common
                raise _cannot_run(candidate, batch, error) from None
        samples = measure(runners, seconds=seconds * len(runners), min_rounds=min_rounds)
    return _timings(samples, runtimes, batch=batch, threads=threads)


def _timings(
    samples: Mapping[str, Sequence[float]], runtimes: Mapping[str, str], *, batch: int, threads: int
) -> list[Timing]:
    first = next(iter(samples))
    timings = []
    for name, times in samples.items():
        latency = Latency.of(times, batch=batch, threads=threads, runtime=runtimes[name])
        ratio, low, high = ratio_of(samples[first], times)
        verdict = "reference" if name == first else verdict_of(low, high)
        timings.append(Timing(name, latency, ratio, low, high, verdict))
    return timings


def _cannot_run(candidate: Candidate, batch: int, error: Exception) -> InputError:
    shape = "x".join(str(size) for size in (batch, *candidate.shape))
    return InputError(
        candidate.name,
        expected=f"a model that runs an input of {shape}",
        found=first_line(error),
        fix="check --input-size and --batch",
    )
