"""The contract of every penalty: least at its target, differentiable, never beyond its maximum."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hetcompress.budgets import Budget
from hetcompress.conversion import convert
from hetcompress.goals import FITTING, ShapeSettings, learner_of
from hetcompress.nn import LearnableHetConv2d
from hetcompress.penalties import PENALTIES
from hetcompress.surgery import named_modules_of

COSTS = {"0": 1.0, "1": 4.0, "2": 0.0}


def model():
    net = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 8, 1))
    return convert(net, group_out=8, include=["0", "1", "2"]).model


@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_a_penalty_falls_towards_its_target(name):
    layers = named_modules_of(model(), LearnableHetConv2d)
    penalty = PENALTIES[name](0.5, COSTS)
    full = penalty(layers)
    assert float(full.detach()) == pytest.approx(penalty.maximum)
    full.backward()
    assert (layers["1"].shape_logits.grad > 0).all()
    with torch.no_grad():
        for layer in layers.values():
            layer.shape_logits[:, ::2] *= -1  # half of the channels
    assert float(penalty(layers).detach()) < 0.02 * penalty.maximum


@given(st.sampled_from(sorted(PENALTIES)), st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_a_penalty_never_exceeds_its_maximum(name, target, seed):
    layers = named_modules_of(model(), LearnableHetConv2d)
    penalty = PENALTIES[name](target, COSTS)
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in layers.values():
            layer.shape_logits.copy_(torch.randn_like(layer.shape_logits) + 2 * torch.randn(()))
    assert float(penalty(layers).detach()) <= penalty.maximum + 1e-6


@pytest.mark.parametrize("name", sorted(PENALTIES))
@pytest.mark.parametrize("target", [0.1, 0.9])
def test_the_maximum_is_that_of_full_or_of_empty_kernels(name, target):
    layers = named_modules_of(model(), LearnableHetConv2d)
    penalty = PENALTIES[name](target, COSTS)
    full = float(penalty(layers).detach())
    with torch.no_grad():
        for layer in layers.values():
            layer.shape_logits.neg_()
    of_all = 0.01 if name == "density" else 0.0  # MACs count in either case
    assert penalty.maximum == pytest.approx(full if target < 0.5 else float(penalty(layers).detach()) + of_all)


def test_a_layer_without_a_price_feels_no_latency():
    layers = named_modules_of(model(), LearnableHetConv2d)
    PENALTIES["latency"](0.5, COSTS)(layers).backward()
    assert (layers["2"].shape_logits.grad == 0).all()


def test_a_target_of_time_gets_the_latency_penalty():
    net = model()
    layers = named_modules_of(net, LearnableHetConv2d)
    budget = Budget.of_time_ratio(layers, COSTS, fixed=100.0, dense=1e4, ratio=2)
    learner = learner_of(net, ShapeSettings(latency_ratio=2, method="penalty"), budget, (8, 9, 9))
    assert isinstance(learner.penalty, PENALTIES["latency"])
    assert learner.penalty.unit_costs == COSTS
    assert learner.penalty.target == pytest.approx(budget.share)
    assert {PENALTIES[name].unit for name in FITTING.values()} == set(FITTING)
