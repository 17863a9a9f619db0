"""Pools of traced torch models as our own, which reads and writes either layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from hetcompress.kernels.pooling import LARGEST_KERNEL, Pooling
from hetcompress.kernels.torch_nodes import pool_of
from hetcompress.kernels.torch_tracing import shape_of

__all__ = ["pooling_of"]


def pooling_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Pooling | None:
    """Return what a node pools, both sides planar; None if it does something else, or what our own pool does not."""
    pool = pool_of(node, modules)
    shape = shape_of(node.all_input_nodes[0]) if pool is not None else ()
    if pool is None or len(shape) != 4:
        return None
    channels, height, width = shape[1:]
    average = isinstance(pool, nn.AvgPool2d | nn.AdaptiveAvgPool2d)
    if isinstance(pool, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        if _pair(pool.output_size) != (1, 1) or max(height, width) > LARGEST_KERNEL:
            return None
        return Pooling(channels, kernel_size=(height, width), average=average)
    if _pair(getattr(pool, "dilation", 1)) != (1, 1) or getattr(pool, "divisor_override", None):
        return None
    top, left = _pair(pool.padding)
    return Pooling(
        channels, kernel_size=_pair(pool.kernel_size), stride=_pair(pool.stride), padding=(top, left, top, left),
        average=average, count_padding=bool(getattr(pool, "count_include_pad", False)), round_up=bool(pool.ceil_mode),
    )  # fmt: skip


def _pair(value: Any) -> tuple[Any, Any]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
