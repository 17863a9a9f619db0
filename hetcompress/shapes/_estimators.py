"""Straight-through estimators: hard choices forward, damped identities backward (LHC, arXiv 2301.05440)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["from_mean", "hard_choice", "hard_step"]

FAR_GRADIENT = 0.1
"""Gradient factor outside |x| < 1 (the paper's released code): far logits can still come back."""


def _damped(gradient: Tensor, distance: Tensor) -> Tensor:
    return torch.where(distance.abs() < 1, gradient, FAR_GRADIENT * gradient)


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.save_for_backward(logits)
        return (logits > 0).to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (logits,) = ctx.saved_tensors
        return _damped(gradients[0], logits)


class _Choice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.save_for_backward(logits)
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (logits,) = ctx.saved_tensors
        return _damped(gradients[0], from_mean(logits))


def from_mean(logits: Float[Tensor, "*any n"]) -> Float[Tensor, "*any n"]:
    """Return the distances from the mean of the last axis."""
    return logits - logits.mean(-1, keepdim=True)


def hard_step(logits: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return [x > 0]; backward, the gradient passes times 1 where |x| < 1 and times 0.1 elsewhere."""
    out: Tensor = _Step.apply(logits)
    return out


def hard_choice(logits: Float[Tensor, "*any n"]) -> Float[Tensor, "*any n"]:
    """Return the one-hot argmax over the last axis; backward as `hard_step`, around the mean of that axis."""
    out: Tensor = _Choice.apply(logits)
    return out
