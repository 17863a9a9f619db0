"""What taps are worth to each learner, against numbers worked out by hand."""

import pytest
import torch
from torch import nn

from hetcompress import goals
from hetcompress.budgets import Budget
from hetcompress.conversion import convert
from hetcompress.cost import layer_macs
from hetcompress.goals import ShapeSettings, learner_of
from hetcompress.learners import LEARNERS, BlendLearner, SensitivityLearner
from hetcompress.nn import LearnableHetConv2d
from hetcompress.pruning import magnitudes
from hetcompress.recipes import load_recipe, recipe_names
from hetcompress.surgery import named_modules_of

WEIGHTS = {"0": [[1.0, 2.0]], "1": [[3.0, 1.0]]}
"""Two layers of one 1x2 kernel for each of their two filters, both filters alike."""


@pytest.fixture
def layers():
    net = nn.Sequential(nn.Conv2d(1, 2, (1, 2)), nn.Conv2d(2, 2, (1, 2), groups=2))
    with torch.no_grad():
        for name, kernel in WEIGHTS.items():
            net.get_submodule(name).weight.copy_(torch.tensor(kernel).expand(2, 1, 1, 2))
    return named_modules_of(convert(net, group_out=2, include=["0", "1"]).model, LearnableHetConv2d)


def learner(kind, layers):
    return kind(layers, Budget.of_density(layers, 0.5), ramp=0.95, every=16)


def test_sensitivities_are_running_means_of_squared_gradients_per_kernel(layers):
    found = learner(SensitivityLearner, layers)
    for step, gradient in enumerate((1.0, 3.0)):
        for layer in layers.values():
            layer.tap_probe.grad = torch.full_like(layer.tap_probe, gradient)
        layers["0"].tap_probe.grad *= 2
        found.after_backward(0.0, step, 1.0)
        assert all(layer.tap_probe.grad is None for layer in layers.values())
    expected = 0.98 * 0.02 * 1.0 + 0.02 * 9.0
    assert found.averages["1"].flatten().tolist() == pytest.approx([expected] * found.averages["1"].numel())
    assert found.averages["0"].flatten().tolist() == pytest.approx([4 * expected] * 2)
    # a group of layer 0 holds two kernels, one of layer 1 (which conv groups cut) a single one: 4/2 and 1 per kernel
    ratio = found.scores()["0"].mean() / found.scores()["1"].mean()
    assert float(ratio) == pytest.approx(2.0)
    everything = torch.cat([score.flatten() for score in found.scores().values()])
    assert float(everything.mean()) == pytest.approx(1.0)


def test_scaled_gradients_are_scaled_back_and_a_step_that_overflows_is_left_out(layers):
    found = learner(SensitivityLearner, layers)
    for step, gradient in enumerate((3.0 * 2**16, float("inf"), float("nan"))):
        layers["0"].tap_probe.grad = torch.full_like(layers["0"].tap_probe, gradient)
        layers["1"].tap_probe.grad = torch.full_like(layers["1"].tap_probe, 3.0 * 2**16)
        found.after_backward(0.0, step, 2.0**16)
    for average in found.averages.values():
        assert average.flatten().tolist() == pytest.approx([0.02 * 9.0] * average.numel())


def test_magnitudes_are_mean_squares_in_shares_of_the_layer(layers):
    scores = magnitudes(layers)
    assert scores["0"].flatten().tolist() == pytest.approx([2 * 1 / 5, 2 * 4 / 5])
    assert scores["1"][0].flatten().tolist() == pytest.approx([2 * 9 / 10, 2 * 1 / 10])


def test_a_blend_ranks_by_magnitude_and_scales_by_sensitivity(layers):
    found = learner(BlendLearner, layers)
    found.averages["0"].copy_(torch.tensor([8.0, 0.0]).view(1, 1, 1, 2))  # the other way round than the magnitudes
    found.averages["1"].fill_(1.0)
    means = {name: float(scores.mean()) for name, scores in SensitivityLearner.scores(found).items()}
    assert means["0"] / means["1"] == pytest.approx(2.0)
    scores = found.scores()
    assert scores["0"].flatten().tolist() == pytest.approx([means["0"] * 2 / 5, means["0"] * 8 / 5])
    assert scores["1"][0].flatten().tolist() == pytest.approx([means["1"] * 9 / 5, means["1"] * 1 / 5])


def test_without_gradients_a_blend_is_worth_nothing_and_not_nan(layers):
    assert all((score == 0).all() for score in learner(BlendLearner, layers).scores().values())


def test_the_default_is_the_blend():
    assert LEARNERS[ShapeSettings().method] is BlendLearner


def test_macs_are_counted_where_the_model_is(monkeypatch):
    net = convert(nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3)), group_out=8, include=["0", "1"]).model
    budget = Budget.of_density(named_modules_of(net, LearnableHetConv2d), 0.5)
    counted, devices = layer_macs(net, torch.zeros(1, 8, 9, 9)), []

    def count(_model, example):
        devices.append(example.device.type)
        return counted

    monkeypatch.setattr(goals, "layer_macs", count)
    learner_of(net.to("meta"), ShapeSettings(density=0.5, method="penalty"), budget, (8, 9, 9))
    assert devices == ["meta"], "images on another device than the model would end the run"


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("lhc-")])
def test_recipes_of_lhc_warm_up_as_its_released_code(name):
    """Over 20 of 100 epochs, after a first one that measures the loss: the penalty to 4 times it, masks to all."""
    given = load_recipe(name).options["finetune"]
    assert given["epochs"] * given["stage1"] == pytest.approx(100, abs=0.01)
    shapes = {key: given[key] for key in ("density", "method", "penalty", "ramp", "calibration")}
    net = convert(nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3)), group_out=8, include=["0", "1"]).model
    budget = Budget.of_density(named_modules_of(net, LearnableHetConv2d), given["density"])
    made = learner_of(net, ShapeSettings(**shapes), budget, (8, 9, 9))
    for step in range(10):  # of the first epoch
        assert made.loss(step / 1000, torch.tensor(2.0)) is None
    for epochs, times in ((1, 0.0), (11, 2.0), (21, 4.0), (50, 4.0)):
        expected = times * 2.0 / made.penalty.maximum * float(made.penalty(made.layers).detach())
        assert float(made.loss(epochs / 100, torch.tensor(9.0)).detach()) == pytest.approx(expected, abs=1e-6)
    for epochs, share in ((0, 0.0), (10, 0.5), (20, 1.0), (99, 1.0)):
        made.before_forward(epochs / 100)
        assert [layer.mask_share for layer in made.layers.values()] == pytest.approx([share, share])
