"""Channels that several layers share: what nothing reads is not paid for, and readers agree on what goes."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hetcompress.allocation import allocate
from hetcompress.budgets import Budget
from hetcompress.conversion import convert
from hetcompress.cost import count_executed, layer_macs
from hetcompress.goals import ShapeSettings, budget_of
from hetcompress.granularity import GRANULARITIES
from hetcompress.kept_costs import kept_cost
from hetcompress.kernels import available
from hetcompress.lowering import lower
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.pruning import magnitudes, prune, worths
from hetcompress.surgery import named_modules_of
from hetcompress.wiring import Wiring

EXAMPLE = torch.zeros(1, 3, 8, 8)


class Residual(nn.Module):
    """A stream of channels, which three layers read, with half as many more inside its blocks."""

    def __init__(self, width=64):
        super().__init__()
        inside = width * 3 // 2
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(width, inside, 3, padding=1) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(inside, width, 3, padding=1) for _ in range(2))
        self.last = nn.Conv2d(width, 32, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = (x + outer(inner(x).relu())).relu()
        return self.head(self.last(x).mean((2, 3)))


def converted(granularity, seed=0, width=64):
    torch.manual_seed(seed)
    net = Residual(width).eval()
    with torch.no_grad():  # as in trained nets: the centre is worth more, and channels differ
        for conv in [*net.inner, *net.outer]:
            conv.weight[:, :, 1, 1] *= 2
            conv.weight *= torch.rand(1, conv.in_channels, 1, 1) + 0.3
    names = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d) and name != "stem"]
    grains = {name: GRANULARITIES[granularity](net.get_submodule(name)) for name in names}
    return convert(net, grains=grains).model.eval()


def pruned_to(model, ratio, *, evenly=False):
    layers = named_modules_of(model, LearnableHetConv2d)
    budget = budget_of(model, ShapeSettings(mac_ratio=ratio), (3, 8, 8))
    return prune(model, budget, logits=worths(layers, magnitudes(layers), budget.wiring), evenly=evenly)


def dense_macs(model):
    return sum(cost.dense for cost in layer_macs(model, EXAMPLE).values())


def executed_ratio(pruned):
    return dense_macs(pruned) / count_executed(lower(pruned, EXAMPLE).model, EXAMPLE).macs


@settings(max_examples=8)
@given(
    st.sampled_from([("channels", 1.5), ("channels", 3.0), ("channels", 4.0), ("whole", 1.5), ("whole", 2.0)]),
    st.integers(0, 9),
)  # fmt: skip
def test_what_runs_is_what_was_asked(asked, seed):
    granularity, ratio = asked
    pruned = pruned_to(converted(granularity, seed), ratio)
    costs = layer_macs(pruned, EXAMPLE).values()
    assert sum(cost.dense for cost in costs) / sum(cost.effective for cost in costs) == pytest.approx(ratio, rel=0.0101)
    assert executed_ratio(pruned) == pytest.approx(ratio, rel=0.1)  # forms that save less are not taken


@pytest.mark.skipif(not available()[0], reason="the compiled kernel is missing")
@pytest.mark.parametrize(
    ("granularity", "ratio", "width"),
    [("vector", 2.0, 64), ("vector", 4.0, 64), ("vector8", 2.0, 64), ("vector8", 4.0, 64), ("vector8", 2.0, 16)],
)
def test_vectors_that_run_are_what_was_asked(granularity, ratio, width):
    model = converted(granularity, width=width)
    with torch.no_grad():  # some of the channels inside of blocks are worth little, so that filters of a vector die
        for name, layer in named_modules_of(model, LearnableHetConv2d).items():
            layer.weight[:, ::3] *= 0.01 if name.startswith("outer") else 1
    pruned = pruned_to(model, ratio)
    read = pruned.get_submodule("outer.0").mask().flatten(2).any(2).any(0)
    assert not read.all()
    inside = sum(cost.effective for cost in layer_macs(pruned, EXAMPLE).values())
    lowered = lower(pruned, EXAMPLE, rules=("dense", "vector-block"))
    executed = count_executed(lowered.model, EXAMPLE).macs
    assert executed == inside
    assert dense_macs(pruned) / executed == pytest.approx(ratio, rel=0.005)


def test_a_channel_of_a_stream_goes_from_all_of_its_readers():
    pruned = pruned_to(converted("whole"), 2.0, evenly=True)
    layers = named_modules_of(pruned, HetConv2d)
    read = {name: layers[name].kernel_shapes.flatten(2).any(2)[0] for name in ("inner.0", "inner.1", "last")}
    kept = sorted(read.values(), key=lambda channels: int(channels.sum()))
    assert not kept[-1].all()
    for fewer, more in itertools.pairwise(kept):
        assert bool((more | ~fewer).all()), "what one reader keeps, those that keep more keep too"
    stem = lower(pruned, EXAMPLE).model.get_submodule("stem")
    assert stem.out_channels == int(kept[-1].sum()) + -int(kept[-1].sum()) % 4


@pytest.mark.parametrize("granularity", ["channels", "whole", "sets"])
@pytest.mark.parametrize(("ratio", "seed"), [(1.3, 0), (2.0, 1), (2.7, 2), (3.5, 3)])
def test_blocks_are_split_in_few_layers(granularity, ratio, seed):
    pruned = pruned_to(converted(granularity, seed, 192), ratio)
    odd = 0
    for layer in named_modules_of(pruned, HetConv2d).values():
        taps = layer.kernel_shapes.flatten(2).sum(2)
        odd += any(int((row == layer.weight[0, 0].numel()).sum()) % 16 for row in taps)
    assert odd <= 1


def test_filters_that_nothing_reads_are_not_counted():
    model = converted("whole")
    layers = named_modules_of(model, LearnableHetConv2d)
    masks = {name: torch.ones_like(layer.group_masks()) for name, layer in layers.items()}
    budget = budget_of(model, ShapeSettings(mac_ratio=2.0), (3, 8, 8))
    assert kept_cost(layers, masks, budget) == budget.total
    masks["outer.0"][:, :48] = 0  # half of what inner.0 makes
    saved = 64 * (96 * 64 * 9 // 2 + 64 * 96 * 9 // 2)
    assert budget.total - kept_cost(layers, masks, budget) == saved
    for name in ("inner.0", "inner.1", "last"):
        masks[name][:, :16] = 0  # a quarter of the stream, also of what is not converted
    quarter = 16 * (27 + 2 * 96 * 9 + 32) + 16 * 9 * (48 + 96)
    both = 16 * 48 * 9  # of what was saved before
    assert budget.total - kept_cost(layers, masks, budget) == saved + 64 * (quarter - both)


def test_without_wiring_all_filters_count():
    layers = named_modules_of(converted("whole"), LearnableHetConv2d)
    budget = Budget.of_density(layers, 0.5)
    masks = allocate(layers, worths(layers, magnitudes(layers)), budget)
    weights = sum(float(masks[name].sum()) * layer.out_channels for name, layer in layers.items())
    assert kept_cost(layers, masks, budget) == weights


def test_a_channel_that_unknown_functions_read_is_needed():
    class Rolled(Residual):
        def forward(self, x):
            return super().forward(x) + 0 * self.stem(x).roll(1, 1).mean()

    model = Rolled().eval()
    assert Wiring.of(model, EXAMPLE).needed.any()
    plain = convert(Residual().eval(), group_out="all").model.eval()
    wiring = Wiring.of(plain, EXAMPLE)
    assert int(wiring.needed.sum()) == 32 + 3, "the head's channels and the image"
    assert set(wiring.reads) == {"inner.0", "inner.1", "outer.0", "outer.1", "last"}
    assert torch.equal(wiring.makes["stem"], wiring.makes["outer.1"])
