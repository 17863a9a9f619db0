"""LHC-F: every tap of a channel group on its own, ``M = [E > 0]`` (arXiv 2301.05440)."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from hetcompress.shapes._estimators import hard_step
from hetcompress.shapes.base import SHAPE_FAMILIES, KernelSize, ShapeFamily

__all__ = ["FreeShapes"]


@SHAPE_FAMILIES.register("free")
class FreeShapes(ShapeFamily):
    """Any of the 2^(kh*kw) shapes, one logit for each tap."""

    name = "free"

    def logits_per_group(self, kernel_size: KernelSize) -> int:
        """Return kh * kw."""
        return math.prod(kernel_size)

    def masks(
        self, logits: Float[Tensor, "out_groups in_groups n"], kernel_size: KernelSize
    ) -> Float[Tensor, "out_groups in_groups kh kw"]:
        """Keep the taps whose logit is positive."""
        return hard_step(logits).reshape(*logits.shape[:-1], *kernel_size)

    def logits_of(self, scores: Float[Tensor, "out_groups in_groups kh kw"]) -> Float[Tensor, "out_groups in_groups n"]:
        """A tap's logit is its score."""
        return scores.flatten(-2)

    def priced(
        self,
        logits: Float[Tensor, "out_groups in_groups n"],
        price: float,
        kernel_size: KernelSize,  # noqa: ARG002  every tap pays alike
        channel: float = 0.0,  # noqa: ARG002  channels do not decide as a whole
    ) -> Float[Tensor, "out_groups in_groups n"]:
        """Charge each tap on its own."""
        return logits - price
