"""Gathers between two layers vanish, or become slices, by sorting their weights."""

import copy

import pytest
import torch
from torch import nn

from hetcompress.flow import Flow
from hetcompress.lowering import LOWERINGS
from hetcompress.lowering.channel_order import sort_channels_
from hetcompress.nn import HetConv2d
from hetcompress.nn.lowered import Branch, Concat

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def comb(channels, filters, parts=2):
    """HetConv: filter n has whole kernels where (c - n) mod parts = 0 and centres elsewhere."""
    shapes = torch.zeros(filters, channels, 3, 3, dtype=torch.bool)
    shapes[..., 1, 1] = True
    shapes[(torch.arange(channels) - torch.arange(filters)[:, None]).remainder(parts) == 0] = True
    return HetConv2d.from_conv2d(nn.Conv2d(channels, filters, 3, padding=1), shapes, 1, 1)


def mixed(channels, filters=6):
    """Every third channel whole, the others centres."""
    shapes = torch.zeros(1, channels, 3, 3, dtype=torch.bool)
    shapes[..., 1, 1] = True
    shapes[:, ::3] = True
    return HetConv2d.from_conv2d(nn.Conv2d(channels, filters, 3, padding=1), shapes, "all", 1)


class Tail(nn.Module):
    """Reads all channels in a way that no pass knows."""

    def forward(self, x):
        return x.softmax(1).mean((2, 3))


def indices(layer, form):
    """Return how many index lists a form of a layer has."""
    lowered = LOWERINGS[form]().rewrite(layer)
    lists = [m.channels for m in lowered.modules() if isinstance(m, Branch)]
    lists += [m.order for m in lowered.modules() if isinstance(m, Concat)]
    return sum(index is not None for index in lists)


def sorted_net(model):
    new = copy.deepcopy(model.eval())
    sort_channels_(new, Flow.of(new, IMAGES[:1]))
    assert torch.allclose(new(IMAGES), model(IMAGES), atol=1e-5)
    return new


def test_combs_need_neither_gather_nor_order():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), comb(8, 8), nn.ReLU(), nn.MaxPool2d(2), comb(8, 8), nn.ReLU(), comb(8, 8))
    model.append(Tail())
    new = sorted_net(model)
    assert [indices(model[i], "filter-split") for i in (1, 4, 6)] == [2, 2, 2]
    assert [indices(new[i], "filter-split") for i in (1, 4, 6)] == [0, 0, 1], "the last order is the output's own"


@pytest.mark.parametrize("form", ["pointwise-plus", "shape-sum"])
def test_shapes_are_read_in_slices(form):
    model = nn.Sequential(mixed(3, 9), nn.ReLU(inplace=True), mixed(9), Tail())
    assert indices(model[2], form) == 2
    new = sorted_net(model)
    assert indices(new[2], form) == 0
    assert new[2].channel_groups.group_out == "all"


class Joined(nn.Module):
    """Two layers, joined, and one that reads both."""

    def __init__(self, join, channels):
        super().__init__()
        self.one, self.two, self.reader, self.join = mixed(3, 7), mixed(3, 7), mixed(channels), join
        self.tail = Tail()

    def forward(self, x):
        return self.tail(self.reader(self.join(self.one(x), self.two(x)).relu()))


def test_addends_take_the_same_order():
    new = sorted_net(Joined(torch.add, 7))
    assert indices(new.reader, "pointwise-plus") == 0


def test_each_part_of_a_concatenation_is_sorted_in_its_place():
    model = Joined(lambda a, b: torch.cat([a, b], 1), 14)
    new = sorted_net(model)
    whole = new.reader.mask().amax((0, 2)).sum(-1)[:, None].flatten() > 1
    assert whole.tolist() == [True] * 3 + [False] * 4 + [True] * 2 + [False] * 5


def test_what_others_read_keeps_its_order():
    class TwoReaders(Joined):
        def forward(self, x):
            made = self.one(x).relu()
            return self.tail(self.reader(made) + self.two(x)[:, :6]) + self.other(made).mean()

    class Residual(Joined):
        def forward(self, x):
            made = self.one(x).relu()
            return self.tail(torch.cat([self.reader(made), made], 1))

    two = TwoReaders(None, 7)
    two.other = mixed(7)
    for model in (two, Residual(None, 7)):
        new = sorted_net(model)
        assert all(torch.equal(a, b) for a, b in zip(new.parameters(), model.parameters(), strict=True))
