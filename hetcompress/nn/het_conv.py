"""Heterogeneous convolutions: `LearnableHetConv2d` while shapes are learned, `HetConv2d` once they are fixed.

Both compute ``conv(x, W * M) + b``.  Both keep the names and shapes of ``weight`` and ``bias``, so a dense checkpoint
loads into them.  The mask is part of the forward pass: a weight outside its kernel shape cannot come back through
momentum or weight decay.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hetcompress.nn.groups import ChannelGroups, GroupSize
from hetcompress.shapes import ShapeFamily

__all__ = ["HetConv2d", "LearnableHetConv2d", "conv_arguments"]

TINY = 1e-6
"""The least initial tap score, relative to the layer's largest: an all-zero tap still starts as kept."""
FARTHEST = 0.99
"""The largest first distance from the middle of the estimator's window, which ends before 1."""


def conv_arguments(conv: nn.Conv2d) -> dict[str, Any]:
    """Return the keyword arguments that build a convolution like `conv`, on its device and of its dtype."""
    return {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "padding_mode": conv.padding_mode,
        "device": conv.weight.device,
        "dtype": conv.weight.dtype,
    }


@torch.no_grad()
def _copy_parameters(target: nn.Conv2d, source: nn.Conv2d, weight: Tensor) -> None:
    target.weight.copy_(weight)
    if source.bias is not None and target.bias is not None:
        target.bias.copy_(source.bias)
    target.weight.requires_grad_(source.weight.requires_grad)
    target.train(source.training)


class LearnableHetConv2d(nn.Conv2d):
    """A convolution that learns a shape for each channel group jointly with its weights (LHC, arXiv 2301.05440).

    Args:
        family: The shapes to choose from, and the rule.
        group_out: Filters that share a shape.
        group_in: Input channels that share a shape.
        **arguments: As for `nn.Conv2d`.

    Attributes:
        shape_logits: ``E``, shape (out_groups, in_groups, n).
        mask_share: The probability with which an output channel uses its mask in a training step (the paper's mask
            enabling); 1 outside its warm-up.  Evaluation always uses the mask.
        tap_probe: Zeros of the shape of the group masks, added to them, or None.  Its gradient is how the loss answers
            to each tap of each channel group, kept or not: the sum of weight times gradient over the group.
    """

    def __init__(self, family: ShapeFamily, group_out: GroupSize, group_in: GroupSize, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.family = family
        self.channel_groups = ChannelGroups.of(self, group_out, group_in)
        n = family.logits_per_group(self._size)
        shape = (self.channel_groups.out_groups, self.channel_groups.in_groups, n)
        self.shape_logits = nn.Parameter(self.weight.new_ones(shape), requires_grad=family.learnable)
        self.mask_share = 1.0
        self.tap_probe: Tensor | None = None

    @property
    def _size(self) -> tuple[int, int]:
        return self.kernel_size[0], self.kernel_size[1]

    @classmethod
    def from_conv2d(
        cls, conv: nn.Conv2d, family: ShapeFamily, group_out: GroupSize, group_in: GroupSize
    ) -> LearnableHetConv2d:
        """Return a layer with a copy of `conv`'s weights; for learnable families it computes the same function.

        The first logits rank taps by the root mean square of their weights, with scores that are positive, so that
        every kernel starts full, and so small that all logits of the layer lie inside the estimator's window.
        """
        layer = cls(family, group_out, group_in, **conv_arguments(conv))
        _copy_parameters(layer, conv, conv.weight)
        with torch.no_grad():
            scores = layer.tap_norms()
            scores = (scores / scores.max().clamp_min(torch.finfo(scores.dtype).tiny)).clamp_min(TINY)
            logits = family.logits_of(scores)
            if family.learnable:
                logits = logits * (FARTHEST / family.distances(logits).abs().max())
            layer.shape_logits.copy_(logits)
        return layer

    @torch.no_grad()
    def tap_norms(self) -> Float[Tensor, "out_groups in_groups kh kw"]:
        """Return the root mean square of the weights of each tap of each channel group."""
        groups = self.channel_groups
        sizes = groups.sizes().to(self.weight)[..., None, None]
        return (groups.total(self.weight.detach().square()) / sizes).sqrt()

    def group_masks(self) -> Float[Tensor, "out_groups in_groups kh kw"]:
        """Return the mask of each channel group, 0 or 1, differentiable with respect to the logits."""
        return self.family.masks(self.shape_logits, self._size)

    def mask(self) -> Float[Tensor, "c_out c_in kh kw"]:
        """Return the mask of every weight."""
        return self.channel_groups.expand(self.group_masks())

    def kept_weights(self) -> Float[Tensor, ""]:
        """Return the number of weights inside the mask, differentiable with respect to the logits."""
        kept = self.group_masks().sum((-2, -1))
        return (kept * self.channel_groups.sizes().to(kept)).sum()

    def forward(self, input: Float[Tensor, "*batch c_in h w"]) -> Float[Tensor, "*batch c_out h2 w2"]:  # noqa: A002
        """Return conv(x, W * M) + b."""
        blocks = self.group_masks()
        if self.tap_probe is not None:
            blocks = blocks + self.tap_probe
        mask = self.channel_groups.expand(blocks)
        if self.training and self.mask_share < 1:
            enabled = torch.rand(self.out_channels, 1, 1, 1, device=mask.device) < self.mask_share
            mask = torch.where(enabled, mask, torch.ones_like(mask))
        output: Tensor = self._conv_forward(input, self.weight * mask, self.bias)
        return output

    def freeze(self) -> HetConv2d:
        """Return the pruned layer: shapes fixed, zeros written, logits dropped."""
        groups = self.channel_groups
        with torch.no_grad():
            shapes = self.group_masks() > 0
        return HetConv2d.from_conv2d(self, shapes, groups.group_out, groups.group_in)

    def extra_repr(self) -> str:
        """Return the arguments of the convolution, the family and the group sizes."""
        groups = self.channel_groups
        base = super().extra_repr()  # type: ignore[no-untyped-call]
        sizes = f"group_out={groups.group_out}, group_in={groups.group_in}"
        return f"{base}, family={self.family.name}, {sizes}"


class HetConv2d(nn.Conv2d):
    """A pruned convolution: the kernel shapes are data, weights outside them are exactly zero.

    Its weights can still be trained; its shapes cannot change.

    Args:
        group_out: Filters that share a shape.
        group_in: Input channels that share a shape.
        **arguments: As for `nn.Conv2d`.

    Attributes:
        kernel_shapes: The kept taps, bool, shape (out_groups, in_groups, kh, kw); part of the state dict.
    """

    kernel_shapes: Tensor

    def __init__(self, group_out: GroupSize, group_in: GroupSize, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.channel_groups = groups = ChannelGroups.of(self, group_out, group_in)
        shape = (groups.out_groups, groups.in_groups, *self.kernel_size)
        self.register_buffer("kernel_shapes", torch.ones(shape, dtype=torch.bool, device=self.weight.device))

    @classmethod
    def from_conv2d(
        cls,
        conv: nn.Conv2d,
        kernel_shapes: Bool[Tensor, "out_groups in_groups kh kw"],
        group_out: GroupSize = 1,
        group_in: GroupSize = 1,
    ) -> HetConv2d:
        """Return a layer with `conv`'s weights inside `kernel_shapes` and zeros outside."""
        layer = cls(group_out, group_in, **conv_arguments(conv))
        layer.kernel_shapes.copy_(kernel_shapes)
        _copy_parameters(layer, conv, conv.weight.detach() * layer.mask())
        return layer

    def mask(self) -> Float[Tensor, "c_out c_in kh kw"]:
        """Return the mask of every weight, 0 or 1."""
        return self.channel_groups.expand(self.kernel_shapes.to(self.weight.dtype))

    def masked_weight(self) -> Float[Tensor, "c_out c_in kh kw"]:
        """Return W * M."""
        return self.channel_groups.scale(self.weight, self.kernel_shapes.to(self.weight.dtype))

    def forward(self, input: Float[Tensor, "*batch c_in h w"]) -> Float[Tensor, "*batch c_out h2 w2"]:  # noqa: A002
        """Return conv(x, W * M) + b."""
        output: Tensor = self._conv_forward(input, self.masked_weight(), self.bias)
        return output

    def to_conv2d(self) -> nn.Conv2d:
        """Return a plain convolution with the zeros written into its weights."""
        conv = nn.Conv2d(**conv_arguments(self))
        _copy_parameters(conv, self, self.masked_weight().detach())
        return conv

    def extra_repr(self) -> str:
        """Return the arguments of the convolution and its density."""
        base = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{base}, density={float(self.mask().mean()):.4f}"
