"""Constant channels: a filter without a weight makes its bias everywhere, and readers can know that beforehand.

Where channel c of the input is v at every pixel, a tap (i, j) that never touches the padding adds w[c, i, j] * v to
every output pixel, so

    conv(x, W) + b = conv(x, W without (c, i, j)) + (b + w[c, i, j] * v)

A tap that touches it sees zeros there and v elsewhere, which no bias can say; it stays, unless v is 0 or the padding
repeats the image.  A filter that loses its last tap is a constant itself, and so are functions of constants.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hetcompress.flow import Flow
from hetcompress.lowering.pieces import Geometry
from hetcompress.lowering.rewiring import kernels_of, pruned_like
from hetcompress.nn import HetConv2d
from hetcompress.surgery import copy_in, replace_modules_

__all__ = ["fold_constants_"]

UNKNOWN = float("nan")
EQUAL = 1e-12
"""Relative difference up to which pixels are the same number: averages of equal numbers differ in their last digits."""


@torch.no_grad()
def fold_constants_(model: nn.Module, flow: Flow) -> None:
    """Put what convolutions read of constants into their biases, where a bias can hold it; the function stays the same.

    Args:
        model: In eval mode; changed in place.
        flow: Its steps.
    """
    changeable = {value for step in flow.steps if step.kind == "other" for value in step.reads}
    constants = [torch.full((size,), UNKNOWN, dtype=torch.float64) for size in flow.channels]
    for step in flow.steps:
        if step.makes is None or step.kind not in ("conv", "channelwise"):
            continue
        module = model.get_submodule(step.module) if step.module else None
        if isinstance(module, nn.Conv2d):
            folded = _folded(module, constants[step.reads[0]])
            replace_modules_(model, {step.module: folded} if folded is not module else {})
            made = _biases(folded)
        else:
            function = step.call if module is None else copy_in(module, torch.float64)
            assert function is not None, "a channelwise step is a module or a function"
            made = _through(function, [constants[value] for value in step.reads], [flow.shapes[v] for v in step.reads])
        if step.makes not in changeable:
            constants[step.makes] = made


def _folded(conv: nn.Conv2d, values: Float[Tensor, " c_in"]) -> nn.Conv2d:
    """Return a convolution with the constants that it reads in its bias; itself where there are none to fold."""
    if bool(values.isnan().all()):
        return conv
    of_filter = values.view(conv.groups, -1).repeat_interleave(conv.out_channels // conv.groups, 0)
    known = ~of_filter.isnan()[..., None, None]
    of_filter = of_filter.nan_to_num()[..., None, None]
    kernels = kernels_of(conv)
    gone = known & ((of_filter == 0) | _dry(conv)) & (kernels != 0)
    if not bool(gone.any()):
        return conv
    bias = (kernels.double() * of_filter * gone).sum((1, 2, 3))
    bias = bias if conv.bias is None else bias + conv.bias.double()
    new = copy.deepcopy(conv)
    if isinstance(conv, HetConv2d):
        # the folded taps are the same for all filters, whatever their weights, so that channel groups stay as they are
        whole = known & ((of_filter == 0) | _dry(conv))
        new = pruned_like(conv, (conv.mask() > 0) & ~whole, bias=True).train(conv.training)
    new.weight.copy_(kernels * ~gone)
    new.bias = nn.Parameter(bias.to(kernels.dtype))
    return new


def _dry(conv: nn.Conv2d) -> Bool[Tensor, "kh kw"]:
    """Return the taps that see a constant image as such at every output pixel, whatever the size of the image."""
    geometry = Geometry.of(conv)
    if geometry.mode != "constant":  # padding made of the image itself
        return torch.ones(geometry.kernel_size, dtype=torch.bool)
    left, right, top, bottom = geometry.sides
    rows, columns = (torch.arange(k) * d for k, d in zip(geometry.kernel_size, geometry.dilation, strict=True))
    inside_rows = (rows >= top) & (rows.flip(0) >= bottom)
    inside_columns = (columns >= left) & (columns.flip(0) >= right)
    return inside_rows[:, None] & inside_columns


def _biases(conv: nn.Conv2d) -> Float[Tensor, " c_out"]:
    """Return what the filters without a weight make."""
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    empty = ~(kernels_of(conv) != 0).flatten(1).any(1)
    return torch.where(empty, bias.double(), UNKNOWN)


def _through(
    function: Callable[..., Tensor], inputs: list[Tensor], shapes: list[torch.Size]
) -> Float[Tensor, " channels"]:
    """Return what a channelwise function makes of constants: it is run on them, and must make the same everywhere."""
    known = ~torch.stack(inputs).isnan().any(0)
    if not bool(known.any()):
        return torch.full_like(inputs[0], UNKNOWN)
    images = [
        values.nan_to_num()[None, :, None, None].expand(1, *shape[1:]).contiguous()
        for values, shape in zip(inputs, shapes, strict=True)
    ]
    made = function(*images)[0].flatten(1).double()
    same = (made - made[:, :1]).abs().amax(1) <= EQUAL * made[:, 0].abs()
    return torch.where(known & same, made[:, 0], UNKNOWN)
