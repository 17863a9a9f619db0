"""Convert: swap the convolutions of a trained model for ones that learn the shapes of their kernels."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence

from torch import nn

from hetcompress.errors import NothingToDoError, UsageError
from hetcompress.granularity import Grain
from hetcompress.nn import GroupSize, HetConv2d, LearnableHetConv2d
from hetcompress.registry import suggestion
from hetcompress.shapes import FreeShapes, ShapeFamily
from hetcompress.surgery import copy_with, named_modules_of

__all__ = ["CONVERTIBLE", "Conversion", "LayerPlan", "convert", "plan_conversion"]

CONVERTIBLE: set[type[nn.Conv2d]] = {nn.Conv2d}
"""The exact classes that are converted.  Add a subclass only if its forward is that of `nn.Conv2d`."""

OTHER_CONVOLUTIONS = (nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """What happens to one convolution.

    Attributes:
        name: Its name in the model.
        kind: Its class and kernel size, for people.
        reason: Why it stays as it is; empty when it is converted.
    """

    name: str
    kind: str
    reason: str

    @property
    def converted(self) -> bool:
        """Whether the layer is converted."""
        return not self.reason


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A converted model and what happened to each convolution."""

    model: nn.Module
    layers: tuple[LayerPlan, ...]


def _check_patterns(option: str, patterns: Sequence[str], names: list[str]) -> None:
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UsageError(
                f"{option} '{pattern}'",
                expected="a pattern that matches a convolution of the model",
                found="no match",
                fix=suggestion(pattern, names),
            )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _reason(module: nn.Module, *, first: bool, tied_to: str | None, unfit: str) -> str:
    """Return why a convolution is left alone whatever the patterns say, or by default ("default: ...")."""
    if isinstance(module, LearnableHetConv2d | HetConv2d):
        return "already converted"
    if isinstance(module, OTHER_CONVOLUTIONS):
        return f"{type(module).__name__} is not supported"
    assert isinstance(module, nn.Conv2d)
    if type(module) not in CONVERTIBLE:
        return f"{type(module).__name__} is a subclass of Conv2d that is not registered as convertible"
    if tied_to is not None:
        return f"shares its weight with {tied_to}"
    if module._forward_hooks or module._forward_pre_hooks:  # noqa: SLF001  torch has no other way to ask
        return "has forward hooks, which would be lost"
    if unfit:
        return unfit
    if first:
        return "default: first convolution"
    if module.groups == module.in_channels > 1:
        return "default: depthwise"
    return ""


def _kind(module: nn.Module) -> str:
    size = "x".join(str(k) for k in getattr(module, "kernel_size", ()))
    return f"{type(module).__name__} {size}"


def plan_conversion(
    model: nn.Module,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    unfit: Mapping[str, str] | None = None,
) -> tuple[LayerPlan, ...]:
    """Say for each convolution of `model` whether it will be converted, and if not, why.

    The first convolution and depthwise ones stay dense by default: they hold few MACs and lose most accuracy.  A shared
    module counts once, under its first name.

    Args:
        model: The dense model.
        include: Shell patterns of names; when given, only these are converted, including those left out by default.
        exclude: Shell patterns of names to leave out.
        unfit: Why convolutions cannot be replaced by other modules, by name, where running the model has shown it.

    Raises:
        UsageError: A pattern matches no convolution.
    """
    convolutions = {
        name: module for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, *OTHER_CONVOLUTIONS))
    }
    names = list(convolutions)
    _check_patterns("--include", include, names)
    _check_patterns("--exclude", exclude, names)
    users: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), []).append(name)
    first = next((name for name, module in convolutions.items() if isinstance(module, nn.Conv2d)), None)
    plans = []
    for name, module in convolutions.items():
        others = [user for user in users.get(id(module.weight), []) if user != name]
        reason = _reason(
            module, first=name == first, tied_to=others[0] if others else None, unfit=(unfit or {}).get(name, "")
        )
        if include and _matches(name, include):
            reason = "" if reason.startswith("default: ") else reason
        elif include and not reason:
            reason = "not matched by --include"
        if not reason and _matches(name, exclude):
            reason = "matched by --exclude"
        plans.append(LayerPlan(name, _kind(module), reason.removeprefix("default: ")))
    return tuple(plans)


def convert(
    model: nn.Module,
    *,
    family: ShapeFamily | None = None,
    group_out: GroupSize = "all",
    group_in: GroupSize = 1,
    grains: Mapping[str, Grain] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    unfit: Mapping[str, str] | None = None,
) -> Conversion:
    """Return a copy of `model` whose convolutions learn their kernel shapes.

    For learnable families every kernel starts full, so the copy computes the same function bit for bit.

    Args:
        model: The dense model; it is left alone.
        family: The shapes to choose from; None for free ones.
        group_out: Filters that share a shape.
        group_in: Input channels that share a shape.
        grains: Layers for which these three are others.
        include: See `plan_conversion`.
        exclude: See `plan_conversion`.
        unfit: See `plan_conversion`.

    Raises:
        UsageError: A pattern matches no convolution, or a group size is not positive.
        NothingToDoError: No convolution can be converted.
    """
    plans = plan_conversion(model, include=include, exclude=exclude, unfit=unfit)
    chosen = [plan.name for plan in plans if plan.converted]
    if not chosen:
        reasons = "; ".join(f"{plan.name}: {plan.reason}" for plan in plans[:5]) or "the model has none"
        raise NothingToDoError(
            "no convolution was converted",
            expected="at least one",
            found=reasons + (f"; and {len(plans) - 5} more" if len(plans) > 5 else ""),
            fix="name layers with --include, or choose another model",
        )
    convs = named_modules_of(model, nn.Conv2d)
    common = Grain(family or FreeShapes(), group_out, group_in)
    layers = {}
    for name in chosen:
        grain = (grains or {}).get(name, common)
        layers[name] = LearnableHetConv2d.from_conv2d(convs[name], grain.family, grain.group_out, grain.group_in)
    return Conversion(copy_with(model, layers), plans)
