"""The 8-bit operator in ONNX files: ``QLinearVectorBlockConv2d``, with the arguments of ONNX's QLinearConv."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int8, Int32
from numpy.typing import NDArray
from torch import Tensor

from hetcompress.kernels.int8_library import Held
from hetcompress.kernels.library import Geometry
from hetcompress.kernels.onnx_export import DOMAIN, attributes

if TYPE_CHECKING:
    import onnx

__all__ = ["INT8_OPERATOR", "Int8Filters", "int8_node"]

INT8_OPERATOR = "QLinearVectorBlockConv2d"


@dataclasses.dataclass(frozen=True)
class Int8Filters:
    """The constants of a layer.

    Attributes:
        values: Kept vectors, shape (vectors, V).
        scales: Of each filter.
        taps: Where each vector reads.
        starts: Where each block begins, and the end.
        bias: In steps of a filter's scale times that of the images, or None.
    """

    values: Int8[Tensor, "vectors v"]
    scales: Float[Tensor, " filters"]
    taps: Int32[Tensor, " vectors"]
    starts: Int32[Tensor, " starts"]
    bias: Int32[Tensor, " filters"] | None = None


def int8_node(
    name: str,
    images: str,
    output: str,
    filters: Int8Filters,
    geometry: Geometry,
    held_in: Held,
    held_out: Held,
    *,
    residual: str = "",
    held_residual: Held | None = None,
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """Return the operator's node, and its constants, whose names begin with the node's.

    Args:
        name: Of the node.
        images: The value that it reads, uint8, planar.
        output: The value that it writes, uint8, planar.
        filters: The weights.
        geometry: The convolution.
        held_in: How the images are held.
        held_out: How the output is held.
        residual: A value that is added before the result is clamped, or "".
        held_residual: How that is held.
    """
    import onnx

    constants: list[onnx.TensorProto] = []

    def constant(kind: str, numbers: Any) -> str:
        constants.append(onnx.numpy_helper.from_array(np.asarray(numbers), f"{name}.{kind}"))
        return f"{name}.{kind}"

    def both(kind: str, held: Held) -> tuple[str, str]:
        return constant(f"{kind}_scale", np.float32(held.scale)), constant(f"{kind}_zero", np.uint8(held.zero))

    inputs = [
        images, *both("x", held_in), constant("values", _numbers(filters.values)),
        constant("w_scale", _numbers(filters.scales)), *both("y", held_out), constant("taps", _numbers(filters.taps)),
        constant("starts", _numbers(filters.starts)),
        "" if filters.bias is None else constant("bias", _numbers(filters.bias)),
    ]  # fmt: skip
    if residual:
        inputs += [residual, *both("residual", held_residual or Held())]
    kept = {key: value for key, value in attributes(geometry).items() if not key.startswith("layout")}
    return onnx.helper.make_node(INT8_OPERATOR, inputs, [output], name, domain=DOMAIN, **kept), constants


def _numbers(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()
