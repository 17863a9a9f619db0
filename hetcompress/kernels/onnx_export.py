"""The operator in ONNX files: ``VectorBlockConv2d`` of the domain "hetcompress", run by the library in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from hetcompress.errors import HetCompressError
from hetcompress.kernels.build import library_path
from hetcompress.kernels.library import available

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["DOMAIN", "OPERATOR", "register", "translations"]

DOMAIN, OPERATOR = "hetcompress", "VectorBlockConv2d"


def translations() -> dict[Any, Callable[..., Any]]:
    """Return what `torch.onnx.export` needs as its `custom_translation_table`."""
    operator = _operator()

    def translated(
        images: Any, values: Any, taps: Any, starts: Any, bias: Any, residual: Any, in_channels: int,
        out_channels: int, groups: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any, layout_in: int,
        layout_out: int, low: float, high: float,
    ) -> Any:  # fmt: skip
        return operator(
            images, values, taps, starts, bias, residual,
            in_channels=in_channels, out_channels=out_channels, group=groups, kernel_shape=list(kernel_size),
            strides=list(stride), pads=list(padding), dilations=list(dilation), layout_in=layout_in,
            layout_out=layout_out, low=low, high=high,
        )  # fmt: skip

    return {torch.ops.hetcompress.vector_block_conv2d.default: translated}


def _operator() -> Any:
    """Return the operator as onnxscript calls it; onnx itself needs to know nothing of it."""
    import onnx
    import onnxscript

    kind, option = onnx.defs.OpSchema.AttrType, onnx.defs.OpSchema.FormalParameterOption
    inputs = [
        onnx.defs.OpSchema.FormalParameter(
            name,
            "tensor(int32)" if name in ("taps", "starts") else "tensor(float)",
            param_option=option.Optional if name in ("bias", "residual") else option.Single,
        )
        for name in ("images", "values", "taps", "starts", "bias", "residual")
    ]
    attributes = [
        onnx.defs.OpSchema.Attribute(name, of_kind, required=True)
        for names, of_kind in (
            (("in_channels", "out_channels", "group", "layout_in", "layout_out"), kind.INT),
            (("kernel_shape", "strides", "pads", "dilations"), kind.INTS),
            (("low", "high"), kind.FLOAT),
        )
        for name in names
    ]
    output = onnx.defs.OpSchema.FormalParameter("result", "tensor(float)")
    schema = onnx.defs.OpSchema(OPERATOR, DOMAIN, 1, inputs=inputs, outputs=[output], attributes=attributes)
    return onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, 1), OPERATOR, schema)


def register(options: onnxruntime.SessionOptions) -> None:
    """Let sessions with these options run the operator.

    Raises:
        HetCompressError: The library is not built.
    """
    ready, reason = available()
    if not ready:
        raise HetCompressError("ONNX file with hetcompress operators", found=reason)
    options.register_custom_ops_library(str(library_path()))
