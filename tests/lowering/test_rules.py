"""Every lowering: it refuses with a reason, or computes the same function, over the product of settings."""

import copy

import pytest
import torch
from hypothesis import given, settings
from strategies import pruned_layers
from torch import nn

from hetcompress.graphs import ONNX_OPSET, ort_session
from hetcompress.lowering import LOWERINGS
from hetcompress.lowering.pieces import conv_weights
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.onnx_forms import form_model
from hetcompress.shapes import HetConvShapes


@pytest.mark.parametrize("name", sorted(LOWERINGS))
@settings(max_examples=60)
@given(layer=pruned_layers())
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
        assert_same_in_onnxruntime(form, images, found)
        twin = rule.rewrite(layer)
        twin.load_state_dict(form.state_dict())
        assert torch.equal(twin(images), found)
        assert not [module for module in form.modules() if isinstance(module, HetConv2d)]
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def assert_same_in_onnxruntime(form, images, expected):
    """The nodes written for a form compute what the form does."""
    session = ort_session(form_model(form, images.shape[1], ONNX_OPSET).SerializeToString(), 1)
    found = torch.from_numpy(session.run(None, {"input": images.numpy()})[0])
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1e-6)


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


@pytest.mark.parametrize("name", ["crop", "pointwise-plus", "shape-sum"])
def test_many_channels_are_read_in_numbers_that_runtimes_like(name):
    shapes = torch.zeros(1, 41, 3, 3, dtype=torch.bool)
    shapes[:, :18] = True
    shapes[:, 18:39, 1, 1] = True
    layer = HetConv2d.from_conv2d(nn.Conv2d(41, 8, 3, padding=1), shapes, "all", 1)
    form = LOWERINGS[name]().rewrite(layer)
    counts = [conv.in_channels for conv in form.modules() if isinstance(conv, nn.Conv2d)]
    assert sorted(counts) == ([40] if name == "crop" else [20, 24])
    images = torch.randn(2, 41, 6, 6)
    assert torch.allclose(form(images), layer(images), atol=1e-5)
    assert not dict(form.named_buffers()), "neighbours are read as slices"


def test_filters_that_share_no_tap_are_one_group_convolution():
    mask = torch.zeros(2, 8, 3, 3, dtype=torch.bool)
    mask[0, :4, 1, :2] = True  # two taps of each living channel, none of them the first tap
    mask[1, 4:, 1:, 1] = True
    layer = HetConv2d.from_conv2d(nn.Conv2d(8, 8, 3, padding=1), mask, 4, 1)
    assert LOWERINGS["filter-split"]().check(layer).ok
    form = LOWERINGS["filter-split"]().rewrite(layer)
    images = torch.randn(2, 8, 7, 6)
    assert (form(images) - layer(images)).abs().max() <= 1e-5
