"""Which convolutions share channels: what one no longer reads, another need not make.

A filter is worth computing only if something reads its channel.  So the kernels that a layer drops for all filters are
paid for twice, by the layer and by those that make the channel; and a channel of a residual stream is free only when
all layers that read it have dropped it.  Of a vector that our kernel computes at once, all filters are made or none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from hetcompress.flow import Flow
from hetcompress.nn import HetConv2d, LearnableHetConv2d

__all__ = ["Wiring"]

Layers = Mapping[str, LearnableHetConv2d | HetConv2d]
MASKED = (LearnableHetConv2d, HetConv2d)


@dataclasses.dataclass(frozen=True)
class Wiring:
    """Channels have numbers; those that are tied, as all addends of a sum, have the same.

    Attributes:
        reads: Of each layer with kernel shapes, the numbers of its input channels.
        makes: Of each convolution, the numbers of its filters.
        needed: For each number, whether something reads it that cannot do without.
    """

    reads: Mapping[str, Int[Tensor, " c_in"]]
    makes: Mapping[str, Int[Tensor, " c_out"]]
    needed: Bool[Tensor, " channels"]

    @classmethod
    def of(cls, model: nn.Module, example_input: Float[Tensor, "n c h w"]) -> Wiring:
        """Run a model once, which is in eval mode, and return its wiring."""
        flow = Flow.of(model, example_input)
        labels = flow.labels()
        reads, makes = {}, {}
        needed = torch.zeros(sum(flow.channels), dtype=torch.bool)
        for step in flow.steps:
            module = model.get_submodule(step.module) if step.module else None
            if step.makes is not None and isinstance(module, nn.Conv2d):
                makes[step.module] = labels[step.makes]
            if step.kind == "conv" and isinstance(module, MASKED):
                reads[step.module] = labels[step.reads[0]]
            elif step.kind in ("conv", "other"):
                for value in step.reads:
                    needed[labels[value]] = True
        return cls(reads, makes, needed)

    def alive(self, layers: Layers, masks: Mapping[str, Shaped[Tensor, "o i kh kw"]]) -> Bool[Tensor, " channels"]:
        """Return which channels are made: those that something reads, and the others of their vectors.

        Args:
            layers: Those with kernel shapes.
            masks: Of their channel groups; of layers that are missing, all kernels count.
        """
        alive = self.needed.clone()
        for name, numbers in self.reads.items():
            if name in masks:
                read = (masks[name] > 0).flatten(2).any(2).any(0).cpu()
                numbers = numbers[read[layers[name].channel_groups.in_index()]]
            alive[numbers] = True
        before = -1
        while before != (before := int(alive.sum())):
            for name, numbers in self.makes.items():
                if name in layers:
                    alive[numbers] |= layers[name].channel_groups.whole(alive[numbers])
        return alive

    def shared(
        self, layers: Mapping[str, LearnableHetConv2d], scores: Mapping[str, Float[Tensor, "o i kh kw"]]
    ) -> dict[str, Float[Tensor, "o i kh kw"]]:
        """Return scores by which all layers whose channels decide in blocks rank a channel that they share alike.

        A channel is worth what it is worth to all of them together; how that is spread over its taps, and what all
        channels are worth, stays with the layer.

        Args:
            layers: The learnable layers.
            scores: Of each tap of each channel group.
        """
        pooling = [name for name in self.reads if name in layers and _by_channels(layers[name])]
        worth, readers = torch.zeros(len(self.needed)), torch.zeros(len(self.needed))
        for name in pooling:
            worth.index_add_(0, self.reads[name], scores[name].sum((0, 2, 3)).cpu())
            readers.index_add_(0, self.reads[name], torch.ones(len(self.reads[name])))
        found = dict(scores)
        for name in pooling:
            if bool((readers[self.reads[name]] > 1).any()):
                own = scores[name].sum((0, 2, 3))
                common = worth[self.reads[name]].to(own)
                scale = common / own.clamp_min(torch.finfo(own.dtype).tiny) * (own.sum() / common.sum())
                found[name] = scores[name] * scale.nan_to_num(1.0, 1.0, 1.0)[:, None, None]
        return found


def _by_channels(layer: LearnableHetConv2d) -> bool:
    return layer.family.block > 1 and layer.channel_groups.in_groups == layer.in_channels
