"""The compact model of a run as a torch module: what `export` wrote, for those who go on in Python."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from torch import nn

from hetcompress.artifacts import RunFolder
from hetcompress.errors import InputError
from hetcompress.kernels import available
from hetcompress.lowering import LoweredLayer, lower
from hetcompress.pipeline._report import lowered_pair
from hetcompress.planning import DEFAULT, PlanSettings

__all__ = ["as_exported", "lowered"]


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
        values = json.loads(folder.plan.read_text(encoding="utf-8"))
        layers = {layer["name"]: LoweredLayer(**layer) for layer in values["layers"]}
        ours = bool(values["kernels"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"file {folder.plan}", expected="the plan of an export", found=f"{type(error).__name__}: {error}",
            fix="export again",
        ) from None  # fmt: skip
    if ours and not available()[0]:
        settings = dataclasses.replace(DEFAULT, kernels=False)
        return lowered_pair(folder, settings)[2].lowered.model, (
            "the export has layers in our kernel, which is not here: stock operators instead"
        )
    settings = PlanSettings.from_json(values)
    model = lower(
        folder.pruned_model(), torch.zeros(1, *folder.input_spec.size), rules=settings.rules, known=layers
    ).model
    return model, f"plan {settings} (as exported)"
