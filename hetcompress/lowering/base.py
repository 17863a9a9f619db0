"""The contract of a lowering."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

from torch import nn

from hetcompress.nn import HetConv2d
from hetcompress.registry import Registry

__all__ = ["LOWERINGS", "Lowering", "Verdict"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a lowering applies, and why not.

    Attributes:
        ok: It applies.
        reason: For people; why it does not, or what it makes of the layer.
    """

    ok: bool
    reason: str


class Lowering(abc.ABC):
    """Rewrites one pruned convolution into cheaper dense operators that compute the same function."""

    name: ClassVar[str]

    @abc.abstractmethod
    def check(self, layer: HetConv2d) -> Verdict:
        """Say whether this lowering applies; raises nothing and changes nothing."""

    @abc.abstractmethod
    def rewrite(self, layer: HetConv2d) -> nn.Module:
        """Build the replacement.  Called only after `check` said yes; leaves `layer` as it is."""


LOWERINGS: Registry[type[Lowering]] = Registry("lowering")
