"""Two budgets that both hold."""

import dataclasses

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from hetcompress.allocation import allocate, allocate_evenly, check_reachable
from hetcompress.budgets import Budget
from hetcompress.conversion import convert
from hetcompress.errors import NothingToDoError, UsageError
from hetcompress.goals import ShapeSettings, budget_of
from hetcompress.kept_costs import deciding, kept_cost
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.pruning import magnitudes, prune, prune_nearest, worths
from hetcompress.shapes import build_family
from hetcompress.surgery import named_modules_of

SIZE = (3, 16, 16)


def layers_of(family="free", group_out=4, widths=(16, 32, 32)):
    """Return learnable layers whose weights cost 256, 64 and 16 MACs each, and the model that has them."""
    first, second, third = widths
    net = nn.Sequential(
        nn.Conv2d(3, first, 3, padding=1), nn.Conv2d(first, first, 3, padding=1), nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(second, third, 3, padding=1),
    )  # fmt: skip
    model = convert(net, family=build_family(family), group_out=group_out, group_in=1).model
    return model, named_modules_of(model, LearnableHetConv2d)


KINDS = [("free", 1), ("free", 4), ("rigid", 4), ("centre", "all"), ("sets", 8), ("whole", "all")]


@settings(max_examples=25, phases=[Phase.explicit, Phase.generate])
@given(st.sampled_from(KINDS), st.floats(0.15, 0.9), st.floats(1.1, 3.0), st.booleans(), st.integers(0, 100))
def test_both_hold(kind, density, ratio, evenly, seed):
    torch.manual_seed(seed)
    model, layers = layers_of(*kind)
    budget = budget_of(model, ShapeSettings(density=density, mac_ratio=ratio), SIZE)
    logits = worths(layers, magnitudes(layers), budget.wiring)
    evenly = evenly and kind[0] in ("free", "rigid")  # small layers of blocks have no even shares
    masks = allocate_evenly(layers, logits, budget) if evenly else allocate(layers, logits, budget)
    used = [kept_cost(layers, masks, one) / one.kept for one in (budget, budget.also)]
    assert max(used) <= 1.0101
    if kind[0] == "free" and not evenly:
        assert max(used) >= 0.98, "what may be kept is kept"


def test_where_both_bind_both_are_used_up():
    torch.manual_seed(0)
    model, layers = layers_of(group_out=1)
    logits = {name: torch.rand_like(layer.shape_logits) for name, layer in layers.items()}
    budget = budget_of(model, ShapeSettings(density=0.3, mac_ratio=3.2), SIZE)
    masks = allocate(layers, logits, budget)
    assert kept_cost(layers, masks, budget) == pytest.approx(budget.kept, rel=0.01)
    assert kept_cost(layers, masks, budget.also) == pytest.approx(budget.also.kept, rel=0.01)
    # the best taps of each layer are kept, and a dearer layer has to show more for each of them
    thresholds = []
    for name in layers:
        kept = masks[name].flatten() > 0
        worth = logits[name].flatten()
        assert worth[kept].min() >= worth[~kept].max()
        thresholds.append(float(worth[kept].min()))
    assert thresholds == sorted(thresholds, reverse=True)


def test_the_tighter_budget_alone_decides_where_the_other_is_slack():
    _model, layers = layers_of()
    torch.manual_seed(0)
    logits = {name: torch.rand_like(layer.shape_logits) for name, layer in layers.items()}
    tight, slack = Budget.of_density(layers, 0.2), Budget.of_density(layers, 0.9)
    alone = allocate(layers, logits, tight)
    for both in (dataclasses.replace(tight, also=slack), dataclasses.replace(slack, also=tight)):
        together = allocate(layers, logits, both)
        assert all(torch.equal(alone[name], together[name]) for name in layers)


def test_a_relaxed_budget_relaxes_both():
    model, _layers = layers_of()
    budget = budget_of(model, ShapeSettings(density=0.2, mac_ratio=3.0), SIZE)
    half = budget.relaxed(0.5)
    assert half.kept == pytest.approx((budget.total + budget.kept) / 2)
    assert half.also.kept == pytest.approx((budget.also.total + budget.also.kept) / 2)
    assert budget.share == min(budget.also.share, dataclasses.replace(budget, also=None).share)
    assert str(budget) == "MAC ratio 3 and density 0.2"


def test_prune_meets_both():
    torch.manual_seed(0)
    model, _ = layers_of()
    budget = budget_of(model, ShapeSettings(density=0.25, mac_ratio=2.5), SIZE)
    pruned = prune(model, budget)
    layers = {name: pruned.get_submodule(name) for name in budget.unit_costs}
    masks = {name: layer.kernel_shapes for name, layer in layers.items()}
    assert kept_cost(layers, masks, budget) <= 1.01 * budget.kept
    assert kept_cost(layers, masks, budget.also) <= 1.01 * budget.also.kept


@pytest.mark.parametrize(("density", "ratio", "decides"), [(0.1, 1.2, "density"), (0.9, 3.0, "MAC ratio")])
def test_the_one_that_decides_is_known(density, ratio, decides):
    model, _ = layers_of()
    budget = budget_of(model, ShapeSettings(density=density, mac_ratio=ratio), SIZE)
    pruned = prune(model, budget)
    assert deciding(named_modules_of(pruned, HetConv2d), budget).unit == decides
    alone = budget_of(model, ShapeSettings(density=density), SIZE)
    assert deciding({}, alone) is alone


def test_what_neither_allows_is_refused_with_what_can_be_reached():
    model, layers = layers_of(group_out="all")
    budget = budget_of(model, ShapeSettings(density=0.0005, mac_ratio=3.0), SIZE)
    with pytest.raises(NothingToDoError, match=r"target MAC ratio 3 and density 0\.0005 .* nearest MAC ratio \d"):
        allocate(layers, {name: layer.shape_logits for name, layer in layers.items()}, budget)
    with pytest.raises(NothingToDoError, match=r"density 0\.0005 .* nearest MAC ratio \S+ with density 0\.0"):
        check_reachable(layers, budget)


@pytest.mark.parametrize("settings", [{"latency_ratio": 2.0}, {"mac_ratio": 2.0, "method": "penalty"}])
def test_a_density_stands_beside_a_mac_ratio_only(settings):
    with pytest.raises(UsageError, match=r"target: expected one of .* or --density with --mac-ratio"):
        ShapeSettings(density=0.5, **settings)


def test_a_training_whose_shapes_miss_the_target_ends_with_the_nearest():
    torch.manual_seed(0)
    model, layers = layers_of("free", "all", widths=(4, 4, 4))  # a channel's tap is a quarter of a per cent and more
    budget = Budget.of_density(layers, 0.003)
    logits = {name: layer.shape_logits.detach() for name, layer in layers.items()}
    said = []
    with pytest.raises(NothingToDoError):
        prune(model, budget, logits=logits)
    pruned = prune_nearest(budget, said.append, model, logits)
    assert len(said) == 1
    assert "target density 0.003 cannot be reached within 1 %" in said[0]
    assert said[0].endswith("pruned to the nearest below")
    kept = sum(int(pruned.get_submodule(name).mask().sum()) for name in layers)
    assert 0 < kept < 0.2 * sum(layer.weight.numel() for layer in layers.values())
