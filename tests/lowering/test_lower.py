"""Whole models: folding, choosing, verifying, exporting."""

import copy

import pytest
import torch
from torch import nn

from hetcompress.budgets import Budget
from hetcompress.conversion import convert
from hetcompress.cost import count_executed, layer_macs
from hetcompress.errors import VerificationError
from hetcompress.lowering import LOWERINGS, ORDER, Lowering, Verdict, fold_batch_norms, lower
from hetcompress.models import MODELS
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.pruning import prune
from hetcompress.shapes import build_family
from hetcompress.surgery import named_modules_of


class Tricky(nn.Module):
    """Convolutions whose batch norm must not be folded, and one whose must."""

    def __init__(self):
        super().__init__()
        self.good, self.good_bn = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.twice, self.twice_bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.again, self.again_bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.between, self.between_bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.good_bn(self.good(x))
        y = self.twice(x)
        x = self.twice_bn(y) + y  # read twice
        x = self.again_bn(self.again(self.again_bn(self.again(x))))  # run twice
        return self.between_bn(self.between(x) * 1.5)  # not read directly


def randomise(model):
    for norm in named_modules_of(model, nn.BatchNorm2d).values():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return model.eval()


def pruned_net(name, family, density, **groups):
    model = randomise(MODELS[name].build())
    converted = convert(model, family=build_family(family), **groups).model
    layers = named_modules_of(converted, LearnableHetConv2d)
    return prune(converted, Budget.of_density(layers, density))


def test_only_private_pairs_are_folded():
    model = randomise(Tricky())
    images = torch.randn(2, 3, 6, 6)
    folded = fold_batch_norms(model, images)
    assert torch.allclose(folded(images), model(images), atol=1e-5)
    kept = set(named_modules_of(folded, nn.BatchNorm2d))
    assert kept == {"twice_bn", "again_bn", "between_bn"}
    assert len(named_modules_of(model, nn.BatchNorm2d)) == 4, "the model is left alone"


@pytest.mark.parametrize("family", ["free", "rigid", "centre"])
def test_lowered_net_computes_the_same_with_fewer_macs(family):
    pruned = pruned_net("digits_net", family, 0.3, group_out=16 if family == "free" else "all")
    images = torch.randn(3, 1, 8, 8)
    lowered = lower(pruned, images[:1])
    assert torch.allclose(lowered.model(images), pruned.eval()(images), atol=1e-4)
    assert lowered.max_difference < 1e-4
    assert not named_modules_of(lowered.model, HetConv2d)
    assert not named_modules_of(lowered.model, nn.BatchNorm2d)
    assert len(lowered.layers) == 3
    macs = layer_macs(pruned, images[:1])
    executed = count_executed(lowered.model, images[:1]).macs
    left = layer_macs(lowered.model, images[:1])  # a filter of conv1 that nothing reads is gone
    rest = left["conv1"].dense + macs["linear"].dense
    assert executed == rest + sum(layer.macs_executed for layer in lowered.layers)
    if family == "free":
        effective = sum(cost.effective for cost in macs.values())
        assert executed == pytest.approx(effective, rel=0.02), "fine shapes execute what the mask keeps"
    for layer in lowered.layers:
        assert {layer.form, *layer.refused} == set(ORDER)


def test_lowered_net_exports_with_a_free_batch():
    pruned = pruned_net("resnet20", "free", 0.3, group_out=16)
    lowered = lower(pruned, torch.zeros(1, 3, 32, 32)).model
    batch = torch.export.Dim("batch")
    program = torch.export.export(lowered, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: batch},))
    images = torch.randn(3, 3, 32, 32)
    assert torch.allclose(program.module()(images), lowered(images), atol=1e-5)


def test_wrong_form_is_caught(monkeypatch):
    class Wrong(Lowering):
        name = "dense"

        def check(self, layer):
            return Verdict(True, "says yes to everything")

        def rewrite(self, layer):
            conv = copy.deepcopy(layer.to_conv2d())
            conv.weight.data[0, 0, 0, 0] += 0.01
            return conv

    monkeypatch.setitem(LOWERINGS._entries, "dense", Wrong)
    with pytest.raises(
        VerificationError, match=r"layer conv\d lowered to dense: expected the same outputs within 1e-05"
    ):
        lower(pruned_net("digits_net", "free", 0.9), torch.zeros(1, 1, 8, 8), rules=("dense",))


@pytest.mark.parametrize("side", range(4))
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 2}, {"stride": 3, "kernel_size": 5}])
def test_a_form_that_is_wrong_at_one_border_is_caught(side, options, monkeypatch):
    class Short(Lowering):
        """Makes the outermost row or column of the image zero."""

        name = "dense"

        def check(self, layer):
            return Verdict(True, "says yes to everything")

        def rewrite(self, layer):
            sides = [0, 0, 0, 0]
            sides[side] = 1
            return nn.Sequential(nn.ZeroPad2d([-s for s in sides]), nn.ZeroPad2d(sides), layer.to_conv2d())

    conv = nn.Conv2d(3, 4, padding=2, **({"kernel_size": 3} | options))
    net = nn.Sequential(HetConv2d.from_conv2d(conv, torch.ones(4, 3, *conv.kernel_size, dtype=torch.bool)))
    monkeypatch.setitem(LOWERINGS._entries, "dense", Short)
    for size in (40, 41, 42):
        with pytest.raises(VerificationError, match="lowered to dense"):
            lower(net, torch.zeros(1, 3, size, size), rules=("dense",))
