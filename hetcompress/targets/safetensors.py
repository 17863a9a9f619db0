"""The weights alone, as safetensors: for those who bring the architecture themselves."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.errors import InputError, UsageError
from hetcompress.graphs import evaluating, readable
from hetcompress.targets.base import EXPORT_TARGETS, ExportTarget, Runner
from hetcompress.tensor_files import write_tensors
from hetcompress.version import __version__

__all__ = ["SafetensorsTarget"]

FORMAT = 1
"""Of our entry in the header: a JSON object with "format", "version", "input" (channels, height, width), "tied"."""


@EXPORT_TARGETS.register("safetensors")
class SafetensorsTarget(ExportTarget):
    """The state dict of the model; a tensor that has several names is stored once."""

    name = "safetensors"
    suffix = ".safetensors"

    def write(self, model: nn.Module, example: Float[Tensor, "n c h w"], path: Path) -> dict[str, Any]:
        """See `ExportTarget.write`."""
        tensors, tied = _without_ties(model.state_dict())
        ours = {"format": FORMAT, "version": __version__, "input": list(example.shape[1:]), "tied": tied}
        write_tensors(path, tensors, {"hetcompress": json.dumps(ours)})
        return {"format": FORMAT, "tensors": len(tensors), "tied": tied}

    def open(self, path: Path, structure: nn.Module | None = None, /) -> Runner:
        """See `ExportTarget.open`."""
        if structure is None:
            raise UsageError(
                f"file {path}",
                expected="the architecture beside it",
                found="weights alone",
                fix="open the onnx or pt2 export, which hold the whole model",
            )
        model = _unfilled(structure)
        tensors = _read(path)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            lines = str(error).splitlines()
            raise InputError(
                f"file {path}", expected="the weights of this model", found=lines[-1].strip(), fix="export it again"
            ) from None

        def run(images: Tensor) -> Tensor:
            with evaluating(model):
                scores: Tensor = model(images)
            return scores

        return run


def _without_ties(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split a state dict into tensors that are not the same, and {second name: first name}."""
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first_names: dict[tuple[object, ...], str] = {}
    for name, tensor in state.items():
        storage = tensor.untyped_storage()
        place = (storage.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in first_names:
            tied[name] = first_names[place]
            continue
        first_names[place] = name
        tensors[name] = tensor
    return tensors, tied


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    with readable(path), safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        ours = json.loads((file.metadata() or {}).get("hetcompress", "{}"))
    if ours.get("format") != FORMAT:
        raise InputError(
            f"file {path}",
            expected=f"an export of format {FORMAT}",
            found=f"format {ours.get('format')}",
            fix="export it again",
        )
    return {**tensors, **{name: tensors[first] for name, first in ours["tied"].items()}}


def _unfilled(structure: nn.Module) -> nn.Module:
    """Copy a model and make its saved tensors useless, so that a weight that the file lacks shows."""
    model = copy.deepcopy(structure)
    for tensor in model.state_dict().values():
        tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
    return model
