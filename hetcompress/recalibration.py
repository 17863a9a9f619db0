"""Recalibrate: measure batch-norm statistics anew after the weights under them have changed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hetcompress.activity import counted
from hetcompress.surgery import named_modules_of

__all__ = ["recalibrate_"]


@torch.no_grad()
def recalibrate_(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Replace the running statistics of every batch norm by their plain average over `images`.

    Args:
        model: Changed in place; its mode is restored.  Norms that keep no statistics are left alone.
        images: Batches, float32 (N, C, H, W), on the model's device.  Without any, nothing is changed.
    """
    norms = [norm for norm in named_modules_of(model, _BatchNorm).values() if norm.track_running_stats]
    batches = iter(counted(images, "recalibrating batch norms: batch"))
    first = next(batches, None) if norms else None
    if first is None:
        return
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    for batch in itertools.chain([first], batches):
        model(batch)
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode
