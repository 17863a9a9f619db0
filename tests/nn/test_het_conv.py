"""Learnable and pruned convolutions: the same function as what they replace, over a product of settings."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hetcompress.errors import UsageError
from hetcompress.nn import ChannelGroups, HetConv2d, LearnableHetConv2d, conv_arguments
from hetcompress.shapes import FreeShapes, build_family

GROUPS = st.sampled_from([1, 2, 3, 4, 5, 16, "all"])


@st.composite
def convs(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    size = draw(st.sampled_from([(1, 1), (3, 3), (5, 5), (7, 7), (1, 3), (3, 1), (2, 2), (5, 3)]))
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "circular", "replicate"]))
    stride = draw(st.sampled_from([1, 2]))
    padding = draw(st.sampled_from([0, 1, 2, "same" if stride == 1 else 1]))
    return nn.Conv2d(
        groups * draw(st.integers(1, 5)), groups * draw(st.integers(1, 5)), size, stride=stride, padding=padding,
        dilation=draw(st.sampled_from([1, 2])), groups=groups, bias=draw(st.booleans()), padding_mode=mode,
    )  # fmt: skip


@given(convs(), st.sampled_from(["free", "rigid", "centre"]), GROUPS, GROUPS)
def test_conversion_is_exact(conv, family, group_out, group_in):
    layer = LearnableHetConv2d.from_conv2d(conv, build_family(family), group_out, group_in)
    images = torch.randn(2, conv.in_channels, 14, 13)
    assert torch.equal(layer(images), conv(images))
    assert torch.equal(layer.eval()(images), conv(images))


@given(convs(), st.sampled_from(["free", "rigid", "centre", "whole", "sets"]), GROUPS, GROUPS)
def test_first_logits_lie_inside_the_window_of_the_estimator(conv, family, group_out, group_in):
    layer = LearnableHetConv2d.from_conv2d(conv, build_family(family), group_out, group_in)
    layer.group_masks().sum().backward()
    passed = layer.shape_logits.grad.clone()
    layer.shape_logits.grad = None
    with torch.no_grad():  # the same choices, from so near to the middle that gradients pass whole
        layer.shape_logits *= 0.1
    layer.group_masks().sum().backward()
    assert torch.allclose(passed, layer.shape_logits.grad)


@given(convs(), st.sampled_from(["free", "rigid", "centre", "hetconv"]), GROUPS, GROUPS)
def test_freezing_keeps_the_function_and_writes_zeros(conv, family, group_out, group_in):
    layer = LearnableHetConv2d.from_conv2d(conv, build_family(family), group_out, group_in)
    with torch.no_grad():
        layer.shape_logits.copy_(torch.randn_like(layer.shape_logits))
    images = torch.randn(2, conv.in_channels, 14, 13)
    frozen = layer.eval().freeze()
    assert torch.equal(frozen(images), layer(images))
    assert torch.equal(frozen.to_conv2d()(images), layer(images))
    assert (frozen.weight[frozen.mask() == 0] == 0).all()
    assert int(layer.kept_weights()) == int(frozen.mask().sum())


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), GROUPS, GROUPS)
def test_blocks_cover_every_kernel_once(filters, channels, conv_groups, group_out, group_in):
    groups = ChannelGroups(filters, channels, conv_groups, group_out, group_in)
    numbers = torch.arange(groups.out_groups * groups.in_groups, dtype=torch.float).view(groups.out_groups, -1, 1, 1)
    expanded = groups.expand(numbers)[..., 0, 0]
    assert expanded.shape == (filters * conv_groups, channels)
    assert expanded.unique().numel() == numbers.numel()
    for number, size in zip(numbers.flatten(), groups.sizes().flatten(), strict=True):
        assert (expanded == number).sum() == size
    # blocks restart at each conv group: no block is shared by two of them
    for conv_group in range(1, conv_groups):
        before, after = expanded[: conv_group * filters], expanded[conv_group * filters :]
        assert not set(before.unique().tolist()) & set(after.unique().tolist())


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), GROUPS, GROUPS, st.booleans())
def test_scaling_by_blocks_is_scaling_by_repeated_ones(filters, channels, conv_groups, group_out, group_in, last):
    groups = ChannelGroups(filters, channels, conv_groups, group_out, group_in)
    blocks = torch.randn(groups.out_groups, groups.in_groups, 3, 2)
    weight = torch.randn(filters * conv_groups, channels, 3, 2)
    weight = weight.to(memory_format=torch.channels_last) if last else weight
    assert torch.equal(groups.scale(weight, blocks), weight * groups.expand(blocks))


def test_total_is_the_transpose_of_expand():
    groups = ChannelGroups(5, 7, 2, 2, 3)
    blocks = torch.randn(groups.out_groups, groups.in_groups, 3, 3)
    weight = torch.randn(10, 7, 3, 3)
    assert (groups.expand(blocks) * weight).sum().item() == pytest.approx(
        (blocks * groups.total(weight)).sum().item(), rel=1e-4
    )


def test_dense_checkpoint_loads_with_only_logits_missing():
    conv = nn.Conv2d(4, 6, 3)
    layer = LearnableHetConv2d(FreeShapes(), 2, 2, **conv_arguments(conv))
    missing, unexpected = layer.load_state_dict(conv.state_dict(), strict=False)
    assert missing == ["shape_logits"]
    assert unexpected == []


def test_dead_weights_stay_dead_through_momentum_and_decay():
    conv = nn.Conv2d(4, 4, 3, padding=1)
    layer = HetConv2d.from_conv2d(conv, torch.rand(4, 4, 3, 3) < 0.3)
    dead = layer.mask() == 0
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        layer(torch.randn(2, 4, 8, 8)).square().sum().backward()
        optimizer.step()
    assert (layer.weight[dead] == 0).all()
    assert (layer.weight[~dead] != 0).all()


def test_mask_share_switches_whole_output_channels_in_training_only():
    conv = nn.Conv2d(3, 64, 3, bias=False)
    layer = LearnableHetConv2d.from_conv2d(conv, FreeShapes(), 1, "all")
    with torch.no_grad():
        layer.shape_logits.fill_(-1.0)
    layer.mask_share = 0.5
    images = torch.randn(1, 3, 5, 5)
    alive = (layer.train()(images) != 0).flatten(2).all(-1).sum().item()
    assert 10 < alive < 54
    assert (layer.eval()(images) == 0).all()
    layer.mask_share = 1.0
    assert (layer.train()(images) == 0).all()


def test_probe_measures_weight_times_gradient_of_each_group():
    conv = nn.Conv2d(4, 6, 3)
    layer = LearnableHetConv2d.from_conv2d(conv, FreeShapes(), 3, 2)
    layer.tap_probe = torch.zeros_like(layer.group_masks(), requires_grad=True)
    layer(torch.randn(2, 4, 7, 7)).square().sum().backward()
    expected = layer.channel_groups.total((layer.weight * layer.weight.grad).detach())
    assert torch.allclose(layer.tap_probe.grad, expected, rtol=1e-3, atol=1e-4)


def test_layers_can_be_copied_and_moved():
    layer = LearnableHetConv2d.from_conv2d(nn.Conv2d(4, 4, 3), build_family("rigid"), 2, 2)
    twin = copy.deepcopy(layer).to(torch.float64)
    images = torch.randn(1, 4, 6, 6)
    assert torch.allclose(twin(images.double()).float(), layer(images), atol=1e-6)
    assert "family=rigid, group_out=2, group_in=2" in repr(layer)
    assert "density=1.0000" in repr(layer.freeze())


@pytest.mark.parametrize("size", [0, -1])
def test_group_sizes_are_checked(size):
    with pytest.raises(UsageError, match="--group-out: expected a number >= 1 or 'all'"):
        LearnableHetConv2d.from_conv2d(nn.Conv2d(4, 4, 3), FreeShapes(), size, 1)
