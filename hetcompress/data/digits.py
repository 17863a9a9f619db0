"""scikit-learn's handwritten digits: 1,797 real 8x8 images that come with the library."""

from __future__ import annotations

import numpy as np
import torch

from hetcompress.data.augmentation import Augmentation
from hetcompress.data.base import DATA_SOURCES, DataSource, Request
from hetcompress.data.in_memory import InMemory, Split
from hetcompress.errors import InputError

__all__ = ["open_digits"]

LEVELS = 16
TEST_SHARE = 5
"""Every fifth image of each class is for testing."""


@DATA_SOURCES.register("digits")
def open_digits(request: Request) -> DataSource:
    """Open the digits, split by class and position.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "data digits", expected="scikit-learn", found="it is not installed", fix="pip install scikit-learn"
        ) from None
    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    images = np.rint(bunch.images * (255 / LEVELS)).astype(np.uint8)[:, None]
    position = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        position[labels == label] = np.arange(int((labels == label).sum()))
    chosen = {"test": position % TEST_SHARE == 0, "train": position % TEST_SHARE != 0}

    def read(split: str) -> Split:
        return torch.from_numpy(images[chosen[split]]), torch.from_numpy(labels[chosen[split]])

    return InMemory(
        "digits", tuple(str(name) for name in bunch.target_names), read, train_size=int(chosen["train"].sum()),
        image_size=(1, 8, 8), mean=request.mean, std=request.std,
        augment=request.augmentation(Augmentation(crop_padding=1, flip=False)),
    )  # fmt: skip
