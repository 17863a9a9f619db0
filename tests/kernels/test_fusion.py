"""What follows our operator is fused into it, and values between our operators are blocked; nothing else changes."""

import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from nets import Drawn, Residual, sparse, steps, two_lengths
from torch import nn
from torch.nn import functional as F

from hetcompress.graphs import onnx_bytes, ort_session
from hetcompress.kernels import OPERATOR, available

FEW = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
pytestmark = pytest.mark.skipif(not available()[0], reason=f"no compiled kernels: {available()[1]}")


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
    assert "Transpose" not in operators(graph)
    assert operators(graph).count("BlockedPool2d") == 2, "once behind the stem, and the mean before the head"


@pytest.mark.parametrize(
    "act", [F.relu6, F.leaky_relu, torch.sigmoid, F.hardswish, F.gelu, lambda x: F.max_pool2d(x, 3, 1, 1), lambda x: x]
)
def test_other_activations_compute_the_same(act):
    exported(Residual(act=act))


def test_channels_that_do_not_fill_blocks():
    graph = exported(Residual(stem=20))
    assert all(layer["layout_in"] for layer in ours(graph))


@pytest.mark.parametrize("vector", [4, 8])
def test_other_vector_lengths(vector):
    assert all(layer["layout_out"] for layer in ours(exported(Residual(vector=vector))))


@pytest.mark.parametrize(("before", "after"), [(16, 8), (8, 16), (4, 8)])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(3, 1, 1)])
def test_a_pool_between_two_vector_lengths(before, after, pool):
    graph = exported(two_lengths(before, after, pool))
    layouts = [(layer["layout_in"], layer["layout_out"]) for layer in ours(graph)]
    assert layouts == [(0, 1), (1, 1), (0, 1), (1, 0)], "the pool reads blocks and writes planes"


@FEW
@given(steps=steps())
def test_any_net_computes_the_same(steps):
    model = Drawn(steps).eval()
    data = onnx_bytes(model, torch.zeros(1, 3, 17, 19))
    images = torch.randn(2, 3, 17, 19)
    (found,) = ort_session(data, 1).run(None, {"input": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(images.clone()), rtol=1e-4, atol=1e-5)


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
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, padding=(1, 0)),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.Sequential(nn.LeakyReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2)),
    ],
)
def test_pools_behind_our_operator_are_ours(pool):
    graph = exported(nn.Sequential(sparse(3, 30), nn.ReLU(), pool, sparse(30, 16), nn.Flatten()), size=11)
    layers = ours(graph)
    assert [(layer["layout_in"], layer["layout_out"]) for layer in layers] == [(0, 1), (1, 0)]
    assert {*operators(graph)} <= {"BlockedPool2d", "LeakyRelu", "Flatten", "Reshape"}


def test_a_pool_that_is_not_ours():
    pool = nn.MaxPool2d((1, 3), (1, 2), dilation=(1, 2))
    graph = exported(nn.Sequential(sparse(3, 32), nn.ReLU(), pool, sparse(32, 16), nn.Flatten()), size=11)
    assert "MaxPool" in operators(graph)


@pytest.mark.parametrize(
    "head", [lambda x: x.mean((2, 3)), lambda x: x.mean((2, 3), keepdim=True).flatten(1), lambda x: x.amax((2, 3)),
             nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()),
             nn.Sequential(nn.MaxPool2d(2), nn.Flatten())],
)  # fmt: skip
def test_heads(head):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = sparse(3, 30), sparse(30, 20), head

        def forward(self, x):
            return self.head(self.b(self.a(x).relu()).relu())

    graph = exported(Net())
    assert "Transpose" not in operators(graph)
    assert "BlockedPool2d" in operators(graph)
    read = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read, "no constant of a pool that is gone"


class Many(nn.Module):
    """Concatenations, values with several readers, pools at the start, in the middle and at the end, odd kernels."""

    def __init__(self):
        super().__init__()
        self.start = sparse(3, 30, 5)
        self.wide, self.slim, self.one = (
            sparse(30, 24, (1, 7), padding=1),
            sparse(30, 20, 3, dilation=1),
            sparse(30, 12, 1),
        )
        self.five, self.grouped, self.odd = sparse(56, 40, 5), sparse(40, 32, groups=2), sparse(32, 36, groups=2)
        self.end = sparse(36, 17, 3)

    def forward(self, x):
        x = F.max_pool2d(x, 3, 1, 1)
        x = self.start(x).relu()
        y = F.avg_pool2d(x, 3, 1, 1)
        x = torch.cat(
            [self.wide(F.pad(x, (2, 2, -1, -1))), F.relu6(self.slim(y)), self.one(F.max_pool2d(x, 1)).sigmoid()], 1
        )
        x = F.max_pool2d(x, 2)
        x = F.hardswish(self.grouped(self.five(x))) - 1
        x = self.odd(x).clamp(0.5, 2.0)
        x = self.end(x.clamp(0.75, 1.5))
        return torch.cat([x.mean((2, 3)), F.avg_pool2d(x, 5).flatten(1), x.amax((2, 3))], 1)


def test_everything_at_once():
    exported(Many())


def test_a_pool_behind_another_operator_stays_planar():
    graph = exported(nn.Sequential(nn.Conv2d(3, 32, 3), nn.MaxPool2d(2), sparse(32, 32), nn.ReLU(), sparse(32, 16)))
    (pool,) = (node for node in graph.node if node.op_type == "MaxPool")
    assert len(next(a for a in pool.attribute if a.name == "kernel_shape").ints) == 2
