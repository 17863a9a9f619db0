"""Lower a whole model: tidy its channels, choose a form for each pruned layer, prove that nothing changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.activity import counted
from hetcompress.errors import VerificationError
from hetcompress.lowering.base import LOWERINGS
from hetcompress.lowering.choosers import Chooser, FewestMacs, Preferring, Survey
from hetcompress.lowering.pieces import conv_weights
from hetcompress.lowering.sameness import Sameness
from hetcompress.lowering.tidying import tidied
from hetcompress.memory import frugal, trim
from hetcompress.nn import HetConv2d
from hetcompress.surgery import copy_in, named_modules_of, replace_modules_

__all__ = ["ORDER", "Lowered", "LoweredLayer", "Tidy", "forms_of", "input_shapes", "lower", "tidy"]

ORDER = ("dense", "crop", "pointwise-plus", "shape-sum", "tap-gemm", "filter-split")
"""From the simplest form to the most involved; of two that cost alike the simpler one is taken."""

TOLERANCE = 1e-5
"""Largest difference relative to the largest output, against the layer computed in double precision."""

ENOUGH = 4
"""Kernels that fit side by side into the images on which a form is compared with its layer."""

MODEL_TOLERANCE = 1e-4
"""The same for the whole model, where rounding adds up over the layers."""


@dataclasses.dataclass(frozen=True)
class LoweredLayer:
    """What a layer was lowered to.

    Attributes:
        name: Of the layer.
        form: The chosen lowering.
        macs_dense: MACs of the layer without a mask, on one image.
        macs_executed: MACs of the chosen form.
        refused: The other lowerings and why they were not taken.
        costs: What each form that fits costs, by name.
        unit: Of the costs.
    """

    name: str
    form: str
    macs_dense: int
    macs_executed: int
    refused: dict[str, str]
    costs: dict[str, float]
    unit: str

    @property
    def gain(self) -> float:
        """What the chosen form saves over the dense one."""
        return self.costs["dense"] - self.costs[self.form]


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A lowered model and how it came about.

    Attributes:
        model: Plain convolutions only, in eval mode.
        layers: Every pruned layer.
        max_difference: Largest difference of an output to the model before, on random images.
    """

    model: nn.Module
    layers: tuple[LoweredLayer, ...]
    max_difference: float

    @property
    def smaller(self) -> bool:
        """Whether any layer computes less than without a mask, be it only for filters that nothing reads."""
        return any(layer.macs_executed != layer.macs_dense for layer in self.layers)


@dataclasses.dataclass(frozen=True)
class Tidy:
    """A copy of a pruned model with its channels tidied, ready for `lower`, which uses it up.

    Attributes:
        model: The copy, in eval mode.
        before: What the model makes of random images.
        shapes: See `input_shapes`.
        weights: Of each pruned layer before, by name.
    """

    model: nn.Module
    before: Sameness
    shapes: dict[str, tuple[tuple[int, ...], int]]
    weights: dict[str, int]


def tidy(model: nn.Module, example_input: Float[Tensor, "n c h w"], *, channels: bool = True) -> Tidy:
    """Return a tidied copy of a pruned model, which is left alone.

    Args:
        model: With `HetConv2d` layers.
        example_input: Its shape is that of the images.
        channels: See `hetcompress.lowering.tidying.tidied`.

    Raises:
        VerificationError: The copy computes something else.
    """
    weights = {name: layer.weight.numel() for name, layer in named_modules_of(model, HetConv2d).items()}
    before = Sameness.on_random_images(model, example_input)
    copied = tidied(model, before, channels=channels)
    return Tidy(copied, before, input_shapes(copied, example_input), weights)


def lower(
    model: nn.Module | Tidy,
    example_input: Float[Tensor, "n c h w"],
    *,
    rules: Sequence[str] = ORDER,
    chooser: Chooser | None = None,
    dense: Mapping[str, str] | None = None,
    known: Mapping[str, LoweredLayer] | None = None,
) -> Lowered:
    """Return a copy of a pruned model in which every `HetConv2d` has become one of the forms that fit it.

    Args:
        model: With `HetConv2d` layers; it is left alone, unless it is a tidied copy already.
        example_input: Its shape is that of the images.
        rules: Lowerings to choose from, the simplest first.
        chooser: What picks among them; None takes the fewest MACs.
        dense: Layers to leave dense, and why.
        known: What layers were lowered to before; where that still fits, nothing else is looked at.

    Raises:
        VerificationError: A form, or the whole, computes something else.
    """
    chooser, dense, known = chooser or FewestMacs(), dense or {}, known or {}
    ready = model if isinstance(model, Tidy) else tidy(model, example_input)
    before, lowered, shapes, weights = ready.before, ready.model, ready.shapes, ready.weights
    layers = []
    # names alone: the layers go one by one
    for name in counted([*named_modules_of(lowered, HetConv2d)], "finding forms: layer"):
        layer = lowered.get_submodule(name)
        assert isinstance(layer, HetConv2d)
        shape, positions = shapes.get(name, ((1, layer.in_channels, 16, 16), 0))
        chosen, form, survey = _known(layer, known.get(name)) or _form(layer, shape, rules, chooser, dense.get(name))
        _verify_layer(name, chosen, layer, form, shape)
        # at once, so that no two models are in memory
        lowered = replace_modules_(lowered, {name: form})
        trim()
        full, executed = weights[name] * positions, conv_weights(form) * positions
        layers.append(LoweredLayer(name, chosen, full, executed, survey.refused, survey.costs, chooser.unit))
    difference = before.difference(lowered.eval())
    before.check(difference, MODEL_TOLERANCE, "lowering")
    return Lowered(lowered, tuple(layers), difference)


def _known(layer: HetConv2d, before: LoweredLayer | None) -> tuple[str, nn.Module, Survey] | None:
    """Return what a layer was lowered to before, built anew; None where that does not fit it."""
    if before is None or before.form not in LOWERINGS or not LOWERINGS[before.form]().check(layer).ok:
        return None
    return before.form, LOWERINGS[before.form]().rewrite(layer), Survey(before.costs, before.refused)


def _form(
    layer: HetConv2d, shape: tuple[int, ...], rules: Sequence[str], chooser: Chooser, dense: str | None
) -> tuple[str, nn.Module, Survey]:
    """Return the form of a layer, what each form costs, and why the others were not taken.

    Args:
        layer: The layer.
        shape: Of what it reads.
        rules: Lowerings to choose from.
        chooser: What picks among them.
        dense: Why it is left dense whatever the costs; None where it is not.
    """
    if dense is not None:
        chooser = Preferring("dense", chooser)
    survey = chooser.recall(layer, rules, shape[1:])
    candidates: dict[str, nn.Module] = {}
    if survey is None or not LOWERINGS[chooser.best(survey.costs)]().check(layer).ok:
        hopeless = {rule: reason for rule in rules if (reason := chooser.hopeless(layer, rule))}
        with frugal():
            candidates, refused = forms_of(layer, [rule for rule in rules if rule not in hopeless])
        costs = chooser.costs(candidates, shape[1:])
        slow = {name: "its MACs are too many to be worth timing" for name in candidates if name not in costs}
        survey = Survey(costs, refused | hopeless | slow)
        chooser.remember(layer, rules, shape[1:], survey)
    form = chooser.best(survey.costs)
    left = "" if dense is None else f"; left dense: {dense}"
    lost = {
        other: f"{cost:.6g} {chooser.unit}, {form} {survey.costs[form]:.6g}{left}"
        for other, cost in survey.costs.items()
        if other != form
    }
    built = candidates.get(form) or LOWERINGS[form]().rewrite(layer)
    return form, built, Survey(survey.costs, survey.refused | lost)


def forms_of(layer: HetConv2d, rules: Sequence[str]) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Return the forms that fit a layer, and why the others do not."""
    forms, refused = {}, {}
    for name in rules:
        rule = LOWERINGS[name]()
        verdict = rule.check(layer)
        if verdict.ok:
            forms[name] = rule.rewrite(layer)
        else:
            refused[name] = verdict.reason
    assert "dense" in forms, "dense always applies"
    return forms, refused


@torch.no_grad()
def input_shapes(
    model: nn.Module, example_input: Float[Tensor, "n c h w"], kind: type[nn.Module] = HetConv2d
) -> dict[str, tuple[tuple[int, ...], int]]:
    """Return the input shape of each layer of a kind, for one image, and its output positions over all calls."""
    found: dict[str, tuple[tuple[int, ...], int]] = {}
    handles = []
    for name, layer in named_modules_of(model, kind).items():

        def note(_module: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
            positions = output.shape[-2] * output.shape[-1] + found.get(name, ((), 0))[1]
            found[name] = ((1, *inputs[0].shape[-3:]), positions)

        handles.append(layer.register_forward_hook(note))
    try:
        model(example_input[:1])
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
@frugal()
def _verify_layer(name: str, chosen: str, layer: HetConv2d, form: nn.Module, shape: tuple[int, ...]) -> None:
    size = [_telling(*axis) for axis in zip(shape[-2:], layer.kernel_size, layer.dilation, layer.stride, strict=True)]
    images = torch.randn(*shape[:-2], *size, generator=torch.Generator().manual_seed(0)).to(layer.weight)
    expected = copy_in(layer, torch.float64)(images.double())
    found = form(images)
    difference = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
    if not difference <= TOLERANCE * max(float(expected.abs().max()), 1e-12):
        raise VerificationError(
            f"layer {name} lowered to {chosen}", expected=f"the same outputs within {TOLERANCE:g}",
            found=f"a difference of {difference:.3g} at outputs up to {float(expected.abs().max()):.3g}",
        )  # fmt: skip


def _telling(size: int, kernel: int, dilation: int, stride: int) -> int:
    """Return how many pixels tell as much of a form as all: it does the same everywhere but at the borders.

    There is room for both borders and what lies between them, and the last stride ends where it did.
    """
    enough = ENOUGH * (dilation * (kernel - 1) + 1)
    return size if size <= enough else enough + (size - enough) % stride
