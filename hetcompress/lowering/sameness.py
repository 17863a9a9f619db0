"""What a model makes of random images, which every form of it must make as well."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.errors import VerificationError
from hetcompress.graphs import evaluating
from hetcompress.memory import frugal

__all__ = ["Sameness"]


@dataclasses.dataclass(frozen=True)
class Sameness:
    """A run of a model in eval mode.

    Attributes:
        images: Two random ones.
        expected: The model's outputs.
    """

    images: Float[Tensor, "2 c h w"]
    expected: Tensor

    @classmethod
    @frugal()
    def of(cls, model: nn.Module, images: Float[Tensor, "2 c h w"]) -> Sameness:
        """Run a model, which is left alone."""
        with evaluating(model):
            return cls(images, model(images))

    @classmethod
    def on_random_images(cls, model: nn.Module, example_input: Float[Tensor, "n c h w"]) -> Sameness:
        """Run a model on images like these."""
        generator = torch.Generator().manual_seed(0)
        return cls.of(model, torch.randn(2, *example_input.shape[1:], generator=generator))

    @torch.no_grad()
    @frugal()
    def difference(self, model: nn.Module) -> float:
        """Return the largest difference of another model's outputs, in eval mode."""
        return float((model(self.images) - self.expected).abs().max())

    def agrees(self, difference: float, tolerance: float) -> bool:
        """Say whether a difference is within a share of the largest output; one that is no number is not."""
        return difference <= tolerance * self._largest

    def check(self, difference: float, tolerance: float, what: str) -> None:
        """Raise `VerificationError` unless it is."""
        if not self.agrees(difference, tolerance):
            raise VerificationError(
                what, expected=f"the same outputs within {tolerance:g} of the largest",
                found=f"a difference of {difference:.3g} at outputs up to {self._largest:.3g}",
            )  # fmt: skip

    @property
    def _largest(self) -> float:
        return max(float(self.expected.abs().max()), 1e-12)
