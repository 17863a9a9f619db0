"""Pieces: some filters of a convolution over some of its input channels, and the small convolutions made from them.

A small convolution holds the taps of one box (rows r..r+h, columns c..c+w of the kernel).  With padding ``top`` and
dilation ``d``, the box sees the image as the whole kernel does if its own padding is ``top - r * d`` above and
``bottom - (kh - r - h) * d`` below, and likewise to the sides.  Negative padding cuts pixels off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hetcompress.kernels import VectorBlockConv2d
from hetcompress.nn import BLOCK, HetConv2d
from hetcompress.nn.lowered import Branch, Chain, Pad

__all__ = [
    "ALIGNMENT",
    "Box",
    "Geometry",
    "Piece",
    "aligned",
    "bounding_box",
    "bounding_boxes",
    "box_rows",
    "conv_weights",
    "pieces_of",
    "split_padding",
    "surrounded",
]

Box = tuple[int, int, int, int]
"""First row, first column, height, width."""

ALIGNMENT = 4
"""onnxruntime's blocked convolutions take numbers of channels that this divides (and any below a block); others run
slower than the next larger one (1.28x for 61 of 64 channels)."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How a convolution moves over the image.

    Attributes:
        kernel_size: Rows and columns.
        stride: Rows and columns.
        dilation: Rows and columns.
        sides: Padding left, right, top, bottom.
        mode: What the padding is made of, as `torch.nn.functional.pad` says it.
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    sides: tuple[int, int, int, int]
    mode: str

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Geometry:
        """Return the geometry of a convolution."""
        size = (conv.kernel_size[0], conv.kernel_size[1])
        dilation = (conv.dilation[0], conv.dilation[1])
        if conv.padding == "same":
            totals = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
            top, left = (total // 2 for total in totals)
            sides = (left, totals[1] - left, top, totals[0] - top)
        elif conv.padding == "valid":
            sides = (0, 0, 0, 0)
        else:
            rows, columns = int(conv.padding[0]), int(conv.padding[1])
            sides = (columns, columns, rows, rows)
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        return cls(size, (conv.stride[0], conv.stride[1]), dilation, sides, mode)

    @property
    def inner(self) -> Geometry:
        """The geometry of what runs inside `surrounded`, which has put other padding than zeros on already."""
        return self if self.mode == "constant" else dataclasses.replace(self, sides=(0, 0, 0, 0), mode="constant")

    def sides_of(self, box: Box) -> tuple[int, int, int, int]:
        """Return the padding with which the taps of `box` alone see what they see in the whole kernel."""
        row, column, height, width = box
        left, right, top, bottom = self.sides
        rows, columns = self.dilation
        return (
            left - column * columns,
            right - (self.kernel_size[1] - column - width) * columns,
            top - row * rows,
            bottom - (self.kernel_size[0] - row - height) * rows,
        )


def surrounded(geometry: Geometry, module: nn.Module) -> nn.Module:
    """Put padding other than zeros around the image, once, before `module`."""
    if geometry.mode == "constant" or not any(geometry.sides):
        return module
    return Chain([Pad(geometry.sides, geometry.mode), module])


def split_padding(sides: tuple[int, int, int, int]) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Return rows and columns of padding that a convolution does itself, which runtimes do for free, and the rest."""
    both = (max(0, min(sides[2:])), max(0, min(sides[:2])))
    return both, (sides[0] - both[1], sides[1] - both[1], sides[2] - both[0], sides[3] - both[0])


def box_rows(taps: Bool[Tensor, "channels kh kw"]) -> Int[Tensor, "channels 4"]:
    """Return the smallest box around the kept taps of each channel; the centre tap where there are none."""
    taps = taps.clone()
    taps[~taps.flatten(1).any(1), taps.shape[1] // 2, taps.shape[2] // 2] = True
    rows, columns = taps.any(2).byte(), taps.any(1).byte()
    # argmax finds the first of equals, so that of the reversed axis finds the last
    top, left = rows.argmax(1), columns.argmax(1)
    height = rows.shape[1] - rows.flip(1).argmax(1) - top
    width = columns.shape[1] - columns.flip(1).argmax(1) - left
    return torch.stack([top, left, height, width], 1)


def bounding_boxes(taps: Bool[Tensor, "channels kh kw"]) -> list[Box]:
    """Return `box_rows` as boxes."""
    return [(a, b, c, d) for a, b, c, d in box_rows(taps).tolist()]


def bounding_box(taps: Bool[Tensor, "kh kw"]) -> Box:
    """Return the smallest box around the kept taps; the centre tap where there are none."""
    return bounding_boxes(taps[None])[0]


def aligned(channels: Sequence[int], among: int) -> list[int]:
    """Return ascending channels and, if runtimes like their number better so, some of their neighbours besides."""
    missing = -len(channels) % ALIGNMENT if len(channels) > BLOCK else 0
    distance = {c: min(abs(c - channels[0]), abs(c - channels[-1])) for c in set(range(among)) - set(channels)}
    return sorted([*channels, *sorted(distance, key=lambda c: (distance[c], c))[:missing]])


def conv_weights(module: nn.Module) -> int:
    """Return the weights of all convolutions of a form: its MACs for each output position."""
    dense = sum(conv.weight.numel() for conv in module.modules() if isinstance(conv, nn.Conv2d))
    return dense + sum(conv.executed_weights for conv in module.modules() if isinstance(conv, VectorBlockConv2d))


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some filters over some input channels, without conv groups.

    Attributes:
        weight: Zero outside the mask, (filters, channels, kh, kw).
        mask: The kept taps.
        bias: Of the filters, or None.
        channels: Which input channels of the layer these are.
        in_channels: How many the layer has.
        geometry: How the kernel moves.
    """

    weight: Float[Tensor, "filters channels kh kw"]
    mask: Bool[Tensor, "filters channels kh kw"]
    bias: Float[Tensor, " filters"] | None
    channels: tuple[int, ...]
    in_channels: int
    geometry: Geometry

    @classmethod
    def of(cls, layer: HetConv2d, filters: Sequence[int] | None = None) -> Piece:
        """Return some filters, all of one conv group, of a layer; None for all of a layer without conv groups."""
        return pieces_of(layer, [list(range(layer.out_channels)) if filters is None else filters])[0]

    @property
    def taps(self) -> Bool[Tensor, "channels kh kw"]:
        """The taps of each channel that any filter keeps."""
        return self.mask.any(0)

    @property
    def alive(self) -> list[int]:
        """Channels (counted within the piece) that any filter reads; the first where none is, so that one remains."""
        return self.taps.flatten(1).any(1).nonzero().flatten().tolist() or [0]

    def branch(self, channels: Sequence[int], box: Box, *, bias: bool) -> Branch:
        """Return the convolution of one box over some channels (counted within the piece).

        Args:
            channels: What it reads.
            box: The taps that it holds.
            bias: Whether it adds the bias.
        """
        row, column, height, width = box
        read = aligned(channels, len(self.channels))
        weight = self.weight[:, read, row : row + height, column : column + width]
        weight = weight * torch.isin(torch.tensor(read), torch.tensor(channels)).to(weight)[:, None, None]
        sides = self.geometry.sides_of(box)
        both, rest = split_padding(sides)
        conv = self.conv(weight, padding=both, bias=bias, stride=self.geometry.stride, dilation=self.geometry.dilation)
        chosen = [self.channels[channel] for channel in read]
        everything = chosen == list(range(self.in_channels))
        return Branch(conv, None if everything else chosen, Pad(rest) if any(rest) else None)

    def conv(
        self,
        weight: Tensor,
        *,
        bias: bool,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
    ) -> nn.Conv2d:
        """Return a convolution with these weights, and the piece's bias if asked for and there."""
        with_bias = bias and self.bias is not None
        conv = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Conv2d, weight.shape[1] * groups, weight.shape[0], (weight.shape[2], weight.shape[3]), stride, padding,
            dilation, groups, with_bias, device=weight.device, dtype=weight.dtype,
        )  # fmt: skip
        assert isinstance(conv, nn.Conv2d)
        with torch.no_grad():
            conv.weight.copy_(weight)
            if with_bias:
                assert conv.bias is not None
                assert self.bias is not None
                conv.bias.copy_(self.bias)
        return conv


def pieces_of(layer: HetConv2d, sets: Sequence[Sequence[int]]) -> list[Piece]:
    """Return one piece for each set of filters; the filters of a set are of one conv group."""
    whole_mask = layer.mask() > 0
    whole_weight = layer.weight.detach() * whole_mask
    inner = Geometry.of(layer).inner
    width, filters = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    pieces = []
    for members in sets:
        chosen = torch.tensor(list(members), device=layer.weight.device)
        first = members[0] // filters * width
        bias = None if layer.bias is None else layer.bias.detach()[chosen]
        channels = tuple(range(first, first + width))
        pieces.append(Piece(whole_weight[chosen], whole_mask[chosen], bias, channels, layer.in_channels, inner))
    return pieces
