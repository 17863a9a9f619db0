"""The contract of an export target."""

from __future__ import annotations

import abc
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.registry import Registry

__all__ = ["EXPORT_TARGETS", "ExportTarget", "Runner"]

Runner = Callable[[Tensor], Tensor]
"""A batch of images to its class scores."""


class ExportTarget(abc.ABC):
    """A file format: writes a model, and opens what it wrote.

    A target only writes and opens; that both agree with the model is checked for all targets alike by `export_model`.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    """Of its files, with the dot."""

    @abc.abstractmethod
    def write(self, model: nn.Module, example: Float[Tensor, "n c h w"], path: Path) -> dict[str, Any]:
        """Write a model that is in eval mode on the CPU.

        Args:
            model: Takes one tensor and returns one.
            example: A batch of any size; only its shape and type matter.
            path: The file to fill; it may exist and be empty.

        Returns:
            What a reader of the file wants to know, as plain JSON values.

        Raises:
            HetCompressError: The format cannot hold this model.
            OSError: The disk is full.
        """

    @abc.abstractmethod
    def open(self, path: Path, structure: nn.Module | None = None, /) -> Runner:
        """Open a file of this kind so that nothing but the file and its runtime is used.

        Args:
            path: The file.
            structure: A model of the architecture that was written, for formats that hold weights alone; its own
                weights are not used, and it is left as it is.

        Raises:
            InputError: The file is broken or of another kind.
        """


EXPORT_TARGETS: Registry[type[ExportTarget]] = Registry("export target")
