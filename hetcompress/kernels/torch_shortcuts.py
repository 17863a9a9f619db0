"""Padded shortcuts of traced torch models, as layers of ours."""

from __future__ import annotations

from operator import getitem
from typing import Any

from torch import fx
from torch.nn import functional as F

from hetcompress.kernels.shortcuts import Shortcut
from hetcompress.kernels.torch_tracing import shape_of

__all__ = ["shortcut_of"]

CHANNELS = 6
"""Sides of a pad that are of columns, rows and channels, two each; those of batches would follow."""


def shortcut_of(node: fx.Node) -> tuple[fx.Node, Shortcut] | None:
    """Return what a node pads with channels of zeros, and how that is strided; None if it does something else."""
    if node.target is not F.pad or len(node.args) < 2:
        return None
    source, sides, *rest = node.args
    given = dict(zip(("mode", "value"), rest, strict=False)) | node.kwargs
    channels = _channels(sides) if given.get("value") in (None, 0) else None
    strides: tuple[int, int] | None = (1, 1)
    if isinstance(source, fx.Node) and source.target is getitem and len(source.users) == 1:
        index, source = source.args[1], source.args[0]
        strides = _strides(index, shape_of(source)) if isinstance(source, fx.Node) else None
    if channels is None or strides is None or not isinstance(source, fx.Node) or len(shape_of(source)) != 4:
        return None
    return source, Shortcut(shape_of(source)[1], *channels, strides)


def _channels(sides: Any) -> tuple[int, int] | None:
    """Return how many channels a pad puts before and after the others, if it does nothing else."""
    if not isinstance(sides, tuple | list) or len(sides) < CHANNELS or not all(isinstance(n, int) for n in sides):
        return None
    *around, before, after = sides[:CHANNELS]
    others = any(around) or any(sides[CHANNELS:])
    return None if others or min(before, after) < 0 else (before, after)


def _strides(index: Any, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the steps of rows and columns, if all else is whole."""
    parts = list(index) if isinstance(index, tuple) else [index]
    place = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
    parts[place : place + 1] = [slice(None)] * (len(shape) - len(parts) + (Ellipsis in parts))
    if len(parts) != 4 or not all(_is_whole(part, size) for part, size in zip(parts, shape, strict=True)):
        return None
    batch, channels, rows, columns = (part.step or 1 for part in parts)
    return (rows, columns) if (batch, channels) == (1, 1) else None


def _is_whole(part: Any, size: int) -> bool:
    """Tell whether a part of an index goes from the first place to the last, in steps that are known."""
    if not isinstance(part, slice) or part.start not in (None, 0):
        return False
    numbers = [size if part.stop is None else part.stop, 1 if part.step is None else part.step]
    return all(isinstance(number, int) for number in numbers) and numbers[0] >= size and numbers[1] > 0
