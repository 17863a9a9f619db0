"""Filters that nothing reads are not computed, and only those."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hetcompress.flow import Flow
from hetcompress.lowering import lower
from hetcompress.lowering.dead_channels import remove_dead_channels_
from hetcompress.nn import HetConv2d

IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(3))


def pruned(filters, channels, dead, group_out="all", **options):
    """A 3x3 layer that reads all but `dead` channels."""
    conv = nn.Conv2d(channels, filters, 3, padding=1, **options)
    groups = 1 if group_out == "all" else -(-filters // group_out)
    shapes = torch.rand(groups, channels, 3, 3) < 0.7
    shapes[:, :, 1, 1] = True
    shapes[:, dead] = False
    return HetConv2d.from_conv2d(conv, shapes, group_out, 1)


class Net(nn.Module):
    """first -> between -> second -> third, and a head over the pooled third."""

    def __init__(self, between, *, reader_dead=(1, 4), last_dead=(0, 1, 2, 3, 5)):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.between = between
        self.second = pruned(8, 6, list(reader_dead), group_out=4)
        self.third = pruned(4, 8, list(last_dead))
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.between(self.first(x))
        x = F.relu(self.second(x))
        return self.head(self.third(x).mean((2, 3)))


def without_dead_channels(model):
    trimmed = copy.deepcopy(model)
    remove_dead_channels_(trimmed, Flow.of(trimmed, IMAGES))
    return trimmed


def sizes(model):
    return [(conv.in_channels, conv.out_channels) for conv in model.modules() if isinstance(conv, nn.Conv2d)]


@pytest.mark.parametrize(
    "between", [nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU(), nn.Sequential(nn.ReLU6(), nn.MaxPool2d(2), nn.Dropout())]
)
def test_dead_filters_go_through_the_chain(between):
    model = Net(between).eval()
    trimmed = without_dead_channels(model)
    assert sizes(trimmed) == [(3, 4), (4, 4), (4, 4)], "of the second layer a whole group of filters is gone"
    assert torch.allclose(trimmed(IMAGES), model(IMAGES), atol=1e-6)
    assert sizes(model) == [(3, 6), (6, 8), (8, 4)]


def test_what_another_function_reads_or_mixes_stays():
    class Residual(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return x + self.inner(x)

    class Shuffled(nn.Module):
        def forward(self, x):
            return x.roll(1, 1)

    for between in (Shuffled(), nn.Softmax(1), Residual(Shuffled())):
        model = Net(between).eval()
        trimmed = without_dead_channels(model)
        assert sizes(trimmed)[0] == (3, 6)
        assert torch.allclose(trimmed(IMAGES), model(IMAGES), atol=1e-6)


def test_a_convolution_that_runs_twice_stays():
    class Twice(Net):
        def forward(self, x):
            once = F.relu(self.second(F.relu(self.first(x))))
            return self.head(self.third(once).mean((2, 3))) + F.relu(self.second(F.relu(self.first(x)))).mean()

    model = Twice(nn.Identity()).eval()
    trimmed = without_dead_channels(model)
    assert sizes(trimmed) == sizes(model)


def test_lower_counts_what_is_gone():
    model = Net(nn.ReLU()).eval()
    lowered = lower(model, IMAGES)
    assert lowered.layers[0].macs_dense == 6 * 8 * 9 * 144
    assert lowered.layers[0].macs_executed <= 4 * 4 * 9 * 144
    assert torch.allclose(lowered.model(IMAGES), model(IMAGES), atol=1e-5)


class Stream(nn.Module):
    """A residual stream of 6 channels with two writers, read by two layers and joined to a third's filters."""

    def __init__(self, first_dead, last_dead):
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 6, 3, padding=1), pruned(6, 6, list(first_dead))
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.aside = nn.Conv2d(3, 4, 1)
        self.last = pruned(5, 10, list(last_dead))

    def forward(self, x):
        stream = F.relu(self.norm(self.stem(x)))
        stream = stream + self.block(stream)
        return self.last(torch.cat([self.depthwise(stream), self.aside(x)], 1)).mean((2, 3))


@pytest.mark.parametrize(
    ("first_dead", "last_dead", "stream", "aside"),
    [
        ((1, 4), (1, 4), 4, 4),
        ((1, 4), (1, 3), 5, 4),  # the last layer reads 4, the first 3
        ((1, 4), (6, 9), 6, 2),
        ((0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5, 6), 1, 3),  # one remains
    ],
)
def test_a_stream_loses_what_nothing_reads_anywhere(first_dead, last_dead, stream, aside):
    model = Stream(first_dead, last_dead).eval()
    trimmed = without_dead_channels(model)
    assert torch.allclose(trimmed(IMAGES), model(IMAGES), atol=1e-6)
    assert sizes(trimmed) == [(3, stream), (stream, stream), (stream, stream), (3, aside), (stream + aside, 5)]
    assert trimmed.norm.num_features == stream


@pytest.mark.parametrize(
    ("dead", "filters"),
    [
        (range(40, 80), 96),  # 40 of the first group are alive and 48 of the second: 48 of each
        ([*range(20, 64), *range(74, 128)], 64),  # 20 and 10: 32 of each
        (range(64), 64),  # a whole group
        ([*range(64), *range(70, 128)], 16),
    ],
)
def test_groups_of_filters_stay_even(dead, filters):
    first = HetConv2d.from_conv2d(nn.Conv2d(3, 128, 3, padding=1), torch.rand(2, 3, 3, 3) < 0.7, 64, 1)
    model = nn.Sequential(first, nn.ReLU(), pruned(4, 128, list(dead)), nn.Flatten()).eval()
    trimmed = without_dead_channels(model)
    assert torch.allclose(trimmed(IMAGES), model(IMAGES), atol=1e-5)
    assert trimmed[0].out_channels == filters


def test_many_channels_stay_in_numbers_that_runtimes_like():
    model = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(), pruned(4, 64, list(range(10, 51))), nn.Flatten()).eval()
    trimmed = without_dead_channels(model)
    assert trimmed[0].out_channels == 24, "23 are alive"
    assert torch.allclose(trimmed(IMAGES), model(IMAGES), atol=1e-5)
