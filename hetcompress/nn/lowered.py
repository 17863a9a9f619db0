"""The modules that lowerings build from: convolutions over some channels, shifted, summed and put side by side.

They hold plain convolutions and index buffers only, so that `torch.export` and the ONNX exporter see stock operators.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Branch", "Chain", "Concat", "Form", "Pad", "Sum", "TapGather"]

Sides = tuple[int, int, int, int]
"""Left, right, top, bottom, as `torch.nn.functional.pad` counts them."""


class Form(nn.Module):
    """Part of a lowered layer, or all of it: (n, c, h, w) to (n, c2, h2, w2)."""


class Pad(Form):
    """Zeros (or another padding mode) around an image where a side is positive; pixels cut off where it is negative.

    Args:
        sides: Left, right, top, bottom.
        mode: As for `torch.nn.functional.pad`.
    """

    def __init__(self, sides: Sides, mode: str = "constant") -> None:
        super().__init__()
        left, right, top, bottom = sides
        self.grow = (max(left, 0), max(right, 0), max(top, 0), max(bottom, 0))
        # an end of None and not -0 keeps the last pixels
        self.rows = slice(max(-top, 0), -max(-bottom, 0) or None)
        self.columns = slice(max(-left, 0), -max(-right, 0) or None)
        self.mode = mode

    @property
    def cuts(self) -> bool:
        """Whether pixels are cut off."""
        return self.rows != slice(0, None) or self.columns != slice(0, None)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Return the padded image.  It grows before it is cut, since a cut may be larger than the image was."""
        if any(self.grow):
            x = F.pad(x, self.grow, mode=self.mode)
        if self.cuts:
            x = x[:, :, self.rows, self.columns]
        return x

    def extra_repr(self) -> str:
        """Return the sides."""
        return f"grow={self.grow}, rows={self.rows}, columns={self.columns}, mode={self.mode}"


class Branch(Form):
    """Picks channels, pads, convolves.

    Args:
        conv: The convolution.
        channels: Which input channels it reads, in its order; None for all.
        pad: Padding that the convolution cannot express itself; None for none.

    Attributes:
        span: First channel and the one after the last, if it reads neighbours in order; a slice costs no index.
        channels: The channels, if they are no such neighbours.
    """

    channels: Tensor | None

    def __init__(self, conv: nn.Conv2d, channels: Sequence[int] | None = None, pad: Pad | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.pad = pad
        chosen = None if channels is None else list(channels)
        neighbours = chosen is not None and chosen == list(range(chosen[0], chosen[0] + len(chosen)))
        self.span = (chosen[0], chosen[0] + len(chosen)) if chosen is not None and neighbours else None
        index = None if chosen is None or neighbours else torch.tensor(chosen, device=conv.weight.device)
        self.register_buffer("channels", index)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Return conv(pad(x[channels]))."""
        if self.span is not None:
            x = x[:, self.span[0] : self.span[1]]
        if self.channels is not None:
            x = x.index_select(1, self.channels)
        if self.pad is not None:
            x = self.pad(x)
        return self.conv(x)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Return the slice."""
        return "" if self.span is None else f"span={self.span}"


class TapGather(Form):
    """1x1 convolutions over chosen (channel, tap) pairs: a convolution as matrix products over the taps it has.

    The shifted images are made once and shared by all sets of filters.

    Args:
        sets: For each set of filters, the index of each of its pairs in the list of shifted images (tap by tap, all
            channels of a tap together), and its 1x1 convolution with one input channel for each pair.
        shifts: Row and column at which each tap begins in the padded image.
        pad: What surrounds the image.
        kernel_extent: Rows and columns that a kernel spans, dilation included.
        stride: Of the convolution that this replaces.
    """

    def __init__(
        self,
        sets: Sequence[tuple[Sequence[int], nn.Conv2d]],
        *,
        shifts: Sequence[tuple[int, int]],
        pad: Pad,
        kernel_extent: tuple[int, int],
        stride: tuple[int, int],
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Branch(conv, pairs) for pairs, conv in sets)
        self.pad, self.shifts = pad, tuple(shifts)
        self.kernel_extent, self.stride = kernel_extent, stride

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Return the filters of all sets, set by set."""
        x = self.pad(x)
        height, width = x.shape[2] - self.kernel_extent[0] + 1, x.shape[3] - self.kernel_extent[1] + 1
        rows, columns = self.stride
        views = torch.cat([x[:, :, y : y + height : rows, z : z + width : columns] for y, z in self.shifts], 1)
        filters = [branch(views) for branch in self.branches]
        return filters[0] if len(filters) == 1 else torch.cat(filters, 1)

    def extra_repr(self) -> str:
        """Return the taps and how they move."""
        return f"shifts={self.shifts}, kernel_extent={self.kernel_extent}, stride={self.stride}"


class Sum(Form):
    """Adds what its parts make of the same input."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Return the sum; each addition follows its convolution directly, so that runtimes fuse both."""
        total: Tensor = self.parts[0](x)
        for part in self.parts[1:]:
            total = total + part(x)
        return total


class Concat(Form):
    """Puts the channels that its parts make of the same input side by side.

    Args:
        parts: Each makes some filters.
        order: Where each filter of the result stands in the concatenation; None if they are in order.
    """

    order: Tensor | None

    def __init__(self, parts: Sequence[nn.Module], order: Sequence[int] | None = None) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.register_buffer("order", None if order is None else torch.tensor(list(order)))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Return all filters in order."""
        filters = torch.cat([part(x) for part in self.parts], 1)
        return filters if self.order is None else filters.index_select(1, self.order)


class Chain(Form):
    """Runs its steps one after another."""

    def __init__(self, steps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Return what the last step makes."""
        for step in self.steps:
            x = step(x)
        return x
