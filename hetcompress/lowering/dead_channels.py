"""Dead channels: filters whose output no later convolution reads are not computed.

Where all that reads a convolution A is a pruned convolution B, through functions that treat each channel by itself,

    B(f(A(x))) = B[:, alive](f(A[alive](x)))

with the channels of which B keeps a tap.  A then reads less too, so the model is gone through from its end.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hetcompress.lowering.readers import Readers
from hetcompress.nn import HetConv2d, conv_arguments
from hetcompress.surgery import replace_modules_

__all__ = ["remove_dead_channels"]

CHANNELWISE = {
    "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_", "elu", "elu_", "gelu", "silu",
    "hardswish", "hardsigmoid", "mish", "tanh", "sigmoid", "clamp", "dropout", "max_pool2d", "max_pool2d_with_indices",
    "_max_pool2d", "avg_pool2d",
}  # fmt: skip
"""Functions each of whose output channels depends on the same channel of the input alone."""


class _Provenance(Readers):
    """Follows the outputs of convolutions through functions that keep channels apart."""

    def __init__(self) -> None:
        super().__init__()
        self.source: dict[int, tuple[str, tuple[int, ...]]] = {}
        """By tensor: the convolution it comes from, and the tensors on the way."""

    def start(self, name: str, tensor: Tensor) -> None:
        self.watch(tensor)
        self.source[id(tensor)] = (name, (id(tensor),))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = super().__torch_function__(func, types, args, kwargs)
        first = args[0] if args else None
        if getattr(func, "__name__", "") in CHANNELWISE and isinstance(output, Tensor) and id(first) in self.source:
            name, way = self.source[id(first)]
            if output is first:  # in place: the same tensor is read once more
                self.reads[id(first)] -= 1
            else:
                self.watch(output)
                self.source[id(output)] = (name, (*way, id(output)))
        return output


@torch.no_grad()
def _chains(model: nn.Module, example_input: Tensor) -> list[tuple[str, str]]:
    """Return convolutions and the pruned convolutions that alone read them, in the order of the readers."""
    provenance = _Provenance()
    runs: dict[str, int] = {}
    found: list[tuple[str, str, tuple[int, ...]]] = []
    handles = []
    for name, module in model.named_modules():
        if type(module) not in (nn.Conv2d, HetConv2d):
            continue

        def before(module: nn.Module, inputs: Any, name: str = name) -> None:
            runs[name] = runs.get(name, 0) + 1
            if isinstance(module, HetConv2d) and id(inputs[0]) in provenance.source:
                found.append((provenance.source[id(inputs[0])][0], name, provenance.source[id(inputs[0])][1]))

        def after(_module: nn.Module, _inputs: Any, output: Tensor, name: str = name) -> None:
            provenance.start(name, output)

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        with provenance:
            model(example_input)
    finally:
        for handle in handles:
            handle.remove()
    return [
        (producer, reader)
        for producer, reader, way in found
        if runs[producer] == runs[reader] == 1 and all(provenance.reads[tensor] == 1 for tensor in way)
    ]


def remove_dead_channels(model: nn.Module, example_input: Float[Tensor, "n c h w"]) -> nn.Module:
    """Return a copy without the filters that nothing reads; it computes the same function.

    Args:
        model: In eval mode, with `HetConv2d` layers.
        example_input: Images for one run.
    """
    new = copy.deepcopy(model)
    for producer_name, reader_name in reversed(_chains(new, example_input)):
        producer, reader = new.get_submodule(producer_name), new.get_submodule(reader_name)
        assert isinstance(producer, nn.Conv2d)
        assert isinstance(reader, HetConv2d)
        if producer.groups > 1 or reader.groups > 1:
            continue
        alive = _whole_groups(producer, reader.mask().sum((0, 2, 3)) > 0).nonzero().flatten()
        if 0 < len(alive) < reader.in_channels:
            everything = torch.arange(reader.out_channels)
            replace_modules_(
                new,
                {
                    producer_name: _part(producer, alive, torch.arange(producer.in_channels)),
                    reader_name: _part(reader, everything, alive),
                },
            )
    return new


def _whole_groups(producer: nn.Conv2d, alive: Bool[Tensor, " filters"]) -> Bool[Tensor, " filters"]:
    """Return which filters stay: all of a channel group of which one is alive, since kernels align to groups."""
    if not isinstance(producer, HetConv2d) or producer.channel_groups.out_groups == 1:
        return alive
    group = torch.arange(len(alive)) // int(producer.channel_groups.group_out)
    living = torch.zeros(producer.channel_groups.out_groups, dtype=torch.bool)
    living[group[alive]] = True
    return living[group]


@torch.no_grad()
def _part(conv: nn.Conv2d, filters: Tensor, channels: Tensor) -> nn.Conv2d:
    """Return some filters of a convolution without groups over some of its input channels."""
    arguments = conv_arguments(conv) | {"in_channels": len(channels), "out_channels": len(filters)}
    if isinstance(conv, HetConv2d):
        pruned = HetConv2d(1, 1, **arguments)
        pruned.kernel_shapes.copy_(conv.mask()[filters][:, channels] > 0)
    part = pruned if isinstance(conv, HetConv2d) else nn.Conv2d(**arguments)
    part.weight.copy_(conv.weight[filters][:, channels])
    if conv.bias is not None and part.bias is not None:
        part.bias.copy_(conv.bias[filters])
    return part.train(conv.training)
