"""The operator in ONNX files: ``VectorBlockConv2d`` of the domain "hetcompress", run by the library in onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hetcompress.errors import HetCompressError
from hetcompress.kernels.build import library_path
from hetcompress.kernels.library import Geometry, available

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["DOMAIN", "OPERATOR", "attributes", "register"]

DOMAIN, OPERATOR = "hetcompress", "VectorBlockConv2d"


def attributes(geometry: Geometry) -> dict[str, Any]:
    """Return a geometry as the operator's attributes."""
    return {
        "in_channels": geometry.in_channels, "out_channels": geometry.out_channels, "group": geometry.groups,
        "kernel_shape": list(geometry.kernel_size), "strides": list(geometry.stride), "pads": list(geometry.padding),
        "dilations": list(geometry.dilation), "layout_in": geometry.layout_in, "layout_out": geometry.layout_out,
        "low": geometry.low, "high": geometry.high,
    }  # fmt: skip


def register(options: onnxruntime.SessionOptions) -> None:
    """Let sessions with these options run the operator.

    Raises:
        HetCompressError: The library is not built.
    """
    ready, reason = available()
    if not ready:
        raise HetCompressError("ONNX file with hetcompress operators", found=reason)
    options.register_custom_ops_library(str(library_path()))
