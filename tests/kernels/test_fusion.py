"""What follows our operator is fused into it, and values between our operators are blocked; nothing else changes."""

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hetcompress.graphs import onnx_bytes, ort_session
from hetcompress.kernels import OPERATOR, VectorBlockConv2d, available

pytestmark = pytest.mark.skipif(not available()[0], reason=f"no compiled kernels: {available()[1]}")


def sparse(channels, filters, size=3, vector=16, **options):
    conv = nn.Conv2d(channels, filters, size, padding=size // 2, **options)
    with torch.no_grad():
        conv.weight[:, torch.rand(channels) < 0.4] = 0
    return VectorBlockConv2d.from_pruned(conv, vector)


class Residual(nn.Module):
    """A stem of another operator, two blocks with additions, a head."""

    def __init__(self, stem=32, vector=16, act=F.relu):
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
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


def exported(model, size=10):
    data = onnx_bytes(model.eval(), torch.zeros(1, 3, size, size))
    images = torch.randn(3, 3, size, size)
    session = ort_session(data, 1)
    found = torch.from_numpy(session.run(None, {"input": images.numpy()})[0])
    expected = model(images)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    return onnx.load_from_string(data).graph


def ours(graph):
    return [
        {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} | {"inputs": len(node.input)}
        for node in graph.node
        if node.op_type == OPERATOR
    ]


def operators(graph):
    return sorted(node.op_type for node in graph.node if node.op_type != OPERATOR)


def test_a_residual_net_keeps_nothing_but_the_operator():
    graph = exported(Residual())
    layers = ours(graph)
    assert len(layers) == 5
    assert operators(graph).count("Add") == 0
    assert operators(graph).count("Relu") == 1, "that of the stem"
    assert sum(layer["inputs"] == 6 for layer in layers) == 2, "both additions"
    assert [layer["low"] for layer in layers].count(0.0) == 4, "a shortcut has no limit"
    assert all(layer["layout_in"] and layer["layout_out"] for layer in layers)
    assert operators(graph).count("Transpose") == 2, "once behind the stem, once before the head"


@pytest.mark.parametrize(
    "act", [F.relu6, F.leaky_relu, torch.sigmoid, F.hardswish, F.gelu, lambda x: F.max_pool2d(x, 3, 1, 1), lambda x: x]
)
def test_other_activations_compute_the_same(act):
    exported(Residual(act=act))


def test_channels_that_do_not_fill_blocks_stay_planar():
    graph = exported(Residual(stem=20))
    assert not all(layer["layout_in"] for layer in ours(graph))


@pytest.mark.parametrize("vector", [4, 8])
def test_other_vector_lengths(vector):
    assert all(layer["layout_out"] for layer in ours(exported(Residual(vector=vector))))


class Odd(nn.Module):
    """Additions that must not be fused: of itself, of a broadcast value, of a constant; a value that two read."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = sparse(3, 16), sparse(16, 16), sparse(16, 16)

    def forward(self, x):
        x = self.a(x)
        x = x + x
        y = self.b(x)
        y = y + y.mean((2, 3), keepdim=True)
        z = self.c(y) + 0.5
        return (z + y).relu().mean((2, 3))


def test_what_cannot_be_fused_is_left():
    graph = exported(Odd())
    assert all(layer["inputs"] == 5 for layer in ours(graph))


def test_the_graphs_own_values_stay_planar():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = sparse(3, 16), sparse(16, 16)

        def forward(self, x):
            return self.b(self.a(x))

    layers = ours(exported(Bare()))
    assert [(layer["layout_in"], layer["layout_out"]) for layer in layers] == [(0, 1), (1, 0)]


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.MaxPool2d((1, 3), (1, 2), dilation=(1, 2)),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, padding=(1, 0)),
    ],
)
def test_pools_behind_our_operator_stay_blocked(pool):
    graph = exported(nn.Sequential(sparse(3, 32), nn.ReLU(), pool, sparse(32, 16), nn.Flatten()), size=11)
    assert [(layer["layout_in"], layer["layout_out"]) for layer in ours(graph)] == [(0, 1), (1, 0)]
    assert "Transpose" not in operators(graph)


def test_a_pool_behind_another_operator_stays_planar():
    graph = exported(nn.Sequential(nn.Conv2d(3, 32, 3), nn.MaxPool2d(2), sparse(32, 32), nn.ReLU(), sparse(32, 16)))
    (pool,) = (node for node in graph.node if node.op_type == "MaxPool")
    assert len(next(a for a in pool.attribute if a.name == "kernel_shape").ints) == 2
