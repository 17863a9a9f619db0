"""Folding batch norms into the convolutions before them, without tracing the model.

In evaluation ``bn(conv(x, W) + b) = conv(x, W * s) + (b - mean) * s + beta`` with ``s = gamma / sqrt(var + eps)``.  A
pair is folded only if the norm's input is the convolution's output, nothing else reads that output, and both run once.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.flow import Flow
from hetcompress.memory import frugal
from hetcompress.surgery import named_modules_of, replace_modules_

__all__ = ["fold_batch_norms", "fold_batch_norms_"]


def _pairs(model: nn.Module, flow: Flow) -> list[tuple[str, str]]:
    """Return the names of convolutions and of the norms that alone read them."""
    every = named_modules_of(model, nn.Conv2d)
    convs = {step.makes: step.module for step in flow.steps if step.module in every}
    norms = named_modules_of(model, nn.BatchNorm2d, exact=True)
    return [
        (convs[step.reads[0]], step.module)
        for step in flow.steps
        if step.module in norms
        and norms[step.module].running_var is not None
        and step.reads[0] in convs
        and len(flow.readers(step.reads[0])) == 1
    ]


@torch.no_grad()
def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    new = copy.deepcopy(conv)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # in double precision, so that folding costs no more than one rounding
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    bias = -norm.running_mean.double() if conv.bias is None else conv.bias.double() - norm.running_mean.double()
    shift = 0.0 if norm.bias is None else norm.bias.double()
    new.weight.copy_(conv.weight.double().mul_(scale[:, None, None, None]))
    new.bias = nn.Parameter((bias * scale + shift).to(conv.weight.dtype))
    return new


def fold_batch_norms_(model: nn.Module, flow: Flow) -> None:
    """Fold batch norms into the convolutions before them, where that is exact.

    Args:
        model: In eval mode; changed in place, layer by layer, so that no two models are in memory.
        flow: Its steps; without the folded ones afterwards.
    """
    pairs = _pairs(model, flow)
    for conv_name, norm_name in pairs:
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        replace_modules_(model, {conv_name: _folded(conv, norm), norm_name: nn.Identity()})
    flow.skip({norm_name for _, norm_name in pairs})


@frugal()
def fold_batch_norms(model: nn.Module, example_input: Float[Tensor, "n c h w"]) -> nn.Module:
    """Return a copy in eval mode whose batch norms are folded into the convolutions before them, where that is exact.

    Args:
        model: Any model; it is left alone.
        example_input: Images for one run.
    """
    folded = copy.deepcopy(model).eval()
    fold_batch_norms_(folded, Flow.of(folded, example_input))
    return folded
