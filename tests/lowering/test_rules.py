"""Every lowering: it refuses with a reason, or computes the same function, over the product of settings."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hetcompress.lowering import LOWERINGS
from hetcompress.lowering.pieces import conv_weights
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.shapes import HetConvShapes

SIZES = [(1, 1), (3, 3), (5, 5), (7, 7), (1, 3), (3, 1), (2, 2), (5, 3)]


@st.composite
def layers(draw):
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    stride = draw(st.sampled_from([1, 2]))
    conv = nn.Conv2d(
        groups * draw(st.integers(1, 6)), groups * draw(st.integers(1, 6)), draw(st.sampled_from(SIZES)),
        stride=stride, padding=draw(st.sampled_from([0, 1, 2, "same" if stride == 1 else 0])),
        dilation=draw(st.sampled_from([1, 2])), groups=groups, bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "zeros", "reflect", "circular", "replicate"])),
    )  # fmt: skip
    group_out, group_in = (draw(st.sampled_from([1, 2, 4, "all"])) for _ in range(2))
    layer = HetConv2d(group_out, group_in, **_arguments(conv))
    torch.manual_seed(draw(st.integers(0, 10_000)))
    shape = layer.kernel_shapes.shape
    shapes = torch.rand(shape) < draw(st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0]))
    kind = draw(st.sampled_from(["any", "row", "centre-or-full"]))
    if kind == "row":
        shapes[..., 1:, :] = False
    if kind == "centre-or-full":
        shapes = shapes[..., :1, :1].expand(shape).clone()
        shapes[..., shape[-2] // 2, shape[-1] // 2] = True
    return HetConv2d.from_conv2d(conv, shapes, group_out, group_in)


def _arguments(conv):
    from hetcompress.nn import conv_arguments

    return conv_arguments(conv)


@pytest.mark.parametrize("name", sorted(LOWERINGS))
@settings(max_examples=60)
@given(layer=layers())
def test_rule_refuses_or_computes_the_same(name, layer):
    rule = LOWERINGS[name]()
    before = copy.deepcopy(layer.state_dict())
    verdict = rule.check(layer)
    assert verdict.reason
    if verdict.ok:
        images = torch.randn(2, layer.in_channels, 15, 14)
        expected = copy.deepcopy(layer).double()(images.double())
        form = rule.rewrite(layer)
        found = form(images)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1e-6)
        twin = rule.rewrite(layer)
        twin.load_state_dict(form.state_dict())
        assert torch.equal(twin(images), found)
        assert not [module for module in form.modules() if isinstance(module, HetConv2d)]
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def pruned(shapes, filters=8, channels=8, **options):
    """A 3x3 layer with these shapes for each input channel, shared by all filters."""
    conv = nn.Conv2d(channels, filters, 3, padding=1, **options)
    return HetConv2d.from_conv2d(conv, shapes[None].expand(1, -1, -1, -1).clone(), "all", 1)


def test_crop_reads_only_the_box_and_the_living_channels():
    shapes = torch.zeros(8, 3, 3, dtype=torch.bool)
    shapes[2:, 1, :2] = True
    form = LOWERINGS["crop"]().rewrite(pruned(shapes))
    assert conv_weights(form) == 8 * 6 * 1 * 2
    full = LOWERINGS["crop"]().check(pruned(torch.ones(8, 3, 3, dtype=torch.bool)))
    assert not full.ok
    assert full.reason == "its taps fill the kernel and all channels are read"


def test_pointwise_plus_is_two_convolutions():
    shapes = torch.zeros(8, 3, 3, dtype=torch.bool)
    shapes[:6, 1, 1] = True
    shapes[6:] = True
    form = LOWERINGS["pointwise-plus"]().rewrite(pruned(shapes))
    assert len([m for m in form.modules() if isinstance(m, nn.Conv2d)]) == 2
    assert conv_weights(form) == 8 * (6 + 2 * 9)


def test_shape_sum_has_one_convolution_for_each_box():
    shapes = torch.zeros(8, 3, 3, dtype=torch.bool)
    shapes[:3, 1, :] = True
    shapes[3:6, :, 1] = True
    form = LOWERINGS["shape-sum"]().rewrite(pruned(shapes))
    assert conv_weights(form) == 8 * (3 * 3 + 3 * 3)


def test_tap_gemm_executes_exactly_the_kept_taps():
    torch.manual_seed(0)
    shapes = torch.rand(8, 3, 3) < 0.4
    form = LOWERINGS["tap-gemm"]().rewrite(pruned(shapes))
    assert conv_weights(form) == 8 * int(shapes.sum())


def test_filter_split_executes_exactly_the_taps_of_each_set():
    conv = nn.Conv2d(16, 32, 3, padding=1)
    torch.manual_seed(0)
    layer = HetConv2d.from_conv2d(conv, torch.rand(2, 16, 3, 3) < 0.4, 16, 1)
    form = LOWERINGS["filter-split"]().rewrite(layer)
    assert conv_weights(form) == int(layer.mask().sum())


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_hetconv_becomes_one_pointwise_and_one_group_convolution(parts):
    conv = nn.Conv2d(32, 32, 3, padding=1)
    layer = LearnableHetConv2d.from_conv2d(conv, HetConvShapes(parts), 1, 1).freeze()
    form = LOWERINGS["filter-split"]().rewrite(layer)
    convs = [m for m in form.modules() if isinstance(m, nn.Conv2d)]
    assert sorted(c.groups for c in convs) == [1, parts]
    # the executed cost that the papers' own code has: 1/P + 1/K^2
    assert conv_weights(form) == conv.weight.numel() // parts + conv.weight.numel() // 9
    images = torch.randn(2, 32, 9, 9)
    assert torch.allclose(form(images), layer(images), atol=1e-5)
