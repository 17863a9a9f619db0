"""Constant channels go into biases where that is exact, and only there."""

import copy

import pytest
import torch
from torch import nn

from hetcompress.flow import Flow
from hetcompress.lowering.constants import fold_constants_
from hetcompress.lowering.dead_channels import remove_dead_channels_
from hetcompress.nn import HetConv2d

IMAGES = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def net(between, bias, *, shape="full", **options):
    """Filter 1 of the first layer has no weight; `bias` is what it makes, and the second layer reads it by `shape`."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3, padding=1)
    shapes = torch.ones(4, 1, 3, 3, dtype=torch.bool)
    shapes[1] = False
    first.bias.data[1] = bias
    second = nn.Conv2d(4, 5, 3, **({"padding": 1} | options))
    taps = torch.ones(1, 4, 3, 3, dtype=torch.bool)
    if shape == "centre":
        taps[:, 1] = False
        taps[:, 1, 1, 1] = True
    return nn.Sequential(
        HetConv2d.from_conv2d(first, shapes, 1, "all"), between, HetConv2d.from_conv2d(second, taps, "all", 1)
    ).double().eval()  # fmt: skip


def after(tidying_pass, model):
    """Return a copy of a model after a pass."""
    new = copy.deepcopy(model)
    tidying_pass(new, Flow.of(new, IMAGES[:1]))
    return new


def left(model):
    """Return the model after folding, and how many channels its second layer reads then."""
    folded = after(fold_constants_, model)
    trimmed = after(remove_dead_channels_, folded)
    for new in (folded, trimmed):
        assert torch.allclose(new(IMAGES), model(IMAGES), rtol=1e-12, atol=1e-12)
    assert folded[0].out_channels == 4, "folding changes no shapes"
    return trimmed[2].in_channels


@pytest.mark.parametrize(
    ("between", "bias", "options", "channels"),
    [
        (nn.ReLU(), -0.5, {}, 3),  # ReLU makes it 0, which equals the padding
        (nn.ReLU(), 0.5, {}, 4),  # the border sees another number
        (nn.ReLU(), 0.5, {"padding": 0}, 3),
        (nn.ReLU(), 0.5, {"padding_mode": "reflect"}, 3),
        (nn.ReLU(), 0.5, {"shape": "centre"}, 3),
        (nn.ReLU(), 0.5, {"shape": "centre", "padding": 2}, 4),
        (nn.ReLU(), 0.5, {"shape": "centre", "padding": 2, "dilation": 2}, 3),
        (nn.ReLU(), 0.5, {"shape": "centre", "stride": 2}, 3),
        (nn.Sigmoid(), -0.5, {"padding": 0}, 3),
        (nn.Sigmoid(), 0.0, {}, 4),  # it makes 0.5
        (nn.MaxPool2d(3, 2, 1), 0.5, {"padding": 0}, 3),
        (nn.AvgPool2d(3, 2, 1), 0.5, {"padding": 0}, 4),  # the pool's own padding makes the border differ
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), 0.5, {"padding": 0}, 3),
        (nn.BatchNorm2d(4), 0.5, {"padding": 0}, 3),
        (nn.Softmax(1), 0.5, {"padding": 0}, 4),  # an unknown function
    ],
)
def test_what_a_bias_can_say_is_folded(between, bias, options, channels):
    assert left(net(between, bias, **options)) == channels


def test_constants_go_through_layers_and_sums():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (
                HetConv2d.from_conv2d(nn.Conv2d(size, 4, 1), torch.ones(4, 1, 1, 1, dtype=torch.bool), 1, "all")
                for size in (3, 4, 4)
            )
            for conv in (self.first, self.second):
                conv.kernel_shapes[2] = False
            self.second.kernel_shapes[1] = False
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            x = self.relu(self.first(x))
            x += self.relu(self.second(x))
            return self.third(x)

    model = Residual().double().eval()
    new = after(remove_dead_channels_, after(fold_constants_, model))
    assert torch.allclose(new(IMAGES), model(IMAGES), rtol=1e-12, atol=1e-12)
    assert [(c.in_channels, c.out_channels) for c in (new.first, new.second, new.third)] == [(3, 3), (3, 3), (3, 4)]


def test_channel_groups_stay():
    model = net(nn.ReLU(), -0.5)
    assert after(fold_constants_, model)[2].channel_groups.group_out == "all"
