"""The verb prune."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from hetcompress.artifacts import RunFolder
from hetcompress.errors import UsageError
from hetcompress.finetuning import Finetuned
from hetcompress.goals import OPTIONS, ShapeSettings, budget_of
from hetcompress.nn import LearnableHetConv2d
from hetcompress.pipeline._common import Pruned, finish
from hetcompress.pipeline._time import aimed
from hetcompress.planning import DEFAULT, PlanSettings, settled
from hetcompress.pruning import magnitudes, worths
from hetcompress.pruning import prune as prune_model
from hetcompress.surgery import named_modules_of

__all__ = ["prune"]


def prune(
    run: Path = Path("hetrun"),
    *,
    density: float | None = None,
    mac_ratio: float | None = None,
    latency_ratio: float | None = None,
    plan: PlanSettings = DEFAULT,
    arch: str | None = None,
    random: int | None = None,
    evenly: bool = False,
    force: bool = False,
    announce: Callable[[str], None] = lambda _: None,
) -> Pruned:
    """Fix the shapes by the magnitude of the source's weights and prune, without any training.

    Args:
        run: The run folder.
        density: Target: kept over all weights of the converted layers; may stand beside `mac_ratio`.
        mac_ratio: Target: dense over kept MACs of the whole model.
        latency_ratio: Target: dense over compressed time of the whole model, measured.
        plan: Where a time is measured, and how forms are chosen.
        arch: The user's own factory, where the run was made with one.
        random: Seed of a random choice in place of magnitudes, for experiments.
        evenly: Keep the same share of every layer: magnitudes of weights that were never trained say nothing of layers.
        force: Replace what was trained.
        announce: Told what is measured, which can take a minute, and each time that was.

    Raises:
        UsageError: No target or some that exclude each other (none for a fixed pattern), no seed, a run that was
            trained, or `evenly` beside a target of time.
        NothingToDoError: The target cannot be reached.
    """
    if random is not None and not 0 <= random < 2**63:
        raise UsageError("--random", expected="an integer from 0 to 2**63 - 1", found=str(random))
    if evenly and latency_ratio is not None:
        raise UsageError(
            "--evenly", expected="--density or --mac-ratio beside it", found="--latency-ratio",
            fix="leave either out: prices of time differ from layer to layer, and decide what each keeps",
        )  # fmt: skip
    shapes = ShapeSettings(density=density, mac_ratio=mac_ratio, latency_ratio=latency_ratio)
    folder = RunFolder.open(run, factory=arch)
    folder.check_writable()
    folder.check_untrained(force=force)
    model = folder.converted_model()
    layers = named_modules_of(model, LearnableHetConv2d)
    targets = {"density": density, "mac_ratio": mac_ratio, "latency_ratio": latency_ratio}
    if not shapes.has_target and any(layer.family.learnable for layer in layers.values()):
        raise UsageError(
            "target", expected=f"one of {', '.join(OPTIONS.values())}", found="none", fix="for example --density 0.25"
        )
    scores = magnitudes(layers)
    if random is not None:
        generator = torch.Generator().manual_seed(random)
        scores = {name: torch.rand(worth.shape, generator=generator) for name, worth in scores.items()}
    settings = {"data": None, "target": targets, "random": random, "evenly": evenly}
    if shapes.latency_ratio is not None:
        found = aimed(folder, model, shapes.latency_ratio, settled(model, plan), scores, announce)
        return finish(folder, "prune", settings, Finetuned(found.pruned, {}, []), found.time)
    budget = budget_of(model, shapes, folder.input_spec.size)
    pruned = prune_model(model, budget, logits=worths(layers, scores, budget.wiring), evenly=evenly)
    return finish(folder, "prune", settings, Finetuned(pruned, {}, []))
