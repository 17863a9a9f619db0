"""Families that choose one shape out of a small named library."""

from __future__ import annotations

import abc
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hetcompress.errors import UsageError
from hetcompress.shapes._blocks import averaged_in_blocks
from hetcompress.shapes._estimators import from_mean, hard_choice
from hetcompress.shapes.base import KernelSize, ShapeFamily

__all__ = ["LibraryShapes", "centre"]


def centre(kernel_size: KernelSize) -> tuple[int, int]:
    """Return the tap of the output's own pixel: row kh // 2, column kw // 2 (lower right of it for even sizes)."""
    return kernel_size[0] // 2, kernel_size[1] // 2


class LibraryShapes(ShapeFamily, abc.ABC):
    """One logit for each shape of a library; the largest wins.

    ``E_s = sum over the taps of shape s of score_t``, so that with positive scores the full kernel wins and with a
    price on taps smaller shapes do.

    Args:
        block: Input channels that decide together; the runtime's channel block, 16 with AVX-512 and 8 with AVX2.

    Raises:
        UsageError: `block` is not a positive integer.
    """

    def __init__(self, block: int = 1) -> None:
        if not isinstance(block, int) or block < 1:
            raise UsageError(f"block of family '{self.name}'", expected="a number of channels", found=repr(block))
        self.block = block
        self._stacks: dict[KernelSize, Tensor] = {}

    def arguments(self) -> dict[str, Any]:
        """See `ShapeFamily.arguments`."""
        return {"block": self.block}

    @abc.abstractmethod
    def library(self, kernel_size: KernelSize) -> dict[str, Float[Tensor, "kh kw"]]:
        """Return the named shapes, from the empty to the full one."""

    def _stacked(self, like: Tensor, kernel_size: KernelSize) -> Float[Tensor, "n kh kw"]:
        if kernel_size not in self._stacks:
            self._stacks[kernel_size] = torch.stack(list(self.library(kernel_size).values()))
        return self._stacks[kernel_size].to(like)

    def logits_per_group(self, kernel_size: KernelSize) -> int:
        """Return the number of shapes in the library."""
        return len(self.library(kernel_size))

    def masks(
        self, logits: Float[Tensor, "out_groups in_groups n"], kernel_size: KernelSize
    ) -> Float[Tensor, "out_groups in_groups kh kw"]:
        """Return the shape with the largest logit."""
        return torch.einsum("oin,nhw->oihw", hard_choice(logits), self._stacked(logits, kernel_size))

    def logits_of(self, scores: Float[Tensor, "out_groups in_groups kh kw"]) -> Float[Tensor, "out_groups in_groups n"]:
        """A shape's logit is the sum of the scores of its taps, meant over a block of channels."""
        kernel_size = (scores.shape[-2], scores.shape[-1])
        sums = torch.einsum("oihw,nhw->oin", scores, self._stacked(scores, kernel_size))
        return averaged_in_blocks(sums, scores.sum((-2, -1)), self.block)

    def distances(self, logits: Float[Tensor, "out_groups in_groups n"]) -> Float[Tensor, "out_groups in_groups n"]:
        """Shapes compete, so that the middle is the mean of a group's logits."""
        return from_mean(logits)

    def priced(
        self,
        logits: Float[Tensor, "out_groups in_groups n"],
        price: float,
        kernel_size: KernelSize,
        channel: float = 0.0,
    ) -> Float[Tensor, "out_groups in_groups n"]:
        """Charge each shape for all of its taps, and all but the empty one for the channel."""
        taps = self._stacked(logits, kernel_size).sum((-2, -1))
        return logits - price * (taps + channel * (taps > 0))
