"""What is done to a pruned model before its layers get their forms: passes over its channels, in this order."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.errors import VerificationError
from hetcompress.lowering.channel_order import sort_channels
from hetcompress.lowering.constants import fold_constants
from hetcompress.lowering.dead_channels import remove_dead_channels
from hetcompress.lowering.folding import fold_batch_norms

__all__ = ["PASSES", "tidied"]

PASSES = (fold_batch_norms, fold_constants, remove_dead_channels, sort_channels)
"""Each copies a model and keeps its function.  With the norms in them filters are constants, constants that are folded
leave channels dead, and what is alive is sorted."""

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
"""Largest difference relative to the largest output, by the precision that the passes work in."""


def tidied(model: nn.Module, example_input: Float[Tensor, "n c h w"]) -> nn.Module:
    """Return a copy after all passes, in eval mode.

    The passes work in double precision, so that a mistake shows, and the result is rounded once.

    Args:
        model: With `HetConv2d` layers; it is left alone.
        example_input: Its shape is that of the images.

    Raises:
        VerificationError: The copy computes something else.
    """
    shape = (2, *example_input.shape[1:])
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        tidy, expected = _exact(model, images)
        images, tolerance = images.to(expected), TOLERANCE[expected.dtype]
        for tidying in PASSES:
            tidy = tidying(tidy, example_input.to(images))
        difference = float((tidy(images) - expected).abs().max())
    if not difference <= tolerance * max(float(expected.abs().max()), 1e-12):
        raise VerificationError(
            "channels of the model", expected=f"the same outputs within {tolerance:g} of the largest",
            found=f"a difference of {difference:.3g} at outputs up to {float(expected.abs().max()):.3g}",
        )  # fmt: skip
    return tidy.to(example_input.dtype)


def _exact(model: nn.Module, images: Float[Tensor, "n c h w"]) -> tuple[nn.Module, Tensor]:
    """Return a copy in double precision and its outputs; in single, if the forward pass changes types by itself."""
    try:
        exact = copy.deepcopy(model).eval().double()
        return exact, exact(images)
    except RuntimeError:
        single = copy.deepcopy(model).eval()
        return single, single(images.float())
