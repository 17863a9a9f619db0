"""PyTorch's own exported program (.pt2), run by torch alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.graphs import quiet, readable, trace
from hetcompress.kernels import fuse_torch
from hetcompress.targets.base import EXPORT_TARGETS, ExportTarget, Runner

__all__ = ["Pt2Target"]


@EXPORT_TARGETS.register("pt2")
class Pt2Target(ExportTarget):
    """What `torch.export.load` opens, with a free batch size."""

    name = "pt2"
    suffix = ".pt2"

    def write(self, model: nn.Module, example: Float[Tensor, "n c h w"], path: Path) -> dict[str, Any]:
        """See `ExportTarget.write`."""
        fused = fuse_torch(model, example)
        program = trace(fused.model, example)
        # the example's pixels would be stored, and each node's stack trace with the paths of this machine
        program.example_inputs = None
        for node in program.graph.nodes:
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
                node.meta.pop(key, None)
        # through memory: torch writes the file's (temporary) name into an archive, and hides a full disk's OSError
        buffer = io.BytesIO()
        with quiet():
            torch.export.save(program, buffer)
        path.write_bytes(buffer.getbuffer())
        return {"torch": torch.__version__, "batch": "any"} | ({"note": fused.note} if fused.note else {})

    def open(self, path: Path, _structure: nn.Module | None = None, /) -> Runner:
        """See `ExportTarget.open`."""
        with readable(path), quiet():
            program = torch.export.load(io.BytesIO(path.read_bytes())).module()

        def run(images: Tensor) -> Tensor:
            with torch.inference_mode():
                scores: Tensor = program(images)
            return scores

        return run
