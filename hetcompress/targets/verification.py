"""Does an exported file compute the same function as the model it was made from?

    max_difference      = max |found - expected|, over all outputs of all batches
    relative_difference = max over batches of  max |found - expected| / max |expected|

The second is what a tolerance is about: it does not depend on the scale of the scores, and small scores beside large
ones are not held to more digits than the large ones have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.errors import UsageError, VerificationError
from hetcompress.graphs import evaluating
from hetcompress.memory import frugal
from hetcompress.targets.base import Runner

__all__ = ["Agreement", "Truth", "verify"]

RANDOM_BATCHES = (1, 2, 3)
LARGEST_BATCH = 64
"""Real images are compared in batches of at most this size."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well two implementations of a model agree.

    Attributes:
        max_difference: Largest absolute difference of an output.
        relative_difference: Largest difference relative to the largest output of its batch.
        argmax_agreement: Share of the images, from 0 to 1, for which both name the same class.
        batch_sizes: Every batch size that was run, ascending.
        images: Images compared, random and real ones.
    """

    max_difference: float
    relative_difference: float
    argmax_agreement: float
    batch_sizes: tuple[int, ...]
    images: int


@dataclasses.dataclass(frozen=True)
class Truth:
    """What a model makes of seeded random batches of 1, 2 and 3, and of real images; the model itself is not kept.

    Attributes:
        batches: The images.
        outputs: Of the model, for each batch.
    """

    batches: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @classmethod
    @frugal()
    def of(
        cls, model: nn.Module, example: Float[Tensor, "n c h w"], samples: Float[Tensor, "m c h w"] | None = None
    ) -> Truth:
        """Run a model, which is left alone, in eval mode.

        Args:
            model: On the CPU.
            example: A batch; its shape after the first axis is that of the random images.
            samples: Real images.

        Raises:
            UsageError: The model returns something else than one tensor.
        """
        batches = tuple(_batches(example, samples))
        with evaluating(model):
            outputs = tuple(model(images) for images in batches)
        for output in outputs:
            if not isinstance(output, Tensor):
                raise UsageError(
                    type(model).__name__,
                    expected="a model that returns one tensor",
                    found=type(output).__name__,
                    fix="wrap it in a factory that returns scores, and name that with --arch",
                )
        return cls(batches, outputs)

    @property
    def of_samples(self) -> tuple[Tensor, ...]:
        """Return the outputs for the real images."""
        return self.outputs[len(RANDOM_BATCHES) :]


@frugal()
def verify(candidate: Runner, truth: Truth, *, where: str, tolerance: float = 1e-4) -> Agreement:
    """Compare every output of a file with those of the model that it stands for.

    Args:
        candidate: The re-opened file.
        truth: What it must compute.
        where: What is verified, for the message.
        tolerance: Largest allowed relative difference.

    Raises:
        VerificationError: An output differs in shape or by more than the tolerance, or is not finite.
    """
    largest = relative = 0.0
    same, sizes = 0, []
    for images, expected in zip(truth.batches, truth.outputs, strict=True):
        found = candidate(images)
        _check_form(found, expected, where, len(images))
        difference = float((found.double() - expected.double()).abs().max())
        # the floor is far below any real output: it keeps 0 / 0 a perfect agreement
        scale = max(float(expected.double().abs().max()), torch.finfo(torch.float32).tiny)
        largest, relative = max(largest, difference), max(relative, difference / scale)
        same += int((found.flatten(1).argmax(1) == expected.flatten(1).argmax(1)).sum())
        sizes.append(len(images))
    if not relative <= tolerance:
        raise VerificationError(
            where,
            expected=f"outputs within {tolerance:g} of the model's, relative to the largest",
            found=f"a difference of {relative:.3g} ({largest:.3g} absolute)",
            fix="please report this model; another export target may work",
        )
    return Agreement(largest, relative, same / sum(sizes), tuple(sorted(set(sizes))), sum(sizes))


def _batches(example: Tensor, samples: Tensor | None) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for size in RANDOM_BATCHES:
        yield torch.randn((size, *example.shape[1:]), generator=generator, dtype=example.dtype)
    if samples is not None and len(samples):
        yield from torch.split(samples, LARGEST_BATCH)


def _check_form(found: Tensor, expected: Tensor, where: str, batch: int) -> None:
    if found.shape != expected.shape:
        raise VerificationError(
            where,
            expected=f"outputs of shape {tuple(expected.shape)} for a batch of {batch}",
            found=str(tuple(found.shape)),
        )
    for values, owner in ((expected, "the model itself"), (found, "the exported file")):
        if not bool(values.isfinite().all()):
            raise VerificationError(where, expected="finite outputs", found=f"nan or infinity from {owner}")
