"""Latency: what two models cost in wall-clock time, measured side by side on this machine.

Runners are timed in rounds, each once per round in random order, so that whatever slows the machine down for a while
slows all of them.  Sample ``i`` of every runner comes from round ``i``; `hetcompress.comparisons` says what such pairs
show.
"""

from __future__ import annotations

import contextlib
import copy
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hetcompress.activity import working
from hetcompress.comparisons import Comparison, Latency, ratio_of
from hetcompress.errors import UsageError, first_line
from hetcompress.graphs import onnx_bytes, ort_session
from hetcompress.kernels import fuse_torch

__all__ = [
    "Prepared",
    "compare",
    "compare_latency",
    "measure",
    "ort_session",
    "prepare_onnx",
    "prepare_torch",
    "random_images",
    "torch_runner",
    "torch_threads",
]

RUNTIMES = ("onnxruntime", "torch")
SHORTEST_SAMPLE = 1e-3
"""Seconds; quicker calls are repeated inside a sample, so that the clock and the loop do not count."""
WARM = 0.5  # seconds of warming up that are enough
LOOKS = 4
"""How often a comparison is measured, at most, until its interval is narrow."""


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

    Where a busy machine leaves the interval wide, more rounds follow, up to `LOOKS` times as many.  When they end
    depends on how wide the interval is, not on where it lies.

    Args:
        dense: Runs a batch through the dense model.
        compact: Runs the same batch through the compact one.
        batch: Images in the batch.
        threads: Threads that both may use.
        runtime: What runs them; two names where they differ.
        seconds: Time to spend at least.
        min_rounds: Samples of each at least.
    """
    of_dense, of_compact = (runtime, runtime) if isinstance(runtime, str) else runtime
    of_both: dict[str, tuple[float, ...]] = {"dense": (), "compact": ()}
    for _ in range(LOOKS):
        more = measure({"dense": dense, "compact": compact}, seconds=seconds, min_rounds=min_rounds)
        of_both = {name: (*samples, *more[name]) for name, samples in of_both.items()}
        found = Comparison(
            Latency.of(of_both["dense"], batch=batch, threads=threads, runtime=of_dense),
            Latency.of(of_both["compact"], batch=batch, threads=threads, runtime=of_compact),
            *ratio_of(of_both["dense"], of_both["compact"]),
        )
        if found.steady:
            break
    return found


def compare_latency(
    dense: nn.Module | Path | bytes,
    compact: nn.Module | Path | bytes,
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
        dense: The reference: a model on the CPU, or an ONNX file or its bytes (for onnxruntime alone).
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
                working(f"timing in {runtime}, batch {batch}")
                images = random_images(batch, image_shape)
                (run_dense, of_dense), (run_compact, of_compact) = first(images), second(images)
                comparisons.append(compare(
                    run_dense, run_compact, batch=batch, threads=threads, runtime=(of_dense, of_compact),
                    seconds=seconds, min_rounds=min_rounds,
                ))  # fmt: skip
    return comparisons


Prepared = Callable[[Tensor], tuple[Callable[[], object], str]]
"""A batch of images to what runs it, and the name of the runtime."""


def _onnxruntime(model: nn.Module | Path | bytes, image_shape: tuple[int, ...], threads: int) -> Prepared:
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


def _torch_model(model: nn.Module | Path | bytes, image_shape: tuple[int, ...], threads: int) -> Prepared:
    del threads  # torch's threads are set for the process
    if not isinstance(model, nn.Module):
        name = model if isinstance(model, Path) else "ONNX bytes"
        raise UsageError(f"runtime torch for {name}", expected="a model", found="a file", fix="name onnxruntime alone")
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


def random_images(batch: int, image_shape: Sequence[int]) -> Tensor:
    """Return seeded random images, shape (batch, *image_shape).

    Raises:
        UsageError: They do not fit memory.
    """
    try:
        return torch.randn(batch, *image_shape, generator=torch.Generator().manual_seed(0))
    except RuntimeError as error:
        raise UsageError(
            f"--batch {batch}", expected="images that fit memory", found=first_line(error), fix="pass a smaller one"
        ) from None


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
