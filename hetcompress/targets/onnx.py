"""ONNX, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress import kernels
from hetcompress.graphs import ONNX_OPSET, onnx_bytes, ort_session
from hetcompress.targets.base import EXPORT_TARGETS, ExportTarget, Runner

__all__ = ["OnnxTarget", "library_for"]


def library_for(data: bytes) -> dict[str, str]:
    """Return the library that a runtime must register to open an ONNX file; nothing where it needs none."""
    # part of the name of its form in 8 bits too
    return {"register_custom_ops_library": str(kernels.library_path())} if kernels.OPERATOR.encode() in data else {}


@EXPORT_TARGETS.register("onnx")
class OnnxTarget(ExportTarget):
    """One file with a free batch size, input "input" and output "logits"."""

    name = "onnx"
    suffix = ".onnx"

    def write(self, model: nn.Module, example: Float[Tensor, "n c h w"], path: Path) -> dict[str, Any]:
        """See `ExportTarget.write`."""
        data = onnx_bytes(model, example)
        path.write_bytes(data)
        return {"opset": ONNX_OPSET, "input": "input", "output": "logits", "batch": "any", **library_for(data)}

    def open(self, path: Path, _structure: nn.Module | None = None, /) -> Runner:
        """See `ExportTarget.open`."""
        import onnxruntime

        session = ort_session(path)
        name = session.get_inputs()[0].name
        # of the memory for activations nothing is kept: batches of several sizes would each leave theirs
        options: Any = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: images.numpy()}, options)[0])

        return run
