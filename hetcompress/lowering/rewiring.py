"""Other channels in the values of a model: fewer of them, or in another order."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hetcompress.flow import Flow
from hetcompress.nn import HetConv2d, conv_arguments
from hetcompress.surgery import replace_modules_

__all__ = ["kernels_of", "pruned_like", "rewire_"]


def kernels_of(conv: nn.Conv2d) -> Float[Tensor, "c_out c_in kh kw"]:
    """Return the weights that a convolution really multiplies with: those inside its mask."""
    return (conv.masked_weight() if isinstance(conv, HetConv2d) else conv.weight).detach()


def rewire_(model: nn.Module, flow: Flow, chosen: Sequence[Int[Tensor, " _"]]) -> None:
    """Let the values of a model hold other channels.

    Args:
        model: It was run for `flow`; changed in place, layer by layer, so that no two models are in memory.
        flow: Its steps; their values hold `chosen` afterwards.
        chosen: For each value the channels that it shall hold, in their order; alike on both sides of every tie, and
            all in order wherever an unknown step reads or makes it.
    """
    for step in flow.steps:
        if not step.module or step.makes is None or step.kind == "other":
            continue
        read, made = chosen[step.reads[0]], chosen[step.makes]
        everything = (range(flow.channels[step.reads[0]]), range(flow.channels[step.makes]))
        if (read.tolist(), made.tolist()) == tuple(map(list, everything)):
            continue
        module = model.get_submodule(step.module)
        assert isinstance(module, nn.Conv2d | nn.BatchNorm2d)
        part = _conv_part(module, made, read) if isinstance(module, nn.Conv2d) else _norm_part(module, made)
        replace_modules_(model, {step.module: part})
    flow.hold([len(channels) for channels in chosen])


def pruned_like(conv: HetConv2d, mask: Tensor, **arguments: object) -> HetConv2d:
    """Return a pruned convolution of this mask; its filters share shapes in groups as `conv`'s do, if they still can.

    Args:
        conv: Whose arguments and channel groups are taken.
        mask: Bool, of each weight.
        **arguments: Those that differ.
    """
    size = conv.channel_groups.group_out if conv.groups == 1 else 1
    block = len(mask) if size == "all" else int(size)
    shapes = mask[::block]
    if not bool((shapes.repeat_interleave(block, 0)[: len(mask)] == mask).all()):
        size, shapes = 1, mask
    pruned = HetConv2d(size, 1, **(conv_arguments(conv) | arguments))
    pruned.kernel_shapes.copy_(shapes)
    return pruned


@torch.no_grad()
def _conv_part(conv: nn.Conv2d, filters: Tensor, channels: Tensor) -> nn.Conv2d:
    """Return some filters of a convolution over some of its input channels; of a depthwise one both are the same."""
    sizes = {"in_channels": len(channels), "out_channels": len(filters)}
    index: tuple[Tensor, Tensor] | tuple[Tensor] = (filters[:, None], channels)
    if conv.groups > 1:
        sizes["groups"], index = len(filters), (filters,)
    if isinstance(conv, HetConv2d):
        part: nn.Conv2d = pruned_like(conv, (conv.mask() > 0)[index], **sizes)
    else:
        part = nn.Conv2d(**(conv_arguments(conv) | sizes))
    part.weight.copy_(conv.weight[index])
    if conv.bias is not None and part.bias is not None:
        part.bias.copy_(conv.bias[filters])
    return part.train(conv.training)


@torch.no_grad()
def _norm_part(norm: nn.BatchNorm2d, channels: Tensor) -> nn.BatchNorm2d:
    part = copy.deepcopy(norm)
    part.num_features = len(channels)
    for name in ("weight", "bias"):
        parameter = getattr(norm, name)
        if parameter is not None:
            setattr(part, name, nn.Parameter(parameter[channels].clone()))
    for name in ("running_mean", "running_var"):
        buffer = getattr(norm, name)
        if buffer is not None:
            setattr(part, name, buffer[channels].clone())
    return part
