"""Whether our kernel is among the forms, where that is left to measurements."""

import dataclasses

import pytest
import torch
from torch import nn

from hetcompress.latency import Comparison, Latency
from hetcompress.lowering import lower
from hetcompress.nn import HetConv2d
from hetcompress.planning import DEFAULT, PlanSettings, automatic, plan
from hetcompress.planning.whole import Plan

EXAMPLE = torch.zeros(1, 8, 6, 6)


def half():
    """A net of which a MAC ratio of 2 is left: every second channel is read."""
    shapes = torch.ones(1, 8, 3, 3, dtype=torch.bool)
    shapes[:, ::2] = False
    return nn.Sequential(HetConv2d.from_conv2d(nn.Conv2d(8, 16, 3), shapes, "all", 1)).eval()


@pytest.fixture
def wholes(monkeypatch):
    """Let wholes be as fast as told, with and without our kernel; returns a setter and what was planned."""
    planned = []

    def tell(stock, ours, ready=(True, "")):
        def pretended(dense, pruned, example, settings):
            planned.append(settings)
            ratio = ours if settings.kernels else stock
            latency = Latency.of([1.0, 1.0], batch=1, threads=1, runtime="x")
            bounds = ratio if isinstance(ratio, tuple) else (ratio, ratio, ratio)
            whole = None if ratio is None else Comparison(latency, latency, *bounds)
            return Plan(lower(pruned, example), settings, whole, "")

        monkeypatch.setattr(automatic.whole, "plan", pretended)
        monkeypatch.setattr(automatic, "available", lambda: ready)
        return planned

    return tell


@pytest.mark.parametrize(
    ("stock", "ours", "kernels"),
    [
        (1.4, 9.0, [False]),  # enough of the MAC ratio
        (1.39, 9.0, [False, True]),
        (None, 1.3, [False, True]),  # nothing is faster in stock operators
        ((1.7, 0.7, 2.0), 1.3, [False, True]),  # a busy minute says nothing
    ],
)
def test_our_kernel_is_tried_where_stock_operators_show_little(wholes, stock, ours, kernels):
    planned = wholes(stock, ours)
    result = plan(half(), half(), EXAMPLE, DEFAULT)
    assert [settings.kernels for settings in planned] == kernels
    assert result.settings.kernels is kernels[-1], "a plan tells what was decided"
    assert result.note == ""
    assert {settings.plan for settings in planned} == {"fast"}


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
