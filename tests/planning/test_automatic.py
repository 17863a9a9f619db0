"""Whether our kernel is among the forms, where that is left to measurements."""

import dataclasses

import pytest
import torch
from torch import nn

from hetcompress.comparisons import Comparison, Latency
from hetcompress.errors import UsageError
from hetcompress.lowering import lower
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.planning import DEFAULT, PlanSettings, automatic, plan, settled, whole
from hetcompress.planning.whole import Plan
from hetcompress.shapes import build_family

EXAMPLE = torch.zeros(1, 8, 6, 6)


def half(group_out="all"):
    """A net of which a MAC ratio of 2 is left: every second channel is read."""
    shapes = torch.ones(1 if group_out == "all" else 16 // group_out, 8, 3, 3, dtype=torch.bool)
    shapes[:, ::2] = False
    return nn.Sequential(HetConv2d.from_conv2d(nn.Conv2d(8, 16, 3), shapes, group_out, 1)).eval()


@pytest.fixture
def wholes(monkeypatch):
    """Let wholes be as fast as told, with and without our kernel; returns a setter and what was planned."""
    planned = []

    def tell(stock, ours, ready=(True, ""), costs=None):
        def pretended(dense, pruned, example, settings):
            planned.append(settings)
            ratio = ours if settings.kernels else stock
            bounds = ratio if isinstance(ratio, tuple) else (ratio, ratio, ratio)
            slow, fast = (Latency.of([t or 1.0], batch=1, threads=1, runtime="x") for t in (bounds[0], 1.0))
            whole = None if ratio is None else Comparison(slow, fast, *bounds)
            lowered = lower(pruned, example)
            if costs:
                layers = (dataclasses.replace(lowered.layers[0], form="vector-block", costs=costs),)
                lowered = dataclasses.replace(lowered, layers=layers)
            return Plan(lowered, settings, whole, "")

        monkeypatch.setattr(automatic.whole, "settled_plan", pretended)
        monkeypatch.setattr(automatic, "available", lambda: ready)
        return planned

    return tell


@pytest.mark.parametrize(
    ("stock", "ours", "kernels"),
    [
        (1.4, 9.0, [False]),  # enough of the MAC ratio
        (1.39, 9.0, [False, True]),
        (None, 1.3, [False, True]),  # nothing is faster in stock operators
        ((1.7, 0.7, 2.0), 2.6, [False, True]),  # a busy minute says nothing
    ],
)
def test_our_kernel_is_tried_where_stock_operators_show_little(wholes, stock, ours, kernels):
    planned = wholes(stock, ours)
    result = plan(half(), half(), EXAMPLE, DEFAULT)
    assert [settings.kernels for settings in planned] == kernels
    assert result.settings.kernels is kernels[-1], "a plan tells what was decided"
    assert result.note == ""
    assert {settings.plan for settings in planned} == {"fast"}


def test_a_busy_minute_takes_no_kernel_that_a_quiet_one_might_not(wholes):
    wholes((1.7, 0.7, 2.0), 2.4)  # stock operators may be 2.0 times as fast as dense
    assert plan(half(), half(), EXAMPLE, DEFAULT).settings.kernels is False
    wholes((1.01, 1.0, 1.02), 2.4)
    assert plan(half(), half(), EXAMPLE, DEFAULT).settings.kernels is True


@pytest.mark.parametrize(
    ("ours", "costs", "kernels"),
    [
        (1.9, {"dense": 1.0, "vector-block": 0.5}, [True]),  # stock operators would take 1.5 of 1.9 ms
        (1.9, {"dense": 1.0, "crop": 0.6, "vector-block": 0.5}, [True, False]),  # 1.1 of 1.9 ms, for a MAC ratio of 2
        (1.2, {"dense": 1.0, "vector-block": 0.9}, [True, False]),  # too little for a library
        (None, {"dense": 1.0}, [True, False]),
    ],
)
def test_fine_shapes_are_planned_with_our_kernel_first(wholes, ours, costs, kernels):
    planned = wholes(1.5, ours, costs=costs)
    result = plan(half(8), half(8), EXAMPLE, DEFAULT)
    assert [settings.kernels for settings in planned] == kernels
    assert result.settings.kernels is kernels[-1]


def test_fine_shapes_without_a_library_are_planned_in_stock_operators(wholes):
    planned = wholes(1.5, 9.0, ready=(False, "it was not compiled"))
    plan(half(8), half(8), EXAMPLE, DEFAULT)
    assert [settings.kernels for settings in planned] == [False]


@pytest.mark.parametrize(("stock", "ours"), [(1.2, 1.49), (None, 1.2), (1.2, None)])
def test_a_library_must_pay(wholes, stock, ours):
    wholes(stock, ours)
    result = plan(half(), half(), EXAMPLE, DEFAULT)
    assert result.settings.kernels is False
    assert result.note.startswith(f"our kernel was tried: {ours or 1:.2f} times as fast as dense, stock operators")
    assert result.note.endswith("--kernels takes it all the same")


def test_where_nothing_is_pruned_nothing_is_tried(wholes):
    planned = wholes(None, 9.0)
    everything = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    full = nn.Sequential(HetConv2d.from_conv2d(nn.Conv2d(8, 16, 3), everything, "all", "all")).eval()
    assert plan(full, full, EXAMPLE, DEFAULT).note == ""
    assert len(planned) == 1


def test_a_missing_library_is_said_where_it_is_missed(wholes):
    planned = wholes(1.0, 9.0, ready=(False, "it was not compiled"))
    result = plan(half(), half(), EXAMPLE, DEFAULT)
    assert len(planned) == 1
    assert result.note == (
        "stock operators show 1.00 of a MAC ratio of 2.00; our kernel, which is made for such shapes, is not here: "
        "it was not compiled"
    )
    wholes(1.9, 9.0, ready=(False, "it was not compiled"))
    assert plan(half(), half(), EXAMPLE, DEFAULT).note == ""


@pytest.mark.parametrize(
    ("settings", "kernels"),
    [
        (PlanSettings(kernels=False), False),
        (PlanSettings("macs", kernels=None), False),
        (dataclasses.replace(DEFAULT, kernels=True), True),
    ],
)
def test_what_is_said_is_done(wholes, monkeypatch, settings, kernels):
    planned = wholes(1.0, 9.0)
    assert plan(half(), half(), EXAMPLE, settings).settings.kernels is kernels
    assert len(planned) == 1


def test_settings_say_how_it_is_decided():
    assert str(DEFAULT) == "fast on ort-cpu, batch 1, threads 1, our kernel where it pays"
    assert str(PlanSettings("macs")) == "macs"


@pytest.mark.parametrize(("group_out", "kernels"), [(8, True), ("all", False)])
def test_a_target_of_time_takes_the_kernel_for_shapes_that_it_was_made_for(monkeypatch, group_out, kernels):
    net = half(group_out)
    assert settled(net, DEFAULT).kernels is kernels
    family = build_family("free", {})
    learnable = nn.Sequential(LearnableHetConv2d.from_conv2d(nn.Conv2d(8, 16, 3), family, group_out, 1))
    assert settled(learnable, DEFAULT).kernels is kernels
    chosen = dataclasses.replace(DEFAULT, kernels=False)
    assert settled(net, chosen) is chosen
    monkeypatch.setattr(whole, "PLAN_TARGETS", {"torch-cuda": lambda: None})
    assert settled(net, PlanSettings(target="torch-cuda", kernels=None)).kernels is False, "it computes on the CPU"


def test_what_a_target_of_time_decides_does_not_depend_on_the_library(monkeypatch):
    monkeypatch.setattr(whole, "available", lambda: (False, "the library is not built"))
    with pytest.raises(UsageError, match="--kernels: expected the compiled library, found the library is not built"):
        settled(half(8), DEFAULT)
    assert settled(half(), DEFAULT).kernels is False
