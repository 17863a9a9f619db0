"""What a model costs: parameters and multiply-accumulates (MACs), dense, effective and executed.

One multiply-accumulate counts 1 (what papers call a FLOP).  The numbers are of one image, of convolutions and linear
layers; batch norms, biases, activations and pooling are left out.

    dense      as if nothing were masked
    effective  counting only the weights inside the mask, of filters that are made (`Wiring.alive`)
    executed   counted by fvcore on the operators that really run
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections import Counter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress import kernels
from hetcompress.errors import HetCompressError, first_line
from hetcompress.nn import HetConv2d, LearnableHetConv2d
from hetcompress.surgery import named_modules_of
from hetcompress.wiring import Wiring

__all__ = ["ExecutedCost", "LayerCost", "count_executed", "layer_macs"]

COUNTED = ("conv", "linear", "matmul", "addmm", "bmm", "einsum", "vector_block_conv2d")
"""fvcore's names of the operators whose MACs are the headline."""


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """One convolution or linear layer on one image, over all of its calls.

    Attributes:
        dense: MACs without a mask.
        effective: MACs inside the mask, of filters that are made.
        weights: Weights, without biases.
        kept: Weights inside the mask.
    """

    dense: int
    effective: int
    weights: int
    kept: int


@dataclasses.dataclass(frozen=True)
class ExecutedCost:
    """What fvcore counts.

    Attributes:
        macs: Of convolutions and linear layers.
        other: Of counted operators besides (norms, pooling), by name.
        uncounted: How often each operator occurs for which there is no rule.
        parameters: Parameters of the model.
    """

    macs: int
    other: dict[str, int]
    uncounted: dict[str, int]
    parameters: int


def _vector_block_macs(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Count the kept vectors' weights, each multiplied once for each output position."""
    vectors, length = inputs[1].type().sizes()
    batch, _, height, width = outputs[0].type().sizes()[:4]
    return Counter({"vector_block_conv2d": vectors * length * batch * height * width})


@torch.no_grad()
def layer_macs(model: nn.Module, example_input: Float[Tensor, "n c h w"]) -> dict[str, LayerCost]:
    """Count dense and effective MACs of every convolution and linear layer by running the model once.

    Args:
        model: Any model; nothing is traced, and its mode is restored.
        example_input: Images; the counts are divided by their number.

    Returns:
        Costs by layer name, in the order of registration; layers that did not run are left out.
    """
    positions: dict[str, int] = {}
    kinds, masked = (nn.Conv2d, nn.Linear), (LearnableHetConv2d, HetConv2d)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    handles = []
    for name, layer in layers.items():

        def count(module: nn.Module, _inputs: Any, output: Tensor, name: str = name) -> None:
            channels = int(module.weight.shape[0])  # type: ignore[index]
            positions[name] = positions.get(name, 0) + output.numel() // (channels * len(example_input))

        handles.append(layer.register_forward_hook(count))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        model(example_input)
        for handle in handles:
            handle.remove()
        made = _made_filters(model, example_input) if any(isinstance(m, masked) for m in layers.values()) else {}
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    costs = {}
    for name, layer in layers.items():
        if name in positions:
            weights = layer.weight.numel()
            mask = layer.mask() if isinstance(layer, masked) else torch.ones_like(layer.weight)
            filters = mask.flatten(1).sum(1).cpu()
            alive = int((filters * made.get(name, 1)).sum())
            costs[name] = LayerCost(weights * positions[name], alive * positions[name], weights, int(filters.sum()))
    return costs


def _made_filters(model: nn.Module, example_input: Tensor) -> dict[str, Tensor]:
    """Return for each convolution which of its filters are made, 0 or 1, where that is known."""
    wiring = Wiring.of(model, example_input)
    layers = named_modules_of(model, LearnableHetConv2d) | named_modules_of(model, HetConv2d)
    masks = {
        name: layer.group_masks() if isinstance(layer, LearnableHetConv2d) else layer.kernel_shapes
        for name, layer in layers.items()
    }
    alive = wiring.alive(layers, masks)
    return {name: alive[numbers] for name, numbers in wiring.makes.items()}


def count_executed(model: nn.Module, example_input: Float[Tensor, "1 c h w"]) -> ExecutedCost:
    """Count what the operators of a model really compute, with fvcore.

    Args:
        model: The lowered model; its mode is restored.
        example_input: One image.

    Raises:
        HetCompressError: The model cannot be traced.
    """
    training = model.training
    silenced = logging.getLogger("fvcore")
    level = silenced.level
    silenced.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # fvcore depends on torch.jit, which is deprecated, and says so when it is imported and when it is used
            warnings.simplefilter("ignore")
            from fvcore.nn import FlopCountAnalysis

            analysis = FlopCountAnalysis(model.eval(), example_input)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            analysis.set_op_handle(kernels.NAME, _vector_block_macs)
            by_operator = {name: int(number) for name, number in analysis.by_operator().items()}
            uncounted = {name: int(times) for name, times in analysis.unsupported_ops().items()}
    except (RuntimeError, ValueError, TypeError) as error:
        raise HetCompressError(
            "counting executed MACs",
            expected="a model that torch.jit.trace can follow",
            found=first_line(error),
            fix="take what does not depend on the values of images out of the model's forward",
        ) from error
    finally:
        silenced.setLevel(level)
        model.train(training)
    return ExecutedCost(
        sum(number for name, number in by_operator.items() if name in COUNTED),
        {name: number for name, number in by_operator.items() if name not in COUNTED},
        uncounted,
        sum(parameter.numel() for parameter in model.parameters()),
    )
