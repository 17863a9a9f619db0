"""The contract of a data source."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from hetcompress.data.augmentation import Augmentation
from hetcompress.errors import InputError, UsageError
from hetcompress.registry import Registry

__all__ = ["DATA_SOURCES", "DataSource", "Request", "missing", "open_data", "roots"]


@runtime_checkable
class DataSource(Protocol):
    """Images to train and test on.

    Training batches are a pure function of (seed, epoch, number of the batch), so that a resumed run sees the same.

    Attributes:
        name: Of the registered source.
        classes: Names, in the order of the labels.
        train_size: Training images.
        image_size: Channels, height, width of a batch's images.
        test_note: What is particular about the test images, or "".
    """

    name: str
    classes: tuple[str, ...]
    train_size: int
    image_size: tuple[int, int, int]
    test_note: str

    def train_batches(
        self, batch_size: int, *, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield augmented, normalised images (N, C, H, W) and labels (N,) from batch `start` on, whole batches only."""

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all test images, normalised."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What a source is opened with.

    Attributes:
        root: The folder that the user named, or None.
        download: Fetch what is missing.
        mean: Of each channel, for pixels from 0 to 1.
        std: Of each channel.
        image_size: Channels, height, width that the model takes.
        augment: What the user wants otherwise than the source's own augmentation has it, by field.
        workers: Processes that decode images.
    """

    root: Path | None
    download: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int, int]
    augment: Mapping[str, Any]
    workers: int

    def augmentation(self, own: Augmentation) -> Augmentation:
        """Return the augmentation of a source whose own is `own`."""
        return dataclasses.replace(own, **self.augment)


DATA_SOURCES: Registry[Callable[[Request], DataSource]] = Registry("data set")


def open_data(
    name: str,
    *,
    root: Path | None,
    download: bool = False,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: tuple[int, int, int],
    augment: Mapping[str, Any] | None = None,
    workers: int = 2,
) -> DataSource:
    """Open a registered data source.

    Args:
        name: Of the source.
        root: Its folder; None looks at HETCOMPRESS_DATA, or at ./data where that is not set.
        download: Fetch what is missing.
        mean: Of each channel, for pixels from 0 to 1.
        std: Of each channel.
        image_size: Channels, height, width that the model takes.
        augment: Fields of `Augmentation` that replace the source's own.
        workers: Processes that decode images, where they do not fit memory.

    Raises:
        UsageError: The name is unknown, or a number is out of bounds.
        InputError: The data is missing or broken.
    """
    if workers < 0:
        raise UsageError("--workers", expected="a number of at least 0", found=str(workers))
    return DATA_SOURCES[name](Request(root, download, tuple(mean), tuple(std), image_size, augment or {}, workers))


def roots(request: Request) -> list[Path]:
    """Return the folder to look in: the user's own, else HETCOMPRESS_DATA, else ./data."""
    if request.root is not None:
        return [request.root]
    named = os.environ.get("HETCOMPRESS_DATA")
    return [Path(named)] if named else [Path("data")]


def missing(name: str, looked_at: Sequence[Path], *, downloadable: bool) -> InputError:
    """Return the error for data that is nowhere."""
    ways = "name its folder with --data-root or HETCOMPRESS_DATA" + (
        ", or fetch it with --download" if downloadable else ""
    )
    return InputError(
        f"data {name}", expected=f"one of {', '.join(str(path) for path in looked_at)}", found="none of them", fix=ways
    )
