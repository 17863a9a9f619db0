"""Where the time of an ONNX model goes: onnxruntime's own profile of its operators, summed by kind.

Operators are those of the graph that really runs on this processor: fused, reordered, in int8 kernels or not.
Profiling costs some microseconds for each operator, and what is between operators is in none: sums lie above what
`hetcompress.latency` measures in nets of many small operators, and below it in nets of few.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from torch import Tensor

from hetcompress.graphs import ort_session

__all__ = ["OperatorTime", "profile_onnx"]

WARMUP = 3
"""Runs that do not count."""
FEWEST, MOST = 5, 100
"""Runs that do."""
CONTAINERS = {"If", "Loop", "Scan"}
"""Operators whose time is that of operators inside them, which have their own."""
KERNEL = "_kernel_time"
"""How the runtime names the time that an operator computes."""


@dataclasses.dataclass(frozen=True)
class OperatorTime:
    """All operators of one kind.

    Attributes:
        operator: Their name.
        calls: How many there are in a run.
        milliseconds: Of one run, all calls together: the sum of each one's median over runs.
    """

    operator: str
    calls: int
    milliseconds: float


def profile_onnx(source: Path | bytes, images: Tensor, threads: int, *, seconds: float = 1.0) -> list[OperatorTime]:
    """Run a model and return its operators by kind, those that take most time first.

    Args:
        source: A file with one input, or its bytes.
        images: A batch.
        threads: Threads inside an operator.
        seconds: Time to spend, about.

    Raises:
        InputError: It is no model that onnxruntime can open.
    """
    with tempfile.TemporaryDirectory(prefix="hetcompress-") as folder:
        session = ort_session(source, threads, profile=Path(folder) / "profile")
        feed = {session.get_inputs()[0].name: images.numpy()}
        end, runs = time.perf_counter() + seconds, 0
        while runs < WARMUP + FEWEST or (runs < WARMUP + MOST and time.perf_counter() < end):
            session.run(None, feed)
            runs += 1
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _by_kind(events, runs)


def _by_kind(events: list[dict[str, Any]], runs: int) -> list[OperatorTime]:
    calls: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            calls[event["args"]["op_name"], event["name"]].append(event["dur"] / 1e3)
    found: dict[str, OperatorTime] = {}
    for (operator, _), times in calls.items():
        if operator not in CONTAINERS:
            often = max(1, len(times) // runs)  # in a run, of one in a loop
            of_runs = [sum(times[first : first + often]) for first in range(0, len(times), often)]
            before = found.get(operator, OperatorTime(operator, 0, 0.0))
            sums = before.calls + often, before.milliseconds + statistics.median(of_runs[WARMUP:] or of_runs)
            found[operator] = OperatorTime(operator, *sums)
    return sorted(found.values(), key=lambda kind: -kind.milliseconds)
