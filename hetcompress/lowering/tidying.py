"""What is done to a pruned model before its layers get their forms: passes over its channels, in this order."""

from __future__ import annotations

import contextlib

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.errors import VerificationError
from hetcompress.lowering.channel_order import sort_channels_
from hetcompress.lowering.constants import fold_constants_
from hetcompress.lowering.dead_channels import remove_dead_channels_
from hetcompress.lowering.folding import fold_batch_norms_
from hetcompress.memory import frugal, trim
from hetcompress.surgery import copy_in

__all__ = ["PASSES", "tidied"]

PASSES = (fold_batch_norms_, fold_constants_, remove_dead_channels_, sort_channels_)
"""Each changes a model in place and keeps its function.  With the norms in them filters are constants, constants that
are folded leave channels dead, and what is alive is sorted."""

TOLERANCE = 1e-5
"""Largest difference relative to the largest output."""


@torch.no_grad()
@frugal()
def tidied(model: nn.Module, example_input: Float[Tensor, "n c h w"]) -> nn.Module:
    """Return a copy after all passes, in eval mode.

    In single precision, since two models and what a layer needs besides are the most that export may take.

    Args:
        model: With `HetConv2d` layers; it is left alone.
        example_input: Its shape is that of the images.

    Raises:
        VerificationError: The copy computes something else.
    """
    images = torch.randn(2, *example_input.shape[1:], generator=torch.Generator().manual_seed(0))
    tidy = copy_in(model, images.dtype).eval()
    expected = tidy(images)
    for tidying in PASSES:
        trim()
        tidying(tidy, example_input)
    trim()
    difference, largest = _difference(tidy(images), expected)
    if not difference <= TOLERANCE * largest:  # a mistake, or a net so deep that rounding adds up: doubles tell
        with contextlib.suppress(RuntimeError):  # a net that changes types by itself
            exact, expected = (copy_in(net, torch.float64).eval()(images.double()) for net in (tidy, model))
            difference, largest = _difference(exact, expected)
    if not difference <= TOLERANCE * largest:
        raise VerificationError(
            "channels of the model", expected=f"the same outputs within {TOLERANCE:g} of the largest",
            found=f"a difference of {difference:.3g} at outputs up to {largest:.3g}",
        )  # fmt: skip
    return tidy


def _difference(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the largest difference and the largest output."""
    return float((found - expected).abs().max()), max(float(expected.abs().max()), 1e-12)
