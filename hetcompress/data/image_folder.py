"""Large data: ``root/{train,val}/<class>/<image>``, decoded by worker processes, torchvision's v2 transforms.

A training image is a random part of the file, resized; `Augmentation` then does what the user asks for.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from hetcompress.data.augmentation import Augmentation
from hetcompress.data.base import DATA_SOURCES, DataSource, Request, missing, roots
from hetcompress.data.folders import Listing, list_images
from hetcompress.errors import InputError

__all__ = ["ImageFolder", "open_image_folder"]

TEST_NAMES = ("val", "validation", "test")
CROP_SHARE = 0.875
"""Test images are resized so that the crop is this share of the short side (224 of 256)."""

AUGMENT = Augmentation(crop_padding=0, flip=True)


class _Files(Dataset[tuple[Tensor, int] | InputError]):
    """Decodes and transforms one file; the random numbers depend on (seed, epoch, position) alone.

    The error of a broken file is returned: raised in a worker, it would come back with a traceback as its text.
    """

    def __init__(
        self, listing: Listing, order: Tensor, first: int, transform: Callable[..., Tensor], channels: int, seed: int
    ) -> None:
        self.listing, self.order, self.first, self.transform, self.seed = listing, order, first, transform, seed
        self.mode = "L" if channels == 1 else "RGB"

    def __len__(self) -> int:
        return len(self.order) - self.first

    def __getitem__(self, position: int) -> tuple[Tensor, int] | InputError:
        from PIL import Image

        position += self.first  # skipped positions keep their numbers, on which the random crops depend
        index = int(self.order[position])
        path = self.listing.files[index]
        try:
            with Image.open(path) as image:
                pixels = image.convert(self.mode)
        except (OSError, ValueError, SyntaxError) as error:
            return InputError(
                f"image {path}", expected="a readable image", found=str(error), fix="replace or remove it"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.seed * 0x9E3779B1 + position) % 2**63)
            return self.transform(pixels), self.listing.labels[index]


def _leave_signals(_worker: int) -> None:
    """Leave signals to the main process, which saves its state first; a scheduler sends them to all of them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _batch(items: list[tuple[Tensor, int] | InputError]) -> Any:
    return next((item for item in items if isinstance(item, InputError)), None) or default_collate(items)


def _augmented(image: UInt8[Tensor, "c h w"], augment: Augmentation) -> UInt8[Tensor, "c h w"]:
    return augment(image[None], torch.default_generator)[0]


class ImageFolder:
    """A data source that reads files as they are needed.

    Args:
        train: Training images.
        test: Test images.
        request: Size, normalisation, augmentation and workers.
    """

    name = "imagefolder"
    test_note = ""

    def __init__(self, train: Listing, test: Listing, request: Request) -> None:
        self.classes, self.train_size, self.image_size = train.classes, len(train.files), request.image_size
        self._train, self._test, self._request = train, test, request

    def _transform(self, *, training: bool) -> Callable[..., Tensor]:
        from torchvision.transforms import v2

        _, height, width = self.image_size
        if training:
            augment = functools.partial(_augmented, augment=self._request.augmentation(AUGMENT))
            steps: list[Any] = [v2.RandomResizedCrop((height, width), antialias=True), v2.PILToTensor(), augment]
        else:
            steps = [v2.Resize(round(min(height, width) / CROP_SHARE), antialias=True), v2.CenterCrop((height, width))]
            steps.append(v2.PILToTensor())
        steps.append(v2.ToDtype(torch.float32, scale=True))
        steps.append(v2.Normalize(list(self._request.mean), list(self._request.std)))
        transform: Callable[..., Tensor] = v2.Compose(steps)
        return transform

    def _load(
        self, listing: Listing, order: Tensor, batch_size: int, *, first: int = 0, training: bool, seed: int
    ) -> Iterator[Any]:
        files = _Files(listing, order, first, self._transform(training=training), self.image_size[0], seed)
        loader = DataLoader(
            files, batch_size, num_workers=self._request.workers, drop_last=training, collate_fn=_batch,
            worker_init_fn=_leave_signals,
            generator=torch.Generator(),  # it draws a number, which would shift those of a resumed run
        )  # fmt: skip
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            images, labels = batch
            yield images, labels

    def train_batches(
        self, batch_size: int, *, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield augmented training batches from number `start` on."""
        stream = (seed * 1_000_003 + epoch) % 2**40
        order = torch.randperm(self.train_size, generator=torch.Generator().manual_seed(stream))
        first = start * batch_size
        return self._load(self._train, order, batch_size, first=first, training=True, seed=stream)

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all test images."""
        return self._load(self._test, torch.arange(len(self._test.files)), batch_size, training=False, seed=0)


@DATA_SOURCES.register("imagefolder")
def open_image_folder(request: Request) -> DataSource:
    """Open a folder that has ``train`` and one of ``val``, ``validation``, ``test``.

    Raises:
        InputError: It does not, a class is empty, or the classes of both differ.
    """
    looked_at: list[Path] = []
    for root in roots(request):
        looked_at.append(root / "train")
        tests = [root / name for name in TEST_NAMES if (root / name).is_dir()]
        if not (root / "train").is_dir():
            continue
        if not tests:
            raise missing("imagefolder", [root / name for name in TEST_NAMES], downloadable=False)
        train, test = list_images(root / "train"), list_images(tests[0])
        if train.classes != test.classes:
            only = sorted(set(train.classes) ^ set(test.classes))
            raise InputError(
                f"image folder {root}", expected=f"the same classes in train and {tests[0].name}",
                found=f"{', '.join(only[:3])} in only one of them", fix="add or remove folders",
            )  # fmt: skip
        return ImageFolder(train, test, request)
    raise missing("imagefolder", looked_at, downloadable=False)
