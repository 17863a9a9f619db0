"""The compact model of a run as a torch module: what `export` wrote, for those who go on in Python."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from hetcompress.artifacts import RunFolder
from hetcompress.errors import InputError
from hetcompress.kernels import available
from hetcompress.lowering import LOWERINGS, LoweredLayer, lower
from hetcompress.pipeline._report import lowered_pair
from hetcompress.planning import DEFAULT
from hetcompress.planning.measured import OURS

__all__ = ["as_exported", "lowered"]

NO_LIBRARY = "our kernel is not here"


def lowered(run: Path = Path("hetrun"), *, arch: str | None = None) -> nn.Module:
    """Return the pruned model of a run in the forms that its export has; planned by time where nothing is exported.

    Args:
        run: The run folder, pruned.
        arch: The user's own factory, where the run was made with one.

    Returns:
        The model, in eval mode, on the CPU: plain convolutions and, where the plan has them, kernel layers, which
        `hetcompress.kernels.fuse_torch` makes faster.  The file of ``export --safetensors`` holds its state dict.

    Raises:
        InputError: Nothing has been pruned yet, or plan.json cannot be read.
        VerificationError: It computes something else than the pruned model.
    """
    return as_exported(RunFolder.open(run, factory=arch))[0]


def as_exported(folder: RunFolder) -> tuple[nn.Module, str]:
    """Return the compact model of a run, and in words where its forms come from."""
    if not folder.plan.exists():
        planned = lowered_pair(folder, DEFAULT)[2]
        return planned.lowered.model, f"plan {planned.settings} (nothing is exported yet)"
    try:
        written = json.loads(folder.plan.read_text(encoding="utf-8"))["layers"]
        forms = {str(layer["name"]): LoweredLayer(**layer) for layer in written}
        unknown = [form for form in {layer.form for layer in forms.values()} if form not in LOWERINGS]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(folder, f"{type(error).__name__}: {error}") from None
    if unknown:
        raise _unreadable(folder, f"no form that there is: {', '.join(unknown)}")
    missing = {} if available()[0] else {name: NO_LIBRARY for name, layer in forms.items() if layer.form == OURS}
    example = torch.zeros(1, *folder.input_spec.size)
    known = {name: layer for name, layer in forms.items() if name not in missing}
    result = lower(folder.pruned_model(), example, rules=("dense",), dense=missing, known=known)
    for layer in result.layers:
        if layer.name not in missing and (layer.name not in forms or layer.form != forms[layer.name].form):
            raise _unreadable(folder, f"layer {layer.name} in a form that does not fit it, or in none")
    without = f"; {len(missing)} layers dense, since {NO_LIBRARY}: {available()[1]}" if missing else ""
    return result.model, f"in the forms of the export{without}"


def _unreadable(folder: RunFolder, found: str) -> InputError:
    return InputError(f"file {folder.plan}", expected="the plan of an export", found=found, fix="export again")
