"""Padded shortcuts of traced torch models, as layers of ours."""

from __future__ import annotations

from operator import getitem
from typing import Any

from torch import fx
from torch.nn import functional as F

from hetcompress.kernels.shortcuts import Shortcut
from hetcompress.kernels.torch_tracing import shape_of

__all__ = ["shortcut_of"]

SIDES = 6
"""Of columns, rows and channels: before and after each."""


def shortcut_of(node: fx.Node) -> tuple[fx.Node, Shortcut] | None:
    """Return what a node pads with channels of zeros, and how that is strided; None if it does something else."""
    if node.target is not F.pad or len(node.args) != 2 or not _of_zeros(node):
        return None
    source, sides = node.args
    if not isinstance(source, fx.Node) or not isinstance(sides, tuple | list) or len(sides) != SIDES:
        return None
    *around, before, after = sides
    if any(around) or not isinstance(before, int) or not isinstance(after, int) or min(before, after) < 0:
        return None
    strides: tuple[int, int] | None = (1, 1)
    if source.target is getitem and len(source.users) == 1:
        strides, source = _strides(source.args[1]), source.args[0]
    if strides is None or not isinstance(source, fx.Node) or len(shape_of(source)) != 4:
        return None
    return source, Shortcut(shape_of(source)[1], before, after, strides)


def _of_zeros(node: fx.Node) -> bool:
    return bool(node.kwargs.get("mode", "constant") == "constant") and node.kwargs.get("value") in (None, 0)


def _strides(index: Any) -> tuple[int, int] | None:
    """Return the steps of rows and columns, if all else is whole."""
    if not isinstance(index, tuple) or len(index) != 4 or not all(isinstance(part, slice) for part in index):
        return None
    steps = [part.step or 1 for part in index]
    whole = all(part.start in (None, 0) and part.stop is None for part in index)
    fit = whole and all(isinstance(step, int) and step > 0 for step in steps) and steps[:2] == [1, 1]
    return (steps[2], steps[3]) if fit else None
