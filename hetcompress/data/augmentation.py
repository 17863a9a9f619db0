"""Augmentation of whole batches of small images at once, each image with its own random numbers."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from hetcompress.errors import UsageError

__all__ = ["Augmentation", "Normalisation"]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random crops out of a padded image, mirror images, and a blanked square.

    Attributes:
        crop_padding: Pixels of zeros on each side before a crop of the original size; 0 for none.
        flip: Mirror half of the images left to right.
        cutout: Side of a square of zeros at a random place, cut off at the border (DeVries and Taylor, arXiv
            1708.04552); 0 for none.
    """

    crop_padding: int = 4
    flip: bool = True
    cutout: int = 0

    def __post_init__(self) -> None:
        for option, value in (("--crop-padding", self.crop_padding), ("--cutout", self.cutout)):
            if value < 0:
                raise UsageError(option, expected="a number of at least 0", found=str(value))

    def __call__(self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
        """Return augmented copies; `generator` is the only source of randomness."""
        n, _, height, width = images.shape
        if self.crop_padding:
            images = self._crop(images, generator)
        if self.flip:
            mirrored = torch.rand(n, generator=generator) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        if self.cutout:
            y, x = (
                torch.randint(0, height, (n, 1), generator=generator),
                torch.randint(0, width, (n, 1), generator=generator),
            )
            rows = (torch.arange(height) - y + self.cutout // 2).div(self.cutout, rounding_mode="floor") == 0
            columns = (torch.arange(width) - x + self.cutout // 2).div(self.cutout, rounding_mode="floor") == 0
            images = images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)
        return images

    def _crop(self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
        n, channels, height, width = images.shape
        pad = self.crop_padding
        padded = F.pad(images, (pad, pad, pad, pad))
        # every crop is a view of the padded images; picking one for each image copies only what is wanted
        crops = padded.unfold(2, height, 1).unfold(3, width, 1)
        y, x = (torch.randint(0, 2 * pad + 1, (n,), generator=generator) for _ in range(2))
        return crops[torch.arange(n), :, y, x].view(n, channels, height, width)


class Normalisation:
    """Maps bytes to (value / 255 - mean) / std, channel by channel.

    Args:
        mean: Of each channel, for pixels from 0 to 1.
        std: Of each channel.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        scale = torch.tensor(std).view(1, -1, 1, 1)
        self._factor = 1 / (255 * scale)
        self._offset = -torch.tensor(mean).view(1, -1, 1, 1) / scale

    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return float32 images."""
        return torch.addcmul(self._offset, images.float(), self._factor)
