"""The operator in ONNX files: ``VectorBlockConv2d`` of the domain "hetcompress", run by the library in onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hetcompress.errors import HetCompressError
from hetcompress.kernels.build import library_path
from hetcompress.kernels.library import Geometry, available

if TYPE_CHECKING:
    import onnx
    import onnxruntime

__all__ = ["DOMAIN", "NEEDS", "OPERATOR", "attributes", "register", "say_what_is_needed_"]

DOMAIN, OPERATOR = "hetcompress", "VectorBlockConv2d"
NEEDS = (
    "Some operators are in the shared library of the Python package hetcompress: before a session is made, call "
    "hetcompress.kernels.register(options), or register_custom_ops_library with hetcompress.kernels.library_path()."
)
"""What a file says to whoever has nothing but the file."""


def attributes(geometry: Geometry) -> dict[str, Any]:
    """Return a geometry as the operator's attributes."""
    return {
        "in_channels": geometry.in_channels, "out_channels": geometry.out_channels, "group": geometry.groups,
        "kernel_shape": list(geometry.kernel_size), "strides": list(geometry.stride), "pads": list(geometry.padding),
        "dilations": list(geometry.dilation), "layout_in": geometry.layout_in, "layout_out": geometry.layout_out,
        "low": geometry.low, "high": geometry.high,
    }  # fmt: skip


def say_what_is_needed_(model: onnx.ModelProto) -> None:
    """Write into a file that has operators of ours what it needs to run."""
    if any(node.domain == DOMAIN for node in model.graph.node):
        model.doc_string = NEEDS


def register(options: onnxruntime.SessionOptions) -> None:
    """Let sessions with these options run the operator.

    Raises:
        HetCompressError: The library is not built.
    """
    ready, reason = available()
    if not ready:
        raise HetCompressError("ONNX file with hetcompress operators", found=reason)
    options.register_custom_ops_library(str(library_path()))
