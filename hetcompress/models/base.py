"""The table of our own networks, and what a network wants its images to be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import nn

from hetcompress.registry import Registry

__all__ = ["MODELS", "InputSpec", "ZooModel"]


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """Size and normalisation of the images that a model was trained on.

    Attributes:
        size: Channels, height, width.
        mean: Of each channel, for pixels from 0 to 1.
        std: Of each channel.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ZooModel:
    """A network of our own: what builds it, and its images."""

    build: Callable[..., nn.Module]
    input_spec: InputSpec


MODELS: Registry[ZooModel] = Registry("network")
