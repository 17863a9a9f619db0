"""The verb prune."""

from __future__ import annotations

from pathlib import Path

import torch

from hetcompress.artifacts import RunFolder
from hetcompress.errors import UsageError
from hetcompress.finetuning import Finetuned
from hetcompress.goals import ShapeSettings, budget_of
from hetcompress.nn import LearnableHetConv2d
from hetcompress.pipeline._common import Pruned, finish
from hetcompress.pruning import prune as prune_model
from hetcompress.surgery import named_modules_of

__all__ = ["prune"]


def prune(
    run: Path = Path("hetrun"),
    *,
    density: float | None = None,
    mac_ratio: float | None = None,
    arch: str | None = None,
    random: int | None = None,
) -> Pruned:
    """Fix the shapes by the magnitude of the source's weights and prune, without any training.

    Args:
        run: The run folder.
        density: Target: kept over all weights of the converted layers.
        mac_ratio: Target: dense over kept MACs of the whole model.
        arch: The user's own factory, where the run was made with one.
        random: Seed of a random choice in place of magnitudes, for experiments.

    Raises:
        UsageError: Not exactly one target, or no seed.
        NothingToDoError: The target cannot be reached.
    """
    if random is not None and not 0 <= random < 2**63:
        raise UsageError("--random", expected="an integer from 0 to 2**63 - 1", found=str(random))
    folder = RunFolder.open(run, factory=arch)
    folder.check_writable()
    model = folder.converted_model()
    layers = named_modules_of(model, LearnableHetConv2d)
    learnable = all(layer.family.learnable for layer in layers.values())
    if learnable or density is not None or mac_ratio is not None:
        budget = budget_of(model, ShapeSettings(density=density, mac_ratio=mac_ratio), folder.input_spec.size)
    else:
        budget = budget_of(model, ShapeSettings(density=1.0), folder.input_spec.size)
    generator = torch.Generator().manual_seed(random or 0)
    logits = {}
    for name, layer in layers.items():
        squares = layer.tap_norms().square()
        scores = squares / squares.mean().clamp_min(torch.finfo(squares.dtype).tiny)
        if random is not None:
            scores = torch.rand(scores.shape, generator=generator)
        logits[name] = layer.family.logits_of(scores)
    pruned = prune_model(model, budget, logits=logits)
    settings = {"data": None, "target": {"density": density, "mac_ratio": mac_ratio}, "random": random}
    return finish(folder, "prune", settings, Finetuned(pruned, {}, []))
