"""The vector-block lowering."""

import numpy as np
import pytest
import torch
from torch import nn

from hetcompress import kernels
from hetcompress.cost import count_executed
from hetcompress.graphs import onnx_bytes, ort_session
from hetcompress.lowering import LOWERINGS, lower
from hetcompress.lowering.pieces import conv_weights
from hetcompress.lowering.vector_block import vector_of
from hetcompress.nn import HetConv2d


def layer_of(density, group_out=16, **options):
    conv = nn.Conv2d(20, 40, 3, **options)
    layer = HetConv2d(group_out, 1, **{"in_channels": 20, "out_channels": 40, "kernel_size": 3, **options})
    shapes = torch.rand(layer.kernel_shapes.shape, generator=torch.Generator().manual_seed(0)) < density
    return HetConv2d.from_conv2d(conv, shapes, group_out, 1).eval()


pytestmark = pytest.mark.usefixtures("library")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1},
        {"padding": "same"},
        {"padding": 2, "stride": 2},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": 1, "groups": 2},
    ],
)
def test_same_function(options):
    layer = layer_of(0.3, **options)
    rule = LOWERINGS["vector-block"]()
    assert rule.check(layer).ok
    images = torch.randn(2, 20, 8, 9)
    form = rule.rewrite(layer)
    torch.testing.assert_close(form(images), layer(images), rtol=1e-5, atol=1e-5)
    assert conv_weights(form) < layer.weight.numel()


def test_cost_is_that_of_the_kept_vectors():
    layer = layer_of(0.3)
    assert conv_weights(LOWERINGS["vector-block"]().rewrite(layer)) == 16 * int(layer.kernel_shapes.sum())


def test_a_model_is_lowered_counted_and_exported():
    model = nn.Sequential(layer_of(0.3, padding=1), nn.ReLU(), nn.Conv2d(40, 5, 1)).eval()
    images = torch.randn(2, 20, 8, 9)
    lowered = lower(model, images, rules=("dense", "vector-block"))
    assert [layer.form for layer in lowered.layers] == ["vector-block"]
    executed = 16 * int(model[0].kernel_shapes.sum()) + 5 * 40
    assert count_executed(lowered.model, images[:1]).macs == executed * 8 * 9
    session = ort_session(onnx_bytes(lowered.model, images), 1)
    with torch.no_grad():
        expected = model(images).numpy()
    np.testing.assert_allclose(session.run(None, {"input": images.numpy()})[0], expected, rtol=1e-4, atol=1e-4)


def test_a_full_layer_is_left_alone():
    assert not LOWERINGS["vector-block"]().check(layer_of(1.0)).ok


def test_the_vector_is_that_of_the_channel_groups():
    assert vector_of(layer_of(0.3, group_out=8)) == 8
    assert vector_of(layer_of(0.3, group_out=40)) == 8
    assert vector_of(layer_of(0.3, group_out=1)) == kernels.best_vector()
