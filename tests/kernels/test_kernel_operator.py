"""The torch operator and the module: torch.export, torch.compile, gradients, packing."""

import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from kernels.cases import cases, masked
from torch import nn

from hetcompress.errors import UsageError
from hetcompress.kernels import (
    Geometry,
    VectorBlockConv2d,
    blocked,
    fuse_torch,
    pack,
    planar,
    unpack,
    vector_block_conv2d,
)
from hetcompress.kernels.packing import count_kept
from hetcompress.kernels.plans import _PLANS, MOST
from hetcompress.kernels.torch_operator import _dense, arguments
from hetcompress.nn import HetConv2d

MANY = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def pruned(filters=40, channels=20, groups=1, density=0.3, **options):
    conv = nn.Conv2d(channels, filters, 3, groups=groups, **options)
    generator = torch.Generator().manual_seed(0)
    conv.weight.data = masked(conv.weight.data, groups, 16, density, generator)
    return conv.eval()


@MANY
@given(case=cases())
def test_dense_form_is_the_same_function(case):
    images, residual = (None if t is None else t.nan_to_num() for t in case.inputs())
    result = _dense(images, *case.packed(), case.bias, residual, *arguments(case.geometry))
    torch.testing.assert_close(case.planar(result).double(), case.expected(), rtol=1e-4, atol=1e-4)


@MANY
@given(case=cases())
def test_packing_round_trip(case):
    values, taps, starts = case.packed()
    assert torch.equal(unpack(values, taps, starts, tuple(case.weight.shape), case.geometry.groups), case.weight)
    assert count_kept(case.weight, case.geometry.groups, case.vector) == len(values)
    assert bool((values != 0).any(1).all())
    assert torch.equal(planar(blocked(case.images, case.vector), case.images.shape[1]), case.images)


def test_packed_by_hand():
    weight = torch.zeros(6, 2, 1, 2)
    weight[1, 0, 0, 1] = 3.0  # block 0, tap 1
    weight[5, 1, 0, 0] = 7.0  # block 1 (filters 4, 5 and two zeros), tap 2
    values, taps, starts = pack(weight, 1, 4)
    assert values.tolist() == [[0, 3, 0, 0], [0, 7, 0, 0]]
    assert taps.tolist() == [1, 2]
    assert starts.tolist() == [0, 1, 2]


@pytest.mark.parametrize("padding", [0, 2, (1, 0), "same", "valid"])
@pytest.mark.parametrize("groups", [1, 2])
def test_module_from_a_convolution(padding, groups):
    conv = pruned(groups=groups, padding=padding, dilation=2)
    layer = VectorBlockConv2d.from_pruned(conv, 16)
    images = torch.randn(2, 20, 9, 8)
    torch.testing.assert_close(layer(images), conv(images), rtol=1e-5, atol=1e-5)
    assert torch.equal(layer.dense_weight(), conv.weight)
    assert layer.executed_weights == pack(conv.weight, groups, 16)[0].numel()


def test_mask_of_a_pruned_layer_is_applied():
    shapes = torch.rand(2, 20, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.3
    layer = HetConv2d.from_conv2d(nn.Conv2d(20, 32, 3), shapes, 16, 1)
    layer.weight.data += 1.0
    ours = VectorBlockConv2d.from_pruned(layer, 16)
    assert len(ours.values) == int(shapes.sum())
    images = torch.randn(1, 20, 6, 6)
    torch.testing.assert_close(ours(images), layer(images), rtol=1e-4, atol=1e-4)


def test_layouts_between_layers():
    first, second = pruned(48, 20), pruned(30, 48)
    one = VectorBlockConv2d.from_pruned(first, 16).with_geometry(layout_out=1, low=0.0)
    two = VectorBlockConv2d.from_pruned(second, 16).with_geometry(layout_in=1)
    images = torch.randn(2, 20, 9, 9)
    torch.testing.assert_close(two(one(images)), second(first(images).relu()), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="vector length"):
        VectorBlockConv2d.from_pruned(pruned(), 5)
    with pytest.raises(UsageError, match="padding mode"):
        VectorBlockConv2d.from_pruned(pruned(padding=1, padding_mode="circular"), 16)
    with pytest.raises(UsageError, match="layouts"):
        VectorBlockConv2d.from_pruned(pruned(), 16).with_geometry(groups=2)


# torch's own check looks at gradients of inner tensors
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_torch_accepts_the_operator(dtype, memory_format):
    layer = VectorBlockConv2d.from_pruned(pruned(), 16).to(dtype)
    images = torch.randn(2, 20, 6, 6, dtype=dtype).to(memory_format=memory_format).requires_grad_()
    values = layer.values.detach().requires_grad_()
    torch.library.opcheck(
        torch.ops.hetcompress.vector_block_conv2d.default,
        (images, values, layer.taps, layer.starts, layer.bias, None, *arguments(layer.geometry)),
    )


def test_gradients_are_those_of_the_dense_layer():
    conv = pruned()
    layer = VectorBlockConv2d.from_pruned(conv, 16)
    mine, dense = (torch.randn(2, 20, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in "ab")
    residual = torch.randn(2, 40, 4, 4, requires_grad=True)
    geometry = layer.with_geometry(low=0.0).geometry
    vector_block_conv2d(
        mine, layer.values, layer.taps, layer.starts, geometry, bias=layer.bias, residual=residual
    ).square().sum().backward()
    gradient, residual.grad = residual.grad, None
    (conv(dense) + residual).relu().square().sum().backward()
    torch.testing.assert_close(mine.grad, dense.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, residual.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.bias.grad, conv.bias.grad, rtol=1e-4, atol=1e-4)
    kept = pack(conv.weight.detach(), 1, 16)
    whole = unpack(layer.values.grad, *kept[1:], tuple(conv.weight.shape), 1)
    inside = unpack(torch.ones_like(kept[0]), *kept[1:], tuple(conv.weight.shape), 1)
    torch.testing.assert_close(whole, conv.weight.grad * inside, rtol=1e-4, atol=1e-4)


def test_second_derivatives_are_those_of_the_dense_layer():
    """A penalty on the gradient by the images, beside another loss: nothing tells that a term is missing."""
    conv = pruned()
    layer = VectorBlockConv2d.from_pruned(conv, 16)
    found = []
    for module in (layer, conv):
        images = torch.randn(2, 20, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
        result = module(images)
        (gradient,) = torch.autograd.grad(result.square().sum(), images, create_graph=True)
        (result.mean() + gradient.square().sum()).backward()
        found.append((images.grad, module.bias.grad))
    for mine, dense in zip(*found, strict=True):
        torch.testing.assert_close(mine, dense, rtol=1e-3, atol=1e-3)


def test_autocast_leaves_the_operator_alone(monkeypatch):
    """Its results have the type that `torch.compile` was told, with the library and without."""
    conv = pruned()
    layer = VectorBlockConv2d.from_pruned(conv, 16)
    images = torch.randn(2, 20, 6, 6, requires_grad=True)
    for ready in (True, False):
        monkeypatch.setattr("hetcompress.kernels.library.available", lambda ready=ready: (ready, ""))
        with torch.autocast("cpu", torch.bfloat16):
            result = layer(images)
            result.sum().backward()
        torch.testing.assert_close(result, conv(images), rtol=1e-4, atol=1e-4)
        exact = torch.autograd.grad(conv(images).sum(), images)[0]
        torch.testing.assert_close(images.grad, exact, rtol=1e-4, atol=1e-4)
        images.grad = None
    half = images.detach().bfloat16()
    torch.testing.assert_close(layer(half).float(), conv(images), rtol=0.05, atol=0.05)


def test_export_keeps_one_node_and_a_free_batch():
    layer = VectorBlockConv2d.from_pruned(pruned(padding=1), 16)
    images = torch.randn(2, 20, 6, 6)
    program = torch.export.export(layer, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    assert [str(node.target) for node in calls] == ["hetcompress.vector_block_conv2d.default"]
    more = torch.randn(5, 20, 6, 6)
    assert torch.equal(program.module()(more), layer(more))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_integers_are_refused_not_rounded(dtype):
    layer = VectorBlockConv2d.from_pruned(pruned(padding=1), 16)
    exported = torch.export.export(layer, (torch.zeros(1, 20, 4, 4),)).module()
    fused = fuse_torch(nn.Sequential(layer, nn.ReLU()), torch.zeros(1, 20, 4, 4)).model
    for run, device in ((layer, "cpu"), (exported, "cpu"), (fused, "cpu"), (layer, "meta")):
        with pytest.raises(UsageError, match=f"images: expected floating point numbers, found {dtype}. Fix"):
            run.to(device)(torch.ones(1, 20, 4, 4, dtype=dtype, device=device))


@pytest.mark.parametrize("layer", [nn.Conv1d(4, 4, 3), nn.ConvTranspose2d(4, 4, 3), nn.Linear(4, 4)])
def test_other_layers_are_refused(layer):
    with pytest.raises(UsageError, match=f"layer: expected a Conv2d, found {type(layer).__name__}"):
        inspect.unwrap(VectorBlockConv2d.from_pruned.__func__)(
            VectorBlockConv2d, layer, 4
        )  # types are checked in tests


def test_double_precision_is_computed_densely():
    conv = pruned().double()
    layer = VectorBlockConv2d.from_pruned(conv, 16)
    images = torch.randn(1, 20, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(images), conv(images))


def test_plans_follow_what_they_were_made_from():
    """Other positions in the same tensors, other sizes, and both again."""
    layers = [VectorBlockConv2d.from_pruned(pruned(), 16) for _ in range(2)]
    other = pruned()
    other.weight.data = other.weight.data.flip(1)
    flipped = VectorBlockConv2d.from_pruned(other, 16)
    for size in (*range(5, 12), 5):
        images = torch.randn(1, 20, size, 6)
        torch.testing.assert_close(layers[0](images), pruned_result(layers[0], images), rtol=1e-4, atol=1e-5)
    layers[0].load_state_dict(flipped.state_dict())
    assert torch.equal(layers[0](images), flipped(images))
    assert not torch.equal(layers[1](images), flipped(images))


def pruned_result(layer, images):
    return nn.functional.conv2d(images, layer.dense_weight(), layer.bias)


def test_plans_end_with_the_layer_and_are_not_endless():
    layer = VectorBlockConv2d.from_pruned(pruned(), 16)
    before = len(_PLANS)
    with torch.inference_mode():
        for size in range(3, 3 + MOST + 5):
            layer(torch.zeros(1, 20, 3, size))
    assert len(_PLANS) == before + 1
    assert len(_PLANS[layer.taps]) <= MOST
    del layer
    assert len(_PLANS) == before


def test_planned_calls_are_checked_like_others():
    layer = VectorBlockConv2d.from_pruned(pruned(padding=1), 16)
    images = torch.randn(1, 20, 6, 6)
    with torch.no_grad():
        layer(images, torch.zeros(1, 40, 6, 6))
        for wrong in (torch.zeros(1, 40, 6, 5), torch.zeros(1, 40, 6, 6, dtype=torch.float64)):
            with pytest.raises(UsageError):
                layer(images, wrong)
        layer.taps += 1000
        with pytest.raises(UsageError, match="taps"):
            layer(images)


def test_tensors_that_count_no_changes_are_not_planned_for():
    conv = pruned()
    with torch.inference_mode():
        layer = VectorBlockConv2d.from_pruned(conv, 16)
        images = torch.randn(1, 20, 6, 6)
        torch.testing.assert_close(layer(images), conv(images), rtol=1e-5, atol=1e-5)
        assert layer.taps not in _PLANS


def test_threads_share_plans():
    conv = pruned(padding=1)
    layer = VectorBlockConv2d.from_pruned(conv, 16)
    images = [torch.randn(2, 20, 9, 9) for _ in range(16)]

    def run(image):
        with torch.inference_mode():
            return layer(image)

    with ThreadPoolExecutor(4) as pool:
        for image, found in zip(images, pool.map(run, images), strict=True):
            torch.testing.assert_close(found, conv(image).detach(), rtol=1e-4, atol=1e-5)


def test_no_images_of_any_size_end_in_an_error():
    """A batch of none has no buffer, so nothing but a check bounds its sizes."""
    side = 2**30
    geometry = Geometry(side, 4, kernel_size=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0))
    lists = (torch.zeros(1, 4), torch.zeros(1, dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32))
    with pytest.raises(UsageError, match="too large"):
        vector_block_conv2d(torch.empty(0, side, 2, side), *lists, geometry)
