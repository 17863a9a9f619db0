"""Latency: what two models cost in wall-clock time, measured side by side on this machine.

Runners are timed in rounds, each once per round in random order, so that whatever slows the machine down for a while
slows all of them.  Sample ``i`` of every runner comes from round ``i``, and a comparison looks at the ratios
``r_i = dense_i / compact_i`` of those pairs::

    ratio     = median r_i                     above 1: the compact model is faster
    low, high = 90 % confidence interval of that median, from order statistics (no assumption on the noise)

"Faster" is said only when the whole interval lies above 1, and beyond `SAME`, the difference that two copies of one
model show because their buffers lie elsewhere in memory.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hetcompress.errors import UsageError
from hetcompress.graphs import onnx_bytes, ort_session
from hetcompress.kernels import fuse_torch

__all__ = [
    "Comparison",
    "Latency",
    "Prepared",
    "Verdict",
    "compare",
    "compare_latency",
    "measure",
    "ort_session",
    "prepare_onnx",
    "prepare_torch",
    "ratio_of",
    "torch_runner",
    "torch_threads",
    "verdict_of",
]

RUNTIMES = ("onnxruntime", "torch")
SAME = 0.02
Verdict = Literal["faster", "slower", "the same within noise"]

SHORTEST_SAMPLE = 1e-3
"""Seconds; quicker calls are repeated inside a sample, so that the clock and the loop do not count."""
WARM = 0.5  # seconds of warming up that are enough


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
    return "the same within noise"


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


def measure(
    runners: Mapping[str, Callable[[], object]], *, seconds: float = 2.0, warmup: int = 3, min_rounds: int = 15
) -> dict[str, tuple[float, ...]]:
    """Time runners in interleaved rounds.

    Args:
        runners: What to time; called without arguments.
        seconds: Rounds go on for at least this long.
        warmup: Untimed calls of each before the first round, fewer where they take more than half a second.
        min_rounds: Rounds at least, however slow they are.

    Returns:
        Milliseconds of one call, one sample for each round, in the order of the rounds.
    """
    repeats = {name: _repeats(runner, warmup) for name, runner in runners.items()}
    samples: dict[str, list[float]] = {name: [] for name in runners}
    order = list(runners)
    shuffle = random.Random(0).shuffle
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < min_rounds or time.perf_counter() < end:
        shuffle(order)
        for name in order:
            samples[name].append(_seconds(runners[name], repeats[name]) * 1e3)
        rounds += 1
    return {name: tuple(times) for name, times in samples.items()}


def _seconds(runner: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        runner()
    return (time.perf_counter() - start) / repeats


def _repeats(runner: Callable[[], object], warmup: int) -> int:
    """Warm a runner up, and return how many of its calls make a sample."""
    first = [_seconds(runner, 1)]
    while len(first) < warmup + 3 and sum(first) < WARM:
        first.append(_seconds(runner, 1))
    return max(1, math.ceil(SHORTEST_SAMPLE / max(min(first[-3:]), 1e-7)))


def compare(
    dense: Callable[[], object],
    compact: Callable[[], object],
    *,
    batch: int,
    threads: int,
    runtime: str | tuple[str, str],
    seconds: float = 2.0,
    min_rounds: int = 15,
) -> Comparison:
    """Time two runners in turns and say how the second compares.

    Args:
        dense: Runs a batch through the dense model.
        compact: Runs the same batch through the compact one.
        batch: Images in the batch.
        threads: Threads that both may use.
        runtime: What runs them; two names where they differ.
        seconds: Time to spend at least.
        min_rounds: Samples of each at least.
    """
    samples = measure({"dense": dense, "compact": compact}, seconds=seconds, min_rounds=min_rounds)
    of_dense, of_compact = (runtime, runtime) if isinstance(runtime, str) else runtime
    return Comparison(
        Latency.of(samples["dense"], batch=batch, threads=threads, runtime=of_dense),
        Latency.of(samples["compact"], batch=batch, threads=threads, runtime=of_compact),
        *ratio_of(samples["dense"], samples["compact"]),
    )


def compare_latency(
    dense: nn.Module | Path,
    compact: nn.Module | Path,
    image_shape: tuple[int, ...],
    *,
    batches: Sequence[int] = (1, 16),
    threads: int = 1,
    runtimes: Sequence[str] = RUNTIMES,
    seconds: float = 2.0,
    min_rounds: int = 15,
) -> list[Comparison]:
    """Compare two models in every runtime and at every batch size, on this machine, now.

    Args:
        dense: The reference: a model on the CPU, or an ONNX file (for onnxruntime alone).
        compact: What should be faster, likewise.
        image_shape: Channels, height, width of an image.
        batches: Batch sizes.
        threads: Threads inside an operator.
        runtimes: Any of "onnxruntime" (a model is exported first) and "torch" (eager, in inference mode, each model in
            the memory format that is faster for it).
        seconds: Time to spend on each comparison at least.
        min_rounds: Samples of each model at least.

    Returns:
        One comparison for each runtime and batch size, in this order.

    Raises:
        UsageError: An unknown runtime, or an ONNX file for torch.
        HetCompressError: A model cannot be exported.
    """
    comparisons = []
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            raise UsageError("runtime", expected=f"one of {', '.join(RUNTIMES)}", found=f"'{runtime}'")
        prepare = _onnxruntime if runtime == "onnxruntime" else _torch_model
        with torch_threads(threads):
            first, second = (prepare(model, image_shape, threads) for model in (dense, compact))
            for batch in batches:
                images = torch.randn(batch, *image_shape, generator=torch.Generator().manual_seed(0))
                (run_dense, of_dense), (run_compact, of_compact) = first(images), second(images)
                comparisons.append(compare(
                    run_dense, run_compact, batch=batch, threads=threads, runtime=(of_dense, of_compact),
                    seconds=seconds, min_rounds=min_rounds,
                ))  # fmt: skip
    return comparisons


Prepared = Callable[[Tensor], tuple[Callable[[], object], str]]
"""A batch of images to what runs it, and the name of the runtime."""


def _onnxruntime(model: nn.Module | Path, image_shape: tuple[int, ...], threads: int) -> Prepared:
    return prepare_onnx(
        onnx_bytes(model, torch.zeros(1, *image_shape)) if isinstance(model, nn.Module) else model, threads
    )


def prepare_onnx(source: Path | bytes, threads: int) -> Prepared:
    """Return what runs an ONNX model with one input in onnxruntime."""
    session = ort_session(source, threads)
    name = session.get_inputs()[0].name

    def prepared(images: Tensor) -> tuple[Callable[[], object], str]:
        feed = {name: images.numpy()}
        return lambda: session.run(None, feed), "onnxruntime"

    return prepared


def _torch_model(model: nn.Module | Path, image_shape: tuple[int, ...], threads: int) -> Prepared:
    del threads  # torch's threads are set for the process
    if not isinstance(model, nn.Module):
        raise UsageError(f"runtime torch for {model}", expected="a model", found="a file", fix="name onnxruntime alone")
    return prepare_torch(model, image_shape)


def prepare_torch(model: nn.Module, image_shape: tuple[int, ...]) -> Prepared:
    """Return what runs a copy of a model in torch, its kernel layers fused, in the memory format that is faster for it.

    Args:
        model: On the CPU.
        image_shape: Channels, height, width of an image.
    """
    plain = fuse_torch(copy.deepcopy(model).eval(), torch.zeros(1, *image_shape)).model
    formats = {
        "torch": (plain, torch.contiguous_format),
        "torch, channels-last": (copy.deepcopy(plain).to(memory_format=torch.channels_last), torch.channels_last),
    }

    def prepared(images: Tensor) -> tuple[Callable[[], object], str]:
        runners = {
            name: torch_runner(copied, images.contiguous(memory_format=layout))
            for name, (copied, layout) in formats.items()
        }
        probe = measure(runners, seconds=0.1, min_rounds=5)
        best = min(probe, key=lambda name: statistics.median(probe[name]))
        return runners[best], best

    return prepared


def torch_runner(model: Callable[[Tensor], object], images: Tensor) -> Callable[[], object]:
    """Return what runs one batch through a model in inference mode."""

    def run() -> object:
        with torch.inference_mode():
            return model(images)

    return run


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch's operators use so many threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
