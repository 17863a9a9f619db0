"""Evaluate: accuracy and loss of a model, or of anything else that maps images to class scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetcompress.activity import counted

__all__ = ["EVALUATION_BATCH", "Accuracy", "evaluate"]

EVALUATION_BATCH = 125
"""Images at once: more run slower on processors, whose caches they leave, and hold more memory."""


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy on a set of images.

    Attributes:
        correct: Images whose highest score is that of their label.
        total: Images.
        loss: Mean cross-entropy.
    """

    correct: int
    total: int
    loss: float

    @property
    def percent(self) -> float:
        """Top-1 in percent."""
        return 100.0 * self.correct / self.total


@torch.no_grad()
def evaluate(
    model: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], *, device: str = "cpu"
) -> Accuracy:
    """Count what `model` gets right.

    Args:
        model: Maps images (N, C, H, W) to scores (N, classes); a module is put into eval mode, and back afterwards.
        batches: Images and labels, on the CPU.
        device: Where the model is.
    """
    modes = {module: module.training for module in model.modules()} if isinstance(model, nn.Module) else {}
    for module in modes:
        module.training = False
    correct, total, loss = 0, 0, 0.0
    try:
        for images, labels in counted(batches, "evaluating: batch"):
            scores = model(images.to(device)).float().cpu()
            correct += int((scores.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(scores, labels, reduction="sum"))
            total += len(labels)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return Accuracy(correct, total, loss / max(1, total))
