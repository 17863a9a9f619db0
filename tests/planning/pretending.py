"""A runtime without a clock: forms and models take what their weights say, so that tests know the right answer."""

import pytest
from torch import nn

from hetcompress.comparisons import Comparison, Latency
from hetcompress.lowering import conv_weights
from hetcompress.planning import measured, runtimes
from hetcompress.planning.runtimes import PLAN_TARGETS, OrtCpu

OVERHEAD = 2000.0
"""Of a whole model, in milliseconds; a weight takes one."""


class Weighing(OrtCpu):
    """A form takes a millisecond for each weight."""

    def runner(self, form, images, threads):
        return lambda: float(conv_weights(form))

    def reference(self, dense, example):
        return dense


def compared(dense, compact, *_, batches=(1,), hidden=0.0, **__):
    """Compare by weights; the compact model has something on top that no single layer shows."""
    slow, fast = (OVERHEAD + sum(m.weight.numel() for m in of.modules() if isinstance(m, nn.Conv2d))
                  for of in (dense, compact))  # fmt: skip
    fast += hidden if compact is not dense else 0
    both = [Latency.of([time], batch=batches[0], threads=1, runtime="weights") for time in (slow, fast)]
    return [Comparison(*both, slow / fast, slow / fast * 0.99, slow / fast * 1.01)]


@pytest.fixture
def weighing(monkeypatch, tmp_path):
    """Let "ort-cpu" weigh; returns a function that sets what is hidden from single layers."""
    monkeypatch.setenv("HETCOMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(PLAN_TARGETS._entries, "ort-cpu", Weighing)
    monkeypatch.setattr(measured, "_medians", lambda runners, **_: {name: run() for name, run in runners.items()})
    monkeypatch.setattr(runtimes, "compare_latency", compared)

    def hide(milliseconds):
        monkeypatch.setattr(runtimes, "compare_latency", lambda *a, **k: compared(*a, hidden=milliseconds, **k))

    return hide
