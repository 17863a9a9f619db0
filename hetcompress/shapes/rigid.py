"""LHC-R: one of a named, drawn library of shapes for each channel group (arXiv 2301.05440).

For 3x3 the paper has fifteen::

    empty  centre  row   column  diagonal  antidiagonal
    ...    ...     ...   .#.     #..       ..#
    ...    .#.     ###   .#.     .#.       .#.
    ...    ...     ...   .#.     ..#       #..

    corner-tl  corner-tr  corner-bl  corner-br      half-top  half-bottom  half-left  half-right  full
    ##.        .##        ...        ...            ###       ...          ##.        .##         ###
    ##.        .##        ##.        .##            ###       ###          ##.        .##         ###
    ...        ...        ##.        .##            ...       ###          ##.        .##         ###

Other sizes follow the same construction: lines run through the centre, and corners and halves are the rectangles that
reach from an edge up to and including the centre's row or column.  Shapes that coincide are kept once, under the name
that comes first.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hetcompress.shapes._library import LibraryShapes, centre
from hetcompress.shapes.base import SHAPE_FAMILIES, KernelSize

__all__ = ["RigidShapes"]


@SHAPE_FAMILIES.register("rigid")
class RigidShapes(LibraryShapes):
    """One of the paper's named shapes, by argmax over their logits.

    Args:
        block: See `LibraryShapes`.
    """

    name = "rigid"

    def library(self, kernel_size: KernelSize) -> dict[str, Float[Tensor, "kh kw"]]:
        """Return the named shapes of this kernel size (15 for 3x3, {empty, full} for 1x1)."""
        height, width = kernel_size
        row, column = centre(kernel_size)
        y = torch.arange(height)[:, None].expand(height, width)
        x = torch.arange(width)[None, :].expand(height, width)
        top, bottom, left, right = y <= row, y >= row, x <= column, x >= column
        shapes = {
            "empty": torch.zeros(kernel_size, dtype=torch.bool),
            "centre": (y == row) & (x == column),
            "row": y == row,
            "column": x == column,
            "diagonal": y - row == x - column,
            "antidiagonal": y - row == column - x,
            "corner-tl": top & left,
            "corner-tr": top & right,
            "corner-bl": bottom & left,
            "corner-br": bottom & right,
            "half-top": top,
            "half-bottom": bottom,
            "half-left": left,
            "half-right": right,
            "full": torch.ones(kernel_size, dtype=torch.bool),
        }
        distinct: dict[str, Tensor] = {}
        # "full" goes first into the comparison so that a shape that fills the kernel is called by that name.
        seen = {tuple(shapes["full"].flatten().tolist())}
        for name, shape in shapes.items():
            key = tuple(shape.flatten().tolist())
            if name == "full" or key not in seen:
                seen.add(key)
                distinct[name] = shape.float()
        return distinct
