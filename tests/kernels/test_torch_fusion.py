"""Torch models: what follows our layers is fused into them, values between them are blocked, nothing else changes."""

import inspect
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from nets import Drawn, Foreign, Residual, sparse, steps, two_lengths
from torch import nn
from torch.nn import functional as F

from hetcompress.errors import UsageError
from hetcompress.kernels import (
    Pooling,
    VectorBlockConv2d,
    available,
    blocked,
    fuse_torch,
    pool,
    pool_module,
    pool_operator,
)
from hetcompress.kernels.pool_module import BlockedPool2d
from hetcompress.latency import prepare_torch
from hetcompress.nn.lowered import Chain, Pad
from hetcompress.targets import export_model

pytestmark = pytest.mark.skipif(not available()[0], reason=f"no compiled kernels: {available()[1]}")

MANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def close(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1.0)


def fused(model, size=10, channels=3):
    """Return the fused model, which computes the same at any batch size."""
    model.eval()
    result = fuse_torch(model, torch.zeros(1, channels, size, size))
    assert result.note == ""
    with torch.no_grad():
        for batch in (1, 2, 5):
            images = torch.randn(batch, channels, size, size)
            close(result.model(images.clone()), model(images.clone()))
    return result.model


def layers(model):
    return [m.geometry for m in model.modules() if isinstance(m, VectorBlockConv2d)]


def pools(model):
    """Return the layouts that pools and reorders of ours read and write."""
    found = [m.pooling for m in model.modules() if isinstance(m, BlockedPool2d)]
    return [(p.layout_in, p.layout_out, max(p.kernel_size)) for p in found]


@pytest.mark.parametrize("stem", [32, 20])
@pytest.mark.parametrize("vector", [4, 16])
def test_a_residual_net_keeps_nothing_but_the_operator(stem, vector):
    """Also with channels that do not fill their blocks."""
    model = fused(Residual(stem, vector))
    called = [str(node.target) for node in model.graph.nodes if node.op in ("call_function", "call_method")]
    assert len([name for name in called if "relu" in name]) == 1, "that of the stem"
    assert not [name for name in called if "add" in name]
    assert sum("residual" in node.kwargs for node in model.graph.nodes) == 2, "both additions"
    assert [g.low for g in layers(model)].count(0.0) == 4, "a shortcut has no limit"
    assert all(g.layout_in and g.layout_out for g in layers(model))
    assert sorted(pools(model)) == [(0, 1, 1), (1, 0, 1)], "behind the stem and before the head"


@pytest.mark.parametrize(
    ("act", "limits"),
    [
        (F.relu, (0, float("inf"))),
        (nn.ReLU(inplace=True), (0, float("inf"))),
        (nn.ReLU6(), (0, 6)),
        (F.relu6, (0, 6)),
        (nn.Hardtanh(-0.5, 2), (-0.5, 2)),
        (F.hardtanh, (-1, 1)),
        (lambda x: F.hardtanh(x, -0.5, max_val=0.25), (-0.5, 0.25)),
        (lambda x: x.clamp(-0.125), (-0.125, float("inf"))),
        (lambda x: x.clamp_(max=0.5), (-float("inf"), 0.5)),
        (lambda x: torch.clamp(x, 0, max=0.5), (0, 0.5)),
        (lambda x: x.relu_(), (0, float("inf"))),
    ],
)
def test_limits_are_taken_in(act, limits):
    model = fused(Residual(act=act))
    assert [(g.low, g.high) for g in layers(model)].count(limits) == 4


@pytest.mark.parametrize(
    "act",
    [
        nn.SiLU(), nn.GELU(), F.leaky_relu, torch.sigmoid, F.hardswish, lambda x: F.max_pool2d(x, 3, 1, 1),
        lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), lambda x: x * F.adaptive_avg_pool2d(x, 1).sigmoid(),
        lambda x: 2 * x - 1, lambda x: x + x, lambda x: x.flip(1), lambda x: x.clamp(x.mean()), lambda x: x,
        lambda x: F.softmax(x, 1),
    ],
)  # fmt: skip
def test_whatever_follows_computes_the_same(act):
    fused(Residual(act=act))


@MANY
@given(steps=steps())
def test_any_net_computes_the_same(steps):
    model = Drawn(steps).eval()
    images = torch.randn(2, 3, 17, 19)
    result = fuse_torch(model, images)
    # the only step that writes to its input may find others who read that
    assert result.note == "" or "writes to what others read" in result.note
    with torch.no_grad():
        close(result.model(images.clone()), model(images.clone()))


@pytest.mark.parametrize(("before", "after"), [(16, 8), (8, 16), (4, 8)])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(3, 1, 1)])
def test_a_pool_between_two_vector_lengths(before, after, pool):
    model = fused(two_lengths(before, after, pool))
    inside = [(layer.layout_in, layer.layout_out) for layer in layers(model)]
    assert inside == [(0, 1), (1, 1), (0, 1), (1, 0)], "the pool reads blocks and writes planes"


def test_limits_the_wrong_way_round_stay():
    model = fused(nn.Sequential(sparse(3, 32), Clamped(0.5, -0.5), sparse(32, 16)))
    assert all(layer.low == -float("inf") for layer in layers(model))


class Clamped(nn.Module):
    """A clamp as a module."""

    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x):
        return x.clamp(self.low, self.high)


def test_the_original_is_left_alone_and_shares_its_weights():
    model = Residual().eval()
    before, names = [repr(module) for module in model.modules()], set(model.state_dict())
    result = fused(model)
    assert [repr(module) for module in model.modules()] == before
    assert set(result.state_dict()) == names
    assert result.a.values is model.a.values


def test_the_first_convolution_is_ours_where_it_leads_to_ours():
    stem = nn.Conv2d(3, 20, 3, 2, 1)
    model = fused(nn.Sequential(stem, nn.ReLU(), nn.MaxPool2d(2), sparse(20, 16)))
    first, second = layers(model)
    assert (first.layout_in, first.layout_out, first.low) == (0, 1, 0.0)
    assert second.layout_in
    assert pools(model) == [(1, 1, 2)]


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 32, 3), nn.Softmax(1), sparse(32, 16)),
        nn.Sequential(nn.Conv2d(3, 32, 3, padding_mode="circular", padding=1), sparse(32, 16)),
        nn.Sequential(sparse(3, 32), nn.Conv2d(32, 32, 3), sparse(32, 16)),
        nn.Sequential(sparse(3, 3), nn.Conv2d(3, 8, 3)),
    ],
)
def test_other_convolutions_stay(model):
    kept = [type(module) for module in fused(model).modules()].count(nn.Conv2d)
    assert kept == 1


def test_a_layer_that_runs_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = sparse(16, 16)

        def forward(self, x):
            return self.a(F.relu(self.a(x))) + x

    model = fused(Twice(), channels=16)
    assert [(g.low, g.layout_in, g.layout_out) for g in layers(model)] == [(0.0, 0, 1), (-float("inf"), 1, 0)]


def test_layers_with_limits_of_their_own():
    """They clamp before what follows them is added; and a fused model is not fused again."""

    class Clamped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = sparse(16, 16).with_geometry(low=0.0, high=1.0)

        def forward(self, x):
            return F.relu6(self.a(x) - 0.5) + self.a(x) + x

    model = fused(Clamped(), channels=16)
    assert {(g.low, g.high, g.layout_out) for g in layers(model)} == {(0.0, 1.0, 0)}
    once = fused(Residual())
    assert sorted(map(str, layers(fused(once)))) == sorted(map(str, layers(once)))


def test_groups_whose_filters_do_not_fill_blocks():
    stages = [
        sparse(16, 32),
        nn.ReLU(),
        sparse(32, 20, groups=2),
        nn.ReLU(),
        sparse(20, 32),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    model = fused(nn.Sequential(*stages), channels=16)
    assert [(g.layout_in, g.layout_out) for g in layers(model)] == [(0, 1), (1, 0), (0, 1)]


def test_padding_of_another_kind_stands_before_the_layer():
    model = fused(
        nn.Sequential(Chain([Pad((1, 1, 1, 1), "reflect"), sparse(16, 32, padding=0)]), nn.ReLU()), channels=16
    )
    assert layers(model)[0].low == 0.0


def test_a_pool_at_the_end_writes_planar_images():
    model = fused(nn.Sequential(sparse(3, 20), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(500, 3)))
    assert pools(model) == [(1, 0, 2)]


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.MaxPool2d((4, 2), (3, 3), (2, 1), ceil_mode=True),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, padding=(1, 0), count_include_pad=False),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveMaxPool2d((1, 1)),
    ],
)
@pytest.mark.parametrize("foreign", [False, True])
def test_pools_are_ours(pool, foreign):
    """Also behind another operator."""
    first = Foreign(3, 20, 3) if foreign else sparse(3, 20)
    model = fused(nn.Sequential(first, nn.ReLU(), pool, sparse(20, 16)), size=11)
    assert type(pool) not in map(type, model.modules())
    assert [ends[:2] for ends in pools(model)] == [(0 if foreign else 1, 1)]


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d((1, 3), (1, 2), dilation=(1, 2)),
        nn.AdaptiveAvgPool2d((3, 1)),
        nn.AvgPool2d(2, divisor_override=3),
        nn.AdaptiveAvgPool2d((None, 1)),
    ],
)
def test_pools_that_are_not_ours(pool):
    model = fused(nn.Sequential(sparse(3, 20), nn.ReLU(), pool, sparse(20, 16)), size=11)
    assert type(pool) in map(type, model.modules())


# torch's own check looks at gradients of inner tensors
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("average", [False, True])
def test_torch_accepts_the_operator_of_pools(average):
    pooling = Pooling(20, 8, (3, 2), (2, 2), (1, 1, 1, 1), average=average, layout_in=1, layout_out=1)
    images = blocked(torch.randn(2, 20, 6, 7), 8).requires_grad_()
    torch.library.opcheck(torch.ops.hetcompress.blocked_pool2d.default, (images, pooling.numbers))
    double = images.detach().double()
    same = BlockedPool2d(pooling)
    torch.testing.assert_close(same(double).float(), same(images))


def test_malformed_pools_are_refused():
    operator, images = torch.ops.hetcompress.blocked_pool2d.default, torch.zeros(1, 20, 6, 6)
    good = Pooling(20, 16, (2, 2), (2, 2)).numbers
    assert operator(images, good).shape == (1, 20, 3, 3)
    for place, number in (
        (0, 19),
        (0, 0),
        (1, 5),
        (2, 0),
        (2, 7),
        (4, 0),
        (6, 2),
        (6, -1),
        (13, 1),
        (13, 2),
        (14, 2),
    ):
        with pytest.raises(UsageError):
            operator(images, [*good[:place], number, *good[place + 1 :]])
    with pytest.raises(UsageError, match="15 numbers"):
        operator(images, good[:-1])


class Writes(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = sparse(3, 16)

    def forward(self, x):
        x = self.a(x)
        y = x * 2
        return x.relu_() + y


class Decides(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = sparse(3, 16)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else x


class Remembers(nn.Module):
    """Does something else each time, which its trace does not."""

    def __init__(self):
        super().__init__()
        self.a, self.times = sparse(3, 16), 0

    def forward(self, x):
        self.times += 1
        return self.a(x) * self.times


@pytest.mark.parametrize(
    ("kind", "reason"), [(Writes, "others read"), (Decides, "control flow"), (Remembers, "something else")]
)
def test_what_cannot_be_traced_stays_as_it_is(kind, reason):
    model = kind().eval()
    result = fuse_torch(model, torch.zeros(1, 3, 8, 8))
    assert result.model is model
    assert reason in result.note


def test_models_without_our_layers_are_not_touched():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert fuse_torch(model, torch.zeros(1, 3, 8, 8)).model is model


def test_exported_programs_are_fused(tmp_path):
    model, path = Residual().eval(), tmp_path / "model.pt2"
    exported = export_model("pt2", model, torch.zeros(1, 3, 10, 10), path)
    assert exported.batch_sizes[0] == 1
    assert "note" not in exported.details
    program = torch.export.load(path)
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert called.count("hetcompress.vector_block_conv2d.default") == 5
    assert not [name for name in called if "add" in name]
    images = torch.randn(4, 3, 10, 10)
    close(program.module()(images), model(images))


def test_an_exported_program_says_why_it_is_not_fused(tmp_path):
    exported = export_model("pt2", Writes().eval(), torch.zeros(1, 3, 10, 10), tmp_path / "model.pt2")
    assert "others read" in exported.details["note"]


def test_compiled_as_one_graph(monkeypatch):
    # the compiler cannot see through the checks of types that tests put around functions
    for kind in (VectorBlockConv2d, BlockedPool2d):
        monkeypatch.setattr(kind, "forward", inspect.unwrap(kind.forward))
    monkeypatch.setattr(pool_module, "blocked_pool2d", inspect.unwrap(pool_module.blocked_pool2d))
    model = fused(Residual())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        for batch in (3, 1):
            images = torch.randn(batch, 3, 10, 10)
            close(compiled(images), model(images))


def test_gradients_flow_through_fused_layers():
    model = Residual().eval()
    images = torch.randn(2, 3, 10, 10)
    gradients = []
    for candidate in (model, fused(model)):
        found = images.clone().requires_grad_()
        candidate(found).square().sum().backward()
        gradients.append(found.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_what_is_timed_in_torch_is_fused():
    model = Residual().eval()
    images = torch.randn(2, 3, 10, 10)
    run, _runtime = prepare_torch(model, (3, 10, 10))(images)
    close(run(), model(images))
    with patch.object(pool_operator, "pool", wraps=pool) as reorder:
        run()
    assert reorder.call_count == 2, "of the fused model"
