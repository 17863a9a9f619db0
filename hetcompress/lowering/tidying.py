"""What is done to a pruned model before its layers get their forms: passes over its channels, in this order."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from hetcompress.flow import Flow
from hetcompress.lowering.channel_order import sort_channels_
from hetcompress.lowering.constants import fold_constants_
from hetcompress.lowering.dead_channels import remove_dead_channels_
from hetcompress.lowering.folding import fold_batch_norms_
from hetcompress.lowering.sameness import Sameness
from hetcompress.memory import frugal, trim
from hetcompress.surgery import copy_in

__all__ = ["PASSES", "tidied"]

PASSES = (fold_batch_norms_, fold_constants_, remove_dead_channels_, sort_channels_)
"""Each changes a model and its flow in place and keeps its function.  With the norms in them filters are constants,
constants that are folded leave channels dead, and what is alive is sorted."""

TOLERANCE = 1e-5
"""Largest difference relative to the largest output."""


@torch.no_grad()
@frugal()
def tidied(model: nn.Module, before: Sameness, *, channels: bool = True) -> nn.Module:
    """Return a copy after all passes, in eval mode.

    In single precision, since two models and what a layer needs besides are the most that export may take.

    Args:
        model: With `HetConv2d` layers; it is left alone.
        before: What it makes.
        channels: Change which channels there are and in what order; otherwise batch norms alone are folded.

    Raises:
        VerificationError: The copy computes something else.
    """
    tidy = copy_in(model, before.images.dtype).eval()
    flow = Flow.of(tidy, before.images[:1])
    for tidying in PASSES if channels else PASSES[:1]:
        trim()
        tidying(tidy, flow)
    trim()
    difference = before.difference(tidy)
    if not before.agrees(difference, TOLERANCE):  # a mistake, or a net so deep that rounding adds up: doubles tell
        with contextlib.suppress(RuntimeError):  # a net that changes types by itself
            before = Sameness.of(copy_in(model, torch.float64), before.images.double())
            difference = before.difference(copy_in(tidy, torch.float64))
    before.check(difference, TOLERANCE, "channels of the model")
    return tidy
