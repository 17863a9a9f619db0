"""CIFAR-10 and CIFAR-100: torchvision's own files, or a tree ``cifar10/{train,test}/<class>/`` of images."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from hetcompress.data.augmentation import Augmentation
from hetcompress.data.base import DATA_SOURCES, DataSource, Request, missing, roots
from hetcompress.data.folders import list_images, read_images
from hetcompress.data.in_memory import InMemory, Split
from hetcompress.errors import InputError, first_line

__all__ = ["open_cifar"]

SIZE = (3, 32, 32)
OFFICIAL_TEST = 10_000
FILES = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
AUGMENT = Augmentation(crop_padding=4, flip=True)


def open_cifar(request: Request, *, name: str) -> DataSource:
    """Open CIFAR from the first place that has it.

    Raises:
        InputError: It is nowhere, or broken.
    """
    looked_at: list[Path] = []
    for root in roots(request):
        for tree in (root / name, root) if root.name == name else (root / name,):
            looked_at.append(tree)
            if (tree / "train").is_dir() and (tree / "test").is_dir():
                return _from_tree(request, name, tree)
        looked_at.append(root / FILES[name])
        if (root / FILES[name]).is_dir() or request.download:
            return _from_torchvision(request, name, root)
    raise missing(name, looked_at, downloadable=True)


def _in_memory(request: Request, name: str, classes: tuple[str, ...], read: object, train: int, note: str) -> InMemory:
    return InMemory(
        name, classes, read, train_size=train, image_size=SIZE, mean=request.mean, std=request.std,  # type: ignore[arg-type]
        augment=request.augmentation(AUGMENT), test_note=note,
    )  # fmt: skip


def _from_tree(request: Request, name: str, tree: Path) -> DataSource:
    listings = {split: list_images(tree / split) for split in ("train", "test")}
    train, test = listings["train"], listings["test"]
    if train.classes != test.classes:
        raise InputError(
            f"image folder {tree}",
            expected="the same classes in train and test",
            found="different ones",
            fix="name a complete tree with --data-root",
        )
    note = "" if len(test.files) == OFFICIAL_TEST else f"{len(test.files):,} of {OFFICIAL_TEST:,} test images"

    def read(split: str) -> Split:
        return read_images(listings[split], SIZE)

    return _in_memory(request, name, train.classes, read, len(train.files), note)


def _from_torchvision(request: Request, name: str, root: Path) -> DataSource:
    from torchvision import datasets

    factory = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:
        splits = {
            split: factory(str(root), train=split == "train", download=request.download) for split in ("train", "test")
        }
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise InputError(
            f"data {name} in {root}", expected="torchvision's files", found=first_line(error),
            fix="remove the folder and pass --download, or name another with --data-root",
        ) from None  # fmt: skip

    def read(split: str) -> Split:
        found = splits[split]
        return torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(found.targets)

    return _in_memory(request, name, tuple(splits["train"].classes), read, len(splits["train"]), "")


for name in FILES:
    DATA_SOURCES.register(name)(functools.partial(open_cifar, name=name))
