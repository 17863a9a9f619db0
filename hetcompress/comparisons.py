"""What two models' times show: a time ratio, the interval it lies in, and what may be said of it.

Sample ``i`` of both comes from the same round, so a comparison looks at the ratios ``r_i = dense_i / compact_i``::

    ratio     = median r_i                     above 1: the compact model is faster
    low, high = 90 % confidence interval of that median, from order statistics (no assumption on the noise)

"Faster" is said only when the whole interval lies above 1, and beyond `SAME`, the difference that two copies of one
model show because their buffers lie elsewhere in memory; "the same" only of an interval that is narrow enough.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

__all__ = ["SAME", "STEADY", "Comparison", "Latency", "Verdict", "ratio_of", "verdict_of"]

SAME = 0.02
STEADY = 1.1
"""End over end of the widest interval that says anything but faster or slower."""
Verdict = Literal["faster", "slower", "the same within noise", "unclear, too noisy"]


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of one forward pass.

    Attributes:
        median_ms: Milliseconds for a batch.
        p05_ms: The fastest twentieth of the samples lies below.
        p95_ms: The slowest twentieth lies above.
        runs: Samples.
        batch: Images in a batch.
        threads: Threads that the runtime may use inside an operator.
        runtime: What ran it, with the memory format where that is a choice.
    """

    median_ms: float
    p05_ms: float
    p95_ms: float
    runs: int
    batch: int
    threads: int
    runtime: str

    @classmethod
    def of(cls, samples: Sequence[float], *, batch: int, threads: int, runtime: str) -> Latency:
        """Summarise samples in milliseconds."""
        ordered = sorted(samples)
        middle, low, high = statistics.median(ordered), _quantile(ordered, 0.05), _quantile(ordered, 0.95)
        return cls(middle, low, high, len(ordered), batch, threads, runtime)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Dense against compact in one runtime at one batch size.

    Attributes:
        dense: Latency of the dense model.
        compact: Latency of the compact one.
        ratio: Median of dense over compact time of each round; above 1 the compact model is faster.
        ratio_low: Lower end of the 90 % interval of `ratio`.
        ratio_high: Upper end.
    """

    dense: Latency
    compact: Latency
    ratio: float
    ratio_low: float
    ratio_high: float

    @property
    def verdict(self) -> Verdict:
        """What may be said of the compact model."""
        return verdict_of(self.ratio_low, self.ratio_high)

    @property
    def steady(self) -> bool:
        """Whether the interval is narrow enough to rely on the ratio itself."""
        return self.ratio_high <= STEADY * self.ratio_low

    @property
    def disturbed(self) -> bool:
        """Whether the medians' own ratio lies far from that of the rounds, as where others use the machine too."""
        apart = self.dense.median_ms / self.compact.median_ms
        return not self.ratio_low / STEADY <= apart <= self.ratio_high * STEADY

    def to_json(self) -> dict[str, Any]:
        """Return plain values, the verdict among them."""
        return {**dataclasses.asdict(self), "verdict": self.verdict}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Comparison:
        """Build what `to_json` returned."""
        dense, compact = Latency(**values["dense"]), Latency(**values["compact"])
        return cls(dense, compact, values["ratio"], values["ratio_low"], values["ratio_high"])


def verdict_of(low: float, high: float) -> Verdict:
    """Return what the 90 % interval of a time ratio allows to be said."""
    if low > 1 + SAME:
        return "faster"
    if high < 1 / (1 + SAME):
        return "slower"
    return "the same within noise" if high <= STEADY * low else "unclear, too noisy"


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def ratio_of(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of the ratios of two runners' samples, round by round, and its 90 % interval."""
    ratios = [first / second for first, second in zip(slow, fast, strict=True)]
    return statistics.median(ratios), *_median_interval(ratios)


def _median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the order statistics that hold the true median with a probability of 90 % or more.

    How many of n samples fall below the median is binomial (n, 1/2); the rank is its 5 % quantile, by the normal
    approximation, rounded outwards.
    """
    n, ordered = len(values), sorted(values)
    rank = max(1, math.floor(n / 2 - 1.645 * math.sqrt(n) / 2))
    return ordered[rank - 1], ordered[n - rank]
