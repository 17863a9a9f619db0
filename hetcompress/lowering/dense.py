"""dense: one convolution with zeros in it; always applies, and is the form that others must beat."""

from __future__ import annotations

from torch import nn

from hetcompress.lowering.base import LOWERINGS, Lowering, Verdict
from hetcompress.nn import HetConv2d

__all__ = ["Dense"]


@LOWERINGS.register("dense")
class Dense(Lowering):
    """The masked convolution as it is."""

    name = "dense"

    def check(self, layer: HetConv2d) -> Verdict:  # noqa: ARG002
        """Return yes."""
        return Verdict(True, "always applies")

    def rewrite(self, layer: HetConv2d) -> nn.Module:
        """Return a plain convolution with zeros written into its weights."""
        return layer.to_conv2d()
