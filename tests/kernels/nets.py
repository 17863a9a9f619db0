"""Nets of kernel layers, for both runtimes."""

import torch
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
