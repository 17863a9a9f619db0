"""Exact budgets."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hetcompress.allocation import allocate
from hetcompress.budgets import Budget
from hetcompress.conversion import convert
from hetcompress.errors import NothingToDoError, UsageError
from hetcompress.kept_costs import kept_cost
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.pruning import prune, pruned_skeleton
from hetcompress.shapes import build_family
from hetcompress.surgery import named_modules_of


def converted(family="free", group_out=4, group_in=1):
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 3, groups=2)
    )
    return convert(net, family=build_family(family), group_out=group_out, group_in=group_in).model


def layers_of(model):
    return named_modules_of(model, LearnableHetConv2d)


def density(model):
    layers = named_modules_of(model, HetConv2d).values()
    return sum(int(layer.mask().sum()) for layer in layers) / sum(layer.weight.numel() for layer in layers)


@given(
    st.sampled_from(["free", "rigid", "centre"]), st.sampled_from([1, 4, 5]), st.sampled_from([1, 3]),
    st.floats(0.1, 1.0), st.integers(0, 100),
)  # fmt: skip
def test_density_is_met_within_one_percent(family, group_out, group_in, target, seed):
    torch.manual_seed(seed)
    model = converted(family, group_out, group_in)
    pruned = prune(model, Budget.of_density(layers_of(model), target))
    assert density(pruned) == pytest.approx(target, rel=0.0101)
    assert all(layer.mask().any() for layer in named_modules_of(pruned, HetConv2d).values()), "a layer may not be empty"
    assert len(layers_of(model)) == 3, "the source is left alone"


@given(st.floats(1.0, 5.0))
def test_mac_ratio_counts_the_whole_model(ratio):
    model = converted()
    positions, stem = {"1": 36, "3": 36, "4": 16}, 16 * 27 * 64
    dense = {name: layer.weight.numel() * positions[name] for name, layer in layers_of(model).items()}
    total = sum(dense.values()) + stem
    pruned = prune(model, Budget.of_mac_ratio(layers_of(model), positions, total, ratio))
    kept = sum(int(layer.mask().sum()) * positions[name] for name, layer in named_modules_of(pruned, HetConv2d).items())
    assert total / (kept + stem) == pytest.approx(ratio, rel=0.0101)


def test_ties_are_split_exactly():
    model = converted(group_out=1)
    layers = layers_of(model)
    budget = Budget.of_density(layers, 0.5)
    equal = {name: torch.ones_like(layer.shape_logits) for name, layer in layers.items()}
    assert kept_cost(layers, allocate(layers, equal, budget), budget) == pytest.approx(budget.kept, rel=0.01)


def test_the_best_taps_are_kept():
    model = converted(group_out=1)
    layers = layers_of(model)
    logits = {name: torch.rand_like(layer.shape_logits) for name, layer in layers.items()}
    masks = allocate(layers, logits, Budget.of_density(layers, 0.3))
    kept = torch.cat([logits[name].flatten()[masks[name].flatten() > 0] for name in layers])
    dropped = torch.cat([logits[name].flatten()[masks[name].flatten() == 0] for name in layers])
    assert kept.min() >= dropped.max()


def test_unreachable_targets_say_what_is_reachable():
    model = converted()
    with pytest.raises(NothingToDoError, match=r"target density 1e-05 .*expected densities 0\.\d+ to 1") as error:
        prune(model, Budget.of_density(layers_of(model), 1e-5))
    assert error.value.exit_code == 4
    budget = Budget.of_mac_ratio(layers_of(model), {"1": 36, "3": 36, "4": 16}, 10**6, 50.0)
    with pytest.raises(NothingToDoError, match=r"target MAC ratio 50 .*expected MAC ratios 1 to \d"):
        prune(model, budget)


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5, float("nan"), float("inf")])
def test_senseless_densities(value):
    with pytest.raises(UsageError, match=r"--density: expected a number in \(0, 1\], found"):
        Budget.of_density(layers_of(converted()), value)


@pytest.mark.parametrize("value", [0.5, -1.0, float("nan"), float("inf")])
def test_senseless_mac_ratios(value):
    with pytest.raises(UsageError, match="--mac-ratio: expected a number of at least 1, found"):
        Budget.of_mac_ratio(layers_of(converted()), {"1": 1, "3": 1, "4": 1}, 10, value)


def test_relaxed_budget_goes_from_dense_to_target():
    budget = Budget.of_density(layers_of(converted()), 0.25)
    assert budget.relaxed(0.0).kept == budget.total
    assert budget.relaxed(1.0).kept == budget.kept
    assert budget.share == pytest.approx(0.25)
    assert str(budget) == "density 0.25"


def test_pruned_weights_load_into_the_skeleton():
    model = converted()
    pruned = prune(model, Budget.of_density(layers_of(model), 0.4))
    twin = pruned_skeleton(model)
    twin.load_state_dict(pruned.state_dict())
    images = torch.randn(2, 3, 10, 10)
    assert torch.equal(twin(images), pruned(images))


def test_fixed_family_keeps_its_pattern():
    model = converted("hetconv", 1, 1)
    layers = layers_of(model).values()
    kept = sum(float(layer.kept_weights()) for layer in layers) / sum(layer.weight.numel() for layer in layers)
    assert kept < 0.6
    assert density(prune(model, Budget.of_density(layers_of(model), kept))) == pytest.approx(kept)
    with pytest.raises(NothingToDoError, match="Fix: leave the target out: this pattern is fixed"):
        prune(model, Budget.of_density(layers_of(model), 0.9))
    with pytest.raises(NothingToDoError, match="found no learnable layer"):
        prune(nn.Sequential(nn.ReLU()), Budget.of_density(layers_of(model), 0.5))


@given(st.floats(0.1, 0.9), st.integers(0, 99))
def test_a_budget_of_time_spares_layers_that_cost_none(share, seed):
    torch.manual_seed(seed)
    layers = layers_of(converted())
    prices = {"1": 2e-4, "3": 0.0, "4": 1e-5}
    full = sum(layer.weight.numel() * prices[name] for name, layer in layers.items())
    budget = Budget.of_time_ratio(
        layers, prices, fixed=0.1, dense=0.1 + full, ratio=(0.1 + full) / (0.1 + share * full)
    )
    masks = allocate(layers, {name: layer.shape_logits for name, layer in layers.items()}, budget)
    kept = kept_cost(layers, masks, budget)
    assert budget.value(kept) == pytest.approx(budget.target, rel=0.0101)
    assert masks["3"].all()
    assert budget.share == pytest.approx(share)


def test_a_ratio_of_time_below_one_is_refused():
    with pytest.raises(UsageError, match="--latency-ratio: expected a number of at least 1"):
        Budget.of_time_ratio(layers_of(converted()), {"1": 1, "3": 1, "4": 1}, fixed=0, dense=1, ratio=0.9)


@given(st.floats(0.1, 0.9), st.integers(0, 99))
def test_evenly_means_the_same_share_of_every_layer(share, seed):
    torch.manual_seed(seed)
    model = converted()
    layers = named_modules_of(prune(model, Budget.of_density(layers_of(model), share), evenly=True), HetConv2d)
    for layer in layers.values():
        kept = float(layer.mask().sum()) / layer.weight.numel()
        assert kept == pytest.approx(share, abs=2 * layer.weight[0, 0].numel() / layer.weight.numel() + 0.01)


def test_no_layer_is_left_almost_empty():
    model = converted()
    logits = {
        name: layer.family.logits_of(torch.rand_like(layer.tap_norms())) for name, layer in layers_of(model).items()
    }
    first = next(iter(logits))
    logits[first] = logits[first] * 1e-6
    pruned = named_modules_of(prune(model, Budget.of_density(layers_of(model), 0.4), logits=logits), HetConv2d)
    kept = float(pruned[first].mask().sum()) / pruned[first].weight.numel()
    assert 0.12 <= kept < 0.2
