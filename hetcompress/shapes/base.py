"""The contract of a shape family.

A family is a set of kernel shapes (binary supports of one kh x kw kernel) and the rule by which real numbers, the
shape logits ``E``, choose one shape for each channel group.  Every rule here maximises a sum over kept taps::

    choose the shape m that maximises  sum_t m_t * (score_t - price)

where ``score_t`` says what tap t is worth and ``price`` what a tap costs.  `logits_of` writes tap scores as logits,
`priced` subtracts a price, and `masks` makes the choice; so one search over the price serves the exact final prune and
every magnitude schedule, whatever the family.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from hetcompress.errors import UsageError
from hetcompress.registry import Registry

__all__ = ["SHAPE_FAMILIES", "ShapeFamily", "build_family"]

KernelSize = tuple[int, int]


class ShapeFamily(abc.ABC):
    """A set of kernel shapes and the rule that picks one for each channel group.

    A family holds no parameters: the logits belong to the layer, so one object serves every layer of a model.
    """

    name: ClassVar[str]
    learnable: ClassVar[bool] = True
    """False for a fixed pattern, whose conversion changes the function of the net."""
    block: int = 1
    """Input channels that decide together."""

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments that build this family again (plain JSON values)."""
        return {}

    @abc.abstractmethod
    def logits_per_group(self, kernel_size: KernelSize) -> int:
        """Return how many learnable logits one channel group needs."""

    @abc.abstractmethod
    def masks(
        self, logits: Float[Tensor, "out_groups in_groups n"], kernel_size: KernelSize
    ) -> Float[Tensor, "out_groups in_groups kh kw"]:
        """Return one mask per channel group, exactly 0 or 1; its gradient is a straight-through estimator."""

    @abc.abstractmethod
    def logits_of(self, scores: Float[Tensor, "out_groups in_groups kh kw"]) -> Float[Tensor, "out_groups in_groups n"]:
        """Return the logits that rank the shapes as the tap scores do; positive scores choose the full kernel."""

    def distances(self, logits: Float[Tensor, "out_groups in_groups n"]) -> Float[Tensor, "out_groups in_groups n"]:
        """Return how far logits lie from the middle of the estimator's window, within which gradients pass whole."""
        return logits

    @abc.abstractmethod
    def priced(
        self,
        logits: Float[Tensor, "out_groups in_groups n"],
        price: float,
        kernel_size: KernelSize,
        channel: float = 0.0,
    ) -> Float[Tensor, "out_groups in_groups n"]:
        """Return the logits after every kept tap has been charged `price`.

        Args:
            logits: What the shapes are worth.
            price: Of a tap.
            kernel_size: Rows and columns.
            channel: Taps' worth that an input channel costs besides if any of it is read: what makes it.
        """


SHAPE_FAMILIES: Registry[type[ShapeFamily]] = Registry("shape family")


def build_family(name: str, arguments: Mapping[str, Any] | None = None) -> ShapeFamily:
    """Build a registered family from its name and keyword arguments.

    Raises:
        UsageError: The name is unknown, or the family does not take these arguments.
    """
    family, chosen = SHAPE_FAMILIES[name], dict(arguments or {})
    try:
        inspect.signature(family).bind(**chosen)
    except TypeError as error:
        raise UsageError(f"shape family '{name}'", expected="arguments that it takes", found=str(error)) from None
    return family(**chosen)
