"""Learning from the dense source: from its scores, and from what its layers read.

The compressed net has the source's layers, so what a converted layer reads can be compared with what the same layer of
the source reads, image by image.  That tells each layer where it went wrong, at once; scores tell it only in the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.surgery import named_modules_of

__all__ = ["Distillation", "feature_difference", "score_divergence"]

MOST_COMPARED = 6
"""Converted layers whose inputs are compared: each costs time, and comparing all gained nothing (decision 6)."""


@dataclasses.dataclass
class Distillation:
    """What a model is told by the net it came from.

    Attributes:
        teacher: The dense source, in eval mode.
        temperature: Of the softened scores.
        features: Whether the inputs of layers are compared; otherwise scores alone are.
    """

    teacher: nn.Module
    temperature: float
    features: bool

    def __post_init__(self) -> None:
        self.teacher.eval()

    def __call__(
        self, model: nn.Module, images: Float[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, "n classes"], Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the model's scores, their divergence from the teacher's, and the difference of the features."""
        names = _compared(model) if self.features else []
        with _inputs_of(model, names) as found:
            scores = model(images)
        with torch.no_grad(), _inputs_of(self.teacher, names) as wanted:
            told = self.teacher(images)
        # a net that has lost channels, as Torch-Pruning leaves it, is compared where it still has them
        alike = [(own, theirs) for own, theirs in zip(found, wanted, strict=True) if own.shape == theirs.shape]
        own, theirs = [pair[0] for pair in alike], [pair[1] for pair in alike]
        return scores, score_divergence(scores, told, self.temperature), feature_difference(own, theirs)


def score_divergence(
    scores: Float[Tensor, "n classes"], told: Float[Tensor, "n classes"], temperature: float
) -> Float[Tensor, ""]:
    """Return the Kullback-Leibler divergence of softened scores from the teacher's (Hinton et al., arXiv 1503.02531).

    Its factor temperature^2 keeps the size of gradients independent of the temperature.
    """
    log_scores, log_told = (F.log_softmax(values.float() / temperature, 1) for values in (scores, told))
    return temperature**2 * F.kl_div(log_scores, log_told, reduction="batchmean", log_target=True)


def feature_difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Return the squared differences, relative to the squares of both, in the mean over layers; 0 without any.

    It lies between 0 and 2, so that a teacher that knows nothing cannot blow up a run.

    Args:
        found: What each layer of the model reads.
        wanted: The same of the teacher, in the same shapes.
    """
    if not found:
        return torch.zeros(())
    relative = []
    for own, theirs in zip((values.float() for values in found), (values.float() for values in wanted), strict=True):
        # how large both are is a scale, not an aim: it has no gradient, which also spares passes over memory
        squares = torch.linalg.vector_norm(own.detach()).square() + torch.linalg.vector_norm(theirs).square()
        tiny = torch.finfo(squares.dtype).tiny
        # the norm's gradient is one pass over the difference, that of mse_loss several
        relative.append(torch.linalg.vector_norm(own - theirs).square() / squares.clamp_min(tiny))
    return torch.stack(relative).mean()


def _compared(model: nn.Module) -> list[str]:
    """Return the layers whose inputs are compared: converted ones (or all), evenly spread, and the last linear one.

    The first converted layer is left out where there are many: what it reads, no learned shape has changed.
    """
    converted = list({**named_modules_of(model, LearnableHetConv2d), **named_modules_of(model, HetConv2d)})
    converted = converted or list(named_modules_of(model, nn.Conv2d))[1:]
    stride = max(1, -(-len(converted) // MOST_COMPARED))
    return [*converted[stride - 1 :: stride], *list(named_modules_of(model, nn.Linear))[-1:]]


@contextlib.contextmanager
def _inputs_of(model: nn.Module, names: Sequence[str]) -> Iterator[list[Tensor]]:
    """Collect what the named layers read while the context lasts, in the order of their calls."""
    found: list[Tensor] = []

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0])

    handles = [model.get_submodule(name).register_forward_pre_hook(note) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
