"""The first convolution of a traced torch model, whose few channels torch computes slowly, in our kernel.

Torch reorders its images and its result, each time in memory that is fresh from the system: 7x7 over 3 channels of
ResNet-34's images takes it two to four times as long.  Only where the result goes on to our kernel, which would reorder
it once more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import fx, nn

from hetcompress.kernels.module import VectorBlockConv2d
from hetcompress.kernels.torch_nodes import is_elementwise, pool_of

__all__ = ["stems"]


def stems(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> dict[str, VectorBlockConv2d]:
    """Return our layers for the convolutions of fewer channels than fill a vector that lead to our layers, by target.

    Args:
        graph: Traced.
        modules: Its modules, by target.
    """
    vectors = {module.vector for module in modules.values() if isinstance(module, VectorBlockConv2d)}
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    found = {}
    for node in graph.nodes:
        conv = modules.get(str(node.target)) if calls[str(node.target)] == 1 else None
        if (
            len(vectors) == 1
            and type(conv) is nn.Conv2d
            and _fits(conv, min(vectors))
            and _leads_to_ours(node, modules)
        ):
            found[str(node.target)] = VectorBlockConv2d.from_pruned(conv, min(vectors))
    return found


def _fits(conv: nn.Conv2d, vector: int) -> bool:
    plain = conv.groups == 1 and conv.padding_mode == "zeros"
    return (
        plain and conv.in_channels < vector and conv.weight.dtype == torch.float32 and conv.weight.device.type == "cpu"
    )


def _leads_to_ours(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Tell whether all readers are our layers, or activations and pools whose readers are."""
    for reader in node.users:
        passed = len(reader.all_input_nodes) == 1 and (is_elementwise(reader, modules) or pool_of(reader, modules))
        ours = reader.op == "call_module" and isinstance(modules[str(reader.target)], VectorBlockConv2d)
        if not ours and not (passed and _leads_to_ours(reader, modules)):
            return False
    return bool(node.users)
