"""Trees of images, one folder for each class: listing them, and reading small ones into memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from hetcompress.data.in_memory import Split
from hetcompress.errors import InputError

__all__ = ["Listing", "list_images", "read_images"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images of one split.

    Attributes:
        classes: Folder names, sorted.
        files: Paths, by class and name.
        labels: Index of each file's class.
    """

    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]


def list_images(folder: Path) -> Listing:
    """List ``folder/<class>/<image>``.

    Raises:
        InputError: There are no class folders, or one has no images.
    """
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not classes:
        raise InputError(
            f"image folder {folder}", expected="a folder for each class", found="none", fix="check the path"
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError(
                f"image folder {folder / name}",
                expected="images of this class",
                found="none",
                fix="add some, or remove it",
            )
        files += found
        labels += [label] * len(found)
    return Listing(tuple(classes), tuple(files), tuple(labels))


def _decode(path: Path, size: tuple[int, int, int]) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L" if size[0] == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"image {path}", expected="a readable image", found=str(error), fix="replace or remove it"
        ) from None
    if pixels.shape[:2] != size[1:]:
        found = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise InputError(
            f"image {path}", expected=f"{size[2]} x {size[1]} pixels", found=found, fix="use --data imagefolder"
        )
    return pixels.reshape(size[1], size[2], -1)


def read_images(listing: Listing, size: tuple[int, int, int], threads: int = 4) -> Split:
    """Decode images that all have the same size.

    Raises:
        InputError: An image is broken or of another size.
    """

    def decode(files: Sequence[Path]) -> np.ndarray:
        return np.stack([_decode(path, size) for path in files])

    chunks = [listing.files[i : i + 512] for i in range(0, len(listing.files), 512)]
    with ThreadPoolExecutor(threads) as pool:
        pixels = np.concatenate(list(pool.map(decode, chunks)))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(listing.labels)
