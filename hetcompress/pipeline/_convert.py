"""The verb convert."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hetcompress.artifacts import RunFolder
from hetcompress.conversion import LayerPlan, plan_conversion
from hetcompress.conversion import convert as convert_model
from hetcompress.cost import LayerCost, layer_macs
from hetcompress.errors import InputError, UsageError, VerificationError, first_line
from hetcompress.granularity import GRANULARITIES, Grain, usual_groups
from hetcompress.kernels import available
from hetcompress.models import InputSpec, LoadedModel, load_model
from hetcompress.nn import GroupSize
from hetcompress.pipeline._common import random_images
from hetcompress.planning import DEFAULT, PlanSettings, TimedGrain, choose_granularities
from hetcompress.registry import suggestion
from hetcompress.run_files import check_free
from hetcompress.shapes import build_family
from hetcompress.surgery import named_modules_of
from hetcompress.version import __version__

__all__ = ["Converted", "convert"]

AUTO = "auto"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Converted:
    """What `convert` did, or with ``dry_run`` would do.

    Attributes:
        run: The run folder; None for a dry run.
        architecture: The spec that was given or found.
        input_size: Channels, height and width of the images that it is made for from here on.
        layers: Every convolution and what happens to it.
        dense_macs: MACs of the model on one image.
        convertible_macs: MACs of the layers that are converted.
        parameters: Parameters of the dense model.
        max_difference: Largest difference of an output between source and converted model on random input.
        exact: Whether the families promise a difference of 0.
        granularities: By layer, for people: a named granularity, or family and channel groups.
        notes: What was assumed about the checkpoint, in words.
        timed: How the granularity "auto" measured; None of others.
    """

    run: Path | None
    architecture: str
    input_size: tuple[int, int, int]
    layers: tuple[LayerPlan, ...]
    dense_macs: int
    convertible_macs: int
    parameters: int
    max_difference: float
    exact: bool
    granularities: dict[str, str]
    notes: tuple[str, ...] = ()
    timed: PlanSettings | None = None


def _check_images(size: tuple[int, int, int] | None, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Refuse what images of no model have, before a model is read."""
    for option, values in (("--mean", mean), ("--std", std)):
        if values and not all(map(math.isfinite, values)):
            raise UsageError(option, expected="finite numbers", found=f"{values}")
    for option, numbers in (("--input-size", size), ("--std", std)):
        if numbers and min(numbers) <= 0:
            raise UsageError(option, expected="positive numbers", found=f"{numbers}")


def _input_spec(
    loaded: LoadedModel, size: tuple[int, int, int] | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> InputSpec:
    known = loaded.input_spec
    if size is None and known is None:
        raise UsageError(
            "--input-size", expected="the image size of this model", found=f"none known for {loaded.architecture.spec}",
            fix="pass --input-size CHANNELS HEIGHT WIDTH, and --mean and --std if they are not ImageNet's",
        )  # fmt: skip
    spec = InputSpec(
        size or known.size,  # type: ignore[union-attr]
        tuple(mean) if mean else (known.mean if known else IMAGENET_MEAN),
        tuple(std) if std else (known.std if known else IMAGENET_STD),
    )
    channels = spec.size[0]
    for option, values in (("--mean", spec.mean), ("--std", spec.std)):
        if len(values) != channels and (mean or std):
            raise UsageError(
                option, expected=f"{channels} numbers, one for each channel", found=str(len(values)),
                fix=f"for example {option} {','.join(['0.5'] * channels)}",
            )  # fmt: skip
        if len(values) != channels:
            raise UsageError(
                "--input-size", expected=f"{len(values)} channels", found=str(channels),
                fix="give CHANNELS HEIGHT WIDTH, and --mean and --std for other channels than these",
            )  # fmt: skip
    return spec


@torch.no_grad()
def _first_run(model: nn.Module, images: torch.Tensor, arch: str) -> tuple[dict[str, LayerCost], dict[str, str]]:
    """Return what layers cost, and why some convolutions cannot be replaced, by name."""
    convs = named_modules_of(model, nn.Conv2d)
    unfit: dict[str, str] = {}
    with contextlib.ExitStack() as hooks:
        for name, conv in convs.items():

            def note(_module: nn.Module, inputs: tuple[Any, ...], _named: Any, name: str = name) -> None:
                if len(inputs) != 1:
                    unfit[name] = "is called with a named argument"

            hooks.callback(conv.register_forward_pre_hook(note, with_kwargs=True).remove)
        try:
            macs = layer_macs(model, images)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise UsageError(
                f"model {arch}", expected=f"a forward pass on images of shape {tuple(images.shape)}",
                found=first_line(error), fix="pass the right --input-size",
            ) from None  # fmt: skip
    return macs, unfit | dict.fromkeys(convs.keys() - macs.keys(), "does not run as a module in evaluation")


@torch.no_grad()
def _largest_difference(source: nn.Module, other: nn.Module, images: torch.Tensor, arch: str) -> float:
    expected = source.eval()(images)
    if not isinstance(expected, torch.Tensor) or expected.ndim != 2:
        found = f"shape {tuple(expected.shape)}" if isinstance(expected, torch.Tensor) else type(expected).__name__
        raise UsageError(
            f"model {arch}", expected="class scores of shape (images, classes)", found=found,
            fix="wrap it in a factory that returns scores, and name that with --arch",
        )  # fmt: skip
    if not bool(expected.isfinite().all()):
        raise InputError(
            f"model {arch}", expected="finite outputs on random images", found="the source's outputs are not finite",
            fix="take another checkpoint; finite weights may still be far too large",
        )  # fmt: skip
    return float((expected - other.eval()(images)).abs().max())


def convert(
    checkpoint: Path,
    *,
    run: Path = Path("hetrun"),
    arch: str | None = None,
    arch_arguments: Mapping[str, Any] | None = None,
    family: str | None = None,
    family_arguments: Mapping[str, Any] | None = None,
    group_out: GroupSize | None = None,
    group_in: GroupSize | None = None,
    granularity: str | None = None,
    plan: PlanSettings = DEFAULT,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    input_size: tuple[int, int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    trust_pickle: bool = False,
    ema: bool = False,
    force: bool = False,
    dry_run: bool = False,
    recipe: Mapping[str, str] | None = None,
) -> Converted:
    """Load a checkpoint, convert its convolutions, prove that the function stayed the same, write the run folder.

    Args:
        checkpoint: A state dict: .pt, .pth, .th, .bin or .safetensors.
        run: The run folder to make.
        arch: What builds the model ("torchvision:resnet34", "path/file.py:factory"); None finds it.
        arch_arguments: Keyword arguments of the factory.
        family: A registered shape family; None takes "free".
        family_arguments: Its keyword arguments.
        group_out: Filters that share a shape; None takes the family's habit.
        group_in: Input channels that share a shape; None takes the family's habit.
        granularity: A registered one in place of family and groups, or "auto", which chooses for each layer by time.
        plan: Where "auto" measures; with our kernel where that is left open and it was compiled.
        include: Patterns of layers to convert.
        exclude: Patterns of layers to leave dense.
        input_size: Channels, height, width of an image, where the architecture does not say.
        mean: Of the normalisation, one number for each channel.
        std: Of the normalisation.
        trust_pickle: Open a pickle that runs code.
        ema: Take the averaged weights of the checkpoint.
        force: Replace an existing run.
        dry_run: Do all but to write the run folder.
        recipe: What identifies the recipe that these settings came from, for the record.

    Raises:
        UsageError: Options that make no sense.
        InputError: The checkpoint is missing, broken, unsafe or does not fit.
        NothingToDoError: No layer can be converted.
        VerificationError: The converted model computes something else.
    """
    _check_images(input_size, mean, std)
    preset = None if granularity is None else _preset(granularity, family, family_arguments, group_out, group_in)
    family = family or "free"
    common = Grain(build_family(family, family_arguments), *_group_sizes(family, group_out, group_in))
    check_free(run, force=force)
    loaded = load_model(checkpoint, arch=arch, arguments=arch_arguments, trust_pickle=trust_pickle, prefer_ema=ema)
    spec = _input_spec(loaded, input_size, mean, std)
    macs, unfit = _first_run(loaded.model, random_images(spec), loaded.architecture.spec)
    convs = named_modules_of(loaded.model, nn.Conv2d)
    patterns: dict[str, Any] = {"include": include, "exclude": exclude, "unfit": unfit}
    chosen = [layer.name for layer in plan_conversion(loaded.model, **patterns) if layer.converted]
    timed: dict[str, TimedGrain] = {}
    if granularity == AUTO:
        plan = _with_our_kernel(plan)
        timed = choose_granularities(loaded.model, chosen, random_images(spec, 1), plan)
    grains = {
        name: timed[name].grain if name in timed else preset(convs[name]) if preset else common for name in chosen
    }
    conversion = convert_model(loaded.model, grains=grains, **patterns)
    difference = _largest_difference(loaded.model, conversion.model, random_images(spec), loaded.architecture.spec)
    exact = common.family.learnable
    if exact and difference != 0:
        raise VerificationError("convert", expected="the same outputs", found=f"a largest difference of {difference:g}")
    stage = {
        "recipe": None if recipe is None else dict(recipe),
        "settings": {
            "family": family, "family_arguments": dict(family_arguments or {}), "group_out": group_out,
            "group_in": group_in, "granularity": granularity, "plan": dataclasses.asdict(plan),
            "include": list(include), "exclude": list(exclude), "ema": ema,
        },
        "max_difference": difference,
        "kept_dense": {layer.name: layer.reason for layer in conversion.layers if not layer.converted},
        "granularities": {name: found.to_json() for name, found in timed.items()},
    }  # fmt: skip
    if not dry_run:
        manifest = _manifest(checkpoint, loaded, spec, grains, granularity) | {"stages": {"convert": stage}}
        RunFolder.create(run, manifest, loaded.model, conversion.model, force=force)
    named = {
        name: timed[name].granularity if name in timed else granularity or _described(grain)
        for name, grain in grains.items()
    }
    return Converted(
        None if dry_run else run,
        loaded.architecture.spec,
        spec.size,
        conversion.layers,
        sum(layer.dense for layer in macs.values()),
        sum(macs[name].dense for name in chosen),
        sum(parameter.numel() for parameter in loaded.model.parameters()),
        difference,
        exact,
        named,
        loaded.notes,
        plan if granularity == AUTO else None,
    )


def _with_our_kernel(plan: PlanSettings) -> PlanSettings:
    """Return a plan with our kernel, where that is left open, it was compiled here, and the target executes it."""
    if plan.kernels is not None:
        return plan
    return dataclasses.replace(plan, kernels=plan.target != "torch-cuda" and available()[0])


def _manifest(
    checkpoint: Path, loaded: LoadedModel, spec: InputSpec, grains: Mapping[str, Grain], granularity: str | None
) -> dict[str, Any]:
    """Return what every later step needs to know of the model."""
    return {
        "hetcompress": __version__,
        "source": {"file": checkpoint.name, "bytes": checkpoint.stat().st_size, "sha256": loaded.sha256},
        "architecture": {"spec": loaded.architecture.spec, "arguments": dict(loaded.architecture.arguments)},
        "input": dataclasses.asdict(spec),
        "conversion": {
            "granularity": granularity,
            "layers": {name: grain.to_json() for name, grain in grains.items()},
        },
    }


def _described(grain: Grain) -> str:
    return f"{grain.family.name}, {grain.group_out} filters x {grain.group_in} channels"


def _preset(
    granularity: str,
    family: str | None,
    family_arguments: Mapping[str, Any] | None,
    group_out: GroupSize | None,
    group_in: GroupSize | None,
) -> Callable[[nn.Conv2d], Grain] | None:
    """Return the rule of a granularity, None for the one that measures, after refusing what it decides itself."""
    if family is not None or family_arguments or group_out is not None or group_in is not None:
        raise UsageError(
            f"--granularity {granularity}", expected="no --family, --family-arg, --group-out or --group-in",
            found="one of them", fix="leave out either",
        )  # fmt: skip
    if granularity == AUTO:
        return None
    if granularity not in GRANULARITIES:
        raise UsageError(
            f"--granularity {granularity}", expected=f"one of {', '.join([AUTO, *GRANULARITIES])}",
            found=f"'{granularity}'", fix=suggestion(granularity, [AUTO, *GRANULARITIES]),
        )  # fmt: skip
    return GRANULARITIES[granularity]


def _group_sizes(family: str, group_out: GroupSize | None, group_in: GroupSize | None) -> tuple[GroupSize, GroupSize]:
    """Return the channel groups: the user's own, else those that are usual for the family."""
    if family == "hetconv" and (group_out not in (None, 1) or group_in not in (None, 1)):
        raise UsageError(
            "--group-out and --group-in", expected="1 for the hetconv family", found=f"{group_out}, {group_in}",
            fix="leave them out",
        )  # fmt: skip
    usual = usual_groups(family)
    return group_out or usual[0], group_in or usual[1]
