"""HetConv's fixed comb (CVPR 2019, arXiv 1903.04120): filter n keeps k x k at channels c with (c - n) mod P = 0."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hetcompress.errors import UsageError
from hetcompress.shapes._library import centre
from hetcompress.shapes.base import SHAPE_FAMILIES, KernelSize, ShapeFamily

__all__ = ["HetConvShapes"]


@SHAPE_FAMILIES.register("hetconv")
class HetConvShapes(ShapeFamily):
    """A pattern without learnable numbers: 1/P of each filter's kernels are k x k, the others their centre tap.

    Groups are single kernels (``group_in = group_out = 1``).

    Args:
        parts: P of the paper; 1 is the standard convolution.

    Raises:
        UsageError: `parts` is not a positive integer.
    """

    name = "hetconv"
    learnable = False

    def __init__(self, parts: int = 4) -> None:
        if not isinstance(parts, int) or parts < 1:
            raise UsageError("parts of family 'hetconv'", expected="an integer of at least 1", found=repr(parts))
        self.parts = parts

    def arguments(self) -> dict[str, Any]:
        """Return P."""
        return {"parts": self.parts}

    def logits_per_group(self, kernel_size: KernelSize) -> int:  # noqa: ARG002  the comb needs none
        """Return 0."""
        return 0

    def masks(
        self, logits: Float[Tensor, "out_groups in_groups n"], kernel_size: KernelSize
    ) -> Float[Tensor, "out_groups in_groups kh kw"]:
        """Return the comb for as many filters and channels as `logits` has rows and columns."""
        filters, channels = logits.shape[:2]
        n = torch.arange(filters, device=logits.device)[:, None]
        c = torch.arange(channels, device=logits.device)[None, :]
        whole = ((c - n) % self.parts == 0).to(logits.dtype)[..., None, None].expand(-1, -1, *kernel_size)
        masks = whole.contiguous()
        masks[..., centre(kernel_size)[0], centre(kernel_size)[1]] = 1
        return masks

    def logits_of(self, scores: Float[Tensor, "out_groups in_groups kh kw"]) -> Float[Tensor, "out_groups in_groups n"]:
        """Return the empty set of logits."""
        return scores.new_zeros((*scores.shape[:2], 0))

    def priced(
        self,
        logits: Float[Tensor, "out_groups in_groups n"],
        price: float,  # noqa: ARG002  nothing is for sale
        kernel_size: KernelSize,  # noqa: ARG002
        channel: float = 0.0,  # noqa: ARG002
    ) -> Float[Tensor, "out_groups in_groups n"]:
        """Return `logits`: the comb does not depend on prices."""
        return logits
