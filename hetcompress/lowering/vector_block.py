"""vector-block: the kept vectors of V filters x one input channel x one tap, executed by the project's own kernel.

Any pattern will do, and the cost is that of the vectors kept.  The result runs where the compiled library is, in torch
and in onnxruntime; torch without the library computes the same function densely.
"""

from __future__ import annotations

from torch import nn

from hetcompress.kernels import VectorBlockConv2d, available, best_vector
from hetcompress.kernels.library import VECTORS
from hetcompress.kernels.packing import count_kept
from hetcompress.lowering.base import LOWERINGS, Lowering, Verdict
from hetcompress.lowering.pieces import Geometry, surrounded
from hetcompress.nn import HetConv2d

__all__ = ["VectorBlock", "vector_of"]


def vector_of(layer: HetConv2d) -> int:
    """Return the vector length for a layer: what its channel groups were made for, else what this processor likes."""
    size = layer.channel_groups.group_out
    fitting = [vector for vector in VECTORS if isinstance(size, int) and size > 1 and size % vector == 0]
    return max(fitting) if fitting else best_vector()


@LOWERINGS.register("vector-block")
class VectorBlock(Lowering):
    """A convolution over kept vectors."""

    name = "vector-block"

    def check(self, layer: HetConv2d) -> Verdict:
        """Say whether the kernel is there and has fewer weights to multiply than the dense layer."""
        ready, reason = available()
        if not ready:
            return Verdict(False, reason)
        if str(layer.weight.dtype) != "torch.float32" or layer.weight.device.type != "cpu":
            return Verdict(False, "the kernel takes float32 on the CPU")
        vector = vector_of(layer)
        weight = layer.masked_weight().detach()
        executed, dense = vector * count_kept(weight, layer.groups, vector), weight.numel()
        if executed >= dense:
            return Verdict(False, f"no vector of {vector} filters is empty")
        return Verdict(True, f"{executed // vector} vectors of {vector} filters, {executed / dense:.0%} of the weights")

    def rewrite(self, layer: HetConv2d) -> nn.Module:
        """Return the convolution over the kept vectors; padding other than zeros is put on before it."""
        return surrounded(Geometry.of(layer), _rewritten(layer, vector_of(layer)))


def _rewritten(layer: HetConv2d, vector: int) -> VectorBlockConv2d:
    geometry = Geometry.of(layer).inner
    left, right, top, bottom = geometry.sides
    return VectorBlockConv2d.from_pruned(layer, vector, padding=(top, left, bottom, right))
