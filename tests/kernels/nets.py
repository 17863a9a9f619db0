"""Nets of kernel layers, for both runtimes."""

import copy

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from hetcompress.kernels import VectorBlockConv2d


def sparse(channels, filters, size=3, vector=16, padding=None, **options):
    conv = nn.Conv2d(channels, filters, size, padding=size // 2 if padding is None else padding, **options)
    with torch.no_grad():
        conv.weight[:, torch.rand(conv.weight.shape[1]) < 0.4] = 0
    return VectorBlockConv2d.from_pruned(conv, vector)


class Foreign(nn.Conv2d):
    """A convolution that no pass knows."""


class Residual(nn.Module):
    """A stem of another operator, two blocks with additions, a head."""

    def __init__(self, stem=32, vector=16, act=F.relu):
        super().__init__()
        self.stem = Foreign(3, stem, 3, padding=1)
        self.a, self.b = sparse(stem, 48, vector=vector), sparse(48, stem, vector=vector)
        self.c, self.d = sparse(stem, 64, stride=2, vector=vector), sparse(64, 64, vector=vector)
        self.short = sparse(stem, 64, 1, stride=2, vector=vector)
        self.head = nn.Linear(64, 5)
        self.act = act

    def forward(self, x):
        x = self.act(self.stem(x))
        x = self.act(x + self.b(self.act(self.a(x))))
        x = self.act(self.d(self.act(self.c(x))) + self.short(x))
        return self.head(x.mean((2, 3)))


def two_lengths(before, after, pool):
    """Return a net with a pool between layers of two vector lengths."""
    first = [sparse(3, 32, vector=before), nn.ReLU(), sparse(32, 32, vector=before), nn.ReLU()]
    rest = [sparse(32, 32, vector=after), nn.ReLU(), sparse(32, 32, vector=after)]
    return nn.Sequential(*first, pool, *rest)


class Drawn(nn.Module):
    """A net that follows a list of steps."""

    def __init__(self, steps, channels=3):
        super().__init__()
        self.steps, self.parts = [], nn.ModuleList()
        for kind, detail in steps:
            channels = self._add(kind, detail, channels)

    def _add(self, kind, detail, channels):
        begin = len(self.parts)
        if kind == "conv":
            filters, size, stride, vector = detail
            options = {"padding": size // 2, "stride": stride}
            foreign = vector is None
            self.parts.append(
                nn.Conv2d(channels, filters, size, **options) if foreign
                else sparse(channels, filters, size, vector, **options)
            )  # fmt: skip
            channels = filters
        elif kind in ("residual", "gate", "join"):
            filters, vector = detail if kind == "join" else (channels, 16)
            self.parts.append(sparse(channels, filters, vector=vector))
            channels += filters if kind == "join" else 0
        elif kind == "module":
            self.parts.append(copy.deepcopy(detail))
        self.steps.append((kind, detail, begin))
        return channels

    def forward(self, x):
        for kind, detail, part in self.steps:
            if kind == "residual":
                y = self.parts[part](x)
                x = F.relu(y + x) if detail else x + y
            elif kind == "gate":
                x = x * self.parts[part](F.adaptive_avg_pool2d(x, 1)).sigmoid()
            elif kind == "join":
                x = torch.cat([x, self.parts[part](x)], 1)
            else:
                x = self.parts[part](x)
        return x


def steps():
    """Draw what `Drawn` follows; layers of one net have vectors of several lengths, or are not ours."""
    vectors = st.sampled_from((8, 16))
    some_or_none = st.one_of(vectors, vectors, st.none())
    conv = st.tuples(st.integers(1, 40), st.sampled_from((1, 3)), st.sampled_from((1, 1, 2)), some_or_none)
    modules = (
        nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Sigmoid(), nn.Identity(), nn.Dropout(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d((3, 2)),
    )  # fmt: skip
    return st.lists(
        st.one_of(
            st.tuples(st.just("conv"), conv),
            st.tuples(st.just("conv"), conv),
            st.tuples(st.just("module"), st.sampled_from(modules)),
            st.tuples(st.just("residual"), st.booleans()),
            st.tuples(st.just("join"), st.tuples(st.integers(1, 20), vectors)),
            st.tuples(st.just("gate"), st.none()),
        ),
        min_size=1,
        max_size=10,
    )
