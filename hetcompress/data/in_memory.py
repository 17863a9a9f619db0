"""Small data sets: all images in memory as bytes, each split read when it is first needed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hetcompress.data.augmentation import Augmentation, Normalisation

__all__ = ["InMemory", "Split"]

Split = tuple[Tensor, Tensor]
"""Images, uint8 (N, C, H, W), and labels, int64 (N,)."""


def _generator(*numbers: int) -> torch.Generator:
    """Return a generator that depends on all the numbers, neighbours giving unrelated streams."""
    state = 0
    for number in numbers:
        state = (state * 0x9E3779B97F4A7C15 + number + 1) & (2**63 - 1)
    return torch.Generator().manual_seed(state)


class InMemory:
    """A data source whose images fit memory.

    Args:
        name: Of the registered source.
        classes: Names, in the order of the labels.
        read: Reads a split, "train" or "test".
        train_size: Training images.
        image_size: Channels, height, width.
        mean: Normalisation.
        std: Normalisation.
        augment: Of training images.
        test_note: What is particular about the test images.
    """

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        read: Callable[[str], Split],
        *,
        train_size: int,
        image_size: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augment: Augmentation,
        test_note: str = "",
    ) -> None:
        self.name, self.classes, self.train_size, self.image_size = name, classes, train_size, image_size
        self.test_note = test_note
        self._split = functools.lru_cache(read)
        self._normalise = Normalisation(mean, std)
        self._augment = augment

    def train_batches(
        self, batch_size: int, *, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield augmented training batches from number `start` on."""
        images, labels = self._split("train")
        order = torch.randperm(len(images), generator=_generator(seed, epoch))
        for index in range(start, len(images) // batch_size):
            chosen = order[index * batch_size : (index + 1) * batch_size]
            augmented = self._augment(images[chosen], _generator(seed, epoch, index))
            yield self._normalise(augmented), labels[chosen]

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all test images."""
        images, labels = self._split("test")
        for first in range(0, len(images), batch_size):
            yield self._normalise(images[first : first + batch_size]), labels[first : first + batch_size]
